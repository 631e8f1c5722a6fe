"""The heart rate measurement: known notifications, then: every byte is accounted for, encode and decode agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ble.heart_rate import NO_CONTACT, parse_heart_rate
from gateway.errors import MalformedError


@pytest.mark.parametrize(
    ("data", "rate", "contact", "energy", "rr"),
    [
        ("0048", 72, None, None, ()),
        ("0648", 72, True, None, ()),
        ("0400", 0, False, None, ()),
        ("012c01", 300, None, None, ()),
        ("164b3303", 75, True, None, (799.8046875,)),
        ("1648000400024b03", 72, True, None, (1000.0, 500.0, 823.2421875)),
        ("0e480a00", 72, True, 10, ()),
        ("1f2c010a000004", 300, True, 10, (1000.0,)),
        ("e048", 72, None, None, ()),  # reserved bits are ignored
    ],
)
def test_known(data: str, rate: int, contact: bool | None, energy: int | None, rr: tuple[float, ...]) -> None:
    got = parse_heart_rate(bytes.fromhex(data))
    assert (got.rate, got.contact, got.energy_kj, got.rr_ms) == (rate, contact, energy, rr)


@pytest.mark.parametrize("data", ["", "00", "0148", "004848", "1648", "164833", "16483303ff", "0e480a", "1f2c010a00"])
def test_a_byte_too_many_or_too_few_is_malformed(data: str) -> None:
    with pytest.raises(MalformedError):
        parse_heart_rate(bytes.fromhex(data))


def test_quantities_are_in_common_form() -> None:
    rate, rr, energy = parse_heart_rate(bytes.fromhex("1e480a000004")).quantities
    assert (rate.code, rate.unit, rate.value, rate.absent) == ("MDC_ECG_HEART_RATE", "/min", 72.0, None)
    assert (rr.code, rr.unit, rr.value) == ("MDC_ECG_TIME_PD_RR_GL", "ms", 1000.0)
    assert (energy.code, energy.unit, energy.value) == ("MDC_HF_ENERGY", "kJ", 10.0)


def test_without_contact_there_is_no_rate() -> None:
    (rate,) = parse_heart_rate(bytes.fromhex("14000004")).quantities
    assert rate.value is None
    assert rate.absent == NO_CONTACT


@given(
    st.integers(0, 0xFFFF),
    st.booleans(),
    st.sampled_from([None, False, True]),
    st.none() | st.integers(0, 0xFFFF),
    st.lists(st.integers(0, 0xFFFF), max_size=20),
)
def test_what_was_encoded_is_decoded(rate: int, wide: bool, contact: bool | None, energy: int | None, rr: list[int]) -> None:
    wide = wide or rate > 255
    flags = wide | (0 if contact is None else 4 | contact << 1) | (0 if energy is None else 8) | (16 if rr else 0)
    data = bytes([flags]) + rate.to_bytes(2 if wide else 1, "little")
    data += b"" if energy is None else energy.to_bytes(2, "little")
    data += b"".join(i.to_bytes(2, "little") for i in rr)
    got = parse_heart_rate(data)
    assert (got.rate, got.contact, got.energy_kj) == (rate, contact, energy)
    assert got.rr_ms == tuple(i * 1000 / 1024 for i in rr)


@given(st.binary(max_size=600))
def test_anything_is_parsed_or_malformed(data: bytes) -> None:
    try:
        got = parse_heart_rate(data)
    except MalformedError:
        return
    assert len(data) == 2 + bool(data[0] & 1) + 2 * (got.energy_kj is not None) + 2 * len(got.rr_ms)
