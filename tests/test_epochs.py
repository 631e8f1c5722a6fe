"""Epoch ids: each leads back to the one before, none to the next, and a chain that is used up is followed by another."""

from __future__ import annotations

import pytest

from gateway.epochs import LENGTH, EpochChain
from gateway.model.instant import Instant
from gateway.verifier.beacon import EPOCH_BYTES, earlier

BEGIN = Instant("boot", 77 * 10**9, 10**18)


def counting() -> tuple[list[int], EpochChain]:
    drawn: list[int] = []

    def draw(size: int) -> bytes:
        drawn.append(size)
        return bytes([len(drawn)]) * size

    return drawn, EpochChain(10.0, draw)


def test_nothing_is_drawn_before_somebody_needs_it() -> None:
    drawn, chain = counting()
    assert drawn == []
    first = chain.current(BEGIN)
    assert drawn == [EPOCH_BYTES] and (first.chain, first.number, len(first.id)) == (1, 0, EPOCH_BYTES)


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 513, LENGTH])
def test_each_id_hashes_to_the_one_before(length: int) -> None:
    chain = EpochChain(10.0, lambda n: b"\x42" * n, length)
    before = chain.current(BEGIN)
    for number in sorted({*range(1, min(length, 40)), *range(max(1, length - 3), length)}):
        now = chain.current(BEGIN.plus(10 * number + 9.9))
        at = now.id
        for _ in range(number - before.number):
            at = earlier(at)
        assert (now.chain, now.number, at) == (1, number, before.id)
        before = now
    after = chain.current(BEGIN.plus(10 * length))
    assert (after.chain, after.number) == (2, 0)


def test_an_epoch_lasts_its_time_and_is_one_object() -> None:
    _, chain = counting()
    first = chain.current(BEGIN)
    assert first.until.seconds_since(BEGIN) == pytest.approx(10)
    assert chain.current(BEGIN.plus(9.999)) is first
    assert chain.current(BEGIN.plus(10.001)).number == 1
    assert chain.current(BEGIN.plus(10.001)).until.seconds_since(BEGIN) == pytest.approx(20)


def test_another_start_has_another_chain() -> None:
    ids = {EpochChain(10.0, lambda n, s=s: bytes([s]) * n).current(BEGIN).id for s in range(5)}
    assert len(ids) == 5
