"""PURE. Modbus TCP framing: MBAP headers, strictly, in any split of the bytes. Knows nothing of PDUs.

Source: MODBUS Messaging on TCP/IP Implementation Guide V1.0b, section 3.1.3. A stream that breaks the framing stays broken:
nobody can tell where its next frame would begin.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from gateway.errors import MalformedError

_HEADER = struct.Struct(">HHHB")  # transaction, protocol (0 is Modbus), length of what follows, unit
_SHORTEST, _LONGEST = 2, 254  # unit and function code; unit and the longest PDU
MAX_FRAME = 6 + _LONGEST
READ_BYTES = 16 * MAX_FRAME  # what one read of a connection takes; a read that may take 256 KiB costs five times as much


class Frame(NamedTuple):
    """One ADU: transaction id, unit id and the PDU, unparsed. (A tuple: there is one a request and one a response.)"""

    transaction: int
    unit: int
    pdu: bytes


class Framer:
    """Feed it what arrives, take whole frames out. Holds less than one frame more than it was fed."""

    __slots__ = ("_at", "_buffer", "waiting")

    def __init__(self) -> None:
        self._buffer, self._at = b"", 0
        self.waiting = 0  # bytes held

    def feed(self, received: bytes) -> None:
        """Take more bytes in."""
        self._buffer = self._buffer[self._at :] + received if self.waiting else received
        self._at, self.waiting = 0, len(self._buffer)

    def next(self) -> Frame | None:
        """The next whole frame; None when more bytes are needed. Raises MalformedError, and again at every later call."""
        buffer, at, left = self._buffer, self._at, self.waiting
        if left < _HEADER.size:
            if buffer[at + 2 : at + 4].strip(b"\0"):
                raise MalformedError("an MBAP header with another protocol than Modbus", "look at what sent it")
            return None
        transaction, protocol, length, unit = _HEADER.unpack_from(buffer, at)
        if protocol or not _SHORTEST <= length <= _LONGEST:
            raise MalformedError(f"an MBAP header of protocol {protocol}, length {length}", "look at what sent it")
        end = at + 6 + length
        if left < 6 + length:
            return None
        self._at, self.waiting = end, left - 6 - length
        return Frame(transaction, unit, buffer[at + 7 : end])


def encode(transaction: int, unit: int, pdu: bytes) -> bytes:
    """The ADU."""
    return _HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu
