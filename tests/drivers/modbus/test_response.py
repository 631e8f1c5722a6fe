from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu.bit_message import ReadCoilsResponse, WriteMultipleCoilsResponse
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse
from pymodbus.pdu.register_message import (
    MaskWriteRegisterResponse,
    ReadHoldingRegistersResponse,
    ReadWriteMultipleRegistersResponse,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterResponse,
)

from drivers.modbus.pdu import Request
from drivers.modbus.response import ExceptionAnswer, ResponseError, check_response, parse_objects, parse_registers
from tests.drivers.modbus.requests import requests


def pdu(response: object) -> bytes:
    return bytes([response.function_code]) + response.encode()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (Request(1, 0, 11), pdu(ReadCoilsResponse(bits=[True] * 11))),
        (Request(3, 0, 3), pdu(ReadHoldingRegistersResponse(registers=[1, 2, 3]))),
        (Request(6, 10, 1, (1,)), pdu(WriteSingleRegisterResponse(address=10, registers=[1]))),
        (Request(15, 3, 2, (1, 0)), pdu(WriteMultipleCoilsResponse(address=3, count=2))),
        (Request(16, 3, 2, (7, 8)), pdu(WriteMultipleRegistersResponse(address=3, count=2))),
        (Request(22, 4, 1, (5, 6)), pdu(MaskWriteRegisterResponse(address=4, and_mask=5, or_mask=6))),
        (Request(23, 0, 2, (7,), 9), pdu(ReadWriteMultipleRegistersResponse(registers=[1, 2]))),
        (Request(43, read_code=1), pdu(ReadDeviceInformationResponse(read_code=1, information={0: b"a", 1: b"bc"}))),
        (Request(7), bytes.fromhex("0755")),
        (Request(11), bytes.fromhex("0bffff0001")),
        (Request(17), bytes.fromhex("1102aaff")),
        (Request(24, 5), bytes.fromhex("180006000200010002")),
    ],
)
def test_what_foreign_devices_answer_fits_and_any_other_length_does_not(request_: Request, answer: bytes) -> None:
    check_response(request_, answer)
    for wrong in (answer[:-1], answer + b"\0", b"", bytes([answer[0] ^ 1]) + answer[1:]):
        with pytest.raises(ResponseError):
            check_response(request_, wrong)


@given(requests, st.binary(max_size=260))
def test_random_answers_fit_or_raise_ours(request_: Request, answer: bytes) -> None:
    try:
        check_response(request_, answer)
    except ResponseError:
        return
    assert answer[0] & 0x7F == request_.function_code


@given(requests, st.integers(1, 255))
def test_an_exception_fits_every_request(request_: Request, code: int) -> None:
    check_response(request_, bytes([request_.function_code | 0x80, code]))
    for wrong in ([request_.function_code | 0x80, 0], [request_.function_code | 0x80], [request_.function_code | 0x80, 2, 2]):
        with pytest.raises(ResponseError):
            check_response(request_, bytes(wrong))


def test_an_echo_of_other_values_does_not_fit() -> None:
    with pytest.raises(ResponseError):
        check_response(Request(6, 10, 1, (0,)), Request(6, 10, 1, (1,)).encode())
    with pytest.raises(ResponseError):
        check_response(Request(16, 3, 2, (7, 8)), bytes.fromhex("1000040002"))


def test_registers_and_exceptions_of_our_own_requests() -> None:
    assert parse_registers(Request(3, 0, 2), bytes.fromhex("0304000a000b")) == (10, 11)
    with pytest.raises(ExceptionAnswer) as e:
        parse_registers(Request(3, 0, 2), bytes.fromhex("8302"))
    assert e.value.code == 2


@pytest.mark.parametrize(
    "hexed", ["2b0e0183000002000161", "2b0e01830000020001610001" + "62", "2b0e018301000100" + "0161", "2b0e02830000010001" + "61"]
)
def test_broken_identifications(hexed: str) -> None:
    """Fewer objects than announced, one twice, an unknown 'more follows', another read code."""
    with pytest.raises(ResponseError):
        parse_objects(Request(43, read_code=1), bytes.fromhex(hexed))


def test_identification_goes_on() -> None:
    objects, following = parse_objects(Request(43, read_code=1), bytes.fromhex("2b0e0183ff0101000161"))
    assert (objects, following) == ({0: b"a"}, 1)
