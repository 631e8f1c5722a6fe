"""What the data path saw, told to the engine once and then counted: nobody can flood the audit log through a pump.

Refuses to know what a request is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.model.event import Behaviour, Event

INTERVAL_S = 10.0  # a device's second event of one code waits this long, and carries the count since the first
_LONGEST_TEXT = 200


class Reporter:
    """Counts by device and code; emits the first at once."""

    def __init__(self, emit: Callable[[Event], Awaitable[None]], interval_s: float = INTERVAL_S) -> None:
        self._emit, self._interval_s = emit, interval_s
        self._pending: dict[tuple[str, str], tuple[int, str]] = {}
        self._not_before: dict[tuple[str, str], float] = {}
        self._wake = asyncio.Event()

    def note(self, device_id: str, code: str, text: str) -> None:
        """Something happened once more; ``text`` of the last one is told."""
        count, _ = self._pending.get((device_id, code), (0, ""))
        self._pending[device_id, code] = (count + 1, text[:_LONGEST_TEXT])
        self._wake.set()

    async def run(self) -> None:
        """Emit what is due, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            for key in [k for k in self._pending if loop.time() >= self._not_before.get(k, 0.0)]:
                self._not_before[key] = loop.time() + self._interval_s
                count, text = self._pending.pop(key)
                await self._emit(Behaviour(key[0], key[1], text, count))
            if self._pending:
                due = min(self._not_before.get(k, 0.0) for k in self._pending)
                loop.call_at(due, self._wake.set)
