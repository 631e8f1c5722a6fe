"""PURE. MLLP framing: <VT> message <FS><CR>, strictly, in any split of the bytes; what is between is given out byte for byte.

Source: HL7 v2.x Appendix C, Minimal Lower Layer Protocol. A stream that breaks the framing stays broken: nobody can tell
where its next message would begin. Refuses to know what a message is.
"""

from __future__ import annotations

from gateway.errors import MalformedError

MAX_MESSAGE = 1024 * 1024  # bytes; a 12-lead ECG or a small PDF fits in base64, and a hundred links fit in the memory
VT, FS, CR = b"\x0b", b"\x1c", b"\r"
_VT, _FS = 0x0B, 0x1C  # a number is looked for at a sixth of what a byte string costs
_END = FS + CR


class Decoder:
    """Feed it what arrives, take whole messages out. Holds at most one message of ``max_message`` bytes."""

    __slots__ = ("_broken", "_buffer", "_looked", "_max")

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._buffer = bytearray()  # from the VT of a message on
        self._looked = 0  # of it, how far it was searched
        self._max, self._broken = max_message, False

    @property
    def partial(self) -> bool:
        """Whether a message has begun and has not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in; returns the messages that are whole now. Raises MalformedError for ever after a violation."""
        if self._broken:
            raise MalformedError("bytes after a broken MLLP stream", "close the connection")
        if not self._buffer and data[:1] == VT and data.find(FS) == len(data) - 2 and data[-1:] == CR:
            message = data[1:-2]  # one whole message: the usual case
            if _VT not in message and len(message) <= self._max:
                return [message]
        try:
            return self._take(data)
        except MalformedError:
            self._broken = True
            self._buffer.clear()
            raise

    def _take(self, data: bytes) -> list[bytes]:
        messages: list[bytes] = []
        buffer = self._buffer
        buffer += data
        start = 0
        while start < len(buffer):
            if buffer[start] != VT[0]:
                raise MalformedError(f"byte 0x{buffer[start]:02x} where a message begins with VT", "the sender is out of step")
            begin = max(start + 1, self._looked)
            end = buffer.find(FS, begin)
            if buffer.find(VT, begin, len(buffer) if end < 0 else end) >= 0:
                raise MalformedError("VT inside a message", "the sender is out of step")
            if (len(buffer) if end < 0 else end) - start - 1 > self._max:
                raise MalformedError(f"a message of more than {self._max} bytes", "raise max_message if it is right")
            if end < 0 or end + 1 == len(buffer):
                self._looked = len(buffer) if end < 0 else end
                break
            if buffer[end + 1] != CR[0]:
                raise MalformedError("FS that no CR follows", "the sender is out of step")
            messages.append(bytes(buffer[start + 1 : end]))
            start, self._looked = end + 2, 0
        del buffer[:start]
        self._looked = max(0, self._looked - start)
        return messages


def encode(message: bytes) -> bytes:
    """One message in its frame. Raises MalformedError for one that no frame can hold."""
    if _VT in message or _FS in message:
        raise MalformedError("a message with VT or FS inside cannot be framed", "send another")
    return VT + message + _END
