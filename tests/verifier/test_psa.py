"""PSA tokens: the RFC's own, the bench's, and everything a token must not be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import Tier
from gateway.model.profile import TOKEN_KEY, References, ReferenceValue, TrustAnchor
from gateway.verifier.appraise import appraise
from gateway.verifier.psa import verify_psa
from hil.psa import Component, PsaSigner
from tests.verifier.cases import DEVICE, KEY, LEARNED, MAKER, NONCE, evidence, psa_references

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "psa.json").read_text())
GOOD = DEVICE.token(NONCE)
REFERENCES = psa_references()


def anchors_of_rfc() -> tuple[TrustAnchor, ...]:
    v = VECTORS["sign1"]
    key = ec.EllipticCurvePublicNumbers(int(v["x"], 16), int(v["y"], 16), ec.SECP256R1()).public_key()
    return (TrustAnchor(bytes.fromhex(v["claims"]["ueid"]), key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),)


# --- the RFC's token ---


def test_the_token_of_rfc_9783() -> None:
    v = VECTORS["sign1"]
    claims, _ = verify_psa(bytes.fromhex(v["token"]), anchors_of_rfc())
    expected = v["claims"]
    assert claims.nonce.hex() == expected["nonce"]
    assert claims.ueid.hex() == expected["ueid"]
    assert claims.implementation_id.hex() == expected["implementation-id"]
    assert (claims.client_id, claims.lifecycle) == (expected["client-id"], expected["lifecycle"])
    assert [{"type": c.kind, "measurement": c.measurement.hex(), "signer": c.signer.hex()} for c in claims.components] == expected[
        "components"
    ]


def test_every_changed_byte_of_the_rfcs_token_fails() -> None:
    token = bytes.fromhex(VECTORS["sign1"]["token"])
    for at in range(len(token)):
        with pytest.raises(EvidenceError):
            verify_psa(token[:at] + bytes([token[at] ^ 0x01]) + token[at + 1 :], anchors_of_rfc())


def shared_of_rfc(secret: bytes | None = None) -> TrustAnchor:
    """The key that appendix A.2's token is made with."""
    v = VECTORS["mac0"]
    return TrustAnchor(
        bytes.fromhex(v["ueid"]), b"", shared=TOKEN_KEY, secret=bytes.fromhex(v["key"]) if secret is None else secret
    )


def test_the_mac_token_of_rfc_9783() -> None:
    token = bytes.fromhex(VECTORS["mac0"]["token"])
    claims, anchor = verify_psa(token, (*anchors_of_rfc(), shared_of_rfc()))
    assert anchor.shared == TOKEN_KEY
    assert claims.ueid.hex() == VECTORS["mac0"]["ueid"]
    for at in range(len(token)):
        with pytest.raises(EvidenceError):
            verify_psa(token[:at] + bytes([token[at] ^ 0x01]) + token[at + 1 :], (shared_of_rfc(),))


def test_a_mac_token_without_its_key_is_nobodys() -> None:
    token = bytes.fromhex(VECTORS["mac0"]["token"])
    for secret in (b"", b"short", bytes(64)):
        with pytest.raises(EvidenceError):
            verify_psa(token, (shared_of_rfc(secret),))
    public = TrustAnchor(shared_of_rfc().instance, anchors_of_rfc()[0].spki)
    with pytest.raises(EvidenceError, match="not this device's"):  # a public key never checks a MAC
        verify_psa(token, (public,))
    with pytest.raises(EvidenceError, match="not this device's"):  # nor a shared key a signature
        verify_psa(GOOD, (TrustAnchor(DEVICE.ueid, b"", shared=TOKEN_KEY, secret=DEVICE.spki),))


# --- the bench's device ---


def test_a_genuine_device_is_affirmed() -> None:
    r = appraise(evidence(GOOD), REFERENCES)
    assert (r.tier, r.authenticated, r.fresh, r.veto, r.countersigned, r.key_isolated) == (
        Tier.AFFIRMING,
        True,
        True,
        False,
        True,
        True,
    )
    assert r.vector.claims() == {"instance-identity": 2, "executables": 3, "hardware": 2, "storage-opaque": 2}
    assert r.findings == ()
    assert dict(r.observed) == {
        "component:BL": DEVICE.components[0].measurement,
        "component:FW": DEVICE.components[1].measurement,
        "implementation-id": DEVICE.implementation_id,
    }
    assert r.evidence_hash == hashlib.sha256(GOOD).digest()


