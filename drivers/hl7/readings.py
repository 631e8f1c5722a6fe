"""One device's readings: taken from messages that were accepted, decoded when there is time, and delivered.

Relaying comes first: a message is only put aside here, and its readings follow at a rate that a ward can store. What is too
much is dropped, oldest first, and counted; the messages themselves have passed. Refuses to know connections.
"""

from __future__ import annotations

import asyncio
from collections import deque

from drivers.delivery import Delivery
from drivers.hl7.message import key_of, parse
from drivers.hl7.observations import MAX_READINGS, decode
from gateway.driver import Context
from gateway.errors import MalformedError
from gateway.model.event import Behaviour
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel

MAX_MESSAGES = 16  # that wait to be decoded: few, so that what a flood leaves here is still in the processor's cache
MAX_BYTES = 512 * 1024  # of those
PER_S = 200.0  # readings of one device that are decoded in a second: a monitor with every module has fewer
BURST = 1_000.0  # and at once: a message with all its readings, after a minute of silence
WARD_PER_S, WARD_BURST = (
    2_000.0,
    10_000.0,
)  # of all devices: fifty monitors with forty each; a tenth of what the disk takes
_BYTES_AS_ONE = 2_048  # of a message: what telling it from others and cutting it up takes, counted as readings
_TURN_S, _PAUSE_S = 0.02, 0.1  # between two looks at what has come; when there is no budget left
_REMEMBERED = 256  # messages that are known when they come again: their readings are not counted twice


_Taken = tuple[bytes, TrustLevel, Instant, Instant | None]  # level and time of its receipt, and since when there is evidence


class Budget:
    """So many readings a second, and so many at once."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst, self._may, self._last_s = per_s, burst, burst, float("-inf")

    def left(self, now_s: float) -> bool:
        """Whether there is any left."""
        self._may = min(self._burst, self._may + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s
        return self._may > 0

    def spend(self, number: int) -> None:
        """Some were decoded."""
        self._may -= number


class Readings(Delivery):
    """``take`` messages; ``read`` and ``deliver`` run as long as the device is served."""

    def __init__(self, context: Context, device_id: str, ward: Budget) -> None:
        """``ward``: shared by every device."""
        super().__init__(context, device_id)
        self._messages: deque[_Taken] = deque()
        self._bytes = 0
        self._any = asyncio.Event()
        self._seen: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._own, self._ward = Budget(PER_S, BURST), ward
        self.passed_over = 0  # messages whose readings were dropped, until it is told

    def take(self, raw: bytes, level: TrustLevel, received: Instant, trusted_since: Instant | None) -> None:
        """A message of the device was accepted, at this level."""
        self._messages.append((raw, level, received, trusted_since))
        self._bytes += len(raw)
        while len(self._messages) > MAX_MESSAGES or (self._bytes > MAX_BYTES and len(self._messages) > 1):
            self._bytes -= len(self._messages.popleft()[0])
            self.passed_over += 1
        self._any.set()

    async def read(self) -> None:
        """Decode what was taken, until cancelled."""
        loop = asyncio.get_running_loop()
        told_s = loop.time()
        while True:
            await self._any.wait()
            await asyncio.sleep(_TURN_S if self._own.left(loop.time()) and self._ward.left(loop.time()) else _PAUSE_S)
            now_s = loop.time()
            while self._messages and self._own.left(now_s) and self._ward.left(now_s):
                taken = self._messages.popleft()
                self._bytes -= len(taken[0])
                number = self._decode(taken)
                self._own.spend(number)
                self._ward.spend(number)
            if not self._messages:
                self._any.clear()
            if self.passed_over and now_s - told_s >= 1.0:
                told_s = now_s
                await self._tell_passed_over()

    def _decode(self, taken: _Taken) -> int:
        """Returns how many readings it was, those included that could not be read, and what its length comes to."""
        raw, level, received, trusted_since = taken
        message, length = parse(raw), len(raw) // _BYTES_AS_ONE
        key = key_of(message)
        if key in self._seen:
            return length
        self._seen.append(key)
        found = decode(message, self._device_id, level, received, trusted_since)
        if found.unknown:
            what = f"{found.unknown} measurements whose code, unit or form is not known were not read"
            self.count_malformed(MalformedError(what, "they were relayed as they are"))
        if found.too_many:
            what = f"a message with more than {MAX_READINGS} measurements: the others were not read"
            self.count_malformed(MalformedError(what, "it was relayed as it is"))
        self.put(found.observations)
        return found.number + length

    async def _tell_passed_over(self) -> None:
        count, self.passed_over = self.passed_over, 0
        text = "more readings than can be stored: those of the oldest messages were dropped, the messages themselves were relayed"
        await self._context.emit(Behaviour(self._device_id, "readings-dropped", text, count))
