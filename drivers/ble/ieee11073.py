"""PURE. Medical floats of ISO/IEEE 11073-20601, annexes F.7 and F.8, little-endian as Bluetooth carries them.

A value is mantissa × 10^exponent, both two's complement. The five reserved codes are never numbers: they come out as a
member of ``Absent``, so that no reading is made of them.
"""

from __future__ import annotations

from enum import Enum

from gateway.errors import MalformedError


class Absent(Enum):
    """Why there is no number."""

    NAN = "not-a-number"
    NRES = "not-at-this-resolution"
    POSITIVE_INFINITY = "positive-infinity"
    NEGATIVE_INFINITY = "negative-infinity"
    RESERVED = "reserved"


_SFLOAT_SPECIAL = {
    0x07FF: Absent.NAN,
    0x0800: Absent.NRES,
    0x07FE: Absent.POSITIVE_INFINITY,
    0x0802: Absent.NEGATIVE_INFINITY,
    0x0801: Absent.RESERVED,
}
_FLOAT_SPECIAL = {
    0x007FFFFF: Absent.NAN,
    0x00800000: Absent.NRES,
    0x007FFFFE: Absent.POSITIVE_INFINITY,
    0x00800002: Absent.NEGATIVE_INFINITY,
    0x00800001: Absent.RESERVED,
}


def decode_sfloat(data: bytes) -> float | Absent:
    """The SFLOAT in exactly two bytes: 4-bit exponent, 12-bit mantissa. Raises MalformedError on another length."""
    if len(data) != 2:
        raise MalformedError(f"an SFLOAT of {len(data)} bytes where 2 are right", "check the device's firmware")
    raw = int.from_bytes(data, "little")
    return _SFLOAT_SPECIAL.get(raw) or _scaled(_signed(raw & 0x0FFF, 12), _signed(raw >> 12, 4))


def decode_float(data: bytes) -> float | Absent:
    """The FLOAT in exactly four bytes: 8-bit exponent, 24-bit mantissa. Raises MalformedError on another length."""
    if len(data) != 4:
        raise MalformedError(f"a FLOAT of {len(data)} bytes where 4 are right", "check the device's firmware")
    raw = int.from_bytes(data, "little")
    return _FLOAT_SPECIAL.get(raw) or _scaled(_signed(raw & 0xFFFFFF, 24), _signed(raw >> 24, 8))


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _scaled(mantissa: int, exponent: int) -> float:
    # a division by an exact power of ten rounds once, so that 364e-1 is 36.4 and not 36.400000000000006
    return float(mantissa * 10**exponent) if exponent >= 0 else mantissa / 10**-exponent
