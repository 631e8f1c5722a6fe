"""PURE. From appraised evidence to a trust level, and how long that level lasts if nothing new comes.

Works in evidence space (r observations for, s against): there cumulative fusion is addition, averaging fusion the mean and
discounting a closed form, so one function gives the opinion at any later moment. ``tests/trust`` hold it equal to the algebra
of ``gateway.trust.opinion``. Refuses to know devices, vetoes and time of day; the same inputs give the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from gateway.model.evidence import ChannelKind, EvidenceClass, Tier
from gateway.model.level import TrustLevel
from gateway.model.opinion import Opinion
from gateway.trust.opinion import from_evidence
from gateway.trust.parameters import DEFAULTS, PRIOR_WEIGHT, Parameters, Threshold

MAX_SOURCES = 64  # a profile's targets; also what keeps an assessment's cost bounded
_STEP_S = 0.001  # how finely the end of a level is found
_FOREVER_S = 10 * 365 * 86_400.0  # a level that lasts ten years is not computed further


@dataclass(frozen=True, slots=True)
class Source:
    """One appraised piece of evidence. Sources of the same ``name`` rest on the same facts and are averaged.

    ``half_life_s`` None: the class's own. ``relayed``: the gateway vouches for it. ``key_isolated``, ``countersigned``: as in
    ``AttestationResult``.
    """

    name: str
    evidence_class: EvidenceClass
    tier: Tier
    channel_kind: ChannelKind
    age_s: float
    half_life_s: float | None = None
    key_isolated: bool = True
    relayed: bool = False
    countersigned: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.age_s) and self.age_s >= 0):
            raise ValueError(f"the age of {self.name} is finite and not negative, got {self.age_s}")
        if self.half_life_s is not None and not (isfinite(self.half_life_s) and self.half_life_s > 0):
            raise ValueError(f"the half-life of {self.name} is finite and above zero, got {self.half_life_s}")


@dataclass(frozen=True, slots=True)
class Assessment:
    """A level with its reasons. ``falls_in_s``: until it falls with no new evidence; 0 at level 0. ``steps``: for ``explain``."""

    level: TrustLevel
    opinion: Opinion
    ceiling: TrustLevel
    steps: tuple[str, ...]
    falls_in_s: float


@dataclass(frozen=True, slots=True)
class _Weighed:
    """A source as evidence now: r for (fading), s against (never fading: silence does not forgive), and how high it reaches."""

    source: Source
    worth: float
    r: float
    s: float
    half_life_s: float
    trust: float
    ceiling: TrustLevel


@dataclass(frozen=True, slots=True)
class _Pool:
    """The sources that count at one level, each with its part in the sum: 1, or 1/n where n rest on the same facts."""

    parts: tuple[tuple[float, _Weighed], ...]

    def at(self, later_s: float) -> tuple[float, float]:
        """(r, s) of the whole pool ``later_s`` from now."""
        r = s = 0.0
        for part, w in self.parts:
            for_, against = _discounted(w.r * 2.0 ** (-later_s / w.half_life_s), w.s, w.trust)
            r += part * for_
            s += part * against
        return r, s


def assess(sources: Sequence[Source], previous: TrustLevel, parameters: Parameters = DEFAULTS) -> Assessment:
    """The level that ``sources`` earn now, and how long it lasts. ``previous``: the level held so far, for the hysteresis.

    A level counts only evidence of a class and over a channel that reach so high: fresh weak evidence cannot keep alive what
    strong evidence once earned. What speaks against the device counts at every level. No source: level 0.
    """
    if len(sources) > MAX_SOURCES:
        raise ValueError(f"an assessment takes at most {MAX_SOURCES} sources, got {len(sources)}")
    weighed = tuple(_weigh(s, parameters) for s in sources)
    ceiling = max((w.ceiling for w in weighed), default=TrustLevel.NONE)
    opinion = _opinion(_pool(weighed, TrustLevel.NONE), parameters)
    level = TrustLevel.NONE
    for t in parameters.levels:
        if t.level > ceiling or not _holds(_pool(weighed, t.level), t, 0.0, t.level <= previous, parameters):
            break
        level = t.level
    falls_in_s = _lasts(weighed, level, parameters)
    steps = (*_inputs(weighed), *_outcome(weighed, opinion, ceiling, level, falls_in_s, previous, parameters))
    return Assessment(level, opinion, ceiling, steps, falls_in_s)


def _weigh(s: Source, p: Parameters) -> _Weighed:
    rule = p.classes[s.evidence_class]
    worth = min(rule.evidence, p.cap)
    r = worth if s.tier is Tier.AFFIRMING else worth * rule.warning if s.tier is Tier.WARNING else 0.0
    against = worth if s.tier is Tier.CONTRAINDICATED else 0.0
    ceiling = min(rule.ceiling, p.channels[s.channel_kind]) if r > 0 else TrustLevel.NONE
    if not s.countersigned:
        ceiling = min(ceiling, rule.unconfirmed)
    if not s.key_isolated:
        ceiling = min(ceiling, rule.self_signed)
    half_life = rule.half_life_s if s.half_life_s is None else s.half_life_s
    aged = r * 2.0 ** (-s.age_s / half_life)
    return _Weighed(s, r, aged, against, half_life, p.collector if s.relayed else 1.0, ceiling)


def _discounted(r: float, s: float, trust: float) -> tuple[float, float]:
    """Discounting by ``trust`` = p, in evidence space: with T = W + r + s both are multiplied by p·W / ((1-p)·T + p·W)."""
    if trust == 1.0:
        return r, s
    kept = trust * PRIOR_WEIGHT
    factor = kept / ((1 - trust) * (PRIOR_WEIGHT + r + s) + kept)
    return r * factor, s * factor


def _pool(weighed: Sequence[_Weighed], level: TrustLevel) -> _Pool:
    """Everything that reaches ``level`` or speaks against: averaged within a name, added up over names."""
    counted = [w for w in weighed if w.ceiling >= level or w.s > 0]
    names = Counter(w.source.name for w in counted)
    return _Pool(tuple((1.0 / names[w.source.name], w) for w in counted))


def _opinion(pool: _Pool, p: Parameters) -> Opinion:
    return from_evidence(*pool.at(0.0), PRIOR_WEIGHT, p.base_rate)


def _holds(pool: _Pool, t: Threshold, later_s: float, held: bool, p: Parameters) -> bool:
    """Whether threshold ``t`` is met ``later_s`` from now. Everything about it only gets worse with time."""
    r, s = pool.at(later_s)
    total = PRIOR_WEIGHT + r + s
    projected = (r + p.base_rate * PRIOR_WEIGHT) / total
    needed = t.projected - (p.hysteresis if held else 0.0)
    return projected >= needed and PRIOR_WEIGHT / total <= t.uncertainty and s / total <= t.disbelief


def _lasts(weighed: Sequence[_Weighed], level: TrustLevel, p: Parameters) -> float:
    """Seconds until ``level`` falls, never too many: found by doubling, then by halving down to a millisecond.

    A level needs those below it. They ask for less, but may fall first: what reaches them only may thin out an average.
    """
    if level is TrustLevel.NONE:
        return 0.0
    needed = [(_pool(weighed, TrustLevel(n)), p.levels[n - 1]) for n in range(1, level + 1)]

    def holds(later_s: float) -> bool:
        return all(_holds(pool, t, later_s, True, p) for pool, t in needed)

    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, high * 2
        if high > _FOREVER_S:
            return inf
    while high - low > _STEP_S:
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


# --- what ``explain`` prints ---


def _inputs(weighed: Sequence[_Weighed]) -> list[str]:
    steps = []
    for w in weighed:
        s = w.source
        text = f"{s.name}: {s.evidence_class}, {s.tier.name.lower()}, over {s.channel_kind}, {s.age_s:.1f} s old: "
        text += f"r = {w.worth:g} · 2^(-{s.age_s:.1f}/{w.half_life_s:g}) = {w.r:.3f}, s = {w.s:g}"
        if w.trust != 1.0:
            r, against = _discounted(w.r, w.s, w.trust)
            text += f"; relayed by the gateway, discounted by {w.trust:g}: r = {r:.3f}, s = {against:.3f}"
        text += f"; reaches level {int(w.ceiling)}{_why_low(w)}"
        steps.append(text)
    return steps


def _why_low(w: _Weighed) -> str:
    why = []
    if w.worth <= 0:
        why.append("it supports nothing")
    elif w.source.evidence_class is EvidenceClass.FINGERPRINT and not w.source.countersigned:
        why.append("its reference values are not countersigned")
    if not w.source.key_isolated:
        why.append("its key is not out of the firmware's reach")
    return f" ({', '.join(why)})" if why else ""


def _outcome(
    weighed: Sequence[_Weighed],
    o: Opinion,
    ceiling: TrustLevel,
    level: TrustLevel,
    falls_in_s: float,
    previous: TrustLevel,
    p: Parameters,
) -> list[str]:
    if not weighed:
        return ["no evidence is held: level 0"]
    groups = len({w.source.name for w in weighed})
    how = f"{len(weighed)} sources, {groups} independent" if len(weighed) > 1 else "1 source"
    steps = [
        f"fused ({how}): belief {o.belief:.4f}, disbelief {o.disbelief:.4f}, uncertainty {o.uncertainty:.4f}, "
        f"base rate {o.base_rate:g}: P = {o.projected:.4f}",
        f"ceiling: level {int(ceiling)}",
    ]
    steps += [_tested(weighed, t, previous, p) for t in p.levels if t.level <= min(level + 1, ceiling)]
    lasts = "for good" if falls_in_s == inf else f"for {falls_in_s:.3f} s without new evidence"
    steps.append(f"level {int(level)}" + (f" {lasts}" if level else ""))
    return steps


def _tested(weighed: Sequence[_Weighed], t: Threshold, previous: TrustLevel, p: Parameters) -> str:
    held = t.level <= previous
    pool = _pool(weighed, t.level)
    o = _opinion(pool, p)
    needed = f"P ≥ {t.projected - (p.hysteresis if held else 0.0):.2f}{' (held)' if held else ''}"
    verdict = "met" if _holds(pool, t, 0.0, held, p) else "not met"
    return (
        f"level {int(t.level)} needs {needed}, u ≤ {t.uncertainty:.2f}, d ≤ {t.disbelief:.2f} of what reaches it: "
        f"P = {o.projected:.4f}, u = {o.uncertainty:.4f}, d = {o.disbelief:.4f}: {verdict}"
    )
