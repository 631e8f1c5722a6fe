"""PURE. What a level earns: a decision per function with its reason, and the L7 rules a driver enforces meanwhile.

By state: *enforced* gets what its level earns; *observing* gets everything, and is told what it would lose; *service* keeps what
the level held when service began allows, except writes through a proxy (a device under repair is not commanded; stopping it is);
*proposed*, *suspended* and *retired* get nothing. A vital function needs no level in any state that has flows at all.
Refuses to know how a level came about and what enforces a decision.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from gateway import codec
from gateway.model.decision import Decision, FunctionDecision
from gateway.model.device import DeviceState
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Function, OnLoss, Profile, Rule
from gateway.policy.rules import is_write

_NOTHING = (DeviceState.PROPOSED, DeviceState.SUSPENDED, DeviceState.RETIRED)
_WHY_NOTHING = {
    DeviceState.PROPOSED: "nobody has accepted this device yet",
    DeviceState.SUSPENDED: "an operator took this device out",
    DeviceState.RETIRED: "this device is retired",
}


def decide(
    profile: Profile,
    state: DeviceState,
    level: TrustLevel,
    reason: str,
    lease_until: Instant | None,
    policy_id: str,
    device_id: str = "",
) -> Decision:
    """All functions of a device at ``level``. ``reason`` says why it has that level; in service, ``level`` is the one held."""
    functions = tuple(_one(f, state, level, reason, lease_until) for f in profile.functions)
    return Decision(device_id, level, reason, functions, policy_id)


def would_cut(profile: Profile, level: TrustLevel) -> tuple[str, ...]:
    """What Enforce would cut at ``level``: function names, with `` (writes)`` where reads would stay."""
    cut: list[str] = []
    for function in profile.functions:
        if level >= function.required:
            continue
        reads_stay = function.on_loss is OnLoss.READ_ONLY and level >= TrustLevel.LIMITED
        cut.append(f"{function.name} (writes)" if reads_stay else function.name)
    return tuple(cut)


def rules_for(profile: Profile, level: TrustLevel, state: DeviceState) -> tuple[Rule, ...]:
    """The L7 rules a driver enforces. A driver lets a request pass when a rule covers it and the lease's level reaches the rule's.

    Enforced: as they stand, whatever ``level``. Observing: all at level 0. Service: no writes but the always-allowed ones.
    """
    if state in _NOTHING:
        return ()
    if state is DeviceState.OBSERVING:
        return tuple(replace(r, level=TrustLevel.NONE) for r in profile.rules)
    if state is DeviceState.SERVICE:
        return tuple(r for r in profile.rules if r.level is TrustLevel.NONE or (not is_write(r) and r.level <= level))
    return profile.rules


def profile_digest(profile: Profile) -> str:
    """SHA-256 (hex) of a profile's content: what a decision names as the policy it applied."""
    plain = codec.to_plain(profile)
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _one(function: Function, state: DeviceState, level: TrustLevel, reason: str, until: Instant | None) -> FunctionDecision:
    allowed, why, leased = _judge(function, state, level, reason)
    return FunctionDecision(function.name, function.required, function.on_loss, allowed, why, until if leased and allowed else None)


def _judge(function: Function, state: DeviceState, level: TrustLevel, reason: str) -> tuple[bool, str, bool]:
    """(allowed, why, whether it rests on a lease)."""
    need = int(function.required)
    if state in _NOTHING:
        return False, _WHY_NOTHING[state], False
    if function.on_loss is OnLoss.VITAL:
        return True, "vital: it needs no level and is never cut", False
    if state is DeviceState.OBSERVING:
        if level >= need:
            return True, f"observed: nothing is cut; level {int(level)} would be enough", False
        return True, f"observed: nothing is cut; Enforce would cut it, it needs level {need} and has {int(level)}", False
    if level >= need:
        if state is DeviceState.SERVICE:
            writes = " and takes no writes but stop" if any(is_write(r) for r in function.rules) else ""
            return True, f"in service: it keeps the level {int(level)} it had{writes}", True
        return True, f"level {int(level)} is enough, it needs {need}: {reason}", True
    return _short(function, level, reason)


def _short(function: Function, level: TrustLevel, reason: str) -> tuple[bool, str, bool]:
    """Not enough trust: what is lost, what stays. ``allowed`` is False as soon as anything is lost."""
    stays = ""
    if function.on_loss is OnLoss.READ_ONLY and level >= TrustLevel.LIMITED:
        stays = "; reads still pass"
    if function.always_allowed_writes:
        stays += "; stop commands still pass"
    return False, f"needs level {int(function.required)}, has {int(level)}: {reason}{stays}", False
