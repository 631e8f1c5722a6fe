"""Every request there is, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from drivers.modbus.pdu import Request

word = st.integers(0, 0xFFFF)
byte = st.integers(0, 0xFF)


@st.composite
def _span(draw: st.DrawFn, codes: tuple[int, ...], most: int) -> Request:
    count = draw(st.integers(1, most))
    return Request(draw(st.sampled_from(codes)), draw(st.integers(0, 0x10000 - count)), count)


@st.composite
def _multiple(draw: st.DrawFn, code: int, most: int, value: st.SearchStrategy[int]) -> Request:
    values = tuple(draw(st.lists(value, min_size=1, max_size=most)))
    return Request(code, draw(st.integers(0, 0x10000 - len(values))), len(values), values)


@st.composite
def _read_write(draw: st.DrawFn) -> Request:
    count, values = draw(st.integers(1, 125)), tuple(draw(st.lists(word, min_size=1, max_size=121)))
    return Request(
        23, draw(st.integers(0, 0x10000 - count)), count, values, write_address=draw(st.integers(0, 0x10000 - len(values)))
    )


requests = st.one_of(
    _span((1, 2), 2000),
    _span((3, 4), 125),
    st.builds(lambda a, v: Request(5, a, 1, (v,)), word, st.sampled_from((0, 0xFF00))),
    st.builds(lambda a, v: Request(6, a, 1, (v,)), word, word),
    st.sampled_from([Request(c) for c in (7, 11, 12, 17)]),
    _multiple(15, 1968, st.integers(0, 1)),
    _multiple(16, 123, word),
    st.builds(lambda a, x, y: Request(22, a, 1, (x, y)), word, word, word),
    _read_write(),
    st.builds(lambda a: Request(24, a), word),
    st.builds(lambda o, c: Request(43, o, read_code=c), byte, st.integers(1, 4)),
)
