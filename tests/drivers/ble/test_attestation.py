"""Evidence in windows: what is cut up comes together; a wearable that lies about it is malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ble.attestation import HEADER_BYTES, WINDOW_BYTES, Collector, window
from gateway.errors import MalformedError


@given(st.binary(min_size=1, max_size=3000))
def test_windows_come_together(evidence: bytes) -> None:
    collector, reads = Collector(), 0
    while (offset := collector.next_offset) is not None:
        value = window(evidence, offset)
        assert len(value) <= 512
        collector.feed(value)
        reads += 1
    assert collector.evidence == evidence
    assert reads == -(-len(evidence) // WINDOW_BYTES)


@given(st.lists(st.binary(max_size=600), max_size=5))
def test_anything_is_taken_or_malformed(values: list[bytes]) -> None:
    collector = Collector()
    try:
        for value in values:
            collector.feed(value)
        assert collector.next_offset is None or collector.evidence
    except MalformedError:
        return


@pytest.mark.parametrize(
    "reads",
    [
        ["00000000"],  # no bytes
        ["00000000aa"],  # a length of nothing
        ["00020001aa"],  # does not begin at 0
        ["00010000aabb"],  # more than announced
        ["00020000aa", "00030001bb"],  # the length changes
        ["00020000aa", "00020000aa"],  # a window again
        ["00010000aa", "00010001aa"],  # beyond the end
    ],
)
def test_a_lying_wearable_is_malformed(reads: list[str]) -> None:
    collector = Collector()
    with pytest.raises(MalformedError):
        for r in reads:
            collector.feed(bytes.fromhex(r))


def test_incomplete_evidence_cannot_be_taken() -> None:
    collector = Collector()
    collector.feed(window(bytes(600), 0))
    assert collector.next_offset == WINDOW_BYTES == 512 - HEADER_BYTES
    with pytest.raises(MalformedError):
        _ = collector.evidence
