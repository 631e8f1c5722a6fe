"""What enters the engine. A closed vocabulary: drivers report, operators command, time passes; nothing else decides."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.model.device import Bond, Bus, Device
from gateway.model.evidence import Evidence
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Profile, References
from gateway.model.timing import Timing


@dataclass(frozen=True, slots=True)
class ServiceWindow:
    """A repair in progress: who opened it, why, until when, and the level the device held when it began."""

    device_id: str
    actor: str
    reason: str
    until: Instant
    level: TrustLevel


@dataclass(frozen=True, slots=True)
class Configured:
    """The confirmed configuration: at start and after every confirmed change. ``references`` are per device id.

    ``vetoes``: (device id, media type, sentence) kept across restarts, so that no restart lifts one. ``services``: windows
    still open. ``actor``: whose change this is, empty at start.
    """

    profiles: tuple[Profile, ...]
    devices: tuple[Device, ...]
    references: tuple[tuple[str, References], ...]
    timing: Timing = field(default_factory=Timing)
    vetoes: tuple[tuple[str, str, str], ...] = ()
    services: tuple[ServiceWindow, ...] = ()
    actor: str = ""


@dataclass(frozen=True, slots=True)
class DeviceSeen:
    """A driver saw a device that nobody configured, or a known one again.

    ``signal_dbm``: how strong it was heard; ``port`` and ``mac``: where a wired one speaks from, ``addresses``: as whom. All of it
    are claims. ``bus`` None: wired; which bus it is on is not known before somebody chooses its profile.
    """

    bus: Bus | None
    address: str
    name: str
    hint: str = ""
    signal_dbm: int | None = None
    port: str = ""
    mac: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChallengeIssued:
    """A nonce that ``app`` drew for a device and media type; single use, valid for ``nonce_s`` of the configuration."""

    device_id: str
    media_type: str
    nonce: bytes


@dataclass(frozen=True, slots=True)
class EvidenceArrived:
    """Raw evidence from a driver or the attester."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class EvidenceFailed:
    """A driver could not collect evidence that was asked for. Silence only ages trust; it never lowers a level at once."""

    device_id: str
    media_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Something the data path saw: a refused write, an unknown function code, a denied packet. ``code`` is stable."""

    device_id: str
    code: str
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The link to a device came up or went down; ``bond`` where the bus has bonds.

    ``anew``: if it was up, it is another one now (the device says something else of itself, or was let go and connected again):
    evidence is needed at once, and was at no time missing for anybody's eyes.
    """

    device_id: str
    up: bool
    detail: str = ""
    bond: Bond | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """The other end of one of a device's functions is there, or is not (away, or not whom it should be); ``detail`` says which."""

    device_id: str
    function: str
    up: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """A named person's (or the console root's) command. ``verb`` and ``arguments`` are checked by the engine.

    ``secret`` never reaches the audit log: it is taken off by ``app`` before the event is recorded.
    """

    actor: str
    role: str
    verb: str
    device_id: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    secret: str = field(default="", repr=False)

    def argument(self, name: str, default: str = "") -> str:
        """The value of argument ``name``."""
        return dict(self.arguments).get(name, default)


@dataclass(frozen=True, slots=True)
class TimeProof:
    """A source says what time it is. ``quality`` as in TimeQuality."""

    source: str
    utc_ns: int
    quality: int


@dataclass(frozen=True, slots=True)
class PartChanged:
    """A part of the gateway itself went down or came back: tpm, bluetooth, enforcer, disk, uplink, clock."""

    part: str
    up: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LeasesLapsed:
    """Nothing was decided from ``since`` until now, and these leases (device id, its end) ended meanwhile without a renewal."""

    since: Instant
    ended: tuple[tuple[str, Instant], ...]


Event = (
    Configured
    | DeviceSeen
    | ChallengeIssued
    | EvidenceArrived
    | EvidenceFailed
    | Behaviour
    | LinkChanged
    | RouteChanged
    | OperatorCommand
    | TimeProof
    | PartChanged
    | LeasesLapsed
)
