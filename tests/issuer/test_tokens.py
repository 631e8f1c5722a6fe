from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import EvidenceError, MalformedError
from gateway.issuer.ear import PROFILE, b64, ear_of, from_cbor, from_json, strict_json, to_cbor, to_json, unb64
from gateway.issuer.es256 import ORDER, low_s, low_s_tpmt, require_low_s, require_low_s_tpmt
from gateway.issuer.tokens import CWT_TYPE, cwt_statement, jwt_statement, key_id, seal, verify_cwt, verify_jwt
from gateway.model.certificate import EvidenceRef, Verdict
from gateway.model.evidence import EvidenceClass, Tier, TrustVector
from gateway.model.level import TrustLevel
from tests.fakes.quote import SigningKey
from tests.issuer.verdicts import verdict, verdicts
from tests.verifier import tpmwire

KEY = SigningKey()
NONCE = bytes(range(16))


def cwt(v: Verdict | None = None, key: SigningKey = KEY) -> bytes:
    statement = cwt_statement(ear_of(v or verdict(), "0.1.0"), key.spki)
    return seal(statement, key.sign(statement.to_sign))


def jwt(v: Verdict | None = None, key: SigningKey = KEY) -> bytes:
    statement = jwt_statement(ear_of(v or verdict(), "0.1.0"), key.spki)
    return seal(statement, key.sign(statement.to_sign))


def test_claims_have_the_keys_and_values_of_the_drafts() -> None:
    v = verdict()
    claims = cbor2.loads(to_cbor(ear_of(v, "0.1.0", NONCE)))
    assert claims == {
        265: "tag:ietf.org,2026:rats/ear#03",
        6: v.issued_at.utc_ns // 10**9,
        4: v.expires_utc_ns // 10**9,
        10: NONCE,
        1004: {0: "wardgate", 1: "0.1.0"},
        266: {
            "pump-1": {
                1000: 2,
                1001: {0: 2, 2: 3, 4: 2},
                1003: [v.policy_id],
                10: bytes(range(32)),
                -70100: 3,
                -70101: "asymmetric",
                -70102: {"control": True, "maintenance": True, "monitoring": True},
                -70103: "infusion-pump",
            }
        },
    }


def test_json_claims_have_underscore_names_and_hyphened_vector() -> None:
    claims = to_json(ear_of(verdict(tier=Tier.WARNING), "0.1.0"))
    assert claims["eat_profile"] == PROFILE
    assert claims["ear_verifier_id"] == {"developer": "wardgate", "build": "0.1.0"}
    appraisal = claims["submods"]["pump-1"]
    assert appraisal["ear_status"] == "warning"
    assert appraisal["ear_trustworthiness_vector"] == {"instance-identity": 2, "executables": 3, "hardware": 2}
    assert appraisal["eat_nonce"] == b64(bytes(range(32)))
    json.dumps(claims)


@given(verdicts, st.none() | st.binary(min_size=8, max_size=64))
def test_cbor_and_json_say_the_same(v: Verdict, nonce: bytes | None) -> None:
    ear = ear_of(v, "build", nonce)
    assert from_cbor(to_cbor(ear)) == ear
    assert from_json(json.dumps(to_json(ear)).encode()) == ear


@given(verdicts)
def test_cwt_and_jwt_agree(v: Verdict) -> None:
    assert verify_cwt(cwt(v), KEY.spki) == verify_jwt(jwt(v), KEY.spki) == ear_of(v, "0.1.0")


def test_the_appraisal_is_the_verdict() -> None:
    a = verify_cwt(cwt(), KEY.spki).appraisal("pump-1")
    assert (a.level, a.evidence_class, a.tier, a.profile) == (
        TrustLevel.FULL,
        EvidenceClass.ASYMMETRIC,
        Tier.AFFIRMING,
        "infusion-pump",
    )
    assert a.vector == verdict().vector
    with pytest.raises(MalformedError):
        verify_cwt(cwt(), KEY.spki).appraisal("pump-2")


def test_nothing_claimed_leaves_the_vector_out() -> None:
    claims = to_json(ear_of(verdict(vector=TrustVector(), tier=Tier.NONE), "b"))["submods"]["pump-1"]
    assert claims["ear_status"] == "none" and "ear_trustworthiness_vector" not in claims


