"""Why there is no TPM where the configuration expects one: what the kernel shows of it, and what a person has to do.

Looks at files of the kernel only (below ``root``, which a test replaces). Refuses to talk to a TPM.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_DEVICE = "device:"
_CONFIGS = ("boot/firmware/config.txt", "boot/config.txt")  # Raspberry Pi OS since bookworm; before
_OVERLAY = re.compile(r"(?m)^\s*dtoverlay\s*=\s*tpm-slb96(70|73)\b")
_MODELS = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")


def board(root: Path = Path("/")) -> str:
    """What the device tree calls this machine; empty on one without a device tree."""
    for name in _MODELS:
        try:
            return (root / name).read_bytes()[:100].rstrip(b"\0").decode("utf-8", "replace")
        except OSError:
            continue
    return ""


def is_raspberry_pi(root: Path = Path("/")) -> bool:
    """Whether this machine is a Raspberry Pi: it has no TPM of its own, and needs an overlay for one that is fitted."""
    return board(root).startswith("Raspberry Pi")


def why_no_tpm(tcti: str, root: Path = Path("/")) -> tuple[str, str] | None:
    """(what is wrong, what to do); None when the kernel's device is there and may be used, so that the chip itself is to blame."""
    if not tcti.startswith(_DEVICE):
        return None
    name = tcti.removeprefix(_DEVICE)
    device = root / name.lstrip("/")
    if device.exists():
        if os.access(device, os.R_OK | os.W_OK):
            return None
        return f"{name} may not be used by this user", "run it as root, or: usermod -aG tss wardgate, and restart wardgate"
    if (root / "sys/class/tpm/tpm0").exists():
        return _without_manager(root, name)
    return _on_a_pi(root) if is_raspberry_pi(root) else _on_a_pc(root)


def _without_manager(root: Path, name: str) -> tuple[str, str]:
    try:
        version = (root / "sys/class/tpm/tpm0/tpm_version_major").read_text(encoding="ascii").strip()
    except OSError:
        version = ""
    if version == "1":
        return "this machine's TPM is a TPM 1.2", "use a machine with a TPM 2.0, or switch to 2.0 in the firmware set-up"
    return f"the kernel has a TPM and no {name}", "use a kernel with CONFIG_TCG_TPM's resource manager (4.12 or newer)"


def _on_a_pi(root: Path) -> tuple[str, str]:
    at, text = _config(root)
    if not _OVERLAY.search(text):
        what = "this Raspberry Pi has no TPM device: its overlay is missing"
        return what, f"fit a TPM module, add dtoverlay=tpm-slb9670 to {at} and reboot"
    if (root / "sys/bus/spi/drivers/tpm_tis_spi").exists() or (root / "sys/module/tpm_tis_spi").exists():
        what = "the TPM's overlay and driver are loaded, and the chip does not answer"
        return what, "switch off, check that the module sits on pins 1 to 26 the right way round, and look at `dmesg | grep -i tpm`"
    return f"the TPM's overlay is in {at} and not loaded", "reboot; if it stays so, look at `dmesg | grep -i -e tpm -e spi`"


def _config(root: Path) -> tuple[str, str]:
    for name in _CONFIGS:
        try:
            return f"/{name}", (root / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return f"/{_CONFIGS[0]}", ""


def _on_a_pc(root: Path) -> tuple[str, str]:
    del root
    return "the kernel shows no TPM", "switch it on in the firmware set-up (Security Device, Intel PTT, AMD fTPM), or fit one"
