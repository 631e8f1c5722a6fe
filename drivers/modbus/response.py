"""PURE. What a device may answer to a request: nothing else goes back to a client or becomes evidence. Knows no connection.

Source: MODBUS Application Protocol Specification V1.1b3, sections 6 and 7.
"""

from __future__ import annotations

import struct

from drivers.modbus.pdu import (
    BARE,
    IDENTIFICATION,
    MASK_WRITE,
    READ_BITS,
    READ_FIFO,
    READ_REGISTERS,
    READ_WRITE,
    SINGLE_WRITES,
    Request,
)
from gateway.errors import DeviceError

_EVENT_COUNTER = 11
_EXCEPTION_STATUS = 7
_MAX_FIFO = 31  # registers, section 6.18
_OBJECTS = struct.Struct(">BBBBBBB")  # 43, 14, read code, conformity, more follows, next object, number of objects


class ResponseError(DeviceError, ValueError):
    """A device's answer that does not fit the request; the connection is out of step."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "check the device; the connection was closed and is opened anew")


class ExceptionAnswer(DeviceError):
    """A device refused one of our own requests; ``code`` is its exception code."""

    def __init__(self, request: Request, code: int) -> None:
        super().__init__(f"function {request.function_code} was answered with exception {code}", "check the profile's registers")
        self.code = code


def check_response(request: Request, pdu: bytes) -> None:
    """Raises ResponseError unless ``pdu`` is an exception of, or a well-formed answer to, ``request``."""
    code = request.function_code
    if len(pdu) == 2 and pdu[0] == code | 0x80 and pdu[1]:
        return
    if not pdu or pdu[0] != code:
        raise ResponseError(f"function {code} was answered by {pdu[:2].hex() or 'nothing'}")
    if code in READ_REGISTERS or code == READ_WRITE:
        fits = len(pdu) == 2 + 2 * request.count and pdu[1] == 2 * request.count
    elif code in READ_BITS:
        size = (request.count + 7) // 8
        fits = len(pdu) == 2 + size and pdu[1] == size
    elif code in SINGLE_WRITES or code == MASK_WRITE:
        fits = pdu == request.encode()
    elif code in BARE:
        fixed = {_EXCEPTION_STATUS: 2, _EVENT_COUNTER: 5}.get(code)
        fits = len(pdu) == fixed if fixed else len(pdu) > 2 and pdu[1] == len(pdu) - 2
    elif code == READ_FIFO:
        fits = _fits_fifo(pdu)
    elif code == IDENTIFICATION:
        parse_objects(request, pdu)
        return
    else:  # 15 and 16 answer with address and count
        fits = pdu == struct.pack(">BHH", code, request.address, request.count)
    if not fits:
        raise ResponseError(f"an answer to function {code} that does not fit the request ({len(pdu)} bytes)")


def exception_of(pdu: bytes) -> int | None:
    """The exception code of a checked response, None when it is none."""
    return pdu[1] if pdu[0] & 0x80 else None


def parse_registers(request: Request, pdu: bytes) -> tuple[int, ...]:
    """The registers of a checked response to function 3 or 4. Raises ExceptionAnswer."""
    refuse_exception(request, pdu)
    return struct.unpack(f">{request.count}H", pdu[2:])


def parse_objects(request: Request, pdu: bytes) -> tuple[dict[int, bytes], int | None]:
    """Identification objects by id, and the object to go on with (None: that was all). Raises ResponseError, ExceptionAnswer."""
    refuse_exception(request, pdu)
    if len(pdu) < _OBJECTS.size:
        raise ResponseError("a device identification that is cut short")
    _, mei, read_code, _, more, following, number = _OBJECTS.unpack_from(pdu)
    if mei != 0x0E or read_code != request.read_code or more not in (0, 0xFF):
        raise ResponseError("a device identification that does not fit the request")
    objects: dict[int, bytes] = {}
    at = _OBJECTS.size
    for _ in range(number):
        if at + 2 > len(pdu) or pdu[at] in objects:
            raise ResponseError("a device identification that is cut short or shows an object twice")
        end = at + 2 + pdu[at + 1]
        objects[pdu[at]] = pdu[at + 2 : end]
        at = end
    if at != len(pdu):
        raise ResponseError("a device identification with another length than its objects")
    return objects, following if more else None


def refuse_exception(request: Request, pdu: bytes) -> None:
    """Raises ExceptionAnswer if a checked response is an exception."""
    if (code := exception_of(pdu)) is not None:
        raise ExceptionAnswer(request, code)


def _fits_fifo(pdu: bytes) -> bool:
    if len(pdu) < 5:
        return False
    size, count = struct.unpack_from(">HH", pdu, 1)
    return bool(count <= _MAX_FIFO and size == 2 + 2 * count and len(pdu) == 3 + size)
