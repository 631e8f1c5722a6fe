"""Medical floats: values typed in from the standard's examples and from devices' published captures, then all of them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ble.ieee11073 import Absent, decode_float, decode_sfloat
from gateway.errors import MalformedError

SFLOATS = [
    (0x0078, 120.0),  # a systolic pressure of 120 mmHg
    (0x0050, 80.0),
    (0xF16C, 36.4),  # 364e-1
    (0x0072, 114.0),  # 11073-20601, F.7: 114
    (0xF48E, 116.6),  # 1166e-1
    (0xFFFF, -0.1),
    (0x0000, 0.0),
    (0x1001, 10.0),
    (0x8001, 1e-8),
    (0x7001, 1e7),
    (0xE25A, 6.02),
    (0x0FFF, -1.0),
    (0x0803, -2045.0),
    (0x07FD, 2045.0),
    (0x07FF, Absent.NAN),
    (0x0800, Absent.NRES),
    (0x07FE, Absent.POSITIVE_INFINITY),
    (0x0802, Absent.NEGATIVE_INFINITY),
    (0x0801, Absent.RESERVED),
]
FLOATS = [
    (0xFF00016C, 36.4),  # a body temperature of 36.4 °C
    (0xFE000E38, 36.4),
    (0x00000025, 37.0),
    (0xFF000173, 37.1),
    (0x007FFFFF, Absent.NAN),
    (0x00800000, Absent.NRES),
    (0x007FFFFE, Absent.POSITIVE_INFINITY),
    (0x00800002, Absent.NEGATIVE_INFINITY),
    (0x00800001, Absent.RESERVED),
    (0x00FFFFFF, -1.0),
    (0x80000001, 1e-128),
    (0x7F000001, 1e127),
]


@pytest.mark.parametrize(("raw", "value"), SFLOATS)
def test_sfloat(raw: int, value: float | Absent) -> None:
    assert decode_sfloat(raw.to_bytes(2, "little")) == value


@pytest.mark.parametrize(("raw", "value"), FLOATS)
def test_float(raw: int, value: float | Absent) -> None:
    assert decode_float(raw.to_bytes(4, "little")) == value


def test_every_sfloat_is_exactly_mantissa_times_power_of_ten() -> None:
    special = {raw for raw, value in SFLOATS if isinstance(value, Absent)}
    for raw in range(0x10000):
        got = decode_sfloat(raw.to_bytes(2, "little"))
        if raw in special:
            assert isinstance(got, Absent)
            continue
        mantissa = (raw & 0xFFF) - (0x1000 if raw & 0x800 else 0)
        exponent = (raw >> 12) - (16 if raw & 0x8000 else 0)
        assert got == float(Decimal(mantissa).scaleb(exponent))


@given(st.integers(-0x7FFFFD, 0x7FFFFD), st.integers(-128, 127))
def test_every_float_is_exactly_mantissa_times_power_of_ten(mantissa: int, exponent: int) -> None:
    raw = (mantissa & 0xFFFFFF) | ((exponent & 0xFF) << 24)
    assert decode_float(raw.to_bytes(4, "little")) == float(Decimal(mantissa).scaleb(exponent))


@given(st.binary(max_size=8))
def test_another_length_is_malformed(data: bytes) -> None:
    for decode, size in ((decode_sfloat, 2), (decode_float, 4)):
        if len(data) != size:
            with pytest.raises(MalformedError):
                decode(data)