def test_changed_firmware_is_contraindicated_by_name() -> None:
    bad = PsaSigner(KEY, DEVICE.implementation_id, (DEVICE.components[0], Component.of("FW", b"evil")))
    r = appraise(evidence(bad.token(NONCE)), REFERENCES)
    assert r.veto
    assert r.vector.executables == 96
    assert r.findings[0].code == "component-changed"
    assert r.findings[0].text.startswith("software component FW changed")
    assert r.findings[0].remedy
    assert dict(r.observed)["component:FW"] == hashlib.sha256(b"evil").digest()


def test_a_missing_component_is_contraindicated_and_can_be_accepted() -> None:
    token = PsaSigner(KEY, DEVICE.implementation_id, DEVICE.components[:1]).token(NONCE)
    r = appraise(evidence(token), REFERENCES)
    assert (r.veto, r.findings[0].code) == (True, "component-missing")
    assert dict(r.observed)["component:FW"] == b""
    accepted = tuple(v if v.name != "component:FW" else dataclasses.replace(v, value=b"") for v in REFERENCES.values)
    assert appraise(evidence(token), References(REFERENCES.anchors, accepted)).tier is Tier.AFFIRMING


def test_an_unknown_component_is_a_warning() -> None:
    token = PsaSigner(KEY, DEVICE.implementation_id, (*DEVICE.components, Component.of("App", b"new"))).token(NONCE)
    r = appraise(evidence(token), REFERENCES)
    assert (r.tier, r.vector.executables, r.veto, r.countersigned) == (Tier.WARNING, 33, False, False)
    assert r.findings[0].code == "component-unknown"


def test_without_reference_values_nothing_is_affirmed() -> None:
    r = appraise(evidence(GOOD), References(REFERENCES.anchors, ()))
    assert (r.tier, r.authenticated, r.veto, r.countersigned) == (Tier.NONE, True, False, False)
    assert r.findings[0].code == "no-reference"


def test_another_implementation_is_not_recognised() -> None:
    r = appraise(evidence(GOOD), psa_references(PsaSigner(KEY, bytes(32), DEVICE.components)))
    assert (r.veto, r.vector.hardware, r.findings[0].code) == (True, 97, "implementation-changed")


def test_a_changed_signer_is_contraindicated() -> None:
    references = psa_references(signers=True)
    assert appraise(evidence(GOOD), references).tier is Tier.AFFIRMING
    parts = tuple(dataclasses.replace(c, signer=bytes(32)) for c in DEVICE.components)
    r = appraise(evidence(PsaSigner(KEY, DEVICE.implementation_id, parts).token(NONCE)), references)
    assert (r.veto, r.findings[0].code) == (True, "signer-changed")


@pytest.mark.parametrize(
    ("lifecycle", "tier"),
    [
        (0x3000, Tier.AFFIRMING),
        (0x30FF, Tier.AFFIRMING),
        (0x4000, Tier.WARNING),
        (0x0000, Tier.CONTRAINDICATED),
        (0x1000, Tier.CONTRAINDICATED),
        (0x2000, Tier.CONTRAINDICATED),
        (0x5000, Tier.CONTRAINDICATED),
        (0x60FF, Tier.CONTRAINDICATED),
    ],
)
def test_lifecycle(lifecycle: int, tier: Tier) -> None:
    assert appraise(evidence(DEVICE.token(NONCE, lifecycle=lifecycle)), REFERENCES).tier is tier


def test_a_replay_earns_and_costs_nothing() -> None:
    bad = PsaSigner(KEY, DEVICE.implementation_id, (Component.of("FW", b"evil"),)).token(bytes(32))
    for token in (GOOD, DEVICE.token(bytes(32)), bad):
        r = appraise(evidence(token, nonce=b"\xaa" * 32), REFERENCES)
        assert (r.authenticated, r.fresh, r.tier, r.veto, r.observed) == (True, False, Tier.NONE, False, ())
        assert [f.code for f in r.findings] == ["replayed"]


def test_unasked_evidence_is_read_but_not_fresh() -> None:
    r = appraise(evidence(GOOD, nonce=b""), REFERENCES)
    assert (r.tier, r.fresh, r.veto) == (Tier.AFFIRMING, False, False)
    assert [f.code for f in r.findings] == ["no-nonce"]


