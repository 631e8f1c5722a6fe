from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus import mbap
from drivers.modbus.mbap import Frame, Framer
from gateway.errors import MalformedError

frames_ = st.lists(
    st.builds(Frame, st.integers(0, 0xFFFF), st.integers(0, 255), st.binary(min_size=1, max_size=253)), min_size=1, max_size=6
)


def take(framer: Framer) -> list[Frame]:
    frames = []
    while (frame := framer.next()) is not None:
        frames.append(frame)
    return frames


@given(frames_, st.data())
def test_any_split_gives_the_same_frames(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(mbap.encode(*f) for f in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    framer, got = Framer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        framer.feed(stream[start:end])
        got += take(framer)
    assert got == frames
    assert framer.waiting == 0


@given(frames_, st.binary(min_size=7, max_size=40), st.data())
def test_what_is_no_frame_is_refused_after_the_frames_before_it_in_any_split(
    frames: list[Frame], junk: bytes, data: st.DataObject
) -> None:
    junk = junk[:2] + b"\0\1" + junk[4:]
    stream = b"".join(mbap.encode(*f) for f in frames) + junk
    cut = data.draw(st.integers(0, len(stream)))
    framer, got = Framer(), []
    with pytest.raises(MalformedError):
        for piece in (stream[:cut], stream[cut:]):
            framer.feed(piece)
            while (frame := framer.next()) is not None:
                got.append(frame)
    assert got == frames
    with pytest.raises(MalformedError):
        framer.next()


@pytest.mark.parametrize(
    "hexed",
    [
        "000700010006010300000001",  # protocol 1
        "00070000000001",  # length 0
        "00070000000101",  # length 1
        "0007000000ff01",  # length 255
        "00070000ffff01",  # length 65535
        "ffffffffffffffff",
        "474554202f20485454502f312e310d0a0d0a",  # GET /
        "00070001",  # said as soon as it is seen
    ],
)
def test_broken_headers(hexed: str) -> None:
    framer = Framer()
    framer.feed(bytes.fromhex(hexed))
    with pytest.raises(MalformedError):
        framer.next()


def test_a_truncated_header_waits_for_more() -> None:
    framer = Framer()
    framer.feed(b"\0\1\0\0")
    assert framer.next() is None
    assert framer.waiting == 4


def test_many_frames_in_one_piece_cost_no_copies() -> None:
    framer, one = Framer(), mbap.encode(1, 1, b"\x03\0\0\0\1")
    framer.feed(one * 20_000)
    assert len(take(framer)) == 20_000
