from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import DecodePDU

from drivers.modbus import pdu as m
from drivers.modbus.pdu import Request, RequestError, Rules, UnknownFunctionError, parse_request
from gateway.errors import MalformedError
from gateway.model.level import TrustLevel
from gateway.model.profile import GattRule, ModbusRule
from tests.drivers.modbus.requests import requests

STOP = ModbusRule(6, 10, 10, TrustLevel.NONE, (0,))
PUMP = (
    ModbusRule(3, 0, 119, TrustLevel.STANDARD),
    ModbusRule(4, 0, 9, TrustLevel.LIMITED),
    ModbusRule(6, 10, 10, TrustLevel.STANDARD, (0, 1)),
    ModbusRule(16, 20, 22, TrustLevel.STANDARD),
    ModbusRule(22, 30, 30, TrustLevel.STANDARD),
    ModbusRule(22, 31, 31, TrustLevel.STANDARD, (0,)),
    ModbusRule(15, 0, 7, TrustLevel.STANDARD, (1,)),
    STOP,
)


@given(requests)
def test_parse_of_encode_is_identity(request_: Request) -> None:
    assert parse_request(request_.encode()) == request_


@given(requests)
def test_a_foreign_decoder_reads_the_same(request_: Request) -> None:
    """pymodbus, as the device behind us would: same function, same addresses, same values."""
    theirs = DecodePDU(True).decode(request_.encode())
    assert theirs is not None
    assert theirs.function_code == request_.function_code
    if request_.function_code in (1, 2, 3, 4, 15, 16):
        assert (theirs.address, theirs.count) == (request_.address, request_.count)
    if request_.function_code in (6, 16):
        assert tuple(theirs.registers) == request_.values
    if request_.function_code == 15:
        assert tuple(int(b) for b in theirs.bits[: request_.count]) == request_.values
    if request_.function_code == 23:
        assert (theirs.read_address, theirs.read_count) == (request_.address, request_.count)
        assert (theirs.write_address, tuple(theirs.write_registers)) == (request_.write_address, request_.values)


@given(st.binary(max_size=300))
def test_random_bytes_parse_canonically_or_raise_ours(data: bytes) -> None:
    try:
        request = parse_request(data)
    except RequestError as e:
        assert isinstance(e, MalformedError)
        assert isinstance(e, ValueError)
    else:
        assert request.encode() == data


@given(requests, st.integers(0, 252), st.integers(1, 255))
def test_a_changed_byte_is_another_request_or_none(request_: Request, at: int, flip: int) -> None:
    data = bytearray(request_.encode())
    data[at % len(data)] ^= flip
    try:
        other = parse_request(bytes(data))
    except RequestError:
        return
    assert other != request_
    assert other.encode() == bytes(data)


