"""The bench's secure element against the gateway's own strict COSE: two ends, written apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.codec import parse_sign1
from gateway.errors import EvidenceError
from hil.psa import COMPONENTS, LIFECYCLE, NONCE, UEID, Component, PsaSigner, load_key, signer_of


@pytest.fixture
def signer() -> PsaSigner:
    """A device."""
    return signer_of("patch", ec.generate_private_key(ec.SECP256R1()))


def test_a_token_verifies_and_says_what_the_reference_says(signer: PsaSigner) -> None:
    reference = signer.reference()
    token = parse_sign1(signer.token(b"\x01" * 32))
    claims = cbor2.loads(token.verify(signer._key.public_key()))
    assert claims[NONCE] == b"\x01" * 32
    assert claims[UEID].hex() == reference["ueid"] == "01" + hashlib.sha256(signer.spki).hexdigest()
    assert {c[1]: c[2].hex() for c in claims[COMPONENTS]} == reference["components"]
    assert len(signer.token(b"\x01" * 32)) <= 508  # one GATT window


def test_another_key_does_not_verify(signer: PsaSigner) -> None:
    token = parse_sign1(signer.token(b"\x01" * 32))
    with pytest.raises(EvidenceError):
        token.verify(ec.generate_private_key(ec.SECP256R1()).public_key())


def test_overrides_make_a_device_that_lies(signer: PsaSigner) -> None:
    lie = signer.token(b"\x01" * 32, lifecycle=0x6000, components=None)
    claims = cbor2.loads(parse_sign1(lie).verify(signer._key.public_key()))
    assert claims[LIFECYCLE] == 0x6000
    assert COMPONENTS not in claims
    signer.components = (Component.of("FW", b"other"),)
    assert list(signer.reference()["components"]) == ["FW"]  # type: ignore[call-overload]


def test_a_key_is_made_once(tmp_path: Path) -> None:
    first, again = (load_key(tmp_path / "k.pem") for _ in range(2))
    assert first.private_numbers() == again.private_numbers()
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
