"""Pulse oximetry: the bytes of the service's own fields, special values, and everything of another length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ble.ieee11073 import Absent
from drivers.ble.plx import Oximetry, Pair, parse_continuous, parse_spot_check
from gateway.errors import MalformedError

SPO2, RATE, PERFUSION = "MDC_PULS_OXIM_SAT_O2", "MDC_PULS_OXIM_PULS_RATE", "MDC_PULS_OXIM_PERF_REL"


def values(measurement: Oximetry) -> dict[str, tuple[float | None, str | None]]:
    return {q.code: (q.value, q.absent) for q in measurement.quantities}


def test_continuous_with_nothing_but_the_normal_values() -> None:
    m = parse_continuous(bytes.fromhex("00 6100 4800"))
    assert m == Oximetry(Pair(97.0, 72.0))
    assert [(q.code, q.unit, q.value) for q in m.quantities] == [(SPO2, "%", 97.0), (RATE, "/min", 72.0)]


def test_continuous_with_every_field() -> None:
    m = parse_continuous(bytes.fromhex("1f cbf3 4800 6000 4900 5f00 4a00 8000 200000 2af0"))
    assert m.normal == Pair(97.1, 72.0)
    assert (m.fast, m.slow) == (Pair(96.0, 73.0), Pair(95.0, 74.0))
    assert (m.status, m.sensor, m.pulse_amplitude) == (0x0080, 0x20, 4.2)
    assert values(m) == {SPO2: (97.1, None), RATE: (72.0, None), PERFUSION: (4.2, None)}  # low perfusion is told, and no doubt


def test_spot_check_with_every_field() -> None:
    stamp = "ea07 0b 18 0a 1e 00"  # 2026-11-24 10:30:00
    m = parse_spot_check(bytes.fromhex(f"0f 6100 4800 {stamp} 8001 000000 2af0"))
    assert (m.normal, m.pulse_amplitude, m.status) == (Pair(97.0, 72.0), 4.2, 0x0180)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("ff07", Absent.NAN),
        ("0008", Absent.NRES),
        ("fe07", Absent.POSITIVE_INFINITY),
        ("0208", Absent.NEGATIVE_INFINITY),
        ("0108", Absent.RESERVED),
    ],
)
def test_a_special_value_is_absent_and_never_a_number(raw: str, reason: Absent) -> None:
    for m in (parse_continuous(bytes.fromhex(f"00 {raw} 4800")), parse_spot_check(bytes.fromhex(f"00 {raw} 4800"))):
        assert values(m) == {SPO2: (None, reason.value), RATE: (72.0, None)}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (1 << 15, "invalid-measurement"),
        (1 << 13, "measurement-unavailable"),
        (1 << 10, "demonstration-data"),
        (1 << 11, "test-data"),
        (1 << 9, "from-memory"),
    ],
)
def test_what_the_device_doubts_is_no_reading(status: int, reason: str) -> None:
    m = parse_continuous(b"\x04" + bytes.fromhex("61004800") + status.to_bytes(2, "little"))
    assert set(values(m).values()) == {(None, reason)}


@pytest.mark.parametrize(("bit", "reason"), [(11, "no-sensor-contact"), (14, "sensor-malfunction"), (15, "sensor-disconnected")])
def test_a_sensor_that_is_off_gives_no_reading(bit: int, reason: str) -> None:
    m = parse_continuous(b"\x08" + bytes.fromhex("61004800") + (1 << bit).to_bytes(3, "little"))
    assert set(values(m).values()) == {(None, reason)}


def test_validated_and_qualified_data_are_readings() -> None:
    m = parse_continuous(b"\x04" + bytes.fromhex("61004800") + (0b111 << 6).to_bytes(2, "little"))
    assert values(m)[SPO2] == (97.0, None)


@given(st.binary(max_size=40))
def test_any_bytes_parse_whole_or_not_at_all(data: bytes) -> None:
    sizes = {
        parse_continuous: lambda f: 5 + 4 * (f & 1) + 4 * (f >> 1 & 1) + 2 * (f >> 2 & 1) + 3 * (f >> 3 & 1) + 2 * (f >> 4 & 1),
        parse_spot_check: lambda f: 5 + 7 * (f & 1) + 2 * (f >> 1 & 1) + 3 * (f >> 2 & 1) + 2 * (f >> 3 & 1),
    }
    for parse, size in sizes.items():
        if data and len(data) == size(data[0]):
            assert all((q.value is None) != (q.absent is None) for q in parse(data).quantities)
        else:
            with pytest.raises(MalformedError):
                parse(data)
