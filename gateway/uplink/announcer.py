"""Alarms and decisions on their way into the outbox. A decision never waits for it: what cannot be stored now is kept and counted.

Refuses to know what is announced.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from gateway.errors import UnavailableError
from gateway.model.effect import Send
from gateway.model.instant import Instant
from gateway.model.outbox import Letter
from gateway.ports import OutgoingPort
from gateway.uplink.messages import event_body

_MOST = 10_000  # kept while the disk refuses; the oldest are then dropped (the audit log has them all)
_GROUP = 500
_RETRY_S = 2.0
log = logging.getLogger("wardgate.uplink")


class Announcer:
    """``send`` from the decision path, ``run`` as a task."""

    def __init__(self, outbox: OutgoingPort) -> None:
        self._outbox = outbox
        self._waiting: deque[Letter] = deque()
        self._some = asyncio.Event()
        self.dropped = 0

    def send(self, effect: Send, at: Instant) -> None:
        """Take an announcement; returns at once."""
        self._waiting.append(Letter(0, effect.priority, effect.topic, event_body(effect, at), at))
        if len(self._waiting) > _MOST:
            self._waiting.popleft()
            self.dropped += 1
        self._some.set()

    async def run(self) -> None:
        """Store what was announced, in order, until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                await self._store()

    async def close(self) -> None:
        """Store what is left, once."""
        while self._waiting:
            await self._put()

    async def _store(self) -> None:
        try:
            await self._put()
        except UnavailableError as e:
            log.warning("announcements wait: %s", e)
            await asyncio.sleep(_RETRY_S)

    async def _put(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(_GROUP, len(self._waiting)))]
        try:
            await self._outbox.put_letters(batch)
        except BaseException:
            self._waiting.extendleft(reversed(batch))
            raise
