"""Beacons as the driver sees them: parsed, placed in an epoch, and never let back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ble.beacon import Beacon, StaleError, Window, announcement, parse_beacon, quantities
from gateway.errors import MalformedError
from gateway.model.epoch import Epoch
from gateway.model.instant import Instant
from hil.gateways import Chain
from hil.oximeter import sfloat
from hil.psa import mac_signer_of
from tests.verifier.test_beacon import EPOCHS

END = Instant("boot", 10**9, 10**18)
DEVICE = mac_signer_of("temperature-beacon", bytes(32))


def epoch(number: int, chain: int = 1) -> Epoch:
    return Epoch(chain, number, EPOCHS[number % 40], END)


def made(number: int, counter: int) -> Beacon:
    return parse_beacon(DEVICE.beacon("gw", EPOCHS[number % 40], number, counter, b"\x01" + sfloat(36.6)))


def test_a_beacon_of_the_bench_parses() -> None:
    b = made(17, 258)
    assert (b.epoch_bits, b.counter) == (1, 258)
    assert [(c[4:8], q.code, q.unit, q.value) for c, q in quantities(b.readings)] == [("2a1c", "MDC_TEMP_BODY", "Cel", 36.6)]


def test_special_and_unknown_readings_are_no_numbers() -> None:
    found = quantities(b"\x01\xff\x07" + b"\x07\x01\x00")
    assert [(q.value, q.absent) for _, q in found] == [(None, "not-a-number")]


@given(st.binary(max_size=40))
def test_any_bytes_are_a_beacon_or_malformed(data: bytes) -> None:
    fits = len(data) in (13, 16, 19, 22) and data[0] >> 4 == 1
    if fits:
        assert parse_beacon(data).payload == data
    else:
        with pytest.raises(MalformedError):
            parse_beacon(data)


def test_a_counter_only_moves_forward_within_an_epoch_and_starts_anew_in_the_next() -> None:
    window, recent = Window(), (epoch(3), epoch(2))
    for number, counter in ((2, 9), (3, 1), (3, 2)):
        window.accept(made(number, counter), window.place(made(number, counter), recent))
    for number, counter in ((3, 2), (3, 1), (3, 0), (2, 10), (2, 9)):
        with pytest.raises(StaleError):
            window.place(made(number, counter), recent)
    assert window.place(made(3, 3), recent).number == 3


def test_what_nobody_vouched_for_moves_no_window() -> None:
    window, recent = Window(), (epoch(3),)
    for _ in range(3):
        window.place(made(3, 2**32 - 1), recent)
    assert window.place(made(3, 1), recent).number == 3


def test_an_epoch_that_is_neither_this_nor_the_last_is_stale() -> None:
    for number in (4, 1, 0, 17):
        with pytest.raises(StaleError):
            Window().place(made(number, 1), (epoch(3), epoch(2)))
    assert Window().place(made(19, 1), (epoch(3), epoch(2))).number == 3  # four bits: the MAC decides between 3 and 19


def test_a_new_chain_begins_anew() -> None:
    window = Window()
    window.accept(made(30, 500), epoch(30))
    assert window.place(made(0, 1), (epoch(0, chain=2),)).chain == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=30))
def test_whatever_is_accepted_is_in_order_and_once(heard: list[tuple[int, int]]) -> None:
    window, recent, taken = Window(), tuple(epoch(n) for n in range(4)), []
    for number, counter in heard:
        try:
            placed = window.place(made(number, counter), recent)
        except StaleError:
            continue
        window.accept(made(number, counter), placed)
        taken.append((number, counter))
    assert taken == sorted(set(taken))


def test_a_wearable_follows_its_chain_forward_and_nobody_elses() -> None:
    chain = Chain(3, EPOCHS[3])
    assert not chain.follow(announcement(epoch(3)))
    assert not chain.follow(announcement(epoch(2)))
    assert not chain.follow(bytes([4]) + b"\x66" * 12)
    assert not chain.follow(bytes([5]) + EPOCHS[4])
    assert not chain.follow(b"")  # somebody advertises nothing
    assert chain.follow(announcement(epoch(4))) and chain.follow(announcement(epoch(30)))
    assert (chain.number, chain.id) == (30, EPOCHS[30])
