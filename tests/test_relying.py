from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.certify import Batch, complete
from gateway.errors import EvidenceError, InputError
from gateway.issuer.bundle import NO_ROOT, Freshness, encode_bundle, parse_bundle
from gateway.issuer.es256 import ORDER
from gateway.issuer.leaves import Platform
from gateway.model.certificate import SoftwareKey
from gateway.model.evidence import Tier
from gateway.model.instant import NS_PER_S
from gateway.model.level import TrustLevel
from gateway.relying import as_json, duration, report, statements, verify_bundle
from tests.certificates import Issuer, der, salt
from tests.fakes.quote import FakeCa, FakeTpm, SigningKey
from tests.issuer.verdicts import NOW_NS, verdict

ISSUER = Issuer()
ANCHOR = ISSUER.ca.pem
VERDICT = verdict()
AT = NOW_NS + 60 * NS_PER_S
NONCE = bytes(range(20))
BUNDLE = ISSUER.bundles(verdict("a"), VERDICT, verdict("z"))["pump-1"]


def refused(data: bytes, what: str, anchor: bytes = ANCHOR, at: int = AT, **asked: Any) -> None:
    with pytest.raises(EvidenceError, match=what):
        verify_bundle(data, anchor, at, **asked)


def test_a_good_bundle() -> None:
    v = verify_bundle(BUNDLE, ANCHOR, AT, min_seq=7)
    assert replace(v.verdict, issued_at=VERDICT.issued_at) == VERDICT
    assert (v.sequence, v.nv_counter, v.batch_size) == (7, 41, 4)
    assert (v.age_s, v.left_s) == (60.0, 540.0)
    assert v.platform == Platform("gw-1", "0.1.0", "uefi")
    assert dict(v.pcrs) == ISSUER.tpm.pcrs


# --- no byte can be changed, added or taken away ---


def test_every_flipped_byte_fails() -> None:
    verify_bundle(BUNDLE, ANCHOR, AT)
    for at in range(len(BUNDLE)):
        for mask in (0x01, 0x80, 0xFF):
            broken = bytearray(BUNDLE)
            broken[at] ^= mask
            _fails(bytes(broken), at)


def test_every_deleted_byte_fails() -> None:
    for at in range(len(BUNDLE)):
        _fails(BUNDLE[:at] + BUNDLE[at + 1 :], at)


def test_every_inserted_byte_fails() -> None:
    for at in range(len(BUNDLE) + 1):
        for byte in (b"\x00", b"\x01", b"\xff"):
            _fails(BUNDLE[:at] + byte + BUNDLE[at:], at)


def _fails(data: bytes, at: int) -> None:
    """Fails as evidence fails: anything else, a success included, is a fault."""
    try:
        verify_bundle(data, ANCHOR, AT)
    except EvidenceError:
        return
    pytest.fail(f"a change at byte {at} was not noticed")


def test_swapped_parts_of_another_good_bundle_fail() -> None:
    """Every field replaced by that of a bundle which verifies, of the same gateway and of another."""
    later = ISSUER.bundles(verdict(level=TrustLevel.STANDARD, tier=Tier.WARNING), sequence=8)["pump-1"]
    stranger = Issuer(ca=ISSUER.ca).bundles(verdict())["pump-1"]
    mine = cbor2.loads(BUNDLE)
    for other in (later, stranger):
        verify_bundle(other, ANCHOR, AT)
        theirs = cbor2.loads(other)
        for key in mine:
            if theirs[key] != mine[key]:
                refused(codec.encode({**mine, key: theirs[key]}), ".")


# --- the second form of each signature ---


def test_a_high_s_of_the_quote_fails() -> None:
    b = parse_bundle(BUNDLE)
    s = ORDER - int.from_bytes(b.signature[-32:], "big")
    refused(encode_bundle(replace(b, signature=b.signature[:-32] + s.to_bytes(32, "big"))), "one form")


