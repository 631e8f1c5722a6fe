"""PURE. What one piece of appraised evidence does to a device's standing: nothing, a veto, or trust.

Evidence that fails authentication is nobody's and lowers nothing. Authenticated bad evidence is a veto. Refuses to know
time constants, leases of others and operators.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.model.decision import Decision, Lease
from gateway.model.device import DeviceState
from gateway.model.effect import Adopt, Alarm, Effect, Grant, KeepVeto, Record, Send, Severity
from gateway.model.evidence import AttestationResult, Evidence, EvidenceClass, Tier
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Provenance, ReferenceValue
from gateway.policy.decide import decide, rules_for
from gateway.standing import Standing, Veto

Out = list[Effect]


def weigh(s: Standing, e: Evidence, result: AttestationResult, now: Instant, dwell_s: float, out: Out) -> None:
    """What one result does: nothing (nobody's, or a replay), a veto, or standing."""
    text = result.findings[0].text if result.findings else ""
    if not result.authenticated or not result.fresh:
        s.unattributed += 1
        code = "unauthenticated" if not result.authenticated else "replayed"
        raise_alarm(s, code, Severity.WARNING, f"{s.id}: {text or 'evidence that fails authentication'}; its level stays", out)
        return
    for code in ("unauthenticated", "replayed"):
        clear_alarm(s, code, out)
    if result.veto and s.device.state is DeviceState.SERVICE:
        s.bad[e.media_type] = result
        out.append(Record("difference", s.id, f"{s.id}: {text}; in service, to be accepted or undone", told(result)))
    elif result.veto:
        s.held.pop(e.media_type, None)
        s.bad[e.media_type] = result
        condemn(s, Veto(e.media_type, text, now), now, out)
    elif result.tier in (Tier.AFFIRMING, Tier.WARNING):
        s.bad.pop(e.media_type, None)
        s.held[e.media_type] = result
        lift(s, e.media_type, now, dwell_s, out)
    else:
        out.append(Record("unproven", s.id, f"{s.id}: {text or 'evidence that proves nothing'}", told(result)))


def outcome(result: AttestationResult) -> str:
    """What came of evidence, in one word from a closed list."""
    if not result.authenticated:
        return "unauthenticated"
    if not result.fresh:
        return "replayed"
    return "veto" if result.veto else result.tier.name.lower()


def learn(s: Standing, result: AttestationResult, out: Out) -> bool:
    """While observing, a fingerprint without any reference becomes its own, learned and not yet countersigned."""
    target = s.target(result.media_type)
    if target is None or s.device.state is not DeviceState.OBSERVING or target.evidence_class is not EvidenceClass.FINGERPRINT:
        return False
    if not result.authenticated or any(v.target == target.name for v in s.all_references().values) or not result.observed:
        return False
    s.adopt(tuple(ReferenceValue(target.name, n, v, Provenance.LEARNED) for n, v in result.observed))
    out.append(Adopt(s.id, s.references))
    out.append(Record("learned", s.id, f"{s.id}: learned {len(result.observed)} values of {target.name}; confirmed by Enforce", ()))
    return True


def condemn(s: Standing, veto: Veto, now: Instant, out: Out) -> None:
    """Take everything but vital flows from a device: authenticated evidence says that it is bad."""
    known = s.vetoes.get(veto.media_type)
    s.vetoes[veto.media_type] = veto
    if known is None or known.text != veto.text:
        revoke(s, veto.text, now, out)
        out.append(KeepVeto(s.id, veto.media_type, veto.text, raised=True))
        vital = [f.name for f in s.profile.functions if f.on_loss == "vital"]
        stays = f"; {', '.join(vital)} stays" if vital else ""
        raise_alarm(s, "bad-evidence", Severity.ALARM, f"{s.id}: {veto.text}{stays}", out)


def lift(s: Standing, media_type: str, now: Instant, dwell_s: float, out: Out) -> None:
    """A veto ends with newer good evidence of the very target that raised it, after the dwell time."""
    veto = s.vetoes.get(media_type)
    if veto and now.seconds_since(veto.last_bad) >= dwell_s:
        del s.vetoes[media_type]
        out.append(KeepVeto(s.id, media_type, veto.text, raised=False))
        out.append(Record("restored", s.id, f"{s.id}: new evidence is good again after: {veto.text}", ()))
        if not s.vetoes:
            clear_alarm(s, "bad-evidence", out)


def revoke(s: Standing, reason: str, now: Instant, out: Out, others: Collection[str] = ()) -> None:
    """Level 0 now, and a lease that says so, whether or not one was known to be held.

    ``others``: addresses of devices that are served. A claim on one of them, by mistake or not, takes nothing from its owner.
    """
    before, s.lease_until = s.level, None
    if before is not TrustLevel.NONE:
        s.since = now
        body = (("level", 0), ("before", int(before)), ("policy", s.policy_id), ("severity", Severity.WARNING.value))
        out.append(Record("decision", s.id, f"{s.id}: level {int(before)} → 0: {reason}", body))
    s.level, s.reason = TrustLevel.NONE, reason
    s.decision = decide(s.profile, s.device.state, s.level, reason, now, s.policy_id, s.id)
    rules = rules_for(s.profile, s.level, s.device.state)
    addresses = tuple(a for a in s.device.ip_addresses if a not in others)
    out.append(Grant(Lease(s.id, addresses, TrustLevel.NONE, now, rules), revocation=True))


def raise_alarm(s: Standing, code: str, severity: Severity, text: str, out: Out) -> None:
    """Raise an alarm once for each text."""
    if s.alarms.get(code) != text:
        s.alarms[code] = text
        out.append(Alarm(s.id, code, severity, text))


def clear_alarm(s: Standing, code: str, out: Out) -> None:
    """Clear an alarm if it was raised."""
    if text := s.alarms.pop(code, None):
        out.append(Alarm(s.id, code, Severity.INFORMATION, text, raised=False))


def announcements(out: Out) -> list[Effect]:
    """What the hospital is told of these effects: every alarm and its end first, then every change of a level."""
    sends: list[Effect] = []
    for effect in out:
        if isinstance(effect, Alarm):
            severity = effect.severity if effect.raised else Severity.INFORMATION
            body = (("code", effect.code), ("raised", effect.raised))
            sends.append(Send("alarm", 0, _told_of(effect.device_id, severity.value, effect.text, body)))
        elif isinstance(effect, Record) and effect.kind == "decision":
            known = dict(effect.body)
            more = [(k, known[k]) for k in ("level", "before", "policy")]
            if isinstance(functions := known.get("functions"), tuple):
                more.append(("functions", dict(functions)))
            sends.append(Send("decision", 1, _told_of(effect.device_id, str(known["severity"]), effect.text, tuple(more))))
    return sends


def _told_of(device_id: str, severity: str, text: str, more: tuple[tuple[str, object], ...]) -> tuple[tuple[str, object], ...]:
    return (("device", device_id), ("severity", severity), ("text", text), *more)


def allowed(decision: Decision) -> tuple[tuple[str, bool], ...]:
    """Function by function, what is allowed now."""
    return tuple((f.function, f.allowed) for f in decision.functions)


def told(result: AttestationResult) -> tuple[tuple[str, object], ...]:
    """A result as the audit log keeps it."""
    return (("findings", tuple((f.code, f.subject, f.text) for f in result.findings)), ("tier", int(result.tier)))


def reason_of(s: Standing, level: TrustLevel, now: Instant) -> str:
    """Why this level, in one sentence."""
    if s.vetoes:
        return "; ".join(v.text for v in s.vetoes.values())
    if s.service:
        return f"in service: {s.service.reason}"
    if not s.held:
        return "no link" if s.link_up is False else "waiting for the first evidence"
    kinds = " and ".join(t.name for t in s.profile.targets if t.media_type in s.held)
    missing = ", ".join(t.name for t in s.profile.targets if t.media_type not in s.held)
    if level is TrustLevel.NONE:
        return f"the evidence of {kinds} has grown too old"
    return f"good evidence of {kinds}" + (f"; none of {missing}" if missing else "")
