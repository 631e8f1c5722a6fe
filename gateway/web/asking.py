"""What a form or a script asks of the record, from the query of its address: strict, bounded, the same for page and API.

Refuses to know how lines are found and shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from aiohttp import web

from gateway.errors import InputError
from gateway.model.device import DEVICE_ID
from gateway.model.inquiry import SEVERITIES, TEXT_MAX, EventQuery
from gateway.web import schema
from gateway.web.contract import Query

# What people call the kinds of lines, and the kinds in each.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "levels": ("decision", "lapsed", "restored", "no-evidence"),
    "alarms": ("alarm",),
    "refused": ("behaviour", "refused", "unproven"),
    "devices": ("state", "seen", "bond", "learned", "countersigned", "difference", "accepted", "service-ended"),
    "people": (
        "command", "login", "login-failed", "login-delayed", "claimed", "claim-made", "claim-failed", "user-added", "user-removed",
        "role-changed", "password-changed", "view-link", "view-link-used",
    ),
    "gateway": ("start", "stop", "part", "time", "trimmed", "outbox"),
}  # fmt: skip
GROUP_OF: Mapping[str, str] = {kind: group for group, kinds in GROUPS.items() for kind in kinds}
FIELDS = ("device", "kind", "severity", "from", "to", "text")
_NS = 1_000_000_000


def query_of(request: web.Request) -> EventQuery:
    """The question in a request's query. Raises InputError with what to change."""
    q = {name: request.query.get(name, "").strip() for name in FIELDS}
    if q["device"] and not DEVICE_ID.fullmatch(q["device"]):
        raise InputError("device is a device id: [a-z0-9-]{1,63}", "see the ward for the devices there are")
    if q["severity"] and q["severity"] not in SEVERITIES:
        raise InputError(f"severity is one of {', '.join(SEVERITIES)}", "choose one of them, or none")
    if len(q["text"]) > TEXT_MAX:
        raise InputError(f"the text to look for has at most {TEXT_MAX} characters", "make it shorter")
    since, until = (_moment(name, q[name]) for name in ("from", "to"))
    if since is not None and until is not None and since >= until:
        raise InputError("the time range ends before it begins", "change from or to")
    return EventQuery(q["device"], _kinds(q["kind"]), q["severity"], since, until, q["text"])


def given(request: web.Request) -> dict[str, str]:
    """What was asked, to fill the form in again; bounded."""
    return {name: request.query.get(name, "")[:200] for name in FIELDS}


def address(path: str, asked: Mapping[str, str], **more: object) -> str:
    """``path`` with the same question, to be kept as a bookmark."""
    query = {k: v for k, v in asked.items() if v} | {k: str(v) for k, v in more.items()}
    return f"{path}?{urlencode(query)}" if query else path


def _kinds(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    if text in GROUPS:
        return GROUPS[text]
    if text in GROUP_OF:
        return (text,)
    raise InputError(f"kind is one of {', '.join(GROUPS)}", "choose one of them, or none")


def _moment(name: str, text: str) -> int | None:
    """ns since 1970 of an ISO 8601 time; without a zone it is UTC."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        seconds = at.timestamp()
    except (ValueError, OverflowError):
        raise InputError(f"{name} is no time", "write it as 2027-01-31T12:00, in UTC") from None
    if not 0 <= seconds < 2**33:
        raise InputError(f"{name} is no time of this age", "write it as 2027-01-31T12:00, in UTC")
    return int(seconds) * _NS


_TIME = schema.text(32, 0)
QUERY: tuple[Query, ...] = (
    Query("device", "Only of this device", schema.text(63, 0, f"^({DEVICE_ID.pattern})?$")),
    Query("kind", "Only of these kinds: a group of them, or one kind", {"enum": ["", *GROUPS, *GROUP_OF]}),
    Query("severity", "At least this loud", {"enum": ["", *SEVERITIES]}),
    Query("from", "Not before this time (ISO 8601, UTC)", _TIME),
    Query("to", "Before this time", _TIME),
    Query("text", "Whose text has this, whatever its case", schema.text(TEXT_MAX, 0)),
)
