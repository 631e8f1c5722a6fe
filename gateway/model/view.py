"""What the page, the API and the CLI may see: one immutable picture of the ward. Times are boot-time milliseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.model.observation import Reading


@dataclass(frozen=True, slots=True)
class FunctionView:
    """One function as shown: ``required`` and ``allowed`` now, what a loss does, why in one sentence."""

    name: str
    required: int
    allowed: bool
    on_loss: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device as shown. ``*_ms`` are milliseconds from the view's ``now_ms``; None: there is none.

    ``needed`` is the highest level any of its functions needs. ``link`` is ``up``, ``down`` or ``unknown``.
    """

    id: str
    name: str
    bus: str
    profile: str
    address: str
    state: str
    level: int
    needed: int
    tier: str
    reason: str
    since_ms: int
    link: str
    lease_left_ms: int | None
    certificate_left_ms: int | None
    certificate_sequence: int | None
    evidence_age_ms: int | None
    service_left_ms: int | None
    functions: tuple[FunctionView, ...]
    readings: tuple[Reading, ...]
    alarms: tuple[str, ...]
    would_cut: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartView:
    """A part of the gateway itself: ``ok``, and one sentence for a person."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class GatewayView:
    """The gateway itself. ``mode`` is ``observing`` while any accepted device is only observed, else ``enforcing``.

    ``policy_by`` applied a policy that is being tried; at ``policy_until_ms`` (boot time) it goes back by itself. None: none is.
    """

    id: str
    name: str
    version: str
    mode: str
    parts: tuple[PartView, ...]
    sequence: int
    certificates: int
    quotes: int
    uptime_ms: int
    time_utc: str
    time_quality: str
    outbox_rows: int = 0
    ak_sha256: str = ""
    policy_by: str = ""
    policy_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of the event feed, from the audit log. ``severity`` is information, warning or alarm."""

    sequence: int
    time_utc: str
    mono_ns: int
    kind: str
    severity: str
    device_id: str
    text: str


@dataclass(frozen=True, slots=True)
class WardView:
    """The whole picture at one moment."""

    now_ms: int
    gateway: GatewayView
    devices: tuple[DeviceView, ...]
    events: tuple[EventView, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: ``text`` for a person, ``detail`` for a script."""

    ok: bool
    text: str
    detail: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """A named person with a role: viewer, clinical, biomed or admin."""

    name: str
    role: str


TOKEN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
TOKEN_ROLES = ("metrics", "viewer", "clinical", "biomed", "admin")  # metrics: the figures and nothing else
TOKEN_DAYS, TOKEN_DAYS_MAX = 90, 366  # a machine's secret is renewed at least once a year
TOKEN_ACTOR = "token:"  # noqa: S105 - begins the name of whoever asks with an API token; no person's name has a colon


@dataclass(frozen=True, slots=True)
class TokenView:
    """An API token as listed, never its secret. ``left_s``: seconds until it ends; ``why_not``: why it does not count now."""

    name: str
    role: str
    made_by: str
    made_utc: str
    left_s: int
    why_not: str = ""
