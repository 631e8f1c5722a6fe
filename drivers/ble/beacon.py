"""PURE. Beacons and epochs as they stand in advertisements, and the window that a beacon's counter must move forward in.

Manufacturer data of any company: version and epoch bits 1, counter 4 (big-endian), readings 0 to 3 of 3 bytes (kind, SFLOAT), MAC
8. Bytes in, values out: knows no key (whoever has one vouches before ``Window.accept``), no link and no radio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drivers.ble.heart_rate import Quantity
from drivers.ble.ieee11073 import Absent, decode_sfloat
from gateway.errors import EvidenceError, MalformedError
from gateway.model.epoch import Epoch

VERSION = 1
MAC_BYTES, READING_BYTES, MAX_READINGS = 8, 3, 3
_HEAD = 1 + 4
# kind of a reading -> MDC code, UCUM unit, and the characteristic that carries the same over a link (a profile's rule names it)
KINDS = {1: ("MDC_TEMP_BODY", "Cel", "00002a1c-0000-1000-8000-00805f9b34fb")}


class StaleError(EvidenceError):
    """A beacon of an epoch that is over, or whose counter was seen: an old recording, or a wearable that started anew."""


@dataclass(frozen=True, slots=True)
class Beacon:
    """An advertised beacon that nobody has vouched for yet. ``epoch_bits``: the low four bits of its epoch's number."""

    epoch_bits: int
    counter: int
    readings: bytes
    payload: bytes


def parse_beacon(payload: bytes) -> Beacon:
    """Parse the manufacturer data without its company identifier. Raises MalformedError when it is no beacon."""
    size = len(payload) - _HEAD - MAC_BYTES
    if not (0 <= size <= READING_BYTES * MAX_READINGS and size % READING_BYTES == 0 and payload[0] >> 4 == VERSION):
        raise MalformedError(f"{len(payload)} bytes that are no beacon of version {VERSION}", "nothing to do")
    return Beacon(payload[0] & 0xF, int.from_bytes(payload[1:_HEAD], "big"), payload[_HEAD:-MAC_BYTES], payload)


def quantities(readings: bytes) -> tuple[tuple[str, Quantity], ...]:
    """(characteristic, value) of each reading; an unknown kind is left out, a special value is absent."""
    found = []
    for at in range(0, len(readings), READING_BYTES):
        if known := KINDS.get(readings[at]):
            code, unit, characteristic = known
            value = decode_sfloat(readings[at + 1 : at + READING_BYTES])
            if isinstance(value, Absent):
                found.append((characteristic, Quantity(code, unit, absent=value.value)))
            else:
                found.append((characteristic, Quantity(code, unit, value)))
    return tuple(found)


def announcement(epoch: Epoch) -> bytes:
    """What the gateway advertises of an epoch, and writes over a bond: the low byte of its number, and its id."""
    return bytes([epoch.number & 0xFF]) + epoch.id


class Window:
    """Which beacons are new: of this epoch or the one before, and later than the last one accepted."""

    def __init__(self) -> None:
        self._last: tuple[int, int, int] | None = None  # chain, epoch, counter
        self.payload = b""

    def place(self, beacon: Beacon, recent: Sequence[Epoch]) -> Epoch:
        """The epoch that a beacon would be of. Raises StaleError when it cannot be new."""
        epoch = next((e for e in recent if e.number & 0xF == beacon.epoch_bits), None)
        if epoch is None:
            raise StaleError("a beacon of another epoch", "nothing to do")
        if self._last is not None and (epoch.chain, epoch.number, beacon.counter) <= self._last:
            raise StaleError("a beacon whose counter was seen", "nothing to do")
        return epoch

    def accept(self, beacon: Beacon, epoch: Epoch) -> None:
        """Move on: ``beacon`` is authentic. A forgery never comes here, so it shuts nobody out."""
        self._last, self.payload = (epoch.chain, epoch.number, beacon.counter), beacon.payload
