"""PURE. Acknowledgements: which ones a sender wants, the ones we make, the ones a receiver sends.

Original mode: one application acknowledgement (AA, AE, AR). Enhanced mode (MSH-15 or MSH-16 valued): a commit acknowledgement
(CA, CE, CR) as MSH-15 says, and perhaps an application acknowledgement later. Source: HL7 v2.6 chapter 2, section 2.9,
tables 0008, 0155 and 0357.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from drivers.hl7.message import Message, parse
from gateway.errors import MalformedError

_WANTED_ON_SUCCESS = (b"AL", b"SU")
_WANTED_ON_FAILURE = (b"AL", b"ER")
DUPLICATE_KEY = b"205"  # table 0357
_NOTHING = [b"", b""]
_OF_AN_ACK = (b"MSH", b"SFT", b"MSA", b"ERR")
_ERR_SINCE = b"2.5"  # ERR has its fields 3 to 8 from this version on


class Verdict(Enum):
    """What becomes of a message: kept, not now (send it again), never."""

    ACCEPT = (b"AA", b"CA")
    ERROR = (b"AE", b"CE")
    REJECT = (b"AR", b"CR")


_BY_CODE = {code: verdict for verdict in Verdict for code in verdict.value}


class Ack(NamedTuple):
    """A receiver's acknowledgement: what it says, of which message, and its very bytes."""

    verdict: Verdict
    code: bytes
    control_id: bytes
    raw: bytes


def is_enhanced(message: Message) -> bool:
    """Whether the sender asks for enhanced mode (MSH-15 or MSH-16)."""
    return bool(message.header(15) or message.header(16))


def is_due(message: Message) -> bool:
    """Whether a receiver always answers at once, whatever it thinks: the sender waits for it."""
    if len(message.msh) < 15:
        return True  # original mode: the usual case
    commit, application = message.header(15), message.header(16)
    return not (commit or application) or commit == b"AL" or (commit in (b"", b"NE") and application == b"AL")


def follows(message: Message) -> bool:
    """Whether an application acknowledgement may come after the commit acknowledgement."""
    return len(message.msh) > 15 and message.header(15) in (b"AL", b"SU", b"ER") and message.header(16) not in (b"", b"NE")


def says_success(message: Message) -> bool:
    """Whether a receiver that took a message of which no answer is due says so: its silence means that it did not."""
    commit, application = message.header(15), message.header(16)
    return commit == b"SU" or (commit in (b"", b"NE") and application == b"SU")


def acknowledge(message: Message, verdict: Verdict, text: bytes, at: bytes, number: bytes, condition: bytes = b"") -> bytes | None:
    """Our answer, or None when the sender wants none. ``at``: MSH-7, ``number``: our own control id; ``text`` is plain ASCII.

    ``condition``: ERR-3, table 0357; by default the internal error, the unknown type or the segment error that it must be.
    """
    code = _code(message, verdict)
    if code is None:
        return None
    f, c = message.field_separator, message.component
    kind, event = message.kind
    what = c.join((b"ACK", event, b"ACK")) if event else b"ACK"
    h = message.header
    lines = [
        f.join((b"MSH", h(2), h(5), h(6), h(3), h(4), at, b"", what, number, h(11), h(12))),
        f.join((b"MSA", code, message.control_id, *([_plain(text, message)] if text else []))),
    ]
    if verdict is not Verdict.ACCEPT and h(12) >= _ERR_SINCE:
        number_0357 = b"207" if verdict is Verdict.ERROR else b"200" if kind else b"100"
        lines.append(f.join((b"ERR", b"", b"", condition or number_0357, b"E", b"", b"", b"", _plain(text, message))))
    return b"\r".join(lines) + b"\r"


def _code(message: Message, verdict: Verdict) -> bytes | None:
    application, commit = verdict.value
    if not is_enhanced(message):
        return application
    wanted = _WANTED_ON_SUCCESS if verdict is Verdict.ACCEPT else _WANTED_ON_FAILURE
    if message.header(15) in wanted:
        return commit
    return application if message.header(16) in wanted else None


def _plain(text: bytes, message: Message) -> bytes:
    """Without anything that the sender would read as a separator."""
    return text.translate(bytes.maketrans(message.separators, b" " * len(message.separators)))


def read_ack(raw: bytes) -> Ack:
    """A receiver's answer, as strictly read as any message. Raises MalformedError."""
    message = parse(raw)
    found = message.segments(b"MSA")
    if len(found) != 1:
        raise MalformedError("an answer without exactly one MSA", "look at the receiver")
    _, code, control_id, *_ = found[0].split(message.field_separator, 3) + _NOTHING
    if code not in _BY_CODE or not control_id:
        raise MalformedError("an MSA without a known code and a control id", "look at the receiver")
    return Ack(_BY_CODE[code], code, control_id, raw)


def is_ack(message: Message) -> bool:
    """Whether a message acknowledges another one: it has an MSA and is of type ACK."""
    return message.msh[8].startswith(b"ACK") and message.kind[0] == b"ACK" and b"\rMSA" + message.field_separator in message.raw


def is_bare(message: Message) -> bool:
    """Whether it says nothing but that it acknowledges: no segment beside those that an acknowledgement has."""
    return all(line[:3] in _OF_AN_ACK for line in message.lines)
