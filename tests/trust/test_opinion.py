"""Subjective logic: the published numbers, and what must hold for any opinions."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import gateway.model.opinion
from gateway.trust import opinion as sl
from gateway.trust.opinion import Opinion

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "subjective_logic.json").read_text())
OPINIONS = {name: Opinion(*parts) for name, parts in VECTORS["opinions"].items()}
FUSIONS = (sl.cumulative_fusion, sl.averaging_fusion, sl.weighted_fusion, sl.consensus_compromise_fusion)
OF_ONE_LIST = {f.__name__ for f in FUSIONS}


def close(a: Opinion, b: Opinion, within: float = 1e-9) -> bool:
    pairs = zip(
        (a.belief, a.disbelief, a.uncertainty, a.base_rate), (b.belief, b.disbelief, b.uncertainty, b.base_rate), strict=True
    )
    return all(abs(x - y) <= within for x, y in pairs)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: f"{c['do']}-{'-'.join(c['of'])}")
def test_published(case: dict) -> None:
    operands = [OPINIONS[n] for n in case["of"]]
    do = getattr(sl, case["do"])
    assert close(do(operands) if case["do"] in OF_ONE_LIST else do(*operands), Opinion(*case["is"]), case["within"])


@pytest.mark.parametrize("case", VECTORS["evidence"], ids=str)
def test_evidence_published(case: dict) -> None:
    found = sl.from_evidence(case["positive"], case["negative"])
    assert close(found, Opinion(*case["is"]), 1e-12)
    assert found.projected == pytest.approx(case["projected"])


def test_the_noun_is_the_models() -> None:
    assert sl.Opinion is gateway.model.opinion.Opinion


@pytest.mark.parametrize(
    "bad", [(-1, 0, 2.0, 0.5), (0, -0.1, 2.0, 0.5), (1, 1, 0, 0.5), (float("inf"), 0, 2, 0.5), (0, float("nan"), 2, 0.5)]
)
def test_evidence_below_zero_is_refused(bad: tuple) -> None:
    with pytest.raises(ValueError):
        sl.from_evidence(*bad)


@pytest.mark.parametrize("fuse", FUSIONS)
def test_nothing_to_fuse_is_refused(fuse) -> None:
    with pytest.raises(ValueError):
        fuse([])


# --- properties ---


@st.composite
def opinions(draw: st.DrawFn, least_u: float = 0.0) -> Opinion:
    u = draw(st.floats(least_u, 1.0))
    part = draw(st.floats(0, 1))
    return Opinion((1 - u) * part, (1 - u) * (1 - part), u, draw(st.floats(0, 1)))


corner = st.sampled_from([Opinion(1, 0, 0), Opinion(0, 1, 0), Opinion(0, 0, 1), Opinion(0.5, 0.5, 0), Opinion(0, 0, 1, 0.1)])
any_opinion = st.one_of(opinions(), corner)
evidence = st.floats(0, 1000)


@pytest.mark.parametrize("fuse", FUSIONS)
@given(st.lists(any_opinion, min_size=1, max_size=6))
def test_fusion_gives_an_opinion_and_has_no_order(fuse, ws: list[Opinion]) -> None:
    found = fuse(ws)
    assert found.belief + found.disbelief + found.uncertainty == pytest.approx(1)
    assert min(found.belief, found.disbelief, found.uncertainty) >= 0
    assert close(fuse(list(reversed(ws))), found, 1e-6)
    assert min(w.base_rate for w in ws) - 1e-9 <= found.base_rate <= max(w.base_rate for w in ws) + 1e-9


@pytest.mark.parametrize("fuse", FUSIONS)
@given(opinions(1e-6), opinions(1e-6), opinions(1e-6))
def test_any_order_of_three(fuse, a: Opinion, b: Opinion, c: Opinion) -> None:
    found = fuse([a, b, c])
    assert all(close(fuse(list(p)), found, 1e-6) for p in permutations([a, b, c]))


@given(st.lists(st.tuples(evidence, evidence), min_size=1, max_size=6))
def test_cumulative_fusion_adds_evidence(rows: list[tuple[float, float]]) -> None:
    fused = sl.cumulative_fusion([sl.from_evidence(r, s, base_rate=0.1) for r, s in rows])
    assert close(fused, sl.from_evidence(sum(r for r, _ in rows), sum(s for _, s in rows), base_rate=0.1), 1e-9)


@given(st.lists(st.tuples(evidence, evidence), min_size=1, max_size=6))
def test_averaging_fusion_averages_evidence(rows: list[tuple[float, float]]) -> None:
    fused = sl.averaging_fusion([sl.from_evidence(r, s, base_rate=0.1) for r, s in rows])
    n = len(rows)
    assert close(fused, sl.from_evidence(sum(r for r, _ in rows) / n, sum(s for _, s in rows) / n, base_rate=0.1), 1e-9)


@given(opinions(1e-3), opinions(1e-3), opinions(1e-3))
def test_cumulative_fusion_is_associative(a: Opinion, b: Opinion, c: Opinion) -> None:
    assume(max(w.uncertainty for w in (a, b, c)) < 1 - 1e-6)  # base rates of the ignorant are averaged, by their number
    assert close(sl.cumulative_fusion([sl.cumulative_fusion([a, b]), c]), sl.cumulative_fusion([a, b, c]), 1e-6)


@given(opinions(), st.floats(0, 1))
def test_who_knows_nothing_changes_nothing(a: Opinion, base_rate: float) -> None:
    assume(a.uncertainty < 1 - 1e-6)
    nothing = Opinion(0, 0, 1, base_rate)
    assert close(sl.cumulative_fusion([a, nothing]), a, 1e-9)
    assert close(sl.weighted_fusion([a, nothing]), a, 1e-9)


@given(opinions(), st.integers(2, 5))
def test_the_same_facts_twice_are_not_more_facts(a: Opinion, n: int) -> None:
    for fuse in (sl.averaging_fusion, sl.weighted_fusion, sl.consensus_compromise_fusion):
        assert close(fuse([a] * n), a, 1e-6)


def assert_limit(fuse, beliefs: list[float], abstaining: int) -> None:
    """Certain opinions fuse as nearly certain ones do, whose uncertainty vanishes at the same rate."""
    e = 1e-7
    others = [Opinion(0, 0, 1)] * abstaining
    sure = [Opinion(b, 1 - b, 0) for b in beliefs]
    nearly = [Opinion(b * (1 - e), (1 - b) * (1 - e), e) for b in beliefs]
    assert close(fuse(sure + others), fuse(nearly + others), 1e-3)


@pytest.mark.parametrize("fuse", FUSIONS[:3])
@given(st.lists(st.floats(0, 1), min_size=2, max_size=4), st.integers(0, 2))
def test_certainty_is_the_limit_of_near_certainty(fuse, beliefs: list[float], abstaining: int) -> None:
    assert_limit(fuse, beliefs, abstaining)


@given(st.lists(st.integers(1, 19), min_size=2, max_size=4, unique=True), st.integers(0, 2))
def test_certainty_is_the_limit_in_a_compromise(twentieths: list[int], abstaining: int) -> None:
    """Between different opinions: where residues vanish as fast as the uncertainty, the limit depends on which is faster."""
    assert_limit(sl.consensus_compromise_fusion, [n / 20 for n in twentieths], abstaining)


@given(any_opinion, any_opinion)
def test_and_or_not_keep_the_projected_product(a: Opinion, b: Opinion) -> None:
    p, q = a.projected, b.projected
    assert sl.conjunction(a, b).projected == pytest.approx(p * q, abs=1e-9)
    assert sl.disjunction(a, b).projected == pytest.approx(p + q - p * q, abs=1e-9)
    assert sl.negation(a).projected == pytest.approx(1 - p, abs=1e-9)
    assert close(sl.conjunction(a, b), sl.conjunction(b, a), 1e-9)
    assert close(sl.negation(sl.negation(a)), a, 1e-9)


def test_and_of_two_certain_base_rates_is_finite() -> None:
    found = sl.conjunction(Opinion(0.5, 0, 0.5, 1.0), Opinion(0.5, 0, 0.5, 1.0))
    assert found.projected == pytest.approx(1)


@given(any_opinion, any_opinion)
def test_discounting_only_adds_doubt(trust: Opinion, a: Opinion) -> None:
    found = sl.discount(trust, a)
    assert found.belief <= a.belief + 1e-9
    assert found.disbelief <= a.disbelief + 1e-9
    assert found.uncertainty >= a.uncertainty - 1e-9
    assert close(sl.discount(Opinion(1, 0, 0), a), a, 1e-9)
    assert sl.discount(Opinion(0, 1, 0), a).uncertainty == pytest.approx(1)
