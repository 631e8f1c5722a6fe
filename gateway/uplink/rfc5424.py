"""PURE. Lines of the audit log as syslog messages (RFC 5424), framed for TLS (RFC 5425).

Without an enterprise number only registered elements are used (``origin``, ``timeQuality``, ``meta``: RFC 5424, 7) and the
line's own facts follow its text; with one they are an element ``wardgate@NUMBER`` too. A text never breaks a frame: its length
is counted in bytes. Refuses to know connections.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.view import EventView

_SEVERITY = {"information": 6, "warning": 4, "alarm": 1}  # informational, warning, alert (RFC 5424, 6.2.1)
_BOM = "\ufeff"  # says that the text is UTF-8 (RFC 5424, 6.4)
_SEQUENCE_MAX = 2**31 - 1  # of the element meta (RFC 5424, 7.3.1)
MESSAGE_MAX = 8192  # bytes; a receiver should take as much (RFC 5425, 4.3.1)


@dataclass(frozen=True, slots=True)
class Sender:
    """What every message of a gateway says of itself."""

    host: str
    version: str
    facility: int = 13
    enterprise: int = 0


def message(sender: Sender, line: EventView) -> bytes:
    """One line, at most ``MESSAGE_MAX`` bytes; the text is cut before anything else is."""
    facts = {"sequence": str(line.sequence), "kind": line.kind, "severity": line.severity, "device": line.device_id}
    return _message(sender, line.severity, line.time_utc, line.kind, line.sequence, line.text, facts)


def head_message(sender: Sender, sequence: int, digest: bytes, time_utc: str) -> bytes:
    """Where the chain ends: whoever keeps it can tell later that the log was not changed up to there."""
    facts = {"sequence": str(sequence), "hash": digest.hex()}
    text = f"the audit log has {sequence} lines"
    return _message(sender, "information", time_utc, "audit-head", sequence, text, facts)


def frame(body: bytes) -> bytes:
    """Octet counting (RFC 5425, 4.3): the length in decimal, a space, the message."""
    return b"%d %s" % (len(body), body)


def _message(sender: Sender, severity: str, time_utc: str, kind: str, sequence: int, text: str, facts: dict[str, str]) -> bytes:
    priority = sender.facility * 8 + _SEVERITY.get(severity, 4)
    head = " ".join((f"<{priority}>1", _time(time_utc), _ascii(sender.host, 255), "wardgate", "-", _ascii(kind, 32)))
    meta = f'[meta sequenceId="{(sequence - 1) % _SEQUENCE_MAX + 1 if sequence else 1}"]'
    elements = f'[origin software="wardgate" swVersion="{_value(sender.version)}"][timeQuality tzKnown="1"]{meta}'
    given = {k: v for k, v in facts.items() if v}
    if sender.enterprise:
        elements += f"[wardgate@{sender.enterprise} " + " ".join(f'{k}="{_value(v)}"' for k, v in given.items()) + "]"
    tail = " | " + " ".join(f"{k}={_ascii(v, 128)}" for k, v in given.items())
    start = f"{head} {elements} {_BOM}".encode()
    room = MESSAGE_MAX - len(start) - len(tail)
    return start + _cut(" ".join(text.split()), room) + tail.encode()


def _time(time_utc: str) -> str:
    """RFC 3339 with ``Z`` (RFC 5424, 6.2.3); ``-`` for what is no such time."""
    text = time_utc.replace("+00:00", "Z")
    return text if len(text) >= 20 and text.endswith("Z") and text[10] == "T" else "-"


def _ascii(text: str, most: int) -> str:
    """PRINTUSASCII without spaces; ``-`` for nothing."""
    return "".join(c if "!" <= c <= "~" else "_" for c in text[:most]) or "-"


def _value(text: str) -> str:
    r"""A PARAM-VALUE: ``"``, ``\`` and ``]`` are escaped (RFC 5424, 6.3.3)."""
    for c in ("\\", '"', "]"):
        text = text.replace(c, "\\" + c)
    return text[:512]


def _cut(text: str, room: int) -> bytes:
    """UTF-8, never in the middle of a character."""
    return text.encode()[:room].decode("utf-8", "ignore").encode()
