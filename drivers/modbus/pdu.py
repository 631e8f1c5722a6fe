"""PURE. Modbus requests, strictly: bytes to values and back, and which of them a device's rules let pass.

A closed list of function codes (``FUNCTION_CODES``); all others do not exist here. A request is parsed only if it encodes
back to the very same bytes, so that no device can read into it something else than we did. Knows no connection, no MBAP
header and no trust: ``Rules`` is given the level. Source: MODBUS Application Protocol Specification V1.1b3, section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gateway.errors import MalformedError
from gateway.model.level import TrustLevel
from gateway.model.profile import ModbusRule, Rule

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
BUSY, NO_RESPONSE = 6, 11  # server device busy; gateway target device failed to respond (section 7)

MAX_PDU = 253  # section 4.1: 256 of the serial ADU less address and CRC

READ_BITS, READ_REGISTERS, BARE = frozenset({1, 2}), frozenset({3, 4}), frozenset({7, 11, 12, 17})
SINGLE_WRITES = frozenset({5, 6})
WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS = 5, 6, 15, 16
MASK_WRITE, READ_WRITE, READ_FIFO, IDENTIFICATION = 22, 23, 24, 43
FUNCTION_CODES = READ_BITS | READ_REGISTERS | BARE | SINGLE_WRITES | {15, 16, 22, 23, 24, 43}
CHANGING = frozenset({5, 6, 15, 16, 22, 23})  # what changes something in the device
_MEI_IDENTIFICATION = 0x0E  # section 6.21; the other MEI type (13, CANopen) is not carried

# How many of something one request may ask for or write (section 6, per function).
_MOST = {1: 2000, 2: 2000, 3: 125, 4: 125, 15: 1968, 16: 123, 23: 125}
_MOST_READ_WRITE = 121  # registers written by function 23
_LAST_OBJECT = {1: 0x02, 2: 0x7F, 3: 0xFF}  # read device id code: the last object its stream may show


class RequestError(MalformedError, ValueError):
    """A request that is none. ``code``: the exception to answer with; None when the sender is out of step and must go."""

    def __init__(self, what: str, code: int | None = None) -> None:
        super().__init__(what, "look at what sent it")
        self.code = code


class UnknownFunctionError(RequestError):
    """A function code that is not in ``FUNCTION_CODES``, or a subfunction nobody needs."""

    def __init__(self, what: str) -> None:
        super().__init__(what, ILLEGAL_FUNCTION)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``address`` and ``count`` are what it reads, or for a pure write what it writes (``count`` of ``values``).

    Function 23 reads ``address``, ``count`` and writes ``values`` at ``write_address``. Function 22's values are (and mask,
    or mask). Coils are 0 or 1 in function 15, 0 or 0xFF00 in 5. Function 43/14: ``address`` is the object id, ``read_code``
    the read device id code.
    """

    function_code: int
    address: int = 0
    count: int = 0
    values: tuple[int, ...] = ()
    write_address: int = 0
    read_code: int = 0

    def __post_init__(self) -> None:
        code, values = self.function_code, self.values
        if code in _MOST:
            if not 1 <= self.count <= _MOST[code]:
                raise RequestError(f"function {code} asks for 1 to {_MOST[code]}, not {self.count}", ILLEGAL_VALUE)
            if self.address + self.count > 0x10000:
                raise RequestError(f"function {code} runs past address 65535", ILLEGAL_ADDRESS)
            if code >= WRITE_COILS:
                self._check_multiple_write()
        elif code in SINGLE_WRITES:
            if self.count != 1 or len(values) != 1:
                raise RequestError(f"function {code} writes one value")
        elif code == MASK_WRITE:
            if self.count != 1 or len(values) != 2:
                raise RequestError("function 22 has two masks")
        elif code == IDENTIFICATION:
            if not 1 <= self.read_code <= 4 or not 0 <= self.address <= 0xFF:
                raise RequestError(f"function 43/14 has no read code {self.read_code}", ILLEGAL_VALUE)
        elif code not in BARE and code != READ_FIFO:
            raise UnknownFunctionError(f"function code {code} is not carried")
        if values and (min(values) < 0 or max(values) > (1 if code == WRITE_COILS else 0xFFFF)):
            raise RequestError("a value out of range", ILLEGAL_VALUE)
        if code == WRITE_COIL and values[0] not in (0, 0xFF00):
            raise RequestError(f"function 5 writes 0 or 0xFF00, not {values[0]:#06x}", ILLEGAL_VALUE)
        if not 0 <= self.address <= 0xFFFF or not 0 <= self.write_address <= 0xFFFF:
            raise RequestError("an address is 0 to 65535", ILLEGAL_ADDRESS)

    def _check_multiple_write(self) -> None:
        written = len(self.values)
        if self.function_code != READ_WRITE:
            if written != self.count:
                raise RequestError(f"{self.count} announced, {written} values given")
        elif not 1 <= written <= _MOST_READ_WRITE:
            raise RequestError(f"function 23 writes 1 to {_MOST_READ_WRITE} registers, not {written}", ILLEGAL_VALUE)
        elif self.write_address + written > 0x10000:
            raise RequestError("function 23 runs past address 65535", ILLEGAL_ADDRESS)

    @property
    def changes(self) -> bool:
        """Whether it changes something in the device."""
        return self.function_code in CHANGING

    def encode(self) -> bytes:
        """The PDU: function code and fields as section 6 lays them out."""
        code, values = self.function_code, self.values
        if code <= 4:
            return _SPAN.pack(code, self.address, self.count)
        if code <= 6:
            return _SPAN.pack(code, self.address, values[0])
        if code == WRITE_REGISTERS:
            return struct.pack(f">BHHB{len(values)}H", code, self.address, self.count, 2 * len(values), *values)
        if code == WRITE_COILS:
            packed = pack_bits(values)
            return struct.pack(">BHHB", code, self.address, self.count, len(packed)) + packed
        if code == MASK_WRITE:
            return struct.pack(">BHHH", code, self.address, *values)
        if code == READ_WRITE:
            n = len(values)
            head = (code, self.address, self.count, self.write_address, n, 2 * n)
            return struct.pack(f">BHHHHB{n}H", *head, *values)
        if code == READ_FIFO:
            return struct.pack(">BH", code, self.address)
        if code == IDENTIFICATION:
            return bytes((code, _MEI_IDENTIFICATION, self.read_code, self.address))
        return bytes((code,))

    def spans(self) -> tuple[tuple[int, int, int, tuple[int, ...] | None], ...]:
        """What rules must cover: (function code of the rule, first, last, values written or None), each of them."""
        code, first = self.function_code, self.address
        if code == READ_WRITE:
            last = self.write_address + len(self.values) - 1
            return (3, first, first + self.count - 1, None), (16, self.write_address, last, self.values)
        if code == MASK_WRITE:  # what it will write is not known beforehand: no rule with values covers it
            return ((code, first, first, ()),)
        if code == IDENTIFICATION:
            streamed = _LAST_OBJECT.get(self.read_code)  # a device may begin its stream anew at object 0 (section 6.21)
            return ((code, first, first, None) if streamed is None else (code, 0, streamed, None),)
        last = first + self.count - 1 if self.count else first
        return ((code, first, last, self.values if code in CHANGING else None),)


