"""HL7 fingerprints: what a device says of itself in its messages, compared, and never more than that."""

from __future__ import annotations

import cbor2
import pytest

from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType, Tier
from gateway.model.instant import Instant
from gateway.model.profile import Provenance, References, ReferenceValue
from gateway.verifier.appraise import appraise

NONCE = bytes(range(32))
SAID = {"application": b"BEDMON", "facility": b"WARD3", "equipment": b"^^0257^EUI-64", "software": b"4.1"}


def evidence(
    said: object = SAID, nonce: object = NONCE, kind: ChannelKind = ChannelKind.PORT, raw: bytes | None = None
) -> Evidence:
    payload = raw if raw is not None else cbor2.dumps({1: nonce, 2: said}, canonical=True)
    return Evidence("monitor-1", MediaType.HL7, payload, NONCE, Channel(kind, "p-mon-1"), Instant("b", 1, 1), "hl7")


def references(countersigned: bool = True, **changes: bytes) -> References:
    values = SAID | changes
    return References(
        (), tuple(ReferenceValue("identity", f"hl7:{n}", v, Provenance.LEARNED, countersigned) for n, v in values.items())
    )


def test_as_it_was_learned() -> None:
    result = appraise(evidence(), references())
    assert (result.tier, result.authenticated, result.fresh, result.countersigned) == (Tier.WARNING, True, True, True)
    assert result.vector.claims() == {"configuration": 2, "sourced-data": 32}
    assert dict(result.observed) == {f"hl7:{n}": v for n, v in SAID.items()}
    assert not appraise(evidence(), references(countersigned=False)).countersigned


@pytest.mark.parametrize(
    ("name", "claim", "code"),
    [
        ("application", "instance-identity", "identification-changed"),
        ("facility", "instance-identity", "identification-changed"),
        ("equipment", "instance-identity", "identification-changed"),
        ("software", "configuration", "software-changed"),
    ],
)
def test_what_changed_is_a_veto_that_names_it(name: str, claim: str, code: str) -> None:
    result = appraise(evidence(SAID | {name: b"other"}), references())
    assert result.veto
    assert result.vector.claims()[claim] >= 96
    assert result.findings[0].code == code and name in result.findings[0].text and "'other'" in result.findings[0].text


def test_silence_is_no_proof_and_nothing_new_is_known() -> None:
    silent = appraise(evidence({k: v for k, v in SAID.items() if k != "equipment"}), references())
    assert silent.tier is Tier.NONE and not silent.veto
    new = appraise(evidence(SAID | {"binary": b"b1"}), references())
    assert new.tier is Tier.WARNING and not new.countersigned
    assert appraise(evidence(), References()).tier is Tier.NONE


def test_anyones_word_over_an_open_channel_or_to_another_nonce() -> None:
    assert not appraise(evidence(kind=ChannelKind.OPEN), references()).authenticated
    old = appraise(evidence(nonce=bytes(32)), references())
    assert not old.fresh and old.tier is Tier.NONE


@pytest.mark.parametrize(
    "made",
    [
        evidence(raw=b""), evidence(raw=b"\xff" * 40), evidence([]), evidence({"serial": b"x"}), evidence({"software": "text"}),
        evidence({"software": b"x" * 2000}), evidence({1: b"x"}), evidence(nonce=b"n" * 65), evidence(nonce="text"),
        evidence(raw=cbor2.dumps({1: NONCE, 2: SAID, 3: {}})), evidence(raw=cbor2.dumps({2: SAID, 1: NONCE})),
    ],
)  # fmt: skip
def test_malformed_is_nobodys(made: Evidence) -> None:
    result = appraise(made, references())
    assert not result.authenticated and result.tier is Tier.NONE and not result.veto
