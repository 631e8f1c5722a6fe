"""PURE. The JSON messages of the uplink, as ``schema/*.json`` describes them. Refuses to know topics' broker and sockets.

Every message names its gateway, the stream its ids belong to and itself, so that a receiver can tell a repetition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.errors import MalformedError
from gateway.model.certificate import CertificateId
from gateway.model.effect import Send
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.observation import Observation
from gateway.model.outbox import Letter, Waiting

READINGS, STATE, RECEIPTS = "readings", "state", "acknowledged"
HISTORICAL_S = 10.0  # older than this at sending: it was delayed, and is not to be shown as live
MAX_RECEIPT = 64 * 1024  # bytes of an acknowledgement; it names at most MAX_IDS messages
MAX_IDS = 1000
_QUALITIES = {q: q.name.lower() for q in TimeQuality}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_NS = 253_402_300_799 * NS_PER_S  # the end of year 9999: a clock further ahead is wrong, and still must not stop us


def readings_key(waiting: Sequence[Waiting]) -> str:
    """The name of a message with these readings; the same readings give the same name."""
    return f"r{waiting[0].id}-{waiting[-1].id}-{len(waiting)}"


def readings_message(
    gateway: str, stream: str, waiting: Sequence[Waiting], now: Instant, subject: Callable[[str, Instant], str] = lambda _, at: ""
) -> str:
    """Readings of one device, oldest first. ``subject(device_id, taken_at)``: the patient's token then, "" for none."""
    device = waiting[0].observation.device_id
    body = _head("observations", gateway, stream, readings_key(waiting))
    return _json({**body, "device": device, "observations": [_reading(w.id, w.observation, now, subject) for w in waiting]})


def event_body(effect: Send, at: Instant) -> str:
    """What is stored of an alarm or a decision until it leaves."""
    return _json({**dict(effect.body), "kind": effect.topic, "at": _moment(at)})


def letter_message(gateway: str, stream: str, letter: Letter, now: Instant) -> tuple[str, str]:
    """(name, message) of a stored letter; one that was a whole message before (a dead letter) goes as it is."""
    body: dict[str, Any] = json.loads(letter.body)
    if "schema" in body:
        return str(body["message"]), letter.body
    name = f"e{letter.id}"
    head = _head("event", gateway, stream, name)
    return name, _json({**head, "id": letter.id, "is_historical": _historical(letter.at, now), **body})


def state_message(gateway: str, stream: str, session: str, online: bool, at: Instant) -> str:
    """Birth and will, retained. ``session`` is new with each connection: a late will of an older one is not the newest word."""
    return _json({**_head("state", gateway, stream, session), "state": "online" if online else "offline", "at": _moment(at)})


def parse_receipt(data: bytes, stream: str) -> tuple[str, ...]:
    """The names of messages that the receiver has stored. Raises MalformedError on anything but exactly that, for our stream."""
    if len(data) > MAX_RECEIPT:
        raise MalformedError(f"an acknowledgement of {len(data)} bytes", f"send at most {MAX_RECEIPT}")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedError("an acknowledgement that is not JSON", "see gateway/uplink/schema/acknowledgement.json") from None
    if not isinstance(body, dict) or set(body) != {"schema", "stream", "messages"} or body["schema"] != _schema("acknowledgement"):
        raise MalformedError("an acknowledgement of another form", "see gateway/uplink/schema/acknowledgement.json")
    names = body["messages"]
    if body["stream"] != stream:
        raise MalformedError("an acknowledgement for another stream of this gateway", "acknowledge what it sends now")
    if not isinstance(names, list) or len(names) > MAX_IDS or not all(isinstance(n, str) and len(n) <= 64 for n in names):
        raise MalformedError(f"an acknowledgement whose messages are not at most {MAX_IDS} names", "send several")
    return tuple(names)


def _schema(name: str) -> str:
    return f"wardgate/{name}/1"


def _head(schema: str, gateway: str, stream: str, message: str) -> dict[str, Any]:
    return {"schema": _schema(schema), "gateway": gateway, "stream": stream, "message": message}


def _reading(number: int, o: Observation, now: Instant, subject: Callable[[str, Instant], str]) -> dict[str, Any]:
    taken, whose = _moment(o.taken_at), subject(o.device_id, o.taken_at)
    return {
        "id": number,
        "quantity": o.quantity,
        "unit": o.unit,
        **({"value": o.value} if o.absent is None else {"absent": o.absent}),
        "level": None if o.level is None else int(o.level),
        "certificate": _certificate(o.certificate),
        "taken_at": taken,
        "received_at": taken if o.received_at is o.taken_at else _moment(o.received_at),
        "is_historical": _historical(o.taken_at, now),
        **({"subject": whose} if whose else {}),
    }


def _certificate(c: CertificateId | None) -> dict[str, Any] | None:
    return None if c is None else {"sequence": c.sequence, "ear_sha256": c.ear_sha256.hex()}


def _historical(at: Instant, now: Instant) -> bool:
    """Delayed: older than HISTORICAL_S on boot time, or from an earlier boot, where no age can be told."""
    return at.boot_id != now.boot_id or now.mono_ns - at.mono_ns > HISTORICAL_S * NS_PER_S


def _moment(at: Instant) -> dict[str, Any]:
    utc = _EPOCH + timedelta(microseconds=max(0, min(at.utc_ns, _LATEST_NS)) // 1000)
    text = utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    return {"utc": text, "quality": _QUALITIES[at.quality], "boot": at.boot_id, "boot_ns": at.mono_ns}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