@given(requests, st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_refused(request_: Request, tail: bytes) -> None:
    with pytest.raises(RequestError):
        parse_request(request_.encode() + tail)


@given(requests, st.data())
def test_truncation_is_refused(request_: Request, data: st.DataObject) -> None:
    whole = request_.encode()
    with pytest.raises(RequestError):
        parse_request(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    ("name", "hexed", "code"),
    [
        ("empty", "", None),
        ("function code 0", "00", None),
        ("a response as a request", "8302", None),
        ("function 3 with a trailing byte", "0300000001ff", None),
        ("function 3, count 0", "0300000000", 3),
        ("function 3, count 126", "030000007e", 3),
        ("function 1, count 2001", "01000007d1", 3),
        ("function 3 past the last address", "03ffff0002", 2),
        ("function 5 that is neither on nor off", "0500011234", 3),
        ("function 16, byte count is not twice the count", "10000000020600010002", None),
        ("function 16, count is not what follows", "10000000030400010002", None),
        ("function 16, announced but short", "100000000a140001", None),
        ("function 16, an odd byte", "1000000001030001ff", None),
        ("function 15 with bits set beyond its count", "0f0000000301ff", None),
        ("function 15, byte count too large", "0f00000003020700", None),
        ("function 23, byte count wrong", "170000000100100001040001", None),
        ("function 23 that writes nothing", "17000000010010000000", 3),
        ("function 20, file records", "140706000100000001", 1),
        ("function 8/4, listen only", "0800040000", 1),
        ("function 8/1, restart", "080001ff00", 1),
        ("a function nobody knows", "5a00000001", 1),
        ("function 43/13", "2b0d0100", 1),
        ("function 43/14, read code 0", "2b0e0000", 3),
        ("function 43/14, cut short", "2b0e01", None),
        ("function 7 with a body", "0700", None),
        ("254 bytes", "10" + "00" * 253, None),
    ],
)
def test_the_malformed(name: str, hexed: str, code: int | None) -> None:
    with pytest.raises(RequestError) as e:
        parse_request(bytes.fromhex(hexed))
    assert e.value.code == code, name
    assert isinstance(e.value, UnknownFunctionError) == (code == 1)


def check(hexed: str, level: TrustLevel = TrustLevel.STANDARD, unit: int | None = None) -> int | None:
    return Rules(PUMP, level).check(parse_request(bytes.fromhex(hexed)), unit)


def test_what_is_covered_passes() -> None:
    assert check("0300000078") is None  # 0..119
    assert check("06000a0001") is None
    assert check("10001400030600010002ffff") is None
    assert check("16001e000000ff") is None
    assert check("0f000000080" + "1ff") is None


def test_a_function_in_no_rule_is_1_and_everything_else_2() -> None:
    assert check("0100000001") == m.ILLEGAL_FUNCTION
    assert check("2b0e0100") == m.ILLEGAL_FUNCTION
    assert check("0300010078") == m.ILLEGAL_ADDRESS  # one past
    assert check("0600140001") == m.ILLEGAL_ADDRESS  # function 6 has no rule for 20
    assert check("06000a0002") == m.ILLEGAL_ADDRESS  # the value
    assert check("1000130002040001" + "0002") == m.ILLEGAL_ADDRESS  # begins before
    assert check("0f0000000801fe") == m.ILLEGAL_ADDRESS  # one coil of eight
    assert check("16001f000000ff") == m.ILLEGAL_ADDRESS  # a mask where values are limited


def test_levels() -> None:
    assert check("0300000001", TrustLevel.LIMITED) == m.ILLEGAL_ADDRESS
    assert check("0400000001", TrustLevel.LIMITED) is None
    assert check("0400000001", TrustLevel.NONE) == m.ILLEGAL_ADDRESS
    assert check("06000a0000", TrustLevel.NONE) is None  # stop
    assert check("06000a0001", TrustLevel.NONE) == m.ILLEGAL_ADDRESS


def test_function_23_needs_both_spans() -> None:
    both = Request(23, 0, 2, (7, 8), write_address=20)
    assert Rules(PUMP, 2).check(both) is None
    assert Rules(PUMP, 2).check(Request(23, 119, 2, (7,), write_address=20)) == 2  # reads past its span
    assert Rules(PUMP, 2).check(Request(23, 0, 2, (7, 8), write_address=22)) == 2  # writes past its span
    assert Rules(PUMP[:1], 2).check(both) == 1  # no writes at all
    assert Rules((*PUMP[:3], ModbusRule(16, 20, 22, TrustLevel.STANDARD, (7,))), 2).check(both) == 2


def test_a_rule_for_one_unit() -> None:
    rules = Rules((ModbusRule(3, 0, 9, TrustLevel.NONE, unit=7),), 3)
    assert rules.check(Request(3, 0, 1), 7) is None
    assert rules.check(Request(3, 0, 1), 8) == 2
    assert rules.check(Request(3, 0, 1)) == 2


def test_touching_rules_cover_together_and_gaps_do_not() -> None:
    touching = (ModbusRule(16, 0, 4, values=(1,)), ModbusRule(16, 5, 9, values=(2,)), ModbusRule(16, 11, 12))
    rules = Rules(touching, 1)
    assert rules.check(Request(16, 4, 2, (1, 2))) is None
    assert rules.check(Request(16, 4, 2, (1, 1))) == 2
    assert rules.check(Request(16, 9, 3, (2, 1, 1))) == 2


def test_identification_streams_count_as_what_they_may_show() -> None:
    basic = Rules((ModbusRule(43, 0, 2, TrustLevel.NONE),), 0)
    assert basic.check(Request(43, 0, read_code=1)) is None
    assert basic.check(Request(43, 2, read_code=4)) is None
    assert basic.check(Request(43, 3, read_code=4)) == 2
    assert basic.check(Request(43, 0, read_code=2)) == 2


def test_no_rules_and_rules_of_another_bus_let_nothing_pass() -> None:
    assert Rules((), 3).check(Request(3, 0, 1)) == 1
    assert Rules((GattRule("2A37", "read"),), 3).check(Request(3, 0, 1)) == 1


rules_ = st.lists(
    st.builds(
        lambda code, a, n, level, values: ModbusRule(code, a, min(a + n, 0xFFFF), TrustLevel(level), values),
        st.sampled_from((3, 6, 16)),
        st.integers(0, 40),
        st.integers(0, 20),
        st.integers(0, 3),
        st.none() | st.tuples(st.integers(0, 2)),
    ),
    max_size=6,
)


@given(rules_, st.integers(0, 3), st.integers(0, 50), st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_a_write_passes_exactly_if_each_register_does(rules: list[ModbusRule], level: int, at: int, values: list[int]) -> None:
    """The hop from rule to rule agrees with the plain definition, and a higher level never allows less."""
    request = Request(16, at, len(values), tuple(values))
    plain = all(
        any(
            r.function_code == 16 and r.level <= level and r.first <= a <= r.last and (r.values is None or v in r.values)
            for r in rules
        )
        for a, v in enumerate(values, at)
    )
    assert (Rules(rules, level).check(request) is None) == plain
    if plain:
        assert Rules(rules, 3).check(request) is None
