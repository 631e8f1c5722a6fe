"""TPM quotes: genuine ones verify, every changed byte does not, and hostile bytes raise what is promised."""

from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EvidenceError, MalformedError
from gateway.verifier.quote import verify_quote
from tests.verifier import tpmwire as wire

KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
PCRS = {n: hashlib.sha256(bytes([n])).digest() for n in (0, 1, 2, 3, 4, 5, 6, 7, 10, 14)}
QUALIFYING = hashlib.sha256(b"question").digest()
ATTEST = wire.attest(PCRS, QUALIFYING)
SIGNATURE = wire.ecdsa_signature(KEY, ATTEST)


def verify(attest: bytes = ATTEST, signature: bytes | None = None, key: object = KEY, qualifying: bytes = QUALIFYING, pcrs=PCRS):
    if signature is None:
        signature = SIGNATURE if attest == ATTEST else wire.ecdsa_signature(KEY, attest)
    return verify_quote(key.public_key(), attest, signature, qualifying, pcrs)  # type: ignore[attr-defined]


def test_a_quote_says_what_was_quoted() -> None:
    q = verify()
    assert q.pcrs == tuple(sorted(PCRS))
    assert (q.clock_ms, q.reset_count, q.restart_count, q.safe) == (123456, 7, 2, True)
    assert q.firmware_version == 0x2019102300163636
    assert q.signer == b"\x00\x0b" + bytes(32)
    assert q.qualifying_data == QUALIFYING
    with pytest.raises(AttributeError):
        q.clock_ms = 0


@pytest.mark.parametrize("scheme", [wire.RSASSA, wire.RSAPSS])
def test_rsa(scheme: int) -> None:
    signature = wire.rsa_signature(RSA_KEY, ATTEST, scheme)
    verify(signature=signature, key=RSA_KEY)
    for at in (0, 1, 2, 3, 4, 5, 6, len(signature) - 1):
        with pytest.raises(EvidenceError):
            verify(signature=signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :], key=RSA_KEY)
    for changed in (signature + b"\0", signature[:-1]):
        with pytest.raises(EvidenceError):
            verify(signature=changed, key=RSA_KEY)


@pytest.mark.parametrize("which", ["attest", "signature"])
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_any_changed_byte_fails(which: str, mask: int) -> None:
    good = ATTEST if which == "attest" else SIGNATURE
    for at in range(len(good)):
        bad = good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :]
        with pytest.raises(EvidenceError):
            verify_quote(
                KEY.public_key(), bad if which == "attest" else ATTEST, bad if which == "signature" else SIGNATURE, QUALIFYING, PCRS
            )


@pytest.mark.parametrize("extra", [b"\0", b"x" * 40])
def test_nothing_may_follow(extra: bytes) -> None:
    with pytest.raises(MalformedError):
        verify(ATTEST + extra)  # signed by the key, even so
    with pytest.raises(MalformedError):
        verify(signature=SIGNATURE + extra)


@pytest.mark.parametrize(
    "attest",
    [
        wire.attest(PCRS, QUALIFYING, magic=b"\xffTCH"),
        wire.attest(PCRS, QUALIFYING, kind=0x8017),  # a certification of a key
        wire.attest(PCRS, QUALIFYING, clock=(1, 1, 1, 2)),
        wire.attest({}, QUALIFYING),
        wire.attest(PCRS, QUALIFYING, selected=wire.selection(PCRS, wire.SHA1)),
        wire.attest(
            PCRS, QUALIFYING, selected=struct.pack(">I", 2) + wire.selection(PCRS)[4:] + wire.selection(PCRS, wire.SHA1)[4:]
        ),
        wire.attest(PCRS, QUALIFYING, selected=struct.pack(">IHB", 1, wire.SHA256, 4) + b"\xff\x44\0\0"),
        wire.attest(PCRS, QUALIFYING, selected=struct.pack(">I", 0)),
        wire.attest(PCRS, QUALIFYING, signer=bytes(1200)),
        ATTEST[:-1],
        ATTEST[:20],
        b"",
    ],
    ids=["magic", "type", "safe", "no-pcr", "sha1", "two-banks", "four-bytes", "no-bank", "long", "short", "cut", "empty"],
)
def test_a_signed_attest_of_another_shape_is_malformed(attest: bytes) -> None:
    with pytest.raises(MalformedError):
        verify(attest)


