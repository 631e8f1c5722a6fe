"""PURE. Subjective logic on binomial opinions (Jøsang, Subjective Logic, 2016). The noun is ``gateway.model.opinion.Opinion``.

Fusion takes any number of sources in one call, because averaging, weighted and compromise fusion are not associative
(van der Heijden, Kopp, Kargl, Multi-Source Fusion Operations in Subjective Logic, FUSION 2018). Dogmatic opinions (u = 0)
are taken as the limit of opinions whose uncertainty vanishes at the same rate. Knows nothing of evidence classes and levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite, prod

from gateway.model.opinion import Opinion

__all__ = [
    "Opinion",
    "averaging_fusion",
    "conjunction",
    "consensus_compromise_fusion",
    "cumulative_fusion",
    "discount",
    "disjunction",
    "from_evidence",
    "negation",
    "weighted_fusion",
]


def from_evidence(positive: float, negative: float, prior_weight: float = 2.0, base_rate: float = 0.5) -> Opinion:
    """The opinion of ``positive`` and ``negative`` observations (section 3.3). Raises ValueError below zero."""
    if not (positive >= 0 and negative >= 0 and prior_weight > 0 and isfinite(positive + negative + prior_weight)):
        raise ValueError("evidence is finite and not negative, and its prior weight is above zero")
    total = prior_weight + positive + negative
    return Opinion(positive / total, negative / total, prior_weight / total, base_rate)


# --- fusion of N sources ---


def cumulative_fusion(opinions: Iterable[Opinion]) -> Opinion:
    """Independent sources: their evidence adds up (section 12.3)."""
    ws = _sources(opinions)
    if (certain := _certain(ws)) is not None:
        return certain
    least, shares = _shares(ws)
    k = sum(shares) - (len(ws) - 1) * least
    belief = sum(w.belief * g for w, g in zip(ws, shares, strict=True)) / k
    disbelief = sum(w.disbelief * g for w, g in zip(ws, shares, strict=True)) / k
    # the base rate of each source counts as its evidence does: (1 - u)/u
    return _opinion(
        belief, disbelief, least / k, _base_rate(ws, [(1 - w.uncertainty) * g for w, g in zip(ws, shares, strict=True)])
    )


def averaging_fusion(opinions: Iterable[Opinion]) -> Opinion:
    """Sources that rest on the same facts: their evidence is averaged (section 12.5)."""
    ws = _sources(opinions)
    if (certain := _certain(ws)) is not None:
        return certain
    least, shares = _shares(ws)
    k = sum(shares)
    belief = sum(w.belief * g for w, g in zip(ws, shares, strict=True)) / k
    disbelief = sum(w.disbelief * g for w, g in zip(ws, shares, strict=True)) / k
    return _opinion(belief, disbelief, len(ws) * least / k, _base_rate(ws, [1.0] * len(ws)))


def weighted_fusion(opinions: Iterable[Opinion]) -> Opinion:
    """Sources averaged by their confidence 1 - u (section 12.6): a source that knows nothing says nothing."""
    ws = _sources(opinions)
    if (certain := _certain(ws)) is not None:
        return certain
    confidence = [max(1 - w.uncertainty, 0.0) for w in ws]
    if sum(confidence) <= 0:
        return _opinion(0.0, 0.0, 1.0, _base_rate(ws, [1.0] * len(ws)))
    least, shares = _shares(ws)
    says = [c * g for c, g in zip(confidence, shares, strict=True)]
    k = sum(says)
    belief = sum(w.belief * c for w, c in zip(ws, says, strict=True)) / k
    disbelief = sum(w.disbelief * c for w, c in zip(ws, says, strict=True)) / k
    return _opinion(belief, disbelief, sum(confidence) * least / k, _base_rate(ws, confidence))


def consensus_compromise_fusion(opinions: Iterable[Opinion]) -> Opinion:
    """What all agree on stays; where they conflict, a compromise with more uncertainty (section 12.7; FUSION 2018)."""
    ws = _sources(opinions)
    belief, disbelief = min(w.belief for w in ws), min(w.disbelief for w in ws)
    true = [w.belief - belief for w in ws]
    false = [w.disbelief - disbelief for w in ws]
    others = _others([max(w.uncertainty, 0.0) for w in ws])
    uncertainty = prod(max(w.uncertainty, 0.0) for w in ws)
    to_true = sum(t * o for t, o in zip(true, others, strict=True)) + prod(true)
    to_false = sum(f * o for f, o in zip(false, others, strict=True)) + prod(false)
    open_ = max(prod(t + f for t, f in zip(true, false, strict=True)) - prod(true) - prod(false), 0.0)  # all mixed picks
    rest = 1 - belief - disbelief - uncertainty
    if (compromise := to_true + to_false + open_) <= 0:  # all alike, or the limit where certain sources conflict and one abstains
        least = min(w.uncertainty for w in ws)
        to_true = sum(t for t, w in zip(true, ws, strict=True) if w.uncertainty <= least)
        to_false = sum(f for f, w in zip(false, ws, strict=True) if w.uncertainty <= least)
        if (compromise := to_true + to_false) <= 0:
            return _opinion(ws[0].belief, ws[0].disbelief, ws[0].uncertainty, _base_rate(ws, [1.0] * len(ws)))
    mean = _base_rate(ws, [1.0] * len(ws))
    t, f, o = (rest * (part / compromise) for part in (to_true, to_false, open_))
    return _opinion(belief + t, disbelief + f, uncertainty + o, mean)


# --- other operators ---


def discount(trust: Opinion, opinion: Opinion) -> Opinion:
    """What a source's opinion is worth to someone who trusts the source so far (probability-sensitive, section 14.3.2)."""
    p = trust.projected
    belief, disbelief = p * opinion.belief, p * opinion.disbelief
    return _opinion(belief, disbelief, 1 - belief - disbelief, opinion.base_rate)


