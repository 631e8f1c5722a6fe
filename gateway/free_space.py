"""Watches how much of the disk is free where the state lies, and says so before it is full.

That a write fails is found late: the store's write-ahead log has 4 MB of room that it took long before. Looked at beside the event
loop, since a disk that hangs answers nothing. Refuses to free anything: what is kept is a person's choice.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from gateway.model.event import PartChanged
from gateway.surroundings import FREE_MIB, LEAST_MIB

PART = "free-space"
_LOOK_S = 5.0  # a log that runs wild writes some 10 MB a second to a card: it is seen before the last 64 MiB are gone
_MIB = 2**20
_PERCENT = 2
_SMALL = 8  # of a small disk never more than this part of it: a file system of 100 MB is not low when it is empty
_WELL = 1.5  # times the bound have to be free before it counts as mended
log = logging.getLogger("wardgate.free-space")


def bound_of(total: int) -> int:
    """Bytes below which ``total`` bytes are nearly full: 2 %, at least 64 MiB, and not more than ``wardgate check`` asks for."""
    return min(max(LEAST_MIB * _MIB, total * _PERCENT // 100), FREE_MIB * _MIB, total // _SMALL)


class FreeSpace:
    """``run`` never ends; ``told`` gets ``PartChanged`` when room is short, and when it is there again."""

    def __init__(self, where: Path, told: Callable[[PartChanged], None]) -> None:
        self._where, self._told = where, told
        self._low = False

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            try:
                self.judge(await asyncio.to_thread(os.statvfs, self._where))
            except OSError as e:
                log.debug("%s cannot be looked at: %s", self._where, e)  # the record tells of a disk that is gone
            await asyncio.sleep(_LOOK_S)

    def judge(self, seen: os.statvfs_result) -> None:
        """Tell when it is short, and when there is more than enough again."""
        free, total = seen.f_bavail * seen.f_frsize, seen.f_blocks * seen.f_frsize
        bound = bound_of(total)
        inodes_gone = bool(seen.f_files) and not seen.f_favail
        text = f"{_mib(free)} of {_mib(total)} are free at {self._where}"
        if not self._low and (free < bound or inodes_gone):
            self._low = True
            what = f"no inodes are left at {self._where}" if inodes_gone else f"only {text}"
            self._told(PartChanged(PART, up=False, detail=f"{what}; {_THEN}"))
        elif self._low and free >= bound * _WELL and not inodes_gone:
            self._low = False
            self._told(PartChanged(PART, up=True, detail=text))


_THEN = (
    "when it is full nothing can be recorded and so nothing new is granted: free some now "
    "(journalctl --vacuum-size=100M, apt-get clean), or lower keep_mib in [record]"
)


def _mib(size: int) -> str:
    return f"{size / _MIB:.0f} MiB" if size >= 10 * _MIB else f"{size / _MIB:.1f} MiB"
