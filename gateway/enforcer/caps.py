"""The caps of the confirmed policy, re-read when the file changes: which level an address may be granted at most.

Root wrote and checked the file; here only the part that caps need is read, so that re-reading 10,000 devices delays no
drop. A missing or broken file allows nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


class Caps:
    """address -> device and cap."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._of: dict[str, tuple[str, int]] = {}

    def refusal(self, addresses: Iterable[str], level: int) -> str | None:
        """Why these addresses may not have this level; None when they may."""
        self._refresh()
        devices = set()
        for address in addresses:
            if address not in self._of:
                return f"{address} belongs to no device of the confirmed policy"
            device, cap = self._of[address]
            if level > cap:
                return f"{device} may have level {cap} at most"
            devices.add(device)
        return "one lease names addresses of two devices" if len(devices) > 1 else None

    def device_of(self, address: str) -> str:
        """The device with this address; "" when it is nobody's."""
        self._refresh()
        return self._of.get(address, ("", 0))[0]

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                devices = json.loads(self._path.read_bytes())["devices"]
                self._of = {str(a): (str(name), int(entry["cap"])) for name, entry in devices.items() for a in entry["addresses"]}
                self._stamp = stamp
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._of, self._stamp = {}, None
