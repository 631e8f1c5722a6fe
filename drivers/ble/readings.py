"""One device's readings on their way to the outbox: decoded, labelled with the level they were taken at, bounded.

A full disk delays readings and then drops the oldest; both are counted and told once. Knows no link.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

from drivers.ble import heart_rate, plx
from drivers.ble.heart_rate import Quantity
from gateway.driver import Context
from gateway.errors import UnavailableError, WardgateError
from gateway.model.event import Behaviour
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation

MAX_WAITING = 4096  # observations of one device: a quarter of an hour of heart rate with its RR intervals
MAX_BATCH = 500
GATHER_S = 0.25  # readings of this time go in one batch: one fsync, and still live to the eye
RETRY_S = 2.0
LAST_S = 1.0  # patience with the outbox when the device is let go
TELL_S = 10.0  # malformed readings are told at most this often

Parser = Callable[[bytes], Sequence[Quantity]]
# characteristic -> its parser; what is not here cannot be subscribed to
PARSERS: dict[str, Parser] = {
    heart_rate.MEASUREMENT_UUID: lambda data: heart_rate.parse_heart_rate(data).quantities,
    plx.CONTINUOUS_UUID: lambda data: plx.parse_continuous(data).quantities,
    plx.SPOT_CHECK_UUID: lambda data: plx.parse_spot_check(data).quantities,
}


class Readings:
    """Take notifications with ``take``; ``deliver`` runs as long as the device is served."""

    def __init__(self, context: Context, device_id: str) -> None:
        self._context, self._device_id = context, device_id
        self._waiting: deque[Observation] = deque()
        self._some = asyncio.Event()
        self._failing = False
        self._told_s = -TELL_S
        self.malformed = 0
        self.dropped = 0

    def take(self, characteristic: str, data: bytes, level: TrustLevel | None, now: Instant) -> None:
        """Decode a notification and queue its observations; one that does not parse is counted."""
        try:
            quantities = PARSERS[characteristic](data)
        except WardgateError as e:
            self.malformed += 1
            if self.malformed == 1:
                self._context.log.warning("%s: %s", self._device_id, e)
            self._some.set()
            return
        self.put(quantities, level, now)

    def put(self, quantities: Sequence[Quantity], level: TrustLevel | None, now: Instant) -> None:
        """Queue values that were decoded elsewhere."""
        for q in quantities:
            self._waiting.append(Observation(self._device_id, q.code, q.unit, now, now, level, q.value, q.absent))
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
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
