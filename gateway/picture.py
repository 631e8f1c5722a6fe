"""PURE. What the engine knows, as one immutable picture for people: the Ward page, the API and the CLI.

Refuses to know HTML, JSON and where readings come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.decision import FunctionDecision
from gateway.model.device import DeviceState
from gateway.model.event import DeviceSeen
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.level import TrustLevel
from gateway.model.observation import Reading
from gateway.model.sheet import WIRED
from gateway.model.view import DeviceView, FunctionView
from gateway.policy.decide import would_cut
from gateway.standing import Standing

_MS = 1_000_000
_KEY = str.maketrans(":.", "--")


def device_view(
    s: Standing, now: Instant, lease_until: Instant | None, readings: Sequence[Reading], certificate: int | None
) -> DeviceView:
    """One device. ``lease_until``: the lease in force at the enforcement points; ``certificate``: its newest sequence number."""
    evidence = s.newest_evidence()
    certified_ms = (s.certified_until_ns - now.utc_ns) // _MS
    cut = would_cut(s.profile, s.level) if s.device.state is DeviceState.OBSERVING else ()
    return DeviceView(
        id=s.id,
        name=s.device.name,
        bus=s.device.bus.value,
        profile=s.profile.name,
        address=s.device.address,
        state=s.device.state.value,
        level=int(s.level),
        needed=max((int(f.required) for f in s.profile.functions), default=0),
        tier=s.tier().name.lower(),
        reason=s.reason,
        since_ms=s.since.mono_ns // _MS,
        link={True: "up", False: "down", None: "unknown"}[s.link_up],
        lease_left_ms=_left(lease_until, now) if s.level is not TrustLevel.NONE else None,
        certificate_left_ms=certified_ms if certified_ms > 0 and s.certified_until_ns else None,
        certificate_sequence=certificate,
        evidence_age_ms=(now.mono_ns - evidence.mono_ns) // _MS if evidence else None,
        service_left_ms=_left(s.service.until, now) if s.service else None,
        functions=tuple(_function(f) for f in s.decision.functions) if s.decision else _unknown(s),
        readings=tuple(readings),
        alarms=tuple(s.alarms.values()),
        would_cut=cut,
    )


def proposed_view(seen: DeviceSeen, now: Instant) -> DeviceView:
    """A device that was seen and that nobody accepted: it gets nothing."""
    return DeviceView(
        key_of(seen.address), name_of(seen), bus_of(seen), "", seen.address, "proposed", 0, 0, "none",
        "seen, not accepted: it gets nothing", now.mono_ns // _MS, "unknown", None, None, None, None, None, (), (), (),
    )  # fmt: skip


def name_of(seen: DeviceSeen) -> str:
    """What people read for it: what it calls itself, or for a wired one, which says nothing, where it is."""
    return seen.name[:80] or seen.address if seen.bus else f"Device on {seen.port}"


def bus_of(seen: DeviceSeen) -> str:
    """How it is reached; ``wired`` until a profile says more."""
    return seen.bus.value if seen.bus else WIRED


def key_of(address: str) -> str:
    """The name of a found device, until someone gives it one."""
    return f"new-{address.lower().translate(_KEY)}"[:63]


def explain(s: Standing, function: str | None, now: Instant) -> dict[str, object]:
    """How the level came about: every input, every step, and what each function makes of it."""
    decisions = [f for f in (s.decision.functions if s.decision else ()) if function in (None, f.function)]
    opinion = s.assessment.opinion if s.assessment else None
    return {
        "device": s.id,
        "state": s.device.state.value,
        "level": int(s.level),
        "reason": s.reason,
        "policy": s.policy_id,
        "evidence": [
            {
                "media_type": m,
                "class": r.evidence_class.value,
                "channel": str(r.channel),
                "tier": r.tier.name.lower(),
                "age_s": round((now.mono_ns - r.collected_at.mono_ns) / NS_PER_S, 1),
                "hash": r.evidence_hash.hex(),
                "claims": r.vector.claims(),
                "findings": [f"{f.subject}: {f.text}" for f in r.findings],
            }
            for m, r in sorted(s.held.items())
        ],
        "vetoes": [v.text for v in s.vetoes.values()],
        "steps": list(s.assessment.steps) if s.assessment else [],
        "opinion": None
        if opinion is None
        else {
            "belief": opinion.belief,
            "disbelief": opinion.disbelief,
            "uncertainty": opinion.uncertainty,
            "projected": opinion.projected,
        },
        "falls_in_s": None if s.assessment is None else min(s.assessment.falls_in_s, 1e9),
        "functions": [
            {"name": f.function, "required": int(f.required), "allowed": f.allowed, "on_loss": f.on_loss.value, "reason": f.reason}
            for f in decisions
        ],
        "difference": [{"target": t, "name": n, "reference": a.hex(), "observed": b.hex()} for t, n, a, b in s.difference()],
    }


def _function(f: FunctionDecision) -> FunctionView:
    return FunctionView(f.function, int(f.required), f.allowed, f.on_loss.value, f.reason)


def _unknown(s: Standing) -> tuple[FunctionView, ...]:
    return tuple(
        FunctionView(f.name, int(f.required), f.on_loss == "vital", f.on_loss.value, s.reason) for f in s.profile.functions
    )


def _left(until: Instant | None, now: Instant) -> int | None:
    if until is None or until.boot_id != now.boot_id or until.mono_ns <= now.mono_ns:
        return None
    return (until.mono_ns - now.mono_ns) // _MS
