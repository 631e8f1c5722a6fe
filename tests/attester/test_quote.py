"""Quotes of a real TPM, checked by three parties: cryptography alone, Debian's tpm2_checkquote, and our own verifier."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2B_PUBLIC, TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from gateway.attester import keys
from gateway.attester.attester import Attester
from gateway.attester.credential import read_ak
from gateway.attester.tpm import Connection, Tpm
from gateway.errors import EvidenceError, InputError, UnavailableError
from gateway.model.certificate import QuotedState
from gateway.verifier.quote import verify_quote
from hil import firmware

pytestmark = pytest.mark.rig
TPM_RH_ENDORSEMENT = bytes.fromhex("4000000b")


def check_by_hand(attester: Attester, quoted: QuotedState) -> None:
    """The signature, the qualifying data and the PCR digest, at their places in TPMS_ATTEST."""
    key = load_der_public_key(attester.ak_spki())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    at = 4
    size = int.from_bytes(quoted.signature[at : at + 2])
    r, s = quoted.signature[at + 2 : at + 2 + size], quoted.signature[at + 4 + size :]
    key.verify(encode_dss_signature(int.from_bytes(r), int.from_bytes(s)), quoted.attest, ec.ECDSA(hashes.SHA256()))
    assert quoted.attest[:6] == b"\xffTCG\x80\x18"
    name = int.from_bytes(quoted.attest[6:8])
    assert quoted.attest[8 + name : 10 + name] == b"\0\x20"
    assert quoted.attest[10 + name : 42 + name] == quoted.qualifying
    assert quoted.attest[-32:] == hashlib.sha256(b"".join(value for _, value in quoted.pcrs)).digest()


def checkquote(directory: Path, attest: bytes, signature: bytes, qualifying: bytes) -> bool:
    """What Debian's tool says of the files in ``directory``."""
    (directory / "attest.bin").write_bytes(attest)
    (directory / "signature.bin").write_bytes(signature)
    command = ["tpm2_checkquote", "-u", "ak.pem", "-m", "attest.bin", "-s", "signature.bin", "-g", "sha256", "-q", qualifying.hex()]
    return subprocess.run(command, cwd=directory, capture_output=True, timeout=10, check=False).returncode == 0


async def test_a_quote_covers_what_the_firmware_measured(attester: Attester) -> None:
    quoted = await attester.quote(b"q" * 32)
    check_by_hand(attester, quoted)
    assert dict(quoted.pcrs) == firmware.boot().pcrs
    assert quoted.nv_counter == 1


async def test_debians_tool_accepts_it_and_refuses_a_flipped_byte(attester: Attester, tmp_path: Path) -> None:
    quoted = await attester.quote(b"q" * 32)
    key = load_der_public_key(attester.ak_spki())
    (tmp_path / "ak.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert checkquote(tmp_path, quoted.attest, quoted.signature, quoted.qualifying)
    assert not checkquote(tmp_path, quoted.attest, quoted.signature, b"p" * 32)
    for at in range(0, len(quoted.attest), 5):
        flipped = quoted.attest[:at] + bytes([quoted.attest[at] ^ 1]) + quoted.attest[at + 1 :]
        assert not checkquote(tmp_path, flipped, quoted.signature, quoted.qualifying), f"byte {at}"


async def test_our_verifier_accepts_it_and_refuses_every_flipped_byte(attester: Attester) -> None:
    quoted, key = await attester.quote(b"q" * 32), load_der_public_key(attester.ak_spki())
    seen = verify_quote(key, quoted.attest, quoted.signature, quoted.qualifying, dict(quoted.pcrs))
    assert seen.pcrs == tuple(range(8))
    assert seen.reset_count == attester.health().reset_count  # true values: the AK is in the endorsement hierarchy
    name = read_ak(attester.make_request().ak_public).name
    assert seen.signer == b"\0\x0b" + hashlib.sha256(TPM_RH_ENDORSEMENT + name).digest()
    for part in ("attest", "signature"):
        whole = getattr(quoted, part)
        for at in range(len(whole)):
            flipped = replace(quoted, **{part: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]})
            with pytest.raises(EvidenceError):
                verify_quote(key, flipped.attest, flipped.signature, flipped.qualifying, dict(flipped.pcrs))