def test_several_pieces_of_evidence_list_their_nonces() -> None:
    refs = tuple(EvidenceRef("a/b", bytes(32), nonce, "open") for nonce in (b"\1" * 32, b"\2" * 32, b""))
    a = ear_of(verdict(evidence=refs), "b").appraisals[0]
    assert a.nonces == (b"\1" * 32, b"\2" * 32)
    assert to_json(ear_of(verdict(evidence=refs), "b"))["submods"]["pump-1"]["eat_nonce"] == [b64(n) for n in a.nonces]


def test_another_key_does_not_verify() -> None:
    other = SigningKey()
    for token, check in ((cwt(), verify_cwt), (jwt(), verify_jwt)):
        with pytest.raises(EvidenceError):
            check(token, other.spki)


def test_every_changed_byte_of_a_token_is_noticed() -> None:
    for token, check in ((cwt(), verify_cwt), (jwt(), verify_jwt)):
        for at in range(len(token)):
            for bit in (0x01, 0x80):
                broken = bytearray(token)
                broken[at] ^= bit
                with pytest.raises(EvidenceError):
                    check(bytes(broken), KEY.spki)
            with pytest.raises(EvidenceError):
                check(token[:at] + token[at + 1 :], KEY.spki)
        with pytest.raises(EvidenceError):
            check(token + b"\0", KEY.spki)


def test_the_second_form_of_a_signature_is_refused() -> None:
    token = cbor2.loads(cwt())
    parts = list(token.value)
    r, s = parts[3][:32], int.from_bytes(parts[3][32:], "big")
    parts[3] = r + (ORDER - s).to_bytes(32, "big")
    codec.parse_sign1(codec.encode(cbor2.CBORTag(18, parts))).verify(KEY.key.public_key())  # cryptography takes it
    with pytest.raises(EvidenceError, match="high s"):
        verify_cwt(codec.encode(cbor2.CBORTag(18, parts)), KEY.spki)


def test_content_type_and_key_id_are_checked() -> None:
    ear = ear_of(verdict(), "b")
    for kid, kind in ((key_id(KEY.spki), "application/cwt"), (b"\0" * 32, CWT_TYPE), (None, CWT_TYPE)):
        protected = codec.sign1_protected(kid, kind)
        payload = to_cbor(ear)
        token = codec.sign1(protected, payload, low_s(KEY.sign(codec.sign1_to_sign(protected, payload))))
        with pytest.raises(EvidenceError, match="content type or key id"):
            verify_cwt(token, KEY.spki)


def test_jwt_headers_are_exact() -> None:
    payload = b64(json.dumps(to_json(ear_of(verdict(), "b"))).encode())
    good = {"alg": "ES256", "kid": b64(key_id(KEY.spki)), "typ": "eat+jwt"}
    for change in ({"alg": "none"}, {"typ": "JWT"}, {"crit": ["x"]}, {"kid": "AA"}, {"alg": ["ES256"]}):
        head = b64(json.dumps({**good, **change}).encode())
        signed = f"{head}.{payload}".encode()
        token = signed + b"." + b64(low_s(KEY.sign(signed))).encode()
        with pytest.raises(EvidenceError):
            verify_jwt(token, KEY.spki)
    signed = f"{b64(json.dumps(good).encode())}.{payload}".encode()
    verify_jwt(signed + b"." + b64(low_s(KEY.sign(signed))).encode(), KEY.spki)


def _without(claims: dict[Any, Any], *path: Any) -> dict[Any, Any]:
    inner = claims
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return claims


