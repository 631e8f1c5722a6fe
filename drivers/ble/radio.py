"""Whether there is a Bluetooth radio that may be used: what the kernel shows of adapters and switches, before any D-Bus.

Looks at files of the kernel only (below ``root``, which a test replaces). Refuses to know devices.
"""

from __future__ import annotations

from pathlib import Path


def why_no_radio(root: Path = Path("/")) -> tuple[str, str] | None:
    """(what is wrong, what to do); None when an adapter is there and no switch is off."""
    switches = [p for p in sorted((root / "sys/class/rfkill").glob("rfkill*")) if _text(p / "type") == "bluetooth"]
    if any(_text(p / "hard") == "1" for p in switches):
        what = "Bluetooth is switched off by a hardware switch (rfkill, hard blocked)"
        return what, "flip the switch, or enable Bluetooth in the firmware set-up; software cannot"
    if any(_text(p / "soft") == "1" for p in switches):
        what = "Bluetooth is switched off (rfkill, soft blocked)"
        return what, "rfkill unblock bluetooth; it is remembered across reboots"
    if not any((root / "sys/class/bluetooth").glob("hci*")):
        what = "there is no Bluetooth adapter"
        if "Raspberry Pi" in _text(root / "sys/firmware/devicetree/base/model") and _disabled(root):
            return what, "take dtoverlay=disable-bt out of /boot/firmware/config.txt and reboot"
        return what, "plug one in, or load its driver and firmware (dmesg | grep -i bluetooth)"
    return None


def why_no_daemon(root: Path = Path("/")) -> tuple[str, str] | None:
    """The same for bluetoothd, by the processes there are. Sees nothing where other users' processes are hidden."""
    seen = [_text(p) for p in (root / "proc").glob("[0-9]*/comm")]
    if "bluetoothd" in seen or len(seen) < 2:  # only ourselves: the others are hidden, and nothing can be said
        return None
    return "bluetoothd is not running", "systemctl enable --now bluetooth"


def _disabled(root: Path) -> bool:
    for name in ("boot/firmware/config.txt", "boot/config.txt"):
        lines = [line.strip() for line in _text(root / name).splitlines()]
        if any(line.replace(" ", "").startswith("dtoverlay=disable-bt") for line in lines):
            return True
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return ""
