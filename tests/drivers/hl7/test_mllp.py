"""MLLP: any split of the bytes gives the same messages; what breaks the framing breaks it for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.hl7.mllp import Decoder, encode
from gateway.errors import MalformedError

BODIES = st.binary(max_size=200).filter(lambda b: b"\x0b" not in b and b"\x1c" not in b)


def test_the_bytes_of_a_frame() -> None:
    assert encode(b"MSH|^~\\&|") == b"\x0bMSH|^~\\&|\x1c\r"


@given(st.lists(BODIES, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_any_split_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(encode, messages))
    decoder, got, at = Decoder(), list[bytes](), 0
    for cut in [*sorted(c for c in cuts if c < len(stream)), len(stream)]:
        got += decoder.feed(stream[at:cut])
        at = cut
    assert got == messages
    assert not decoder.partial


def test_byte_by_byte() -> None:
    decoder = Decoder()
    got = [m for b in encode(b"one\r") + encode(b"") + encode(b"\n\0two") for m in decoder.feed(bytes([b]))]
    assert got == [b"one\r", b"", b"\n\0two"]


BROKEN = {
    "no VT": b"MSH|\x1c\r",
    "bytes between frames": encode(b"a") + b"\r\n" + encode(b"b"),
    "a CR between frames": encode(b"a") + b"\r" + encode(b"b"),
    "FS without CR": b"\x0ba\x1c\x0bb\x1c\r",
    "FS and LF": b"\x0ba\x1c\n",
    "nested": b"\x0ba" + encode(b"b") + b"\x1c\r",
    "VT inside": b"\x0ba\x0bb\x1c\r",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("stream", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_violation_raises_whatever_the_split_and_for_ever(stream: bytes, step: int) -> None:
    decoder = Decoder()
    with pytest.raises(MalformedError):
        for i in range(0, len(stream), step):
            decoder.feed(stream[i : i + step])
    with pytest.raises(MalformedError):
        decoder.feed(encode(b"a"))


@pytest.mark.parametrize("step", [1, 7, 5000])
def test_it_is_bounded(step: int) -> None:
    decoder, stream = Decoder(100), b"\x0b" + b"A" * 5000
    fed = 0
    with pytest.raises(MalformedError, match="more than 100 bytes"):
        for i in range(0, len(stream), step):
            decoder.feed(stream[i : i + step])
            fed += step
    assert fed <= 101 + step
    assert Decoder(100).feed(encode(b"A" * 100)) == [b"A" * 100]
    with pytest.raises(MalformedError):
        Decoder(100).feed(encode(b"A" * 101))


@given(st.binary(max_size=300))
def test_hostile_bytes_end_in_one_error_or_in_messages(data: bytes) -> None:
    try:
        got = Decoder(64).feed(data)
    except MalformedError:
        return
    assert all(len(m) <= 64 and b"\x0b" not in m and b"\x1c" not in m for m in got)


@pytest.mark.parametrize("message", [b"a\x0bb", b"a\x1c", b"\x1c\r"])
def test_what_no_frame_can_hold_is_not_framed(message: bytes) -> None:
    with pytest.raises(MalformedError):
        encode(message)


def test_a_long_message_in_small_pieces_costs_linear_time() -> None:
    import time

    def seconds(size: int) -> float:
        decoder, stream = Decoder(4 << 20), encode(b"A" * size)
        began = time.perf_counter()
        for i in range(0, len(stream), 1024):
            decoder.feed(stream[i : i + 1024])
        return time.perf_counter() - began

    small = min(seconds(100_000) for _ in range(3))
    assert min(seconds(1_600_000) for _ in range(2)) < 16 * 6 * small
