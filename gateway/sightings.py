"""PURE. Devices that were seen and that nobody added: bounded, so that no port of the ward and nobody on the air fills the list.

Refuses to know who was added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.model.event import DeviceSeen
from gateway.model.instant import Instant

MOST_ON_AIR = 256
MOST_OF_A_PORT = 16  # of a port of the ward


class Sightings:
    """Newest sighting by address. Where there are too many, the one heard longest ago makes room."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[DeviceSeen, Instant]] = {}

    def see(self, event: DeviceSeen, now: Instant) -> bool:
        """Take one in; True when it is new."""
        known = self._seen.get(event.address)
        if known is None or _place(known[0]) != _place(event):
            self._make_room(event)
        self._seen[event.address] = event, now
        return known is None

    def without(self, known: Collection[str]) -> Mapping[str, tuple[DeviceSeen, Instant]]:
        """By address, what was seen last and when; but for ``known``."""
        return {a: row for a, row in self._seen.items() if a not in known}

    def _make_room(self, event: DeviceSeen) -> None:
        there = [a for a, (e, _) in self._seen.items() if _place(e) == _place(event)]
        if len(there) >= (MOST_ON_AIR if event.bus else MOST_OF_A_PORT):
            del self._seen[min(there, key=lambda a: self._seen[a][1].mono_ns)]


def _place(event: DeviceSeen) -> str:
    return "" if event.bus else event.port