def parse_request(pdu: bytes) -> Request:
    """The request in a PDU. Raises RequestError (also a ValueError) on anything that does not re-encode to itself."""
    if not 1 <= len(pdu) <= MAX_PDU:
        raise RequestError(f"a PDU has 1 to {MAX_PDU} bytes, not {len(pdu)}")
    read = _READERS.get(pdu[0])
    if read is None:
        if pdu[0] >= 0x80 or pdu[0] == 0:
            raise RequestError(f"{pdu[0]:#04x} is no function code of a request")
        raise UnknownFunctionError(f"function code {pdu[0]} is not carried")
    try:
        request = read(pdu)
    except (struct.error, IndexError):
        raise RequestError(f"function {pdu[0]} with a body of {len(pdu) - 1} bytes") from None
    if request.encode() != pdu:
        raise RequestError(f"function {pdu[0]} that does not re-encode to itself")
    return request


class Rules:
    """The requests that rules let pass at a level. Rules of other buses are ignored; no rule, no request."""

    __slots__ = ("_allowed", "_known")

    def __init__(self, rules: Iterable[Rule], level: TrustLevel | int) -> None:
        modbus = [r for r in rules if isinstance(r, ModbusRule)]
        self._known = frozenset(r.function_code for r in modbus)
        self._allowed: dict[int, list[ModbusRule]] = {}
        for rule in modbus:
            if rule.level <= level:
                self._allowed.setdefault(rule.function_code, []).append(rule)

    def check(self, request: Request, unit: int | None = None) -> int | None:
        """None: it may pass. 1: its function code is in no rule at all. 2: not this address, count or value, or not at this level.

        A rule for one unit covers requests to that unit only. A span may be covered by several rules that touch or overlap.
        """
        for code, first, last, values in request.spans():
            if code not in self._known:
                return ILLEGAL_FUNCTION
            if not _covered(self._allowed.get(code, ()), first, last, values, unit):
                return ILLEGAL_ADDRESS
        return None


