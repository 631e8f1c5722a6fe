"""The record, checked while it grows: the newest part when the daemon starts, and every line that is written after that.

A whole record takes minutes of computing, so it is ``wardgate audit verify`` that walks all of it. Refuses to repair anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from gateway.errors import EvidenceError, UnavailableError
from gateway.model.inquiry import RecordCheck
from gateway.model.instant import NS_PER_S
from gateway.store.audit import AuditLog
from gateway.store.chain import Line

log = logging.getLogger("wardgate.record")

BACK = 100_000  # lines checked at a start: a day of ten devices
_REST_LINES, _REST_S = 250, 0.05  # a tenth of one processor at most
_LOOK_S = 2.0


class Follower:
    """``check`` is what is known; ``run`` never ends. ``told(text)`` is called once when a line does not hold."""

    def __init__(self, audit: AuditLog, told: Callable[[str], None], back: int = BACK) -> None:
        self._audit, self._told, self._back = audit, told, back
        self._last: Line | None = None
        self.check = RecordCheck()

    async def run(self) -> None:
        """Follow the record. Ends only when a line does not hold: what comes after that proves nothing."""
        while self.check.ok:
            try:
                await self.catch_up()
            except UnavailableError as e:
                log.debug("the record cannot be read: %s", e)
            await asyncio.sleep(_LOOK_S)
        await asyncio.Event().wait()

    async def catch_up(self) -> None:
        """Check what was written since the last look. Raises UnavailableError."""
        head, extent = await self._audit.head(), await self._audit.extent()
        self._note(head=head.sequence)
        if self._last is not None and self._last.sequence < extent.trimmed:
            self._last = None  # the oldest lines were trimmed under a check that was far behind
        after = self._last.sequence if self._last else max(0, head.sequence - self._back)
        number = 0
        try:
            async for line in self._audit.lines(after):
                self._follow(line)
                number += 1
                if number % _REST_LINES == 0:
                    await asyncio.sleep(_REST_S)
        except EvidenceError as e:
            self._note(trouble=e.what)
            log.error("the record does not hold: %s", e)
            self._told(e.what)

    def _follow(self, line: Line) -> None:
        last = self._last
        if line.digest() != line.hash:
            raise EvidenceError(f"audit line {line.sequence} was changed", "compare the record with an export or a backup")
        if last is not None and (line.sequence != last.sequence + 1 or line.prev != last.hash):
            raise EvidenceError(
                f"audit line {line.sequence} does not follow line {last.sequence}", "compare the record with an export or a backup"
            )
        first = self.check.first if last is not None else line.sequence
        self._last = line
        at = datetime.fromtimestamp(line.at.utc_ns / NS_PER_S, tz=UTC).isoformat(timespec="seconds")
        self.check = RecordCheck(first, line.sequence, at, max(self.check.head, line.sequence), self.check.trouble)

    def _note(self, head: int | None = None, trouble: str | None = None) -> None:
        c = self.check
        self.check = replace(c, head=c.head if head is None else head, trouble=c.trouble if trouble is None else trouble)
