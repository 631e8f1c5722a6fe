"""PURE. Devices that were seen and that nobody added: bounded, so that no port of the ward and nobody on the air fills the list.

Refuses to know who was added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.model.event import DeviceSeen
from gateway.model.instant import Instant

MOST = 256
MOST_OF_A_PORT = 16  # of a port of the ward: the one heard longest ago makes room


class Sightings:
    """Newest sighting by address."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[DeviceSeen, Instant]] = {}

    def see(self, event: DeviceSeen, now: Instant) -> bool:
        """Take one in; True when it is new and there was room."""
        new = event.address not in self._seen
        if new and event.bus is None:
            self._make_room(event.port)
        if new and len(self._seen) >= MOST:
            return False
        self._seen[event.address] = event, now
        return new

    def without(self, known: Collection[str]) -> Mapping[str, tuple[DeviceSeen, Instant]]:
        """By address, what was seen last and when; but for ``known``."""
        return {a: row for a, row in self._seen.items() if a not in known}

    def _make_room(self, port: str) -> None:
        there = [a for a, (e, _) in self._seen.items() if e.bus is None and e.port == port]
        if len(there) >= MOST_OF_A_PORT:
            del self._seen[min(there, key=lambda a: self._seen[a][1].mono_ns)]