def test_another_devices_token_is_nobodys() -> None:
    other = PsaSigner(ec.generate_private_key(ec.SECP256R1()), DEVICE.implementation_id, DEVICE.components)
    for token in (other.token(NONCE), other.token(NONCE, ueid=DEVICE.ueid), DEVICE.token(NONCE, ueid=other.ueid)):
        r = appraise(evidence(token), REFERENCES)
        assert (r.authenticated, r.tier, r.veto, r.vector.claims(), r.observed) == (False, Tier.NONE, False, {}, ())
        assert r.findings[0].code == "unauthenticated"


def test_learned_values_are_not_countersigned() -> None:
    assert not appraise(evidence(GOOD), psa_references(provenance=LEARNED)).countersigned
    one = (ReferenceValue("firmware", "component:BL", DEVICE.components[0].measurement, LEARNED), *REFERENCES.values[1:])
    assert not appraise(evidence(GOOD), References(REFERENCES.anchors, one)).countersigned
    confirmed = tuple(dataclasses.replace(v, provenance=LEARNED, countersigned=True) for v in REFERENCES.values)
    assert appraise(evidence(GOOD), References(REFERENCES.anchors, confirmed)).countersigned
    learned_key = tuple(dataclasses.replace(a, provenance=LEARNED) for a in REFERENCES.anchors)
    assert not appraise(evidence(GOOD), References(learned_key, REFERENCES.values)).countersigned


# --- what a token must not be ---


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": bytes(31)},
        {"nonce": None},
        {"nonce": "text"},
        {"ueid": bytes(33)},
        {"ueid": b"\x01" + bytes(31)},
        {"ueid": None},
        {"profile": "http://arm.com/psa/2.0.0"},
        {"profile": None},
        {"boot_seed": bytes(7)},
        {"boot_seed": bytes(33)},
        {"client_id": 0},
        {"client_id": 2**31},
        {"client_id": True},
        {"client_id": None},
        {"lifecycle": 0x7000},
        {"lifecycle": -1},
        {"lifecycle": None},
        {"implementation_id": bytes(31)},
        {"implementation_id": None},
        {"certification": "1234567890123-1234"},
        {"certification": 12},
        {"components": None},
        {"components": []},
        {"components": [{1: "FW", 5: bytes(32)}]},
        {"components": [{1: "FW", 2: bytes(32)}]},
        {"components": [{2: bytes(20), 5: bytes(32)}]},
        {"components": [{2: bytes(32), 5: bytes(32), 3: "?"}]},
        {"components": [{1: "F\nW", 2: bytes(32), 5: bytes(32)}]},
        {"components": [{1: "F" * 65, 2: bytes(32), 5: bytes(32)}]},
        {"components": [{1: "FW", 2: bytes(32), 5: bytes(32)}] * 2},
        {"components": [{1: f"{n}", 2: bytes(32), 5: bytes(32)} for n in range(33)]},
        {"components": {1: "FW"}},
    ],
    ids=lambda c: "-".join(f"{k}={v!r:.20}" for k, v in c.items()),
)
def test_claims_outside_the_rfc_are_malformed(claims: dict) -> None:
    claims = dict(claims)
    with pytest.raises(MalformedError):
        verify_psa(DEVICE.token(claims.pop("nonce", NONCE), **claims), REFERENCES.anchors)


def sign(payload: bytes, protected: bytes = b"\xa1\x01\x26", unprotected: object = None, key=KEY, tag: int = 18) -> bytes:
    der = key.sign(cbor2.dumps(["Signature1", protected, b"", payload]), ec.ECDSA(hashes.SHA256()))
    signature = b"".join(n.to_bytes(32, "big") for n in decode_dss_signature(der))
    return cbor2.dumps(cbor2.CBORTag(tag, [protected, unprotected or {}, payload, signature]))


PAYLOAD = cbor2.loads(GOOD).value[2]


def test_foreign_encodings_are_read_as_they_came() -> None:
    """Key order, long forms of numbers and unprotected headers are the device's affair."""
    claims = cbor2.loads(PAYLOAD)
    for payload in (cbor2.dumps(dict(reversed(claims.items()))), PAYLOAD.replace(b"\x0a\x58\x20", b"\x18\x0a\x59\x00\x20")):
        assert payload != PAYLOAD
        assert appraise(evidence(sign(payload, unprotected={4: b"kid"})), REFERENCES).tier is Tier.AFFIRMING


