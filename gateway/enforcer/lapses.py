"""What lapsed while nobody asked: for a daemon that comes back and must say what was closed meanwhile.

The newest lapse of each device, bounded. Times are boot time (CLOCK_BOOTTIME, ns), as the daemon's instants are. Standard
library only; it draws no conclusion.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

_DEVICES = 256  # the newest


class Lapses:
    """Knows of everything since it was made."""

    def __init__(self) -> None:
        self._began_ns, self._granted_ns = _now_ns(), 0
        self._lapsed: dict[str, int] = {}

    def granted(self) -> None:
        """Something was granted."""
        self._granted_ns = _now_ns()

    def lapsed(self, devices: Iterable[str]) -> None:
        """These lost their level because nobody renewed it."""
        for device in devices:
            self._lapsed.pop(device, None)
            self._lapsed[device] = _now_ns()
        while len(self._lapsed) > _DEVICES:
            del self._lapsed[next(iter(self._lapsed))]

    def shown(self) -> dict[str, Any]:
        """``since_ns``: complete from then on; ``granted_ns``: the last grant, 0 none; ``devices``: [name, when], oldest first."""
        return {"since_ns": self._began_ns, "granted_ns": self._granted_ns, "devices": [list(d) for d in self._lapsed.items()]}


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
