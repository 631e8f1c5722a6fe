"""Levels: the tables of the design, ageing, ceilings, and the moment a level falls."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.model.evidence import ChannelKind, EvidenceClass, Tier
from gateway.model.level import TrustLevel
from gateway.trust.assess import MAX_SOURCES, Assessment, Source, assess
from gateway.trust.opinion import averaging_fusion, cumulative_fusion, discount, from_evidence
from gateway.trust.parameters import CLASSES, DEFAULTS, LEVELS, Parameters

NONE, LIMITED, STANDARD, FULL = TrustLevel


def source(kind: EvidenceClass = EvidenceClass.ASYMMETRIC, tier: Tier = Tier.AFFIRMING, **more: object) -> Source:
    given_ = {"name": str(kind), "channel_kind": ChannelKind.PORT, "age_s": 0.0, **more}
    return Source(evidence_class=kind, tier=tier, **given_)  # type: ignore[arg-type]


def fingerprint(**more: object) -> Source:
    return source(EvidenceClass.FINGERPRINT, Tier.WARNING, **{"relayed": True, "countersigned": True, **more})


def level(*sources: Source, previous: TrustLevel = NONE) -> TrustLevel:
    return assess(sources, previous).level


def later(s: Source, seconds: float) -> Source:
    return dataclasses.replace(s, age_s=s.age_s + seconds)


# --- the tables ---


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (source(EvidenceClass.TPM), FULL),
        (source(EvidenceClass.ASYMMETRIC), FULL),
        (source(EvidenceClass.SYMMETRIC), STANDARD),
        (source(EvidenceClass.BEACON), STANDARD),
        (fingerprint(), STANDARD),
        (fingerprint(relayed=False), STANDARD),
        (fingerprint(countersigned=False), LIMITED),
        (source(EvidenceClass.INVENTORY), LIMITED),
        (source(EvidenceClass.SYMMETRIC, key_isolated=False), LIMITED),
        (source(EvidenceClass.ASYMMETRIC, key_isolated=False), LIMITED),
        (source(EvidenceClass.ASYMMETRIC, Tier.WARNING), STANDARD),  # half of r = 20
        (source(EvidenceClass.SYMMETRIC, Tier.WARNING), STANDARD),  # half of r = 12: just u = 0.25
        (source(EvidenceClass.ASYMMETRIC, Tier.NONE), NONE),
        (source(EvidenceClass.ASYMMETRIC, Tier.CONTRAINDICATED), NONE),
    ],
    ids=lambda v: f"{v.evidence_class}-{v.tier.name}" if isinstance(v, Source) else None,
)
def test_fresh_evidence_reaches_its_class(one: Source, expected: TrustLevel) -> None:
    assert level(one) is expected


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (ChannelKind.TLS, FULL),
        (ChannelKind.BONDED_MITM, FULL),
        (ChannelKind.PORT, FULL),
        (ChannelKind.BONDED_JUST_WORKS, STANDARD),
        (ChannelKind.OPEN, LIMITED),
    ],
)
def test_the_channel_caps(channel: ChannelKind, expected: TrustLevel) -> None:
    found = assess([source(channel_kind=channel)], NONE)
    assert (found.level, found.ceiling) == (expected, expected)


def test_every_class_and_channel_has_its_rule() -> None:
    assert set(CLASSES) == set(EvidenceClass)
    assert set(DEFAULTS.channels) == set(ChannelKind)


def test_no_source_is_level_0() -> None:
    found = assess([], FULL)
    assert (found.level, found.ceiling, found.falls_in_s) == (NONE, NONE, 0.0)
    assert found.opinion.uncertainty == 1
    assert found.opinion.projected == pytest.approx(0.1)


# --- fusion ---


def test_independent_sources_add_up_and_the_same_facts_do_not() -> None:
    two = assess([source(name="a"), source(name="b")], NONE).opinion
    same = assess([source(name="a"), source(name="a")], NONE).opinion
    one = assess([source(name="a")], NONE).opinion
    assert two.uncertainty == pytest.approx(2 / 42)
    assert same.uncertainty == pytest.approx(one.uncertainty)


def test_weak_evidence_cannot_keep_a_strong_level_alive() -> None:
    old = source(age_s=300.0)  # r = 14: with a fresh fingerprint more than 18, the sum level 3 asks for
    both = assess([old, fingerprint()], FULL)
    assert both.opinion.uncertainty < 0.1
    assert both.level is STANDARD


def test_many_weak_sources_do_not_make_a_strong_one() -> None:
    assert level(*(source(EvidenceClass.SYMMETRIC, name=f"s{n}") for n in range(8))) is STANDARD
    assert level(*(source(EvidenceClass.INVENTORY, name=f"i{n}") for n in range(8))) is LIMITED
    assert level(*(fingerprint(name=f"f{n}", countersigned=False) for n in range(8))) is LIMITED


def test_a_dead_strong_source_lifts_no_ceiling() -> None:
    dead = source(age_s=86_400.0)
    assert level(dead, *(source(EvidenceClass.SYMMETRIC, name=f"s{n}") for n in range(8)), previous=FULL) is STANDARD


def test_bad_evidence_counts_at_every_level_and_silence_does_not_forgive_it() -> None:
    bad = source(EvidenceClass.INVENTORY, Tier.CONTRAINDICATED, name="bad", age_s=0.0)
    assert level(source(), bad) < FULL
    assert assess([source(), later(bad, 1e6)], NONE).opinion.disbelief == pytest.approx(
        assess([source(), bad], NONE).opinion.disbelief
    )


# --- ageing ---


def test_half_the_evidence_after_a_half_life() -> None:
    o = assess([source(age_s=600.0)], NONE).opinion
    assert o.belief == pytest.approx(10 / 12)
    o = assess([source(age_s=60.0, half_life_s=60.0)], NONE).opinion
    assert o.belief == pytest.approx(10 / 12)


def test_when_a_single_token_falls() -> None:
    found = assess([source()], NONE)
    assert found.falls_in_s == pytest.approx(600 * math.log2(20 / 18), abs=0.01)  # u ≤ 0.10 needs r ≥ 18
    found = assess([fingerprint(relayed=False)], NONE)
    assert found.falls_in_s == pytest.approx(600 * math.log2(12 / 6), abs=0.01)  # u ≤ 0.25 needs r ≥ 6
    found = assess([source(EvidenceClass.INVENTORY)], NONE)
    assert found.falls_in_s == pytest.approx(3600 * math.log2(3 / 2), abs=0.01)  # u ≤ 0.50 needs r ≥ 2


def test_silence_ends_every_level() -> None:
    for s in (source(), fingerprint(), source(EvidenceClass.INVENTORY, half_life_s=7 * 86_400.0)):
        assert level(later(s, 60 * 86_400.0), previous=FULL) is NONE


ages = st.floats(0, 4000)
sources = st.builds(
    source,
    st.sampled_from(list(EvidenceClass)),
    st.sampled_from(list(Tier)),
    name=st.sampled_from(["a", "b", "c"]),
    channel_kind=st.sampled_from(list(ChannelKind)),
    age_s=ages,
    half_life_s=st.one_of(st.none(), st.floats(1, 10_000)),
    key_isolated=st.booleans(),
    relayed=st.booleans(),
    countersigned=st.booleans(),
)
some = st.lists(sources, max_size=5)
levels = st.sampled_from(list(TrustLevel))


# Four of one name and one with its key apart: the average of all, which level 1 looks at, falls before what level 2 looks at.
AVERAGED = [
    *(source(EvidenceClass.TPM, name="a", channel_kind=ChannelKind.TLS, key_isolated=False) for _ in range(3)),
    source(EvidenceClass.TPM, name="a", channel_kind=ChannelKind.TLS, age_s=283.0, half_life_s=1858.0, key_isolated=True),
]


@example(AVERAGED, NONE)
@given(some, levels)
def test_a_level_holds_until_it_says_and_no_longer(ss: list[Source], previous: TrustLevel) -> None:
    found = assess(ss, previous)
    if found.level is NONE:
        assert found.falls_in_s == 0
        return
    assert 0 <= found.falls_in_s < math.inf
    before = max(found.falls_in_s - 0.002, 0.0)
    assert assess([later(s, before) for s in ss], found.level).level >= found.level
    assert assess([later(s, found.falls_in_s + 0.01) for s in ss], found.level).level < found.level


@given(some, levels, st.floats(0, 10_000))
def test_silence_never_raises_a_level(ss: list[Source], previous: TrustLevel, seconds: float) -> None:
    found = assess(ss, previous)
    assert assess([later(s, seconds) for s in ss], found.level).level <= found.level


@given(some, levels)
def test_the_same_inputs_give_the_same_numbers(ss: list[Source], previous: TrustLevel) -> None:
    found = assess(ss, previous)
    assert assess(ss, previous) == found
    shuffled = assess(list(reversed(ss)), previous)
    assert shuffled.level is found.level
    assert shuffled.falls_in_s == pytest.approx(found.falls_in_s, abs=0.002)
    assert shuffled.opinion.projected == pytest.approx(found.opinion.projected)


@given(some, levels)
def test_no_level_above_the_ceiling_or_the_best_source(ss: list[Source], previous: TrustLevel) -> None:
    found = assess(ss, previous)
    best = NONE
    for s in ss:
        rule = CLASSES[s.evidence_class]
        if s.tier in (Tier.AFFIRMING, Tier.WARNING):
            best = max(best, min(rule.ceiling, DEFAULTS.channels[s.channel_kind]))
    assert found.level <= found.ceiling <= best


@settings(max_examples=60)
@given(st.lists(st.builds(source, name=st.sampled_from("abc"), age_s=ages, relayed=st.booleans()), min_size=1, max_size=5))
def test_evidence_space_is_the_algebra_of_opinions(ss: list[Source]) -> None:
    """Averaging within a name, cumulative over names, discounting first: by ``gateway.trust.opinion``, to nine digits."""
    trust = from_evidence(18, 0)
    assert trust.projected == pytest.approx(DEFAULTS.collector)
    groups: dict[str, list] = {}
    for s in ss:
        o = from_evidence(20 * 2 ** (-s.age_s / 600), 0, base_rate=DEFAULTS.base_rate)
        groups.setdefault(s.name, []).append(discount(trust, o) if s.relayed else o)
    fused = cumulative_fusion([averaging_fusion(g) for g in groups.values()])
    found = assess(ss, NONE).opinion
    assert found.belief == pytest.approx(fused.belief, abs=1e-9)
    assert found.uncertainty == pytest.approx(fused.uncertainty, abs=1e-9)
    assert found.projected == pytest.approx(fused.projected, abs=1e-9)


# --- hysteresis, explanation, bounds ---


def test_hysteresis_keeps_a_level_two_hundredths_below_its_threshold() -> None:
    easy = dataclasses.replace(DEFAULTS, levels=tuple(dataclasses.replace(t, uncertainty=1.0) for t in LEVELS))
    falls = 600 * math.log2(20 / 16)  # P = 0.90 at r = 16
    at = [source(age_s=falls + 1.0)]
    assert assess(at, STANDARD, easy).level is STANDARD
    assert assess(at, FULL, easy).level is FULL
    assert assess(at, FULL, easy).opinion.projected == pytest.approx(0.8994, abs=1e-3)


def test_steps_tell_every_number() -> None:
    found = assess([source(age_s=12.5), fingerprint(age_s=3.0)], NONE)
    text = "\n".join(found.steps)
    for expected in (
        "asymmetric: asymmetric, affirming, over port, 12.5 s old: r = 20 · 2^(-12.5/600) = 19.713",
        "discounted by 0.95: r = 8.7",
        "fused (2 sources, 2 independent)",
        f"P = {found.opinion.projected:.4f}",
        "ceiling: level 3",
        "level 3 needs P ≥ 0.90, u ≤ 0.10, d ≤ 0.05",
        f"level 3 for {found.falls_in_s:.3f} s without new evidence",
    ):
        assert expected in text
    assert assess([], NONE).steps == ("no evidence is held: level 0",)
    assert "not countersigned" in "".join(assess([fingerprint(countersigned=False)], NONE).steps)


def test_nonsense_is_refused() -> None:
    for bad in ({"age_s": -1.0}, {"age_s": math.nan}, {"age_s": math.inf}, {"half_life_s": 0.0}, {"half_life_s": math.inf}):
        with pytest.raises(ValueError):
            source(**bad)
    with pytest.raises(ValueError):
        assess([source()] * (MAX_SOURCES + 1), NONE)
    with pytest.raises(ValueError):
        Parameters(levels=tuple(reversed(LEVELS)))
    with pytest.raises(ValueError):
        Parameters(levels=(LEVELS[0], LEVELS[1], dataclasses.replace(LEVELS[2], uncertainty=0.5)))
    with pytest.raises(ValueError):
        Parameters(base_rate=0.0)


def test_an_assessment_is_a_value() -> None:
    assert dataclasses.is_dataclass(Assessment)
    with pytest.raises(dataclasses.FrozenInstanceError):
        assess([], NONE).level = FULL  # type: ignore[misc]
