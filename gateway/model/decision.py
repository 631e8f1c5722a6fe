"""What a level earns: a decision per function, and the lease that enforcement points receive."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import OnLoss, Rule

LEASE_MAX_S = 30.0  # the enforcer refuses more: trust that nobody renews ends by itself


@dataclass(frozen=True, slots=True)
class FunctionDecision:
    """One function of one device: allowed or not, until when (None: needs no lease), and why in one sentence."""

    function: str
    required: TrustLevel
    on_loss: OnLoss
    allowed: bool
    reason: str
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """All functions of one device at one level. ``policy_id`` is the SHA-256 (hex) of the profile that was applied."""

    device_id: str
    level: TrustLevel
    reason: str
    functions: tuple[FunctionDecision, ...]
    policy_id: str


@dataclass(frozen=True, slots=True)
class Lease:
    """What an enforcement point gets: every address of the device, its level, until when. Level 0 means drop.

    ``rules`` are the device's L7 rules; a driver enforces those whose level is at most ``level``.
    """

    device_id: str
    addresses: tuple[str, ...]
    level: TrustLevel
    until: Instant
    rules: tuple[Rule, ...] = ()
