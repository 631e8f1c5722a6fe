"""TPM2_MakeCredential without a TPM: a secret that only the TPM with this EK can read, and only beside this AK.

This is the CA's side of enrolment, so it needs nothing but cryptography. It also reads an AK's public area, because
what credential activation proves is its *name*: that the key with exactly these attributes lives in that TPM.
Sources: TPM 2.0 Part 1, 11.4.10 (KDFa, KDFe) and clause 24 (credential protection); Part 2, 12.2.4 (TPMT_PUBLIC);
TCG EK Credential Profile 2.5, annex B (which hash and cipher an EK's template has).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from gateway.errors import EvidenceError, MalformedError

MAX_SECRET = 32  # a credential is at most a digest of the EK's name algorithm

_ECC, _SHA256, _ECDSA, _NULL, _P256 = 0x0023, 0x000B, 0x0018, 0x0010, 0x0003
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign; and noDA, without which power cuts lock the key out
AK_ATTRIBUTES = 0x00000002 | 0x00000010 | 0x00000020 | 0x00000040 | 0x00010000 | 0x00040000 | 0x00000400
_MUST, _MUST_NOT = AK_ATTRIBUTES & ~0x00000440, 0x00020000  # decrypt; userWithAuth and noDA are the gateway's own affair


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """An AK as its public area says it is. Unproven until a credential made for ``name`` was activated."""

    name: bytes
    public_key: ec.EllipticCurvePublicKey


def read_ak(public: bytes) -> AttestationKey:
    """Parse a TPMT_PUBLIC and require a restricted P-256 signing key that cannot leave its TPM.

    Raises MalformedError (not a TPMT_PUBLIC of that kind) or EvidenceError (attributes that prove nothing).
    """
    try:
        kind, name_alg, attributes, policy = struct.unpack_from(">HHIH", public)
        symmetric, scheme, hash_alg, curve, kdf, x_len = struct.unpack_from(">6H", public, 10 + policy)
        x_at = 22 + policy
        (y_len,) = struct.unpack_from(">H", public, x_at + x_len)
    except struct.error:
        raise MalformedError("the AK's public area is cut short", "make a new enrolment request") from None
    expected = (_ECC, _SHA256, _NULL, _ECDSA, _SHA256, _P256, _NULL)
    if (kind, name_alg, symmetric, scheme, hash_alg, curve, kdf) != expected or len(public) != x_at + x_len + 2 + y_len:
        raise MalformedError("the AK is not an ECDSA P-256 key with SHA-256", "make a new enrolment request")
    if attributes & _MUST != _MUST or attributes & _MUST_NOT:
        raise EvidenceError(f"the AK's attributes {attributes:#010x} do not bind it to its TPM", "do not certify this key")
    x, y = public[x_at : x_at + x_len], public[x_at + x_len + 2 :]
    try:
        key = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()
    except ValueError:
        raise MalformedError("the AK is not a point of P-256", "make a new enrolment request") from None
    return AttestationKey(struct.pack(">H", _SHA256) + hashlib.sha256(public).digest(), key)


def make_credential(ek: PublicKeyTypes, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """(TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET) that carry ``secret`` to the TPM with ``ek``, for the object called ``name``.

    The hash and the cipher are those of the EK's standard template: SHA-256 with AES-128 for RSA-2048 and P-256,
    SHA-384 with AES-256 for RSA above and P-384. Raises EvidenceError for any other key.
    """
    if not 0 < len(secret) <= MAX_SECRET:
        raise ValueError(f"a credential is 1 to {MAX_SECRET} bytes")
    small = isinstance(ek, rsa.RSAPublicKey) and ek.key_size == 2048
    small = small or (isinstance(ek, ec.EllipticCurvePublicKey) and isinstance(ek.curve, ec.SECP256R1))
    algorithm: hashes.HashAlgorithm = hashes.SHA256() if small else hashes.SHA384()
    seed, encrypted = _seed(ek, algorithm)
    wrapped = struct.pack(">H", len(secret)) + secret
    key = kdfa(algorithm, seed, b"STORAGE", name, b"", 128 if small else 256)
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(wrapped) + encryptor.finalize()
    hmac_key = kdfa(algorithm, seed, b"INTEGRITY", b"", b"", algorithm.digest_size * 8)
    outer = hmac.digest(hmac_key, identity + name, algorithm.name)
    blob = struct.pack(">H", len(outer)) + outer + identity
    return struct.pack(">H", len(blob)) + blob, struct.pack(">H", len(encrypted)) + encrypted


def kdfa(algorithm: hashes.HashAlgorithm, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int) -> bytes:
    """KDFa: SP 800-108 in counter mode with HMAC (Part 1, 11.4.10.2). ``bits`` is a multiple of eight."""
    made, counter = b"", 0
    while len(made) * 8 < bits:
        counter += 1
        text = struct.pack(">I", counter) + label + b"\0" + context_u + context_v + struct.pack(">I", bits)
        made += hmac.digest(key, text, algorithm.name)
    return made[: bits // 8]


def kdfe(algorithm: hashes.HashAlgorithm, z: bytes, label: bytes, party_u: bytes, party_v: bytes) -> bytes:
    """KDFe: the one-step KDF of SP 800-56A (Part 1, 11.4.10.3), for exactly one digest of ``algorithm``."""
    return hashlib.new(algorithm.name, struct.pack(">I", 1) + z + label + b"\0" + party_u + party_v).digest()


def _seed(ek: PublicKeyTypes, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """A seed and its encryption to the EK (Part 1, B.10.3 for RSA and C.6.3 for ECC)."""
    if isinstance(ek, rsa.RSAPublicKey) and ek.key_size in (2048, 3072, 4096):
        seed = secrets.token_bytes(algorithm.digest_size)
        return seed, ek.encrypt(seed, padding.OAEP(padding.MGF1(algorithm), algorithm, label=b"IDENTITY\0"))
    if isinstance(ek, ec.EllipticCurvePublicKey) and isinstance(ek.curve, ec.SECP256R1 | ec.SECP384R1):
        ephemeral = ec.generate_private_key(ek.curve)
        size = (ek.curve.key_size + 7) // 8
        mine, theirs = ephemeral.public_key().public_numbers(), ek.public_numbers()
        x, y = mine.x.to_bytes(size), mine.y.to_bytes(size)
        seed = kdfe(algorithm, ephemeral.exchange(ec.ECDH(), ek), b"IDENTITY", x, theirs.x.to_bytes(size))
        return seed, struct.pack(">H", size) + x + struct.pack(">H", size) + y
    raise EvidenceError("the EK is of a kind TPMs do not use", "check which certificate the request carries")
