"""An epoch of the beacons, as those need it who tell wearables of it and those who hear them answer."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.instant import Instant


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: 12 bytes that nobody knew before it began. ``chain`` changes when the ids begin anew."""

    chain: int
    number: int
    id: bytes
    until: Instant
