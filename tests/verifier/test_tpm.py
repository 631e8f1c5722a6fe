"""Evidence of a device with a TPM: quote, PCR values and event log together."""

from __future__ import annotations

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import EvidenceClass, MediaType, Tier
from gateway.model.profile import References, ReferenceValue, TrustAnchor
from gateway.verifier.appraise import appraise
from gateway.verifier.tpm import parse_tpm
from hil import firmware
from tests.verifier import tpmwire as wire
from tests.verifier.cases import KEY, LEARNED, MAKER, NONCE, evidence, spki

LOG = firmware.boot()
ANCHORS = (TrustAnchor(b"ak-1", spki(ec.generate_private_key(ec.SECP256R1()))), TrustAnchor(b"ak-2", spki(KEY)))
REFERENCES = References(ANCHORS, tuple(ReferenceValue("boot", f"pcr:{n}", LOG.pcrs[n], MAKER) for n in (0, 2, 4, 7)))


def payload(log: firmware.Log = LOG, nonce: bytes = NONCE, key: ec.EllipticCurvePrivateKey = KEY, **parts: object) -> bytes:
    attest = wire.attest(log.pcrs, nonce)
    signature = wire.ecdsa_signature(key, attest)
    parts_ = {"attest": attest, "signature": signature, "pcrs": log.pcrs, "eventlog": bytes(log.raw), **parts}
    return cbor2.dumps(parts_, canonical=True)


def result(data: bytes, references: References = REFERENCES, nonce: bytes = NONCE):
    return appraise(evidence(data, MediaType.TPM.value, nonce), references)


def test_an_approved_boot_is_affirmed() -> None:
    r = result(payload())
    assert (r.tier, r.authenticated, r.fresh, r.countersigned) == (Tier.AFFIRMING, True, True, True)
    assert r.vector.claims() == {"instance-identity": 2, "configuration": 2, "executables": 3}
    assert r.evidence_class is EvidenceClass.TPM
    assert dict(r.observed)["pcr:4"] == LOG.pcrs[4]
    assert result(payload(eventlog=b"")).tier is Tier.AFFIRMING


def test_another_release_is_contraindicated() -> None:
    r = result(payload(firmware.boot("2.0")))
    assert (r.veto, r.vector.executables, r.findings[0].code, r.findings[0].subject) == (True, 96, "pcr-changed", "pcr:4")
    r = result(payload(firmware.boot(secure_boot=False)))
    assert (r.veto, r.vector.configuration) == (True, 96)


@pytest.mark.parametrize("log", [bytes(firmware.boot("2.0").raw), bytes(LOG.raw)[:-1], b"x"])
def test_a_log_that_does_not_explain_the_quote_proves_nothing(log: bytes) -> None:
    r = result(payload(eventlog=log))
    assert (r.tier, r.authenticated, r.veto) == (Tier.NONE, True, False)
    assert r.findings[0].code in ("eventlog-mismatch", "eventlog-malformed")


def test_missing_references_or_pcrs_are_none() -> None:
    assert result(payload(), References(ANCHORS, ())).findings[0].code == "no-reference"
    more = References(ANCHORS, (*REFERENCES.values, ReferenceValue("boot", "pcr:14", bytes(32), MAKER)))
    r = result(payload(), more)
    assert (r.tier, r.findings[0].code) == (Tier.NONE, "not-measured")


def test_a_replay_and_another_key() -> None:
    r = result(payload(nonce=bytes(32)))
    assert (r.authenticated, r.fresh, r.tier, r.findings[0].code) == (True, False, Tier.NONE, "replayed")
    r = result(payload(key=ec.generate_private_key(ec.SECP256R1())))
    assert (r.authenticated, r.tier, r.findings[0].code) == (False, Tier.NONE, "unauthenticated")
    assert not result(payload(), References((), REFERENCES.values)).authenticated
    learned = (TrustAnchor(b"ak", spki(KEY), LEARNED),)
    assert not result(payload(), References(learned, REFERENCES.values)).countersigned


def test_pcr_values_that_were_not_quoted() -> None:
    r = result(payload(pcrs={**LOG.pcrs, 4: bytes(32)}))
    assert (r.authenticated, r.veto) == (False, False)


@pytest.mark.parametrize(
    "parts",
    [{"attest": 1}, {"signature": "x"}, {"pcrs": []}, {"pcrs": {"0": b""}}, {"pcrs": {0: 1}}, {"eventlog": None}, {"more": 1}],
)
def test_malformed(parts: dict) -> None:
    with pytest.raises(MalformedError):
        parse_tpm(payload(**parts))


@given(st.integers(0, len(payload()) - 1), st.integers(1, 255))
def test_a_changed_byte_never_affirms(at: int, mask: int) -> None:
    good = payload()
    r = result(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
    log_from = good.find(bytes(LOG.raw)[:40])
    if r.tier is Tier.AFFIRMING:  # a byte of an event's data that no digest covers: the log's text, not the state
        assert log_from <= at < log_from + len(LOG.raw)
    assert not r.veto


@given(st.binary(max_size=200))
def test_garbage_raises_evidence_errors_only(garbage: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_tpm(garbage)
