"""The one entry: it never raises, it starts from none, and the worst comes first."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.evidence import AttestationResult, ChannelKind, MediaType, Tier
from gateway.model.profile import References
from gateway.verifier import appraise as module
from gateway.verifier.appraise import SCHEMES, appraise
from gateway.verifier.findings import Sheet
from tests.verifier.cases import NONCE, evidence, modbus_references, psa_references

NOBODYS = {"authenticated": False, "fresh": False, "tier": Tier.NONE, "countersigned": False, "observed": ()}


def assert_nobodys(r: AttestationResult) -> None:
    assert {k: getattr(r, k) for k in NOBODYS} == NOBODYS
    assert r.vector.claims() == {}
    assert not r.veto


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/eat+jwt", "x" * 5000])
def test_an_unknown_type_is_none(media_type: str) -> None:
    r = appraise(evidence(b"x", media_type), psa_references())
    assert_nobodys(r)
    assert r.findings[0].code == "malformed"
    assert "application/psa-attestation-token" in r.findings[0].remedy
    assert len(r.findings[0].text) < 200


def test_a_fault_of_ours_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_, __, sheet: Sheet) -> None:
        sheet.authenticated = sheet.fresh = True
        sheet.claim("executables", 2)
        raise ZeroDivisionError

    scheme = dataclasses.replace(SCHEMES[MediaType.PSA.value], appraise=broken)
    monkeypatch.setattr(module, "SCHEMES", {MediaType.PSA.value: scheme})
    r = appraise(evidence(b"x"), psa_references())
    assert_nobodys(r)
    assert r.findings[0].code == "verifier-malfunction"
    assert "ZeroDivisionError" in r.findings[0].text


@given(
    st.binary(max_size=600),
    st.sampled_from([*MediaType, "nonsense"]),
    st.sampled_from([b"", NONCE, bytes(8)]),
    st.sampled_from(list(ChannelKind)),
    st.sampled_from([psa_references(), modbus_references(), References()]),
)
def test_garbage_never_raises_and_is_never_worth_anything(
    payload: bytes, media_type: str, nonce: bytes, channel: ChannelKind, references: References
) -> None:
    r = appraise(evidence(payload, str(media_type), nonce, channel), references)
    assert not r.authenticated
    assert_nobodys(r)
    assert r.findings
    assert all(f.code and f.text and f.remedy for f in r.findings)


def test_a_sheet_only_gets_worse() -> None:
    sheet = Sheet()
    assert (sheet.tier, sheet.vector.claims(), sheet.countersigned) == (Tier.NONE, {}, False)
    sheet.claim("executables", 2)
    assert sheet.tier is Tier.AFFIRMING
    sheet.claim("executables", 1)
    assert sheet.tier is Tier.NONE
    sheet.claim("executables", 33)
    assert (sheet.tier, sheet.vector.executables) == (Tier.WARNING, 33)
    sheet.claim("executables", 2)
    sheet.claim("configuration", 1)
    assert (sheet.tier, sheet.vector.executables) == (Tier.NONE, 33)
    sheet.claim("configuration", 96)
    assert sheet.tier is Tier.CONTRAINDICATED
    with pytest.raises(ValueError):
        sheet.claim("reputation", 2)


def test_findings_have_the_worst_first() -> None:
    sheet = Sheet()
    for tier in (Tier.WARNING, Tier.AFFIRMING, Tier.CONTRAINDICATED, Tier.NONE):
        sheet.find(tier, tier.name, "", "text", "remedy")
    assert [f.code for f in sheet.findings] == ["CONTRAINDICATED", "NONE", "WARNING", "AFFIRMING"]