def test_a_high_s_of_the_tpm_is_lowered_by_the_maker() -> None:
    forms = set()
    for sequence in range(1, 60):  # each quote's s is high with one half
        closed = ISSUER.closed(VERDICT, sequence=sequence)
        quoted = ISSUER.tpm.quote(closed.qualifying)
        forms.add(int.from_bytes(quoted.signature[-32:], "big") > ORDER // 2)
        verify_bundle(complete(closed, quoted)["pump-1"], ANCHOR, AT)
        if forms == {True, False}:
            return
    pytest.fail("59 quotes had the same half of s")


def test_a_high_s_of_the_ak_certificate_fails() -> None:
    b = parse_bundle(BUNDLE)
    certificate = x509.load_der_x509_certificate(b.chain[0])
    flipped = _other_form(b.chain[0], certificate.signature)
    x509.load_der_x509_certificate(flipped).verify_directly_issued_by(ISSUER.ca.certificate)  # X.509 itself would take it
    refused(encode_bundle(replace(b, chain=(flipped,))), "not those that leaf 0 names")


def _other_form(certificate: bytes, signature: bytes) -> bytes:
    """The same certificate with the signature's s replaced by n - s, lengths mended."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    r, s = decode_dss_signature(signature)
    other = encode_dss_signature(r, ORDER - s)
    body = certificate[4 : len(certificate) - len(signature) - 3]
    bits = b"\x03" + bytes([len(other) + 1]) + b"\x00" + other
    return b"\x30\x82" + (len(body) + len(bits)).to_bytes(2, "big") + body + bits


# --- each thing that can fail, with its own message ---


def _changed(**changes: Any) -> bytes:
    return encode_bundle(replace(parse_bundle(BUNDLE), **changes))


def test_messages_for_what_the_tree_holds() -> None:
    b = parse_bundle(BUNDLE)
    refused(_changed(verdict=replace(b.verdict, salt=bytes(16))), "the verdict is not in the batch")
    refused(_changed(verdict=replace(b.verdict, index=1)), "the verdict is not in the batch")
    refused(_changed(gateway=replace(b.gateway, salt=bytes(16))), "leaf 0 is not in the batch")
    refused(_changed(ear=b.ear + b"\0"), "not the one that the verdict names")
    refused(_changed(issuing_spki=SigningKey().spki), "issuing key is not the one")
    refused(_changed(chain=(*b.chain, der(ISSUER.ca))), "not those that leaf 0 names")


def test_messages_for_the_quote() -> None:
    b = parse_bundle(BUNDLE)
    for header in (replace(b.header, sequence=8), replace(b.header, nv_counter=42), replace(b.header, previous_root=b"\1" * 32)):
        refused(_changed(header=header), "the quote does not hold: .*qualifying data")
    refused(_changed(header=replace(b.header, freshness=Freshness.nonce(NONCE))), "the quote does not hold")
    refused(_changed(pcrs=((0, bytes(32)), *b.pcrs[1:])), "the quote does not hold: PCR values")
    refused(_changed(pcrs=b.pcrs[1:]), "the quote does not hold: PCR 0")
    refused(_changed(attest=b.attest[:-1] + b"\0"), "the quote does not hold: .*signature")


def test_another_anchor() -> None:
    refused(BUNDLE, "not certified by the anchor", anchor=FakeCa().pem)
    refused(BUNDLE, "not certified by the anchor", anchor=FakeCa(name="Other").pem)


def test_another_tpm_key_than_the_certified_one() -> None:
    liar = Issuer(ca=ISSUER.ca)
    liar.tpm = FakeTpm()
    refused(liar.bundles(VERDICT)["pump-1"], "the quote does not hold: .*signature")


def test_an_ear_by_another_key() -> None:
    forger = Issuer(ca=ISSUER.ca)
    batch = forger.batch()
    batch.add(VERDICT, ISSUER.ear(VERDICT), salt(1))  # signed by a key that leaf 0 does not name
    refused(_sealed(forger, batch), "the EAR does not hold")


def test_an_ear_that_contradicts_its_verdict() -> None:
    for other in (
        verdict(level=TrustLevel.STANDARD),
        verdict(tier=Tier.WARNING),
        verdict(functions=()),
        verdict(expires_utc_ns=VERDICT.expires_utc_ns + NS_PER_S),
    ):
        batch = ISSUER.batch()
        batch.add(VERDICT, ISSUER.ear(other), salt(1))
        refused(_sealed(ISSUER, batch), "contradict each other")


def _sealed(issuer: Issuer, batch: Batch) -> bytes:
    closed = batch.close(Freshness.epoch(7, "boot"), 7, NO_ROOT, issuer.tpm.nv_counter)
    return complete(closed, issuer.tpm.quote(closed.qualifying))["pump-1"]


def test_expired_and_from_the_future() -> None:
    last = VERDICT.expires_utc_ns - 1
    assert verify_bundle(BUNDLE, ANCHOR, last).left_s < 1
    refused(BUNDLE, "expired 0 s ago", at=VERDICT.expires_utc_ns)
    refused(BUNDLE, "expired 1 h 0 min ago", at=VERDICT.expires_utc_ns + 3600 * NS_PER_S)
    verify_bundle(BUNDLE, ANCHOR, NOW_NS - 299 * NS_PER_S)
    refused(BUNDLE, "issued 6 min 40 s after the given time", at=NOW_NS - 400 * NS_PER_S)


def test_certificates_of_the_chain_expire_too() -> None:
    refused(BUNDLE, "not certified by the anchor: .*valid from", at=NOW_NS + 400 * 86_400 * NS_PER_S)


def test_sequence_and_nonce() -> None:
    refused(BUNDLE, "sequence 7 is older than the asked 8", min_seq=8)
    refused(BUNDLE, "answers an epoch, no nonce", nonce=NONCE)
    asked = ISSUER.bundles(VERDICT, freshness=Freshness.nonce(NONCE))["pump-1"]
    assert verify_bundle(asked, ANCHOR, AT, nonce=NONCE).freshness == (2, NONCE)
    verify_bundle(asked, ANCHOR, AT)
    refused(asked, "answers another nonce", nonce=NONCE[::-1])
    refused(asked, "answers another nonce", nonce=b"")


def test_the_anchor_file_is_input() -> None:
    for anchor in (b"", b"not pem", ANCHOR + ANCHOR, der(ISSUER.ca)):
        with pytest.raises(InputError):
            verify_bundle(BUNDLE, anchor, AT)
    for at in (2**80, -(2**80)):
        with pytest.raises(InputError, match="out of range"):
            verify_bundle(BUNDLE, ANCHOR, at)


# --- who may certify an attestation key ---


def test_a_ca_between_is_fine() -> None:
    between = FakeCa(name="Hospital CA 2", issuer=ISSUER.ca)
    tpm = FakeTpm()
    issuer = Issuer(ca=between, tpm=tpm, chain=(between.certify(tpm.key.public_key()), der(between)))
    verify_bundle(issuer.bundles(VERDICT)["pump-1"], ANCHOR, AT)


@pytest.mark.parametrize("purpose", [None, ExtendedKeyUsageOID.SERVER_AUTH.dotted_string])
def test_a_key_for_something_else_cannot_quote(purpose: str | None) -> None:
    tpm = FakeTpm()
    issuer = Issuer(ca=ISSUER.ca, tpm=tpm, chain=(ISSUER.ca.certify(tpm.key.public_key(), purpose=purpose),))
    refused(issuer.bundles(VERDICT)["pump-1"], "not certified as a TPM's attestation key")


@pytest.mark.parametrize(
    "extra",
    [
        x509.NameConstraints(permitted_subtrees=[x509.DNSName("gw-1.example")], excluded_subtrees=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
    ],
)
def test_a_ca_for_devices_cannot_certify_attestation_keys(extra: x509.ExtensionType) -> None:
    devices = FakeCa(name="Devices of gw-1", issuer=ISSUER.ca, extra=extra)
    tpm = FakeTpm()
    issuer = Issuer(ca=devices, tpm=tpm, chain=(devices.certify(tpm.key.public_key()), der(devices)))
    refused(issuer.bundles(VERDICT)["pump-1"], "may not certify attestation keys")


def test_a_ca_certificate_cannot_quote() -> None:
    tpm = FakeTpm()
    ca = FakeCa(key=tpm.key, name="CA", issuer=ISSUER.ca, extra=x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.3")]))
    issuer = Issuer(ca=ISSUER.ca, tpm=tpm, chain=(ca.certificate.public_bytes(serialization.Encoding.DER),))
    refused(issuer.bundles(VERDICT)["pump-1"], "not certified as a TPM's attestation key")


def test_leaf_0_must_name_one_issuing_key() -> None:
    digest = hashlib.sha256(ISSUER.key.spki).digest()
    with pytest.raises(EvidenceError):
        Batch((SoftwareKey("tls", digest),), ISSUER.key.spki, ISSUER.platform, ISSUER.chain or (), salt(0))


# --- what a person and a script see ---


def test_report_names_everything_a_relying_party_needs() -> None:
    text = "\n".join(report(verify_bundle(BUNDLE, ANCHOR, AT)))
    for needed in (
        "pump-1",
        "3 full",
        "asymmetric",
        "affirming",
        "executables 3",
        "sequence    7",
        "1 min 0 s",
        "9 min 0 s",
        "gw-1",
    ):
        assert needed in text, needed
    assert "maintenance allowed" in text and "port:p-pump-1" in text


def test_a_raspberry_pi_has_no_root_of_measurement_and_verify_says_so() -> None:
    pi = Issuer(platform=Platform("pi", "0.1.0", "none"))
    v = verify_bundle(pi.bundles(VERDICT)["pump-1"], pi.ca.pem, AT)
    assert v.executables_at_most == 0
    assert any(s.startswith("does not prove: the gateway has no root of measurement") for s in statements(v))
    x86 = verify_bundle(BUNDLE, ANCHOR, AT)
    assert x86.executables_at_most == 3
    assert any(s.startswith("proves: the boot state is measured") for s in statements(x86))


def test_as_json_is_one_document() -> None:
    plain = json.loads(json.dumps(as_json(verify_bundle(BUNDLE, ANCHOR, AT))))
    assert (plain["device"], plain["level"], plain["class"], plain["sequence"]) == ("pump-1", 3, "asymmetric", 7)
    assert plain["age_s"] == 60 and plain["expires_in_s"] == 540
    assert plain["freshness"]["kind"] == "epoch" and plain["pcrs"]["7"] == "08" * 32
    assert plain["functions"] == {"control": True, "maintenance": True, "monitoring": True}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 5 min"),
        (180_000, "2 d 2 h"),
        (-90, "-1 min 30 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- hostile files ---

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.binary(max_size=70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 14) | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(st.integers(-1, 16), _values)
def test_any_value_in_place_of_a_field_is_an_evidence_error(key: int, value: Any) -> None:
    plain = cbor2.loads(BUNDLE)
    if plain.get(key) != value:
        refused(codec.encode({**plain, key: value}), ".")


@given(st.integers(0, len(BUNDLE)), st.integers(0, len(BUNDLE)), st.binary(max_size=40))
def test_any_cut_and_paste_is_an_evidence_error(a: int, b: int, middle: bytes) -> None:
    data = BUNDLE[:a] + middle + BUNDLE[b:]
    if data != BUNDLE:
        refused(data, ".")