async def test_fifty_at_once_each_sign_what_they_were_asked(attester: Attester) -> None:
    asked = [hashlib.sha256(bytes([n])).digest() for n in range(50)]
    quotes = await asyncio.gather(*(attester.quote(q) for q in asked))
    assert [q.qualifying for q in quotes] == asked
    for quoted in quotes:
        check_by_hand(attester, quoted)


async def test_more_than_eight_pcrs_are_read_in_turns(tpm: Tpm, attester: Attester, state_dir: Path) -> None:
    wide = Attester(tpm, state_dir, pcrs=[14, *range(8), 9, 16, 23, 14])
    quoted = await wide.quote(bytes(32))
    assert [n for n, _ in quoted.pcrs] == [*range(8), 9, 14, 16, 23]
    check_by_hand(wide, quoted)


def extend(connection: Connection, pcr: int) -> None:
    """Extend one PCR."""
    digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=b"u" * 32))
    connection.esys.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES([digest]))


@pytest.mark.parametrize(("times", "holds"), [(1, True), (3, False)])
async def test_pcrs_that_change_while_quoted_are_read_again(
    tpm: Tpm, attester: Attester, monkeypatch: pytest.MonkeyPatch, times: int, holds: bool
) -> None:
    read, left = keys._read_pcrs, [times]

    def read_and_be_overtaken(connection: Connection, pcrs: tuple[int, ...]) -> tuple[tuple[int, bytes], ...]:
        values = read(connection, pcrs)
        if left[0]:
            left[0] -= 1
            extend(connection, 7)
        return values

    monkeypatch.setattr(keys, "_read_pcrs", read_and_be_overtaken)
    if holds:
        quoted = await attester.quote(bytes(32))
        check_by_hand(attester, quoted)
        assert dict(quoted.pcrs)[7] != firmware.boot().pcrs[7]
    else:
        with pytest.raises(UnavailableError, match="keep changing"):
            await attester.quote(bytes(32))


async def test_the_counter_counts(attester: Attester) -> None:
    first = await attester.nv_counter()
    assert await attester.nv_counter() == first
    assert await attester.nv_counter(increment=True) == first + 1
    assert (await attester.quote(bytes(32))).nv_counter == first + 1


async def test_software_keys_are_named_and_the_issuing_key_signs(attester: Attester) -> None:
    key = load_der_public_key(attester.issuing_spki())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signature = attester.sign(b"a statement")
    assert len(signature) == 64
    der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    key.verify(der, b"a statement", ec.ECDSA(hashes.SHA256()))
    attester.register_software_key("tls", b"an SPKI")
    named = [(k.purpose, k.spki_hash) for k in attester.software_keys()]
    assert named == [
        ("issuing", hashlib.sha256(attester.issuing_spki()).digest()),
        ("tls", hashlib.sha256(b"an SPKI").digest()),
    ]
    with pytest.raises(ValueError, match="own"):
        attester.register_software_key("issuing", b"another")


async def test_each_process_has_its_own_issuing_key(tpm: Tpm, attester: Attester, state_dir: Path) -> None:
    assert Attester(tpm, state_dir).issuing_spki() != attester.issuing_spki()


async def test_wrong_uses_are_refused(tpm: Tpm, attester: Attester, state_dir: Path) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        await attester.quote(b"short")
    for pcrs in ((), (24,), (-1,)):
        with pytest.raises(InputError, match="PCRs"):
            Attester(tpm, state_dir, pcrs=pcrs)


async def test_the_loop_turns_while_the_tpm_makes_keys(tpm: Tpm) -> None:
    def primary(connection: Connection) -> float:
        began = time.monotonic()
        for n in range(6):
            template = TPM2B_PUBLIC.parse("rsa2048")
            area = template.publicArea
            unique = area.unique
            unique.rsa = bytes([n]) * 256
            with connection.flushing(connection.esys.create_primary(None, template)[0]):
                pass
        return time.monotonic() - began

    turns = 0
    making = asyncio.ensure_future(tpm.call(primary, limit_s=60))
    while not making.done():
        await asyncio.sleep(0.002)
        turns += 1
    elapsed = making.result()
    assert turns >= elapsed / 0.1, f"{turns} turns of the loop in {elapsed:.2f} s"
