"""One device's readings on their way to the outbox: bounded, in batches, each here until it is durable.

A full disk delays readings and then drops the oldest; both are counted and told once. Knows no bus.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

from gateway.driver import Context
from gateway.errors import UnavailableError
from gateway.model.event import Behaviour
from gateway.model.observation import Observation

MAX_WAITING = 4096  # observations of one device: a quarter of an hour of heart rate with its RR intervals
MAX_BATCH = 500
GATHER_S = 0.25  # readings of this time go in one batch: one fsync, and still live to the eye
RETRY_S = 2.0
LAST_S = 1.0  # patience with the outbox when the device is let go
TELL_S = 10.0  # malformed readings are told at most this often


class Delivery:
    """``put`` readings; ``deliver`` runs as long as the device is served. ``dropped`` and ``malformed`` are counted until told."""

    def __init__(self, context: Context, device_id: str) -> None:
        self._context, self._device_id = context, device_id
        self._waiting: deque[Observation] = deque()
        self._some = asyncio.Event()
        self._failing = False
        self._told_s = -TELL_S
        self.malformed = 0
        self.dropped = 0

    def put(self, observations: Sequence[Observation]) -> None:
        """Queue readings; when too many wait, the oldest are dropped."""
        self._waiting.extend(observations)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._some.set()

    def count_malformed(self, error: Exception) -> None:
        """Something came that is no reading as its format says."""
        self.malformed += 1
        if self.malformed == 1:
            self._context.log.warning("%s: %s", self._device_id, error)
        self._some.set()

    async def deliver(self) -> None:
        """Hand batches to the outbox until cancelled, then hand over what is left; a batch stays here until it is durable."""
        try:
            while True:
                await self._some.wait()
                await asyncio.sleep(GATHER_S)
                self._some.clear()
                await self._tell_malformed()
                while self._waiting:
                    await self._store()
        finally:
            with contextlib.suppress(TimeoutError, UnavailableError):
                async with asyncio.timeout(LAST_S):
                    while self._waiting:
                        await self._put()

    async def _store(self) -> None:
        try:
            await self._put()
        except UnavailableError as e:
            if not self._failing:
                self._context.log.warning("%s: readings wait: %s", self._device_id, e)
            self._failing = True
            await asyncio.sleep(RETRY_S)
            return
        if self._failing:
            self._failing = False
            self._context.log.info("%s: readings are stored again, %d were dropped", self._device_id, self.dropped)
            await self._tell_dropped()

    async def _put(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        try:
            await self._context.outbox.put(batch)
        except BaseException:
            self._waiting.extendleft(reversed(batch))
            raise

    async def _tell_malformed(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if self.malformed and now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            count, self.malformed = self.malformed, 0
            text = "sent readings that do not follow their format"
            await self._context.emit(Behaviour(self._device_id, "malformed-reading", text, count))

    async def _tell_dropped(self) -> None:
        if self.dropped:
            count, self.dropped = self.dropped, 0
            text = "readings were dropped, oldest first, while they could not be stored"
            await self._context.emit(Behaviour(self._device_id, "readings-dropped", text, count))
