"""PURE. HL7 v2 messages as bytes: strict checks, fields by number, nothing decoded and nothing rewritten.

What passes here is read the same way by every receiver: one MSH, at the start; segments end with CR and nothing else; five
separators that differ. Sources: HL7 v2.6 chapter 2, sections 2.5 (delimiters), 2.14.9 (MSH), table 0211 (character sets).
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from gateway.errors import MalformedError

MAX_CONTROL_ID = 199  # MSH-10, v2.6
MAX_SEGMENTS = 10_000  # of one message; a monitor with every module sends a few hundred
_NAME = re.compile(rb"[A-Z][A-Z0-9]{2}")
_USUAL_NAMES = 64  # kinds of segment in one message; what has more is not remembered: a sender chooses them
_MSH_FIELDS = 25  # v2.6 ends with MSH-25; what follows is not looked at
_LF, _NUL, _VT, _FS = _FORBIDDEN = (
    0x0A,
    0x00,
    0x0B,
    0x1C,
)  # a line feed hides segments from those who split at CR, the others end strings
_LATIN = (b"8859/1", b"8859/2", b"8859/3", b"8859/4", b"8859/5", b"8859/6", b"8859/7", b"8859/8", b"8859/9", b"8859/15")
# MSH-18 -> codec. Only supersets of ASCII: in any other, a letter can look like a separator. Empty: the bytes are not judged.
CODECS = {b"": "", b"ASCII": "ascii", b"UNICODE UTF-8": "utf-8"} | {n: f"iso{n.decode().replace('/', '-')}" for n in _LATIN}


class Message:
    """A message that was checked. ``raw`` is what came; fields are bytes as they stand, escapes included."""

    __slots__ = ("component", "field_separator", "head", "lines", "msh", "raw", "separators")

    def __init__(self, raw: bytes, head: int, msh: list[bytes]) -> None:
        """``head``: where the MSH ends. ``lines``, its segments, are there once all of it was checked."""
        self.raw, self.head, self.msh = raw, head, msh
        self.separators = raw[3:8]
        self.field_separator, self.component = raw[3:4], raw[4:5]
        self.lines: list[bytes] = []

    def header(self, number: int) -> bytes:
        """MSH-``number``, 2 or more; empty when absent."""
        return self.msh[number - 1] if number <= len(self.msh) else b""

    @property
    def control_id(self) -> bytes:
        """MSH-10."""
        return self.msh[9]

    @property
    def kind(self) -> tuple[bytes, bytes]:
        """(message code, trigger event) of MSH-9, for example (b"ORU", b"R01")."""
        parts = self.msh[8].split(self.component, 2)
        return parts[0], parts[1] if len(parts) > 1 else b""

    def segments(self, name: bytes) -> list[bytes]:
        """The segments called ``name``, in order."""
        start = name + self.field_separator
        return [s for s in self.lines if s.startswith(start)]

    def field(self, segment: bytes, number: int) -> bytes:
        """Field ``number`` of a segment (not of MSH); empty when absent."""
        parts = segment.split(self.field_separator, number + 1)
        return parts[number] if number < len(parts) else b""


def parse(raw: bytes) -> Message:
    """Check one message. Raises MalformedError with the first thing that is wrong."""
    message = parse_header(raw)
    if _LF in raw or _NUL in raw or _VT in raw or _FS in raw:  # bytes in bytes would raise and catch an error each time
        byte = next(b for b in _FORBIDDEN if b in raw)
        raise MalformedError(f"byte 0x{byte:02x} inside a message", "end segments with CR only")
    if raw.count(b"\r") > MAX_SEGMENTS:
        raise MalformedError(f"more than {MAX_SEGMENTS} segments in one message", "send it in parts")
    lines = raw.split(b"\r")
    if lines.pop():
        raise MalformedError("a last segment without CR at its end", "end every segment with CR")
    message.lines = lines
    starts = frozenset([line[:4] for line in lines])
    look = _wrong_name if len(starts) <= _USUAL_NAMES else _wrong_name.__wrapped__
    wrong = look(starts, message.field_separator)
    if wrong is not None:
        raise MalformedError(f"a segment called {wrong!r}", "a name is a capital letter and two capitals or digits")
    if raw.find(b"\rMSH") >= 0:
        raise MalformedError("a second MSH in one message", "send each message in its own frame")
    if message.msh[8][:1] in (b"", message.component):
        raise MalformedError("no message type (MSH-9)", "say what it is")
    _check_characters(message)
    return message


def parse_header(raw: bytes) -> Message:
    """As much as an answer needs: separators, MSH and a control id. Says nothing of the rest."""
    if raw[:3] != b"MSH":
        raise MalformedError("a message that does not begin with MSH", "batches and fragments are not taken")
    end = raw.find(b"\r")
    first = raw if end < 0 else raw[:end]
    msh = first.split(raw[3:4], _MSH_FIELDS) if len(raw) > 8 else []
    if len(msh) < 12 or len(msh[1]) > 5 or not _separate(raw[3:4] + msh[1]):
        raise MalformedError(
            "an MSH without its fields up to MSH-12, or with separators that are not distinct",
            "send MSH|^~\\&| and all mandatory fields",
        )
    if not 0 < len(msh[9]) <= MAX_CONTROL_ID or _LF in first or _NUL in first:
        raise MalformedError("no usable control id (MSH-10)", f"give each message one, of 1 to {MAX_CONTROL_ID} bytes")
    return Message(raw, len(first), msh)


@lru_cache(64)
def _separate(separators: bytes) -> bool:
    """Five, or six since v2.7, that differ and are neither letter, digit nor space: names and numbers are not cut by them."""
    good = all(0x21 <= b <= 0x7E and not chr(b).isalnum() for b in separators)
    return good and 5 <= len(separators) <= 6 and len(set(separators)) == len(separators)


@lru_cache(256)
def _wrong_name(starts: frozenset[bytes], field_separator: bytes) -> bytes | None:
    """The first four bytes of segments: one that is no name and what may follow one; None: they all are."""
    return next((s[:3] for s in starts if _NAME.fullmatch(s[:3]) is None or s[3:] not in (b"", field_separator)), None)


def _check_characters(message: Message) -> None:
    if message.raw.isascii() and (len(message.msh) < 18 or message.msh[17] in CODECS):
        return
    codec = ""
    for i, name in enumerate(message.header(18).split(message.raw[5:6])):
        if name not in CODECS:
            raise MalformedError(f"character set {name[:20]!r} (MSH-18)", "use ASCII, 8859/n or UNICODE UTF-8")
        codec = codec if i else CODECS[name]
    if codec in ("ascii", "utf-8") and not message.raw.isascii():
        try:
            message.raw.decode(codec)
        except UnicodeDecodeError:
            raise MalformedError(f"bytes that are not {codec}, as MSH-18 says", "say which character set it is") from None


def key_of(message: Message) -> bytes:
    """What tells a message from every other of its route: 8 bytes for its name, 8 for its content.

    The name is MSH-3, MSH-4 and MSH-10, the content all that follows the MSH: a resend may carry a new time in its MSH.
    """
    f = message.field_separator
    name = f.join((message.msh[2], message.msh[3], message.msh[9]))  # no field holds its separator: no two names are joined alike
    return sha256(name).digest()[:8] + sha256(message.raw[message.head :]).digest()[:8]
