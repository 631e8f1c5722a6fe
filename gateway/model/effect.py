"""What leaves the engine. Adapters carry these out; a grant only after its records are on disk, a revocation first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.model.certificate import Verdict
from gateway.model.decision import Lease
from gateway.model.device import Bond, DeviceState
from gateway.model.event import ServiceWindow
from gateway.model.profile import References


class Severity(StrEnum):
    """How loud an alarm is."""

    INFORMATION = "information"
    WARNING = "warning"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the audit log. ``body`` is JSON-able by ``gateway.codec.to_plain``: str keys, plain values."""

    kind: str
    device_id: str
    text: str
    body: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Challenge:
    """Ask a driver for evidence now; ``app`` draws the nonce and feeds it back as ``ChallengeIssued`` first."""

    device_id: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Apply a lease: to the enforcer for its addresses, to the device's driver for its rules. Level 0 revokes.

    ``renewal``: nothing but the end changes, no record is needed. ``revocation``: less than before; applied before it is recorded.
    """

    lease: Lease
    renewal: bool = False
    revocation: bool = False


@dataclass(frozen=True, slots=True)
class Issue:
    """Issue a conformity certificate for this verdict, at once; its bundle completes at the epoch's end."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SealEpoch:
    """Close the epoch: one quote over all verdicts since the last one."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """Tell people. ``raised`` False clears the alarm with the same (device_id, code)."""

    device_id: str
    code: str
    severity: Severity
    text: str
    raised: bool = True


@dataclass(frozen=True, slots=True)
class Adopt:
    """Keep these references for a device from now on: learned while observing, or accepted by a person."""

    device_id: str
    references: References


@dataclass(frozen=True, slots=True)
class KeepVeto:
    """Remember, or forget, a veto across restarts."""

    device_id: str
    media_type: str
    text: str
    raised: bool


@dataclass(frozen=True, slots=True)
class KeepState:
    """Store a device's new state; ``service`` is the open window when the state is service."""

    device_id: str
    state: DeviceState
    service: ServiceWindow | None = None


@dataclass(frozen=True, slots=True)
class KeepBond:
    """Store how a device is bonded, so that a restart vouches for the bond and pairs with nobody again."""

    device_id: str
    bond: Bond


@dataclass(frozen=True, slots=True)
class Send:
    """Hand something to the uplink's outbox with a priority (0 first)."""

    topic: str
    priority: int
    body: tuple[tuple[str, object], ...]


Effect = Record | Challenge | Grant | Issue | SealEpoch | Alarm | Adopt | KeepVeto | KeepState | KeepBond | Send