def test_the_question_and_the_pcrs_must_be_these() -> None:
    for bad in (b"", QUALIFYING[:-1], bytes(32)):
        with pytest.raises(EvidenceError, match="another question"):
            verify(qualifying=bad)
    one_less = {n: v for n, v in PCRS.items() if n != 14}
    one_wrong = {**PCRS, 4: bytes(32)}
    shifted = {**PCRS, 0: PCRS[0][:-1], 1: PCRS[0][-1:] + PCRS[1]}  # the same bytes in a row
    for pcrs in (one_less, {**PCRS, 8: bytes(32)}, one_wrong, shifted, {}):
        with pytest.raises(EvidenceError):
            verify(pcrs=pcrs)


def test_other_keys_are_refused() -> None:
    with pytest.raises(EvidenceError, match="does not verify"):
        verify(signature=SIGNATURE, key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(EvidenceError, match="P-256"):
        verify(signature=SIGNATURE, key=ec.generate_private_key(ec.SECP384R1()))
    for key in (RSA_KEY, ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(EvidenceError, match="another algorithm"):
            verify(signature=SIGNATURE, key=key)
    with pytest.raises(EvidenceError, match="another algorithm"):
        verify(signature=wire.rsa_signature(RSA_KEY, ATTEST))


def test_short_integers_are_read() -> None:
    """Some TPMs strip leading zeros of r and s."""
    for _ in range(20_000):
        signature = wire.ecdsa_signature(KEY, ATTEST)
        if signature[6] == 0:
            stripped = signature[:4] + wire.sized(signature[7:38]) + signature[38:]
            verify(signature=stripped)
            return
    pytest.fail("no signature with a leading zero in 20,000 tries")


@given(st.binary(max_size=300), st.binary(max_size=120))
def test_garbage_raises_evidence_errors(attest: bytes, signature: bytes) -> None:
    with pytest.raises(EvidenceError):
        verify_quote(KEY.public_key(), attest, signature, QUALIFYING, PCRS)
    with pytest.raises(EvidenceError):
        verify_quote(KEY.public_key(), attest, wire.ecdsa_signature(KEY, attest), QUALIFYING, PCRS)


@given(st.binary(min_size=1, max_size=4), st.integers(0, len(ATTEST)), st.integers(0, 8))
def test_signed_mutations_never_pass_as_the_original(insert: bytes, at: int, cut: int) -> None:
    """Even the key's holder cannot make a quote that parses in two ways: other bytes are other claims, or malformed."""
    changed = ATTEST[:at] + insert + ATTEST[at + cut :]
    if changed == ATTEST:
        return
    try:
        q = verify(changed)
    except EvidenceError:
        return
    assert q != verify()


def test_tpm2_checkquote_agrees(tmp_path) -> None:
    """The reference tool accepts what we accept, and refuses with us."""
    import subprocess

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    paths = {n: tmp_path / n for n in ("ak.pem", "attest.bin", "signature.bin")}
    paths["ak.pem"].write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    paths["attest.bin"].write_bytes(ATTEST)
    for signature, expected in ((SIGNATURE, 0), (SIGNATURE[:-1] + bytes([SIGNATURE[-1] ^ 1]), 1)):
        paths["signature.bin"].write_bytes(signature)
        command = [
            "tpm2_checkquote",
            "-u",
            paths["ak.pem"],
            "-m",
            paths["attest.bin"],
            "-s",
            paths["signature.bin"],
            "-g",
            "sha256",
        ]
        ran = subprocess.run([*command, "-q", QUALIFYING.hex()], capture_output=True, timeout=20, check=False)
        assert (ran.returncode != 0) == bool(expected), ran.stderr
