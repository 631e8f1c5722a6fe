"""PURE. The Heart Rate Measurement characteristic (2A37; Heart Rate Service 1.0, section 3.1), strict on length.

Bytes in, quantities out: MDC codes of ISO/IEEE 11073-10101 by their reference identifiers, units in UCUM. Knows no link,
no device and no level. Reserved flag bits are ignored, as the service asks; a byte too many or too few is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import MalformedError

SERVICE_UUID = "0000180d-0000-1000-8000-00805f9b34fb"
MEASUREMENT_UUID = "00002a37-0000-1000-8000-00805f9b34fb"

MAX_BYTES = 512  # an attribute's limit; RR intervals fill what the MTU leaves
NO_CONTACT = "no-sensor-contact"

_UINT16, _CONTACT, _CONTACT_SUPPORTED, _ENERGY, _RR = 0x01, 0x02, 0x04, 0x08, 0x10


@dataclass(frozen=True, slots=True)
class Quantity:
    """One value of a measurement: ``code`` an MDC reference identifier, ``unit`` UCUM; ``value`` or why it is ``absent``."""

    code: str
    unit: str
    value: float | None = None
    absent: str | None = None


@dataclass(frozen=True, slots=True)
class HeartRate:
    """A decoded measurement. ``contact``: None when the sensor does not tell; RR intervals in ms, oldest first."""

    rate: int
    contact: bool | None
    energy_kj: int | None
    rr_ms: tuple[float, ...]

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The values in common form. Without skin contact the rate is noise and is reported as absent."""
        noise = self.contact is False
        rate = Quantity("MDC_ECG_HEART_RATE", "/min", None if noise else float(self.rate), NO_CONTACT if noise else None)
        rr = () if noise else tuple(Quantity("MDC_ECG_TIME_PD_RR_GL", "ms", ms) for ms in self.rr_ms)
        energy = () if self.energy_kj is None else (Quantity("MDC_HF_ENERGY", "kJ", float(self.energy_kj)),)
        return (rate, *rr, *energy)


def parse_heart_rate(data: bytes) -> HeartRate:
    """Parse one notification; raises MalformedError unless every byte is accounted for."""
    if not 2 <= len(data) <= MAX_BYTES:
        raise MalformedError(f"a heart rate measurement of {len(data)} bytes", "check the device's firmware")
    flags, at = data[0], 1
    fixed = (2 if flags & _UINT16 else 1) + (2 if flags & _ENERGY else 0)
    rest = len(data) - 1 - fixed
    if rest < 0 or (rest and not flags & _RR) or (flags & _RR and (rest == 0 or rest % 2)):
        raise MalformedError(
            f"a heart rate measurement of {len(data)} bytes with flags {flags:#04x}", "check the device's firmware"
        )
    width = 2 if flags & _UINT16 else 1
    rate = int.from_bytes(data[at : at + width], "little")
    at += width
    energy = None
    if flags & _ENERGY:
        energy = int.from_bytes(data[at : at + 2], "little")
        at += 2
    rr = tuple(int.from_bytes(data[i : i + 2], "little") * 1000 / 1024 for i in range(at, len(data), 2))
    contact = bool(flags & _CONTACT) if flags & _CONTACT_SUPPORTED else None
    return HeartRate(rate, contact, energy, rr)
