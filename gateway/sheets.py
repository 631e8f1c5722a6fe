"""PURE. What the engine knows of one device, in full, as one immutable value: its page, the API and the CLI show nothing else.

Refuses to know the record, the disk, HTML and who looks.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.model.device import DeviceState
from gateway.model.evidence import AttestationResult, Tier
from gateway.model.instant import Instant
from gateway.model.profile import Flow, Function, GattRule, Hl7Rule, ModbusRule, OnLoss, Provenance, Rule, Target
from gateway.model.sheet import DifferenceRow, EvidenceView, FindingView, FlowView, FunctionSheet, ServiceView, Sheet
from gateway.model.view import DeviceView
from gateway.standing import Standing

_MS = 1_000_000
_STANDING = {Tier.NONE: "none", Tier.AFFIRMING: "good", Tier.WARNING: "warning", Tier.CONTRAINDICATED: "bad"}
_NOTHING = (DeviceState.PROPOSED, DeviceState.SUSPENDED, DeviceState.RETIRED)
_MODBUS = {
    1: "read coils", 2: "read inputs", 3: "read holding registers", 4: "read input registers", 5: "write coil",
    6: "write register", 15: "write coils", 16: "write registers", 23: "read and write registers", 43: "read identification",
}  # fmt: skip


def sheet_of(s: Standing, view: DeviceView, now: Instant) -> Sheet:
    """Everything but what only the record and the outbox know. ``view``: the same device as the ward shows it."""
    learned = sum(v.provenance is Provenance.LEARNED and not v.countersigned for v in s.references.values)
    rows = s.difference()
    service = ServiceView(s.service.actor, s.service.reason, _left(s.service.until, now)) if s.service else None
    return Sheet(
        now_ms=now.mono_ns // _MS,
        device=view,
        clinical_class=s.profile.clinical_class,
        evidence=tuple(_evidence(s, t, now) for t in s.profile.targets),
        functions=tuple(_functions(s, view)),
        flows=tuple(_flow(s, f, flow) for f in s.profile.functions for flow in f.flows),
        difference=tuple(DifferenceRow(t, n, a.hex(), b.hex()) for t, n, a, b in rows),
        difference_id=s.difference_id(),
        service=service,
        vetoes=tuple(v.text for v in s.vetoes.values()),
        unattributed=s.unattributed,
        learned=learned,
    )


def evidence_since(s: Standing, since: Instant, now: Instant) -> tuple[EvidenceView, ...]:
    """The evidence that was collected after a moment of this boot."""
    rows = []
    for target in s.profile.targets:
        found = (s.bad.get(target.media_type), s.held.get(target.media_type))
        newest = max((r.collected_at.mono_ns for r in found if r), default=0)
        if newest > since.mono_ns:
            rows.append(_evidence(s, target, now))
    return tuple(rows)


def _evidence(s: Standing, target: Target, now: Instant) -> EvidenceView:
    result = s.bad.get(target.media_type) or s.held.get(target.media_type)
    interval = round(target.interval_s * 1000)
    if result is None:
        return EvidenceView(target.name, target.media_type, interval_ms=interval)
    return EvidenceView(
        target=target.name,
        media_type=target.media_type,
        standing=_STANDING[result.tier],
        age_ms=(now.mono_ns - result.collected_at.mono_ns) // _MS,
        interval_ms=interval,
        evidence_class=result.evidence_class.value,
        channel=str(result.channel),
        tier=result.tier.name.lower(),
        sha256=result.evidence_hash.hex(),
        findings=_findings(result),
    )


def _findings(result: AttestationResult) -> tuple[FindingView, ...]:
    return tuple(FindingView(f.subject, f.text, f.remedy) for f in result.findings)


def _functions(s: Standing, view: DeviceView) -> Iterator[FunctionSheet]:
    shown = {f.name: f for f in view.functions}
    for f in s.profile.functions:
        v = shown.get(f.name)
        yield FunctionSheet(
            name=f.name,
            required=int(f.required),
            allowed=v.allowed if v else False,
            on_loss=f.on_loss.value,
            reason=v.reason if v else "nothing has been decided yet",
            rules=tuple(rule_words(r) for r in f.rules),
            always=tuple(rule_words(r) for r in f.always_allowed_writes),
        )


def _flow(s: Standing, f: Function, flow: Flow) -> FlowView:
    open_now, why = _passes(s, f)
    return FlowView(f.name, flow.peer, flow.protocol.value, flow.port, flow.from_device, flow.via, open_now, why)


def _passes(s: Standing, f: Function) -> tuple[bool, str]:
    """Whether a flow of this function passes now, at least in part; the packet filter decides by the very same things."""
    state, level = s.device.state, int(s.level)
    if state in _NOTHING:
        return False, "nothing of this device passes"
    if f.on_loss is OnLoss.VITAL:
        return True, "vital: it needs no level"
    if state is DeviceState.OBSERVING:
        return True, "observed: everything of its profile passes and is counted"
    if s.level >= f.required:
        return True, f"level {level} is enough"
    if f.on_loss is OnLoss.READ_ONLY and level >= 1:
        return True, "reading only"
    if f.always_allowed_writes:
        return True, "only what is always allowed"
    return False, f"it needs level {int(f.required)}"


def rule_words(rule: Rule) -> str:
    """A rule of a protocol, for a person."""
    match rule:
        case ModbusRule():
            span = (
                "" if rule.function_code == 43 else f" {rule.first}" if rule.first == rule.last else f" {rule.first} to {rule.last}"
            )
            values = f", only {' or '.join(map(str, rule.values))}" if rule.values is not None else ""
            return f"{_MODBUS.get(rule.function_code, f'function {rule.function_code}')}{span}{values}"
        case Hl7Rule():
            return f"{rule.message} from {rule.application}, {rule.facility}"
        case GattRule():
            return f"{rule.access} characteristic {rule.characteristic}"


def _left(until: Instant, now: Instant) -> int:
    return max(0, until.mono_ns - now.mono_ns) // _MS if until.boot_id == now.boot_id else 0