def test_unknown_claims_are_ignored() -> None:
    assert (
        appraise(evidence(sign(cbor2.dumps({**cbor2.loads(PAYLOAD), 99999: [1, {2: 3}], "x": 1}))), REFERENCES).tier
        is Tier.AFFIRMING
    )


@pytest.mark.parametrize(
    "token",
    [
        sign(PAYLOAD + b"\0"),
        sign(PAYLOAD) + b"\0",
        sign(b"\xbf" + PAYLOAD[1:] + b"\xff"),  # indefinite length
        sign(bytes([PAYLOAD[0] + 1]) + PAYLOAD[1:] + b"\x0a" + b"\x58\x20" + NONCE),  # a key twice
        sign(cbor2.dumps({**cbor2.loads(PAYLOAD), 99999: cbor2.CBORTag(35, "(a+)+$")})),
        sign(cbor2.dumps({**cbor2.loads(PAYLOAD), 99999: cbor2.CBORTag(28, [])})),
        sign(cbor2.dumps({n: n for n in range(65)})),
        sign(cbor2.dumps({**cbor2.loads(PAYLOAD), 99999: bytes(17000)})),
        sign(b"\x81" * 12 + b"\0"),
        sign(PAYLOAD, tag=98),
        sign(PAYLOAD, protected=b"\xa1\x01\x27"),
        sign(PAYLOAD, protected=b"\xa1\x01\xf5"),
        sign(PAYLOAD, protected=b"\xa0"),
        sign(PAYLOAD, protected=b""),
        sign(PAYLOAD, protected=b"\xa2\x01\x26\x02\x81\x01"),
        cbor2.dumps(cbor2.loads(GOOD).value),
        cbor2.dumps(cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, None, bytes(64)])),
        cbor2.dumps(cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, PAYLOAD])),
        b"",
        b"\xd2",
    ],
    ids=range(20),
)
def test_ambiguous_or_strange_tokens_are_malformed(token: bytes) -> None:
    with pytest.raises(MalformedError):
        verify_psa(token, REFERENCES.anchors)


@pytest.mark.parametrize(
    ("curve", "header", "size", "digest"),
    [(ec.SECP384R1(), b"\xa1\x01\x38\x22", 48, hashes.SHA384()), (ec.SECP521R1(), b"\xa1\x01\x38\x23", 66, hashes.SHA512())],
)
def test_es384_and_es512(curve: ec.EllipticCurve, header: bytes, size: int, digest: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(curve)
    der = key.sign(cbor2.dumps(["Signature1", header, b"", PAYLOAD]), ec.ECDSA(digest))
    signature = b"".join(n.to_bytes(size, "big") for n in decode_dss_signature(der))
    token = cbor2.dumps(cbor2.CBORTag(18, [header, {}, PAYLOAD, signature]))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    verify_psa(token, (TrustAnchor(DEVICE.ueid, spki),))
    with pytest.raises(EvidenceError, match="another algorithm"):
        verify_psa(token, REFERENCES.anchors)


@pytest.mark.parametrize("spki", [b"", b"\x30\x03abc", bytes(91)])
def test_a_broken_anchor_is_said(spki: bytes) -> None:
    r = appraise(evidence(GOOD), References((TrustAnchor(DEVICE.ueid, spki, MAKER),), REFERENCES.values))
    assert (r.tier, r.authenticated) == (Tier.NONE, False)
    assert "trust anchor" in r.findings[0].text


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_any_changed_byte_is_never_affirmed_and_never_a_veto(mask: int) -> None:
    for at in range(len(GOOD)):
        r = appraise(evidence(GOOD[:at] + bytes([GOOD[at] ^ mask]) + GOOD[at + 1 :]), REFERENCES)
        assert (r.tier, r.veto, r.authenticated) == (Tier.NONE, False, False), at


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_garbage_raises_evidence_errors_only(garbage: bytes, at: int, cut: int) -> None:
    for token in (
        garbage,
        GOOD[:at] + garbage + GOOD[at + cut :],
        sign(garbage),
        sign(PAYLOAD[:at] + garbage + PAYLOAD[at + cut :]),
    ):
        try:
            verify_psa(token, REFERENCES.anchors)
        except EvidenceError:
            continue
