"""The BLE part of the bench: a private D-Bus, the air, ``org.bluez`` on both, and a heart-rate patch, each a process.

Everything lives below one directory; its sockets are open to every user of the machine, since the daemon runs as its own.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hil.process import Process, start

PATCH_ADDRESS = "C0:00:00:00:00:01"
PASSKEY = 271828
_TEMPLATE = Path(__file__).with_name("bus.conf")


class BleBench:
    """Start what is needed, kill and restart any part of it. ``netns``: where everything runs."""

    def __init__(
        self,
        directory: Path,
        netns: str | None = None,
        *,
        passkey: int | None = PASSKEY,
        advertising_ms: float = 250.0,
        patch: bool = True,
    ) -> None:
        self.directory, self._netns = directory, netns
        self.passkey, self._advertising_ms, self._patch = passkey, advertising_ms, patch
        self.run, self.state, self.ctl, self.log = (directory / d for d in ("run", "state", "ctl", "log"))
        self.bus_socket, self.hci, self.patch_ctl = self.run / "bus.sock", self.run / "hci.sock", self.ctl / "patch-1.sock"
        self.processes: dict[str, Process] = {}

    @property
    def bus_address(self) -> str:
        """The D-Bus address; also in ``run/bus.address``."""
        return f"unix:path={self.bus_socket}"

    def start(self) -> None:
        """Start the bus, the air, ``org.bluez`` and perhaps the patch; each is usable when this returns."""
        for d in (self.run, self.state, self.ctl, self.log):
            d.mkdir(parents=True, exist_ok=True)
            d.chmod(0o755)
        (self.run / "bus.address").write_text(self.bus_address + "\n")
        self.hci.unlink(missing_ok=True)
        try:
            self.start_bus()
            parts = [self.start_radio, self.start_bluez, *([self.start_patch] if self._patch else [])]
            with ThreadPoolExecutor() as pool:  # they wait for each other's sockets by themselves
                for part in [pool.submit(f) for f in parts]:
                    part.result()
        except BaseException:
            self.stop()
            raise

    def start_bus(self) -> None:
        """Start (again) the D-Bus daemon."""
        conf = self.run / "bus.conf"
        conf.write_text(_TEMPLATE.read_text().replace("@SOCKET@", str(self.bus_socket)))
        self.bus_socket.unlink(missing_ok=True)
        argv = ["dbus-daemon", f"--config-file={conf}", "--nofork", "--nopidfile", "--print-address"]
        self.processes["dbus"] = start("dbus", argv, log_dir=self.log, netns=self._netns, ready="unix:path=")
        self.bus_socket.chmod(0o666)

    def start_radio(self) -> None:
        """Start (again) the air."""
        self._start("radio", "-m", "hil.radio", "--dir", str(self.run))

    def start_bluez(self) -> None:
        """Start (again) ``org.bluez``; its bonds are on disk."""
        keys = self.state / "bluez-bonds.json"
        self._start("bluez", "-m", "hil.bluez", "--bus", self.bus_address, "--hci", str(self.hci), "--keys", str(keys))

    def start_patch(
        self, name: str = "patch", address: str = PATCH_ADDRESS, ctl: Path | None = None, more: Sequence[str] = ()
    ) -> None:
        """Start (again) a patch."""
        argv = ["-m", "hil.patch", "--hci", str(self.hci), "--ctl", str(ctl or self.patch_ctl), "--address", address]
        argv += ["--key", str(self.state / f"{name}.pem"), "--interval-ms", str(self._advertising_ms)]
        argv += ["--passkey", str(self.passkey)] if self.passkey is not None else []
        self._start(name, *argv, *more)

    def start_wearable(self, kind: str, device: str, passkey: int | None, hci: Path | None = None) -> None:
        """Start (again) a wearable (``patch``, ``oximeter``, ``beacon``) as ``device``; on another air with ``hci``."""
        argv = ["-m", f"hil.{kind}", "--hci", str(hci or self.hci), "--ctl", str(self.ctl / f"{device}.sock")]
        argv += ["--key", str(self.state / f"{device}.key"), "--interval-ms", str(self._advertising_ms)]
        argv += ["--passkey", str(passkey)] if passkey is not None else []
        self._start(device, *argv)

    def start_air(self, name: str) -> Path:
        """Start a second air, out of range of the first; returns its radio's socket."""
        directory = self.run / name
        directory.mkdir(exist_ok=True)
        self._start(f"radio-{name}", "-m", "hil.radio", "--dir", str(directory))
        return directory / "hci.sock"

    def start_tool(self, name: str, *argv: str) -> Process:
        """Start something else on the air, a stranger for example."""
        self._start(name, *argv)
        return self.processes[name]

    def kill(self, name: str) -> None:
        """SIGKILL one part by its own id."""
        self.processes[name].signal(signal.SIGKILL)
        self.processes[name].popen.wait()

    def stop(self) -> None:
        """End everything, the wearables first."""
        order = ("patch", "bluez", "radio", "dbus")  # a host that loses its radio has nothing to say good-bye with
        for name in sorted(self.processes, key=lambda n: order.index(n) if n in order else -1):
            self.processes[name].stop(2.0)
        self.processes.clear()

    def _start(self, name: str, *argv: str) -> None:
        root = str(Path(__file__).resolve().parent.parent)
        self.processes[name] = start(name, [sys.executable, *argv], log_dir=self.log, netns=self._netns, env={"PYTHONPATH": root})
