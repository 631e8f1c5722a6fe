"""MakeCredential without a TPM: the derivations by values computed by hand, and a real TPM that opens what was made."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from gateway.attester import credential, keys, state
from gateway.attester.attester import Attester, provision
from gateway.attester.tpm import Tpm
from gateway.errors import EvidenceError, InputError, MalformedError, WardgateError


def public_area(key: ec.EllipticCurvePublicKey, attributes: int = credential.AK_ATTRIBUTES) -> bytes:
    """TPMT_PUBLIC of an ECDSA P-256 key, after Part 2, 12.2.4."""
    numbers = key.public_numbers()
    head = struct.pack(">HHIH", 0x23, 0x0B, attributes, 0) + struct.pack(">6H", 0x10, 0x18, 0x0B, 3, 0x10, 32)
    return head + numbers.x.to_bytes(32) + struct.pack(">H", 32) + numbers.y.to_bytes(32)


KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
AREA = public_area(KEY)


def test_reads_an_ak_and_computes_its_name() -> None:
    ak = credential.read_ak(AREA)
    assert ak.public_key == KEY
    assert ak.name == b"\x00\x0b" + hashlib.sha256(AREA).digest()


@pytest.mark.parametrize("missing", [0x2, 0x10, 0x20, 0x10000, 0x40000])
def test_a_key_that_could_leave_or_sign_anything_is_not_an_ak(missing: int) -> None:
    with pytest.raises(EvidenceError, match="attributes"):
        credential.read_ak(public_area(KEY, credential.AK_ATTRIBUTES & ~missing))


def test_a_key_that_decrypts_is_not_an_ak() -> None:
    with pytest.raises(EvidenceError, match="attributes"):
        credential.read_ak(public_area(KEY, credential.AK_ATTRIBUTES | 0x20000))


@given(st.binary(max_size=120))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(WardgateError):
        credential.read_ak(noise)


@pytest.mark.parametrize("cut", range(len(AREA)))
def test_every_cut_is_refused(cut: int) -> None:
    with pytest.raises(MalformedError):
        credential.read_ak(AREA[:cut])


def test_a_trailing_byte_is_refused() -> None:
    with pytest.raises(MalformedError):
        credential.read_ak(AREA + b"\0")


def test_kdfa_is_sp800_108_in_counter_mode() -> None:
    text = b"STORAGE\0" + b"name" + struct.pack(">I", 384)
    blocks = [hmac.digest(b"k", struct.pack(">I", i) + text, "sha256") for i in (1, 2)]
    assert credential.kdfa(hashes.SHA256(), b"k", b"STORAGE", b"name", b"", 384) == b"".join(blocks)[:48]


def test_a_key_no_tpm_uses_is_refused() -> None:
    with pytest.raises(EvidenceError):
        credential.make_credential(ed25519.Ed25519PrivateKey.generate().public_key(), b"name", b"secret")


@pytest.mark.parametrize("length", [0, 33])
def test_a_secret_of_the_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="1 to 32"):
        credential.make_credential(KEY, b"name", bytes(length))


@pytest.mark.rig
@pytest.mark.parametrize("kind", [name for name, _, _ in keys.EKS])
async def test_a_tpm_activates_what_was_made_here(tpm: Tpm, state_dir: Path, kind: str) -> None:
    made = await provision(tpm, state_dir, "gw-1", ek_kind=kind)
    attester, handle = Attester(tpm, state_dir), state.load(state_dir).ek_handle
    assert handle == next(h for name, _, h in keys.EKS if name == kind)
    ek = load_der_public_key(await tpm.call(lambda c: bytes(c.esys.read_public(c.handle(handle))[0].to_der())))
    secret = b"0123456789abcdef0123456789abcdef"
    blob, encrypted = credential.make_credential(ek, made.ak_name, secret)
    assert await attester.activate_credential(blob, encrypted) == secret
    for at in range(0, len(blob), 7):
        bad = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(InputError, match="another TPM"):
            await attester.activate_credential(bad, encrypted)
    blob, encrypted = credential.make_credential(ek, made.ak_name[:-1] + b"\0", secret)
    with pytest.raises(InputError, match="another TPM"):
        await attester.activate_credential(blob, encrypted)
    assert (await attester.quote(bytes(32))).nv_counter == 1  # no slot was lost to the failures


@pytest.mark.rig
async def test_answers_that_are_not_tpm_structures_are_refused(attester: Attester) -> None:
    for blob in (b"", b"\0", b"\xff\xff", bytes(5000)):
        with pytest.raises(InputError, match="another TPM"):
            await attester.activate_credential(blob, blob)


@pytest.mark.rig
async def test_an_ek_nobody_certified_cannot_be_enrolled(tpm: Tpm, state_dir: Path) -> None:
    made = await provision(tpm, state_dir, "gw-1", ek_kind="EK-ECC256")
    assert not made.ek_certified
    with pytest.raises(WardgateError, match="no EK certificate"):
        Attester(tpm, state_dir).make_request()
    state.save(state_dir, replace(state.load(state_dir), ak_public=""))
    with pytest.raises(InputError, match="never made"):
        Attester(tpm, state_dir)
