"""What is remembered of the air is bounded, what is reported is rate-limited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ble import heart_rate
from drivers.ble.sightings import AGAIN_S, MAX_NAME, MAX_REMEMBERED, PER_MINUTE, Sightings, shown_name

HR = [heart_rate.SERVICE_UUID]
OURS = "C0:00:00:00:00:01"


def address(n: int) -> str:
    """A stranger's address."""
    return f"D0:00:00:00:{n >> 8:02X}:{n & 255:02X}"


def test_an_unknown_device_with_a_known_service_is_reported_once_in_a_while() -> None:
    s = Sightings()
    assert s.saw(address(1), "x", [], 0.0) is None
    event = s.saw(address(1), "x", HR, 0.0)
    assert event is not None
    assert (event.address, event.name, event.hint) == (address(1), "x", "heart-rate")
    assert s.saw(address(1), "x", HR, AGAIN_S - 1) is None
    assert s.saw(address(1), "x", HR, AGAIN_S) is not None


def test_a_flood_of_addresses_is_bounded() -> None:
    s = Sightings()
    reported = [s.saw(address(n), None, HR, n * 0.01) for n in range(5000)]
    assert sum(e is not None for e in reported) == PER_MINUTE  # 50 s of flood
    for n in range(2000):
        s.saw(address(n), None, HR, 1000.0 + n * 60)
    assert len(s._reported) <= MAX_REMEMBERED


async def test_ours_are_not_unknown_and_their_return_is_noticed() -> None:
    s = Sightings()
    s.expect([OURS])
    appeared = s.appeared(OURS)
    assert s.saw(OURS, "x", HR, 100.0) is None
    assert appeared.is_set()
    appeared.clear()
    s.saw(OURS, "x", HR, 101.0)
    assert not appeared.is_set()
    s.saw(OURS, "x", HR, 110.0)
    assert appeared.is_set()
    assert s.seen_within(OURS, 10.0, 115.0)
    assert not s.seen_within(OURS, 10.0, 121.0)
    assert not s.seen_within(address(1), 10.0, 121.0)
    s.expect([OURS, address(1)])
    assert s.seen_within(OURS, 10.0, 115.0)


@pytest.mark.parametrize(("name", "shown"), [(None, "unnamed"), ("", "unnamed"), ("\n\x1b[31mX\u202e", "[31mX"), (" a ", "a")])
def test_names_are_shown_clean(name: str | None, shown: str) -> None:
    assert shown_name(name) == shown


@given(st.text())
def test_any_name_fits_a_device(name: str) -> None:
    shown = shown_name(name)
    assert 1 <= len(shown) <= MAX_NAME
    assert shown.isprintable()