def conjunction(a: Opinion, b: Opinion) -> Opinion:
    """Both are true, of independent propositions (section 7.1). P(a AND b) = P(a)·P(b)."""
    base_rate = a.base_rate * b.base_rate
    disbelief = a.disbelief + b.disbelief - a.disbelief * b.disbelief
    if base_rate >= 1:  # both base rates are 1: the limit with equal base rates
        split = 0.5, 0.5
    else:
        split = (1 - a.base_rate) * b.base_rate / (1 - base_rate), a.base_rate * (1 - b.base_rate) / (1 - base_rate)
    belief = a.belief * b.belief + split[0] * a.belief * b.uncertainty + split[1] * a.uncertainty * b.belief
    return _opinion(belief, disbelief, 1 - belief - disbelief, base_rate)


def disjunction(a: Opinion, b: Opinion) -> Opinion:
    """At least one is true, of independent propositions (section 7.2); by De Morgan's law of ``conjunction``."""
    return negation(conjunction(negation(a), negation(b)))


def negation(a: Opinion) -> Opinion:
    """It is not true (section 6.1)."""
    return Opinion(a.disbelief, a.belief, a.uncertainty, 1 - a.base_rate)


# --- helpers ---


def _sources(opinions: Iterable[Opinion]) -> Sequence[Opinion]:
    ws = tuple(opinions)
    if not ws:
        raise ValueError("there is nothing to fuse")
    return ws


def _shares(ws: Sequence[Opinion]) -> tuple[float, list[float]]:
    """The least uncertainty m, and m / u of each source: the textbook's products of everyone else's u, without underflow."""
    least = min(w.uncertainty for w in ws)
    return least, [least / w.uncertainty for w in ws]


def _others(us: Sequence[float]) -> list[float]:
    """For each source the product of everyone else's uncertainty; no division, so that zero is no special case."""
    before, after = [1.0], [1.0]
    for u in us[:-1]:
        before.append(before[-1] * u)
    for u in reversed(us[1:]):
        after.append(after[-1] * u)
    return [b * a for b, a in zip(before, reversed(after), strict=True)]


def _certain(ws: Sequence[Opinion]) -> Opinion | None:
    """The mean of the dogmatic opinions, if there are any: against them no finite evidence counts."""
    certain = [w for w in ws if w.uncertainty <= 0]
    if not certain:
        return None
    belief, disbelief = sum(w.belief for w in certain), sum(w.disbelief for w in certain)
    return _opinion(belief, disbelief, 0.0, _base_rate(certain, [1.0] * len(certain)))


def _base_rate(ws: Sequence[Opinion], weights: Sequence[float]) -> float:
    total = sum(weights)
    if total <= 0:
        return sum(w.base_rate for w in ws) / len(ws)
    return sum(w.base_rate * weight for w, weight in zip(ws, weights, strict=True)) / total


def _opinion(belief: float, disbelief: float, uncertainty: float, base_rate: float) -> Opinion:
    """An opinion with rounding errors taken out, so that they never add up over many steps."""
    b, d, u = max(belief, 0.0), max(disbelief, 0.0), max(uncertainty, 0.0)
    total = b + d + u
    return Opinion(b / total, d / total, u / total, min(max(base_rate, 0.0), 1.0))