@pytest.mark.parametrize("path", [(265,), (6,), (1004,), (1004, 0), (266,), (266, "pump-1"), (266, "pump-1", 1000)])
def test_mandatory_claims(path: tuple[Any, ...]) -> None:
    claims = cbor2.loads(to_cbor(ear_of(verdict(), "b")))
    with pytest.raises(MalformedError):
        from_cbor(codec.encode(_without(claims, *path)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((265,), "tag:github.com,2023:veraison/ear"),
        ((1004,), {0: "a", True: "b"}),
        ((1004,), {0: "a", 1.0: "b"}),
        ((6,), 1.5),
        ((6,), True),
        ((6,), -1),
        ((4,), "soon"),
        ((10,), b"short"),
        ((10,), [bytes(8)]),
        ((266,), {}),
        ((266, "pump-1", 1000), 3),
        ((266, "pump-1", 1000), True),
        ((266, "pump-1", 1001), {}),
        ((266, "pump-1", 1001), {8: 2}),
        ((266, "pump-1", 1001), {0: 128}),
        ((266, "pump-1", 1001), {0: True}),
        ((266, "pump-1", 1003), [1]),
        ((266, "pump-1", -70100), 4),
        ((266, "pump-1", -70100), True),
        ((266, "pump-1", -70101), "magic"),
        ((266, "pump-1", -70102), {"control": 1}),
    ],
)
def test_wrong_claims(path: tuple[Any, ...], value: Any) -> None:
    claims = cbor2.loads(to_cbor(ear_of(verdict(), "b")))
    inner = claims
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(MalformedError):
        from_cbor(codec.encode(claims))


def test_unknown_claims_are_ignored_and_another_verifiers_ear_parses() -> None:
    claims = {
        "eat_profile": PROFILE,
        "iat": 1666529184,
        "ear_verifier_id": {"developer": "https://verifier.example", "build": "1"},
        "something_new": {"a": 1},
        "submods": {"PSA": {"ear_status": "contraindicated", "ear_trustworthiness_vector": {"executables": 96}, "new": []}},
    }
    ear = from_json(json.dumps(claims).encode())
    assert ear.expires_s is None
    a = ear.appraisal("PSA")
    assert (a.tier, a.vector, a.level, a.functions) == (Tier.CONTRAINDICATED, TrustVector(executables=96), None, None)


@pytest.mark.parametrize("text", [b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b"[" * 100_000, b'"' + b"x" * 70_000 + b'"'])
def test_json_is_strict(text: bytes) -> None:
    with pytest.raises(MalformedError):
        strict_json(text)


@pytest.mark.parametrize("text", ["AA==", "A", "AB", "A A", "ä", "AA\n", 1, None])
def test_base64url_has_one_form(text: object) -> None:
    with pytest.raises(MalformedError):
        unb64(text)


@given(st.binary(max_size=200))
def test_base64url_round_trip(data: bytes) -> None:
    assert unb64(b64(data)) == data


@given(st.binary(max_size=300))
def test_garbage_tokens_are_evidence_errors(data: bytes) -> None:
    for check in (verify_cwt, verify_jwt):
        with pytest.raises(EvidenceError):
            check(data, KEY.spki)


def test_seal_lowers_s_and_verifies_either_way() -> None:
    statement = cwt_statement(ear_of(verdict(), "b"), KEY.spki)
    raw = KEY.sign(statement.to_sign)
    other = raw[:32] + (ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    assert seal(statement, raw) == seal(statement, other)
    verify_cwt(seal(statement, raw), KEY.spki)
    with pytest.raises(MalformedError):
        seal(statement, raw[:-1])


def test_low_s_of_tpm_signatures() -> None:
    for n in range(8):
        signature = tpmwire.ecdsa_signature(KEY.key, bytes([n]))
        one = low_s_tpmt(signature)
        require_low_s_tpmt(one)
        s = int.from_bytes(one[-32:], "big")
        other = one[:-32] + (ORDER - s).to_bytes(32, "big")
        assert low_s_tpmt(other) == one
        with pytest.raises(EvidenceError):
            require_low_s_tpmt(other)
    short = signature[:4] + tpmwire.sized(b"\x05") + tpmwire.sized(b"\x06")
    assert low_s_tpmt(short) == signature[:4] + tpmwire.sized(b"\x05".rjust(32, b"\0")) + tpmwire.sized(b"\x06".rjust(32, b"\0"))
    with pytest.raises(MalformedError):
        low_s_tpmt(signature[:4] + tpmwire.sized(b"") + tpmwire.sized(b"\x06"))


def test_rsa_signatures_stay_as_they_are() -> None:
    signature = b"\x00\x14\x00\x0b" + tpmwire.sized(b"\xff" * 256)
    assert low_s_tpmt(signature) == signature


def test_require_low_s_at_the_edge() -> None:
    half = ORDER // 2
    require_low_s(bytes(32) + half.to_bytes(32, "big"))
    with pytest.raises(EvidenceError):
        require_low_s(bytes(32) + (half + 1).to_bytes(32, "big"))
