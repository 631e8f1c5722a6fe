"""PURE. The numbers of trust, all in one place, each with its reason. Nothing here computes.

They are the same on every gateway, so that a level means the same everywhere; a profile may only shorten half-lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

from gateway.model.evidence import ChannelKind, EvidenceClass
from gateway.model.level import TrustLevel

PRIOR_WEIGHT = 2.0  # Jøsang's non-informative prior: two observations' worth of doubt


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a level needs of the fused opinion: projected probability, uncertainty, disbelief."""

    level: TrustLevel
    projected: float
    uncertainty: float
    disbelief: float


@dataclass(frozen=True, slots=True)
class ClassRule:
    """What one class of evidence is worth when fresh (``evidence``), how fast it fades, and how high it reaches.

    ``unconfirmed``: how high while nobody has countersigned its reference values. ``self_signed``: how high when the
    firmware under attestation could use the key itself. ``warning``: the part of the evidence that a *warning* leaves.
    """

    evidence: float
    half_life_s: float
    ceiling: TrustLevel
    unconfirmed: TrustLevel
    self_signed: TrustLevel
    warning: float = 0.5


_FULL, _STANDARD, _LIMITED = TrustLevel.FULL, TrustLevel.STANDARD, TrustLevel.LIMITED

CLASSES: Mapping[EvidenceClass, ClassRule] = MappingProxyType(
    {
        EvidenceClass.TPM: ClassRule(20, 600, _FULL, _FULL, _LIMITED),
        EvidenceClass.ASYMMETRIC: ClassRule(20, 600, _FULL, _FULL, _LIMITED),
        EvidenceClass.SYMMETRIC: ClassRule(12, 600, _STANDARD, _STANDARD, _LIMITED),
        EvidenceClass.BEACON: ClassRule(12, 600, _STANDARD, _STANDARD, _LIMITED),
        # a fingerprint is always a *warning* (sourced-data 32): its evidence is already the table's, so nothing is halved
        EvidenceClass.FINGERPRINT: ClassRule(12, 600, _STANDARD, _LIMITED, _STANDARD, warning=1.0),
        EvidenceClass.INVENTORY: ClassRule(3, 3600, _LIMITED, _LIMITED, _LIMITED),
    }
)

CHANNELS: Mapping[ChannelKind, TrustLevel] = MappingProxyType(
    {
        ChannelKind.TLS: _FULL,
        ChannelKind.BONDED_MITM: _FULL,
        ChannelKind.PORT: _FULL,
        ChannelKind.BONDED_JUST_WORKS: _STANDARD,  # whoever was in range when it was paired may be its peer
        ChannelKind.OPEN: _LIMITED,
    }
)

LEVELS = (
    Threshold(_LIMITED, 0.50, 0.50, 0.30),
    Threshold(_STANDARD, 0.75, 0.25, 0.15),
    Threshold(_FULL, 0.90, 0.10, 0.05),
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The constants of an assessment. The defaults are the product's."""

    classes: Mapping[EvidenceClass, ClassRule] = field(default_factory=lambda: CLASSES)
    channels: Mapping[ChannelKind, TrustLevel] = field(default_factory=lambda: CHANNELS)
    levels: tuple[Threshold, ...] = LEVELS
    base_rate: float = 0.1  # low, so that silence never satisfies a level
    cap: float = 20.0  # evidence one source can hold: nobody banks trust
    hysteresis: float = 0.02  # on P, for a level already held: no flapping at a threshold
    # The gateway vouches for what it reads over a bus without signatures. Its own software is attested at boot only, and
    # between two quotes it could lie or be lied to: r = 18 in its favour gives P = 0.95. A fresh fingerprint (r = 12) stays
    # worth r = 8.8 by it, above the 6.0 that level 2 needs.
    collector: float = 0.95

    def __post_init__(self) -> None:
        if not (0 < self.base_rate < 1 and self.cap > 0 and 0 <= self.hysteresis < 0.1 and 0 < self.collector <= 1):
            raise ValueError("trust parameters out of range")
        if [t.level for t in self.levels] != [_LIMITED, _STANDARD, _FULL]:
            raise ValueError("trust thresholds are those of levels 1, 2 and 3, in this order")
        for a, b in pairwise(self.levels):
            if not (a.projected <= b.projected and a.uncertainty >= b.uncertainty and a.disbelief >= b.disbelief):
                raise ValueError(f"level {int(b.level)} asks for less than level {int(a.level)}")


DEFAULTS = Parameters()
