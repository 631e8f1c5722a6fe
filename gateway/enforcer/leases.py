"""What has been granted and when it lapses: the enforcer's own book, and the judgement that renewals have stopped.

Time is an argument (seconds, monotonic). Knows addresses and deadlines; the kernel enforces, this only remembers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Held(NamedTuple):
    """A lease as granted: its level, its length and its end."""

    level: int
    length_s: float
    until: float


class Lapse(NamedTuple):
    """Leases that ended without a drop. ``renewals_stopped``: nothing was granted for half their length either."""

    addresses: tuple[str, ...]
    renewals_stopped: bool


class LeaseBook:
    """Leases by address."""

    def __init__(self) -> None:
        self.touched: set[str] = set()  # addresses whose lease changed since somebody cleared this
        self._held: dict[str, Held] = {}
        self._granted_at = float("-inf")
        self._soonest = float("inf")  # no lease ends before; renewals leave it early, and the next look mends it

    def __len__(self) -> int:
        return len(self._held)

    def adopt(self, levels: Mapping[str, tuple[int, float]], now: float) -> None:
        """Leases found in the kernel at start: address -> (level, seconds left). They count as granted before now."""
        for address, (level, left_s) in levels.items():
            self._held[address] = Held(level, left_s, now + left_s)
            self._soonest = min(self._soonest, now + left_s)

    def grant(self, addresses: Iterable[str], level: int, length_s: float, now: float) -> None:
        """Remember a grant."""
        for address in addresses:
            self._held[address] = Held(level, length_s, now + length_s)
            self.touched.add(address)
        self._granted_at = now
        self._soonest = min(self._soonest, now + length_s)

    def drop(self, addresses: Iterable[str]) -> None:
        """Forget addresses that were dropped on purpose."""
        for address in addresses:
            self._held.pop(address, None)
            self.touched.add(address)

    def level_of(self, address: str) -> int:
        """The level held, 0 for none."""
        held = self._held.get(address)
        return held.level if held else 0

    def next_end(self) -> float:
        """When to look again for lapses; infinity with no lease. May be early, never late."""
        return self._soonest

    def lapse(self, now: float) -> Lapse:
        """Take out and return what ended by ``now``."""
        if now < self._soonest:
            return Lapse((), False)
        ended = {address: held for address, held in self._held.items() if held.until <= now}
        for address in ended:
            del self._held[address]
            self.touched.add(address)
        self._soonest = min((held.until for held in self._held.values()), default=float("inf"))
        shortest = min((held.length_s for held in ended.values()), default=0.0)
        return Lapse(tuple(sorted(ended)), bool(ended) and now - self._granted_at >= shortest / 2)
