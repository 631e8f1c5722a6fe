"""PURE. Pulse oximetry: PLX Continuous (2A5F) and Spot-Check (2A5E) Measurement, Pulse Oximeter Service 1.0; strict on length.

Bytes in, quantities out. A special SFLOAT, a measurement that its device calls invalid, unavailable, or made for demonstration
or test, and one from its memory (its time is not now) come out as absent with the reason, never as a number. Knows no link.
"""

from __future__ import annotations

from dataclasses import dataclass

from drivers.ble.heart_rate import NO_CONTACT, Quantity
from drivers.ble.ieee11073 import Absent, decode_sfloat
from gateway.errors import MalformedError

SERVICE_UUID = "00001822-0000-1000-8000-00805f9b34fb"
SPOT_CHECK_UUID = "00002a5e-0000-1000-8000-00805f9b34fb"
CONTINUOUS_UUID = "00002a5f-0000-1000-8000-00805f9b34fb"

_SPO2, _RATE, _PERFUSION = "MDC_PULS_OXIM_SAT_O2", "MDC_PULS_OXIM_PULS_RATE", "MDC_PULS_OXIM_PERF_REL"
# Measurement Status (PLXS 1.0, section 3.2.4.4) and Device and Sensor Status (3.2.4.5): what makes a number no reading
_REASONS = ((15, "invalid-measurement"), (13, "measurement-unavailable"), (10, "demonstration-data"), (11, "test-data"))
_STORED = (9, "from-memory")
_SENSOR = ((11, NO_CONTACT), (15, "sensor-disconnected"), (14, "sensor-malfunction"), (1, "equipment-malfunction"))
_TIMESTAMP, _SPOT_STATUS, _SPOT_SENSOR, _SPOT_PULSE = 0x01, 0x02, 0x04, 0x08
_FAST, _SLOW, _STATUS, _SENSOR_STATUS, _PULSE = 0x01, 0x02, 0x04, 0x08, 0x10
Number = float | Absent


@dataclass(frozen=True, slots=True)
class Pair:
    """Oxygen saturation in % and pulse rate in 1/min."""

    spo2: Number
    rate: Number


@dataclass(frozen=True, slots=True)
class Oximetry:
    """A decoded measurement: ``normal`` always; ``fast`` and ``slow`` averages, pulse amplitude in %, status bits where sent."""

    normal: Pair
    fast: Pair | None = None
    slow: Pair | None = None
    pulse_amplitude: Number | None = None
    status: int = 0
    sensor: int = 0

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The values in common form."""
        doubt = _first(self.status, (*_REASONS, _STORED)) or _first(self.sensor, _SENSOR)
        found = [_quantity(_SPO2, "%", self.normal.spo2, doubt), _quantity(_RATE, "/min", self.normal.rate, doubt)]
        if self.pulse_amplitude is not None:
            found.append(_quantity(_PERFUSION, "%", self.pulse_amplitude, doubt))
        return tuple(found)


def _first(bits: int, reasons: tuple[tuple[int, str], ...]) -> str | None:
    return next((reason for bit, reason in reasons if bits >> bit & 1), None)


def _quantity(code: str, unit: str, value: Number, doubt: str | None) -> Quantity:
    if doubt is not None or isinstance(value, Absent):
        return Quantity(code, unit, absent=doubt or (value.value if isinstance(value, Absent) else None))
    return Quantity(code, unit, value)


class _Fields:
    """The fields of one value, in order; ``end`` refuses what is left."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        self._at += size
        if len(part) < size:
            raise self.wrong()
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def sfloat(self) -> Number:
        return decode_sfloat(self.take(2))

    def pair(self) -> Pair:
        return Pair(self.sfloat(), self.sfloat())

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.wrong()

    def wrong(self) -> MalformedError:
        flags = f" with flags {self._data[0]:#04x}" if self._data else ""
        return MalformedError(f"a {self._what} measurement of {len(self._data)} bytes{flags}", "check the device's firmware")


def parse_continuous(data: bytes) -> Oximetry:
    """Parse one notification of 2A5F (section 3.2); raises MalformedError unless every byte is accounted for."""
    f = _Fields(data, "continuous oximetry")
    flags, normal = f.number(1), f.pair()
    fast = f.pair() if flags & _FAST else None
    slow = f.pair() if flags & _SLOW else None
    status = f.number(2) if flags & _STATUS else 0
    sensor = f.number(3) if flags & _SENSOR_STATUS else 0
    pulse = f.sfloat() if flags & _PULSE else None
    f.end()
    return Oximetry(normal, fast, slow, pulse, status, sensor)


def parse_spot_check(data: bytes) -> Oximetry:
    """Parse one indication of 2A5E (section 3.1); raises MalformedError unless every byte is accounted for.

    Its time stamp is checked for its length and otherwise left: a device's clock is nobody's word for the time.
    """
    f = _Fields(data, "spot-check oximetry")
    flags, normal = f.number(1), f.pair()
    if flags & _TIMESTAMP:
        f.take(7)
    status = f.number(2) if flags & _SPOT_STATUS else 0
    sensor = f.number(3) if flags & _SPOT_SENSOR else 0
    pulse = f.sfloat() if flags & _SPOT_PULSE else None
    f.end()
    return Oximetry(normal, pulse_amplitude=pulse, status=status, sensor=sensor)
