"""PURE. Where one device stands: the evidence held for it, its level now, its lease, its veto, its repair.

The engine owns these and is the only one to change them. Refuses to know events, effects and every other device.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from gateway.model.certificate import EvidenceRef
from gateway.model.decision import Decision
from gateway.model.device import Device, DeviceState
from gateway.model.event import ServiceWindow
from gateway.model.evidence import AttestationResult, ChannelKind, EvidenceClass, Tier, TrustVector, tier_of
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Profile, References, ReferenceValue, Target
from gateway.trust.assess import Assessment, Source, assess

LIVE = (DeviceState.OBSERVING, DeviceState.ENFORCED, DeviceState.SERVICE)
_BONDED = (ChannelKind.BONDED_MITM, ChannelKind.BONDED_JUST_WORKS)
_CLASS_ORDER = (
    EvidenceClass.TPM,
    EvidenceClass.ASYMMETRIC,
    EvidenceClass.SYMMETRIC,
    EvidenceClass.BEACON,
    EvidenceClass.FINGERPRINT,
    EvidenceClass.INVENTORY,
)


@dataclass(slots=True)
class Challenged:
    """A nonce that is out, and since when."""

    nonce: bytes
    at: Instant


@dataclass(slots=True)
class Veto:
    """Authenticated bad evidence: which target said so, in one sentence, and when it was last seen."""

    media_type: str
    text: str
    last_bad: Instant


@dataclass(slots=True)
class Standing:
    """Everything the engine knows of one device."""

    device: Device
    profile: Profile
    policy_id: str
    references: References
    since: Instant
    level: TrustLevel = TrustLevel.NONE
    reason: str = "waiting for the first evidence"
    held: dict[str, AttestationResult] = field(default_factory=dict)
    bad: dict[str, AttestationResult] = field(default_factory=dict)  # seen during service: what a person may accept
    challenges: dict[str, Challenged] = field(default_factory=dict)
    asked: dict[str, Instant] = field(default_factory=dict)
    vetoes: dict[str, Veto] = field(default_factory=dict)
    service: ServiceWindow | None = None
    glass: dict[str, tuple[Instant, str]] = field(default_factory=dict)  # function opened whatever the level -> until when, by whom
    link_up: bool | None = None
    link_since: Instant | None = None
    lease_until: Instant | None = None
    lease_falls: bool = False  # it ends where the level falls, not where its renewals should have come
    assessment: Assessment | None = None
    assessed_at: Instant | None = None
    decision: Decision | None = None
    certified_until_ns: int = 0
    certified_epoch: int = 0
    alarms: dict[str, str] = field(default_factory=dict)
    unattributed: int = 0
    answered: set[str] = field(default_factory=set)  # targets that gave evidence, or failed to, since the link first came up
    started: Instant | None = None

    @property
    def id(self) -> str:
        """The device's id."""
        return self.device.id

    @property
    def live(self) -> bool:
        """Whether it is asked for evidence and may hold a lease."""
        return self.device.state in LIVE

    def target(self, media_type: str) -> Target | None:
        """The profile's target for a media type."""
        return next((t for t in self.profile.targets if t.media_type == media_type), None)

    def all_references(self) -> References:
        """The device's own reference values first; the profile's for what the device has none of its own."""
        own = {(v.target, v.name) for v in self.references.values}
        shared = tuple(v for v in self.profile.values if (v.target, v.name) not in own)
        return References(self.references.anchors, (*self.references.values, *shared))

    def undecided(self, now: Instant, patience_s: float) -> bool:
        """Whether the first decision still waits for a target: a restart must not lower a lease for want of half the evidence."""
        if self.lease_until is not None or all(t.media_type in self.answered for t in self.profile.targets):
            return False
        return self.started is None or now.seconds_since(self.started) < patience_s

    def drop_stale_channel(self, now: Instant, grace_s: float) -> bool:
        """Forget evidence from before a wired link last came up, one epoch after that: it vouches for the old connection."""
        if self.link_since is None or not self.link_up or now.seconds_since(self.link_since) < grace_s:
            return False
        stale = [
            m for m, r in self.held.items() if r.channel.kind not in _BONDED and r.collected_at.mono_ns < self.link_since.mono_ns
        ]
        for m in stale:
            del self.held[m]
        return bool(stale)

    def reassess(self, now: Instant) -> Assessment:
        """The assessment at ``now`` from what is held; a target without current evidence limits the whole to level 1."""
        sources = tuple(self._source(m, r, now) for m, r in sorted(self.held.items()))
        found = assess(sources, self.level)
        missing = [t.name for t in self.profile.targets if t.media_type not in self.held]
        if missing and found.level > TrustLevel.LIMITED:
            step = f"no current evidence for {', '.join(missing)}: limited to level 1"
            found = Assessment(TrustLevel.LIMITED, found.opinion, found.ceiling, (*found.steps, step), found.falls_in_s)
        self.assessment, self.assessed_at = found, now
        return found

    def _source(self, media_type: str, result: AttestationResult, now: Instant) -> Source:
        target = self.target(media_type)
        return Source(
            name=media_type,
            evidence_class=result.evidence_class,
            tier=result.tier,
            channel_kind=result.channel.kind,
            age_s=max(0.0, now.seconds_since(result.collected_at)),
            half_life_s=self.profile.half_life_s.get(result.evidence_class),
            key_isolated=result.key_isolated and (target is None or target.key_isolated),
            relayed=result.evidence_class is EvidenceClass.FINGERPRINT,
            countersigned=result.countersigned,
        )

    def difference(self) -> tuple[tuple[str, str, bytes, bytes], ...]:
        """(target, name, reference, observed) for everything bad evidence measured differently: what ``accept`` would adopt."""
        rows: list[tuple[str, str, bytes, bytes]] = []
        for media_type, result in sorted(self.bad.items()):
            target = self.target(media_type)
            if target is None:
                continue
            known = {v.name: v.value for v in self.all_references().values if v.target == target.name}
            rows += [(target.name, n, known.get(n, b""), v) for n, v in result.observed if known.get(n) != v]
        return tuple(rows)

    def difference_id(self) -> str:
        """A name for exactly this difference: SHA-256 over it in hex; empty when there is none."""
        rows = [[t, n, a.hex(), b.hex()] for t, n, a, b in self.difference()]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest() if rows else ""

    def adopt(self, values: tuple[ReferenceValue, ...]) -> None:
        """Replace reference values by (target, name)."""
        new = {(v.target, v.name): v for v in values}
        kept = tuple(v for v in self.references.values if (v.target, v.name) not in new)
        self.references = References(self.references.anchors, (*kept, *new.values()))

    # --- what a certificate says ---

    def vector(self) -> TrustVector:
        """The worst claim of all evidence held, claim by claim: an EAR's status may be no better than its worst claim."""
        worst: dict[str, int] = {}
        for result in self.held.values():
            for name, value in result.vector.claims().items():
                key = name.replace("-", "_")
                worst[key] = max((worst.get(key, 0), value), key=lambda v: (tier_of(v), abs(v)))
        return TrustVector(**worst)

    def tier(self) -> Tier:
        """The worst tier of the evidence held; *contraindicated* under a veto."""
        if self.vetoes:
            return Tier.CONTRAINDICATED
        return max((r.tier for r in self.held.values()), default=Tier.NONE)

    def evidence_class(self) -> EvidenceClass:
        """The best class among the evidence held."""
        return min((r.evidence_class for r in self.held.values()), key=_CLASS_ORDER.index, default=EvidenceClass.INVENTORY)

    def evidence_refs(self) -> tuple[EvidenceRef, ...]:
        """What a verdict rests on."""
        return tuple(EvidenceRef(r.media_type, r.evidence_hash, r.nonce, str(r.channel)) for _, r in sorted(self.held.items()))

    def newest_evidence(self) -> Instant | None:
        """When the newest evidence held was collected."""
        return max((r.collected_at for r in self.held.values()), key=lambda i: i.mono_ns, default=None)
