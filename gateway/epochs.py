"""The epoch ids of the beacons: a reverse hash chain, drawn anew at each start (and when it is used up).

Whoever holds one id recognises each later one by hashing, and nobody can tell the next. Refuses to know who listens; the
random seed comes in as a function, the time as an argument.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.model.epoch import Epoch
from gateway.model.instant import NS_PER_S, Instant
from gateway.verifier.beacon import EPOCH_BYTES, earlier

LENGTH = 1 << 13  # epochs: a day at 10 s; hashed in some 15 ms, and only when a device needs it
_EVERY = 256  # ids kept: one in so many, the others are hashed from the next one kept


class EpochChain:
    """``gateway.driver.Epochs``. ``draw(n)`` gives n random bytes."""

    def __init__(self, epoch_s: float, draw: Callable[[int], bytes], length: int = LENGTH) -> None:
        self._epoch_ns, self._draw, self._length = max(1, round(epoch_s * NS_PER_S)), draw, length
        self._chain = 0
        self._began_ns = 0
        self._kept: list[bytes] = []
        self._now: Epoch | None = None

    def current(self, now: Instant) -> Epoch:
        """The epoch at ``now``; a new chain begins at the first call and when the last id is used up."""
        if self._now is not None and now.mono_ns < self._now.until.mono_ns:
            return self._now
        if not self._kept or now.mono_ns >= self._began_ns + self._length * self._epoch_ns:
            self._begin(now)
        number = (now.mono_ns - self._began_ns) // self._epoch_ns
        left_ns = self._began_ns + (number + 1) * self._epoch_ns - now.mono_ns
        self._now = Epoch(self._chain, number, self._id(number), now.plus(left_ns / NS_PER_S))
        return self._now

    def _begin(self, now: Instant) -> None:
        """Hash from the seed, the id of the last epoch, down to the first."""
        self._chain, self._began_ns = self._chain + 1, now.mono_ns
        at, kept = self._draw(EPOCH_BYTES), []
        for number in range(self._length - 1, -1, -1):
            if number % _EVERY == 0 or number == self._length - 1:
                kept.append(at)
            at = earlier(at)
        self._kept = kept[::-1]

    def _id(self, number: int) -> bytes:
        place = -(-number // _EVERY)
        at, from_ = self._kept[min(place, len(self._kept) - 1)], min(place * _EVERY, self._length - 1)
        for _ in range(from_ - number):
            at = earlier(at)
        return at
