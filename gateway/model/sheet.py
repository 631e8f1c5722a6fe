"""Everything that people may see of one device, for its own page, the API and the CLI. Ages are milliseconds before ``now_ms``.

Frozen values only. ``None`` for a level means that nobody knows what it was: it is never shown as a level.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.instant import Instant
from gateway.model.view import DeviceView

WIRED = "wired"  # how a device is reached that is on a cable, while nobody has said more


@dataclass(frozen=True, slots=True)
class LevelChange:
    """From ``at`` on a device had ``level``; None: not known (the gateway was not running, or asleep)."""

    at: Instant
    level: int | None


@dataclass(frozen=True, slots=True)
class LevelStep:
    """The same, as an age."""

    age_ms: int
    level: int | None


@dataclass(frozen=True, slots=True)
class LevelHistory:
    """The levels of the last ``hours``, oldest first.

    ``complete`` False: the oldest are not told, because there are too many, or the record does not reach as far back.
    """

    device_id: str
    hours: int
    steps: tuple[LevelStep, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class FindingView:
    """One thing that an appraisal saw."""

    subject: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class EvidenceView:
    """The newest evidence for one target of the profile. ``age_ms`` None: there is none, and all else of it is empty.

    ``standing``: ``good``, ``warning``, ``bad`` (authenticated, and not what it should be) or ``none``.
    """

    target: str
    media_type: str
    standing: str = "none"
    age_ms: int | None = None
    interval_ms: int = 0
    evidence_class: str = ""
    channel: str = ""
    tier: str = "none"
    sha256: str = ""
    findings: tuple[FindingView, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowView:
    """One flow of a profile. ``open_now``: packets of it pass at this moment; ``why`` says why, or why not."""

    function: str
    peer: str
    protocol: str
    port: int
    from_device: bool
    proxied: bool
    open_now: bool
    why: str


@dataclass(frozen=True, slots=True)
class FunctionSheet:
    """One function with what always passes: ``always`` are sentences about writes that are allowed at any level."""

    name: str
    required: int
    allowed: bool
    on_loss: str
    reason: str
    rules: tuple[str, ...]
    always: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """One measured value that is not its reference, both in hex; an empty ``reference``: there was none."""

    target: str
    name: str
    reference: str
    observed: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was refused, from the record."""

    sequence: int
    time_utc: str
    age_ms: int
    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Readings since the store was made: taken in, waiting to leave, delivered, lost to a bound, refused by the receiver."""

    accepted: int = 0
    waiting: int = 0
    delivered: int = 0
    dropped: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A repair in progress."""

    actor: str
    reason: str
    left_ms: int


@dataclass(frozen=True, slots=True)
class Sheet:
    """One device. ``difference_id`` names exactly this difference: accepting it by name accepts nothing else."""

    now_ms: int
    device: DeviceView
    clinical_class: str
    evidence: tuple[EvidenceView, ...]
    functions: tuple[FunctionSheet, ...]
    flows: tuple[FlowView, ...]
    difference: tuple[DifferenceRow, ...]
    difference_id: str
    service: ServiceView | None
    vetoes: tuple[str, ...]
    unattributed: int
    learned: int
    refused: tuple[Refusal, ...] = ()
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A profile that may fit a found device. ``fits`` False: nothing but the bus speaks for it. ``why`` are sentences."""

    profile: str
    name: str
    clinical_class: str
    fits: bool
    why: tuple[str, ...]
    passkey: bool
    endorsement: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A device that was seen and that nobody has added. ``name`` is what it calls itself: a claim, like its address.

    ``bus`` ``wired``: a host on a port, whose ``address`` is its MAC and who used ``addresses``; its profile will say which bus.
    """

    key: str
    bus: str
    address: str
    name: str
    hint: str
    signal_dbm: int | None
    port: str
    mac: str
    seen_ms: int
    suggestions: tuple[Suggestion, ...]
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One step of a relying party's check. ``ok`` None: not reached, because an earlier one failed."""

    name: str
    ok: bool | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """A certificate, examined. ``ok``: everything holds. ``lines`` say what it says, only when everything holds."""

    ok: bool
    rows: tuple[CheckRow, ...]
    lines: tuple[str, ...] = ()
    anchor: str = ""