def _covered(rules: Sequence[ModbusRule], first: int, last: int, values: tuple[int, ...] | None, unit: int | None) -> bool:
    """Whether every address of the span, with its value, is covered by some rule: hop from rule to rule until past the end."""
    at = first
    while at <= last:
        reached = at
        for rule in rules:
            if rule.unit is None or rule.unit == unit:
                reached = max(reached, _reach(rule, at, last, None if values is None else values[at - first :]))
        if reached == at:
            return False
        at = reached
    return True


def _reach(rule: ModbusRule, at: int, last: int, values: tuple[int, ...] | None) -> int:
    """The first address from ``at`` on that the rule does not cover."""
    if not rule.first <= at <= rule.last:
        return at
    end = min(rule.last, last) + 1
    if rule.values is None or values is None:
        return end
    for i, value in enumerate(values[: end - at]):
        if value not in rule.values:
            return at + i
    return at + len(values[: end - at])


_SPAN = struct.Struct(">BHH")
_COILS = struct.Struct(">BHHB")
_READ_WRITE = struct.Struct(">BHHHHB")


def _read_span(pdu: bytes) -> Request:
    return Request(*_SPAN.unpack(pdu))


def _read_single(pdu: bytes) -> Request:
    code, address, value = _SPAN.unpack(pdu)
    return Request(code, address, 1, (value,))


def _read_coils(pdu: bytes) -> Request:
    code, address, count, size = _COILS.unpack_from(pdu)
    if size != len(pdu) - _COILS.size or size != (count + 7) // 8:
        raise RequestError(f"{count} coils do not fit {len(pdu) - _COILS.size} bytes")
    return Request(code, address, count, unpack_bits(pdu[_COILS.size :], count))


def _read_registers(pdu: bytes) -> Request:
    code, address, count, _ = _COILS.unpack_from(pdu)
    return Request(code, address, count, _words(pdu, _COILS.size))


def _read_masks(pdu: bytes) -> Request:
    code, address, keep, add = struct.unpack(">BHHH", pdu)
    return Request(code, address, 1, (keep, add))


def _read_read_write(pdu: bytes) -> Request:
    code, address, count, write_address, _, _ = _READ_WRITE.unpack_from(pdu)
    return Request(code, address, count, _words(pdu, _READ_WRITE.size), write_address)


def _read_fifo(pdu: bytes) -> Request:
    return Request(*struct.unpack(">BH", pdu))


def _read_identification(pdu: bytes) -> Request:
    if pdu[1] != _MEI_IDENTIFICATION:
        raise UnknownFunctionError(f"function 43/{pdu[1]} is not carried")
    return Request(IDENTIFICATION, address=pdu[3], read_code=pdu[2])


def _read_bare(pdu: bytes) -> Request:
    return Request(pdu[0])


def _words(pdu: bytes, start: int) -> tuple[int, ...]:
    return struct.unpack(f">{(len(pdu) - start) // 2}H", pdu[start:])


def pack_bits(values: Sequence[int]) -> bytes:
    """Bits to bytes: the first is the lowest bit of the first byte, the rest of the last byte is zero (section 6.11)."""
    packed = sum(1 << i for i, v in enumerate(values) if v)
    return packed.to_bytes((len(values) + 7) // 8, "little")


def unpack_bits(packed: bytes, count: int) -> tuple[int, ...]:
    """The first ``count`` bits."""
    whole = int.from_bytes(packed, "little")
    return tuple(whole >> i & 1 for i in range(count))


_READERS: dict[int, Callable[[bytes], Request]] = {
    **dict.fromkeys((1, 2, 3, 4), _read_span),
    **dict.fromkeys((5, 6), _read_single),
    **dict.fromkeys(BARE, _read_bare),
    WRITE_COILS: _read_coils,
    WRITE_REGISTERS: _read_registers,
    MASK_WRITE: _read_masks,
    READ_WRITE: _read_read_write,
    READ_FIFO: _read_fifo,
    IDENTIFICATION: _read_identification,
}
