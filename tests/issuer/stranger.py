"""A verifier written from gateway/issuer/README.md alone: cryptography, cbor2 and hashlib, nothing of Wardgate.

It says whether the README defines the bundle; it checks every step there, in that order, and raises on the first that fails.
"""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
PROFILE = "tag:ietf.org,2026:rats/ear#03"


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def strict(data: bytes) -> Any:
    value = cbor2.loads(data)
    require(cbor2.dumps(value, canonical=True) == data, "not deterministic")
    return value


def root_of(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    node, rest = sha256(b"\x00", leaf), list(proof)
    while size > 1:
        if index ^ 1 < size:  # this node has a sibling in its row
            other = rest.pop(0)
            node = sha256(b"\x01", other, node) if index & 1 else sha256(b"\x01", node, other)
        index, size = index // 2, (size + 1) // 2
    require(not rest, "a proof with hashes to spare")
    return node


def es256(key: Any, signature: bytes, message: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    require(len(signature) == 64 and s <= N // 2, "s is high")
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def check_path(chain: list[bytes], anchor: x509.Certificate, at: Any) -> Any:
    path = [*map(x509.load_der_x509_certificate, chain), anchor]
    for below, above in pairwise(path):
        below.verify_directly_issued_by(above)
        require(above.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, "no CA")
        require(below.not_valid_before_utc <= at <= below.not_valid_after_utc, "expired")
    purposes = path[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    require(x509.ObjectIdentifier("2.23.133.8.3") in purposes, "not an attestation key")
    return path[0].public_key()


def check_quote(key: Any, attest: bytes, signature: bytes, extra: bytes, pcrs: dict[int, bytes]) -> None:
    require(signature[:6] == bytes.fromhex("0018000b0020") and signature[38:40] == b"\x00\x20", "not ECDSA with SHA-256")
    es256(key, signature[6:38] + signature[40:], attest)
    require(attest[:6] == b"\xffTCG\x80\x18", "no quote")
    at = 6
    (length,) = struct.unpack_from(">H", attest, at)
    at += 2 + length  # qualifiedSigner
    (length,) = struct.unpack_from(">H", attest, at)
    require(attest[at + 2 : at + 2 + length] == extra, "another extraData")
    at += 2 + length + 17 + 8  # clockInfo, firmwareVersion
    count, bank, octets = struct.unpack_from(">IHB", attest, at)
    require((count, bank, octets) == (1, 0x000B, 3), "not the SHA-256 bank")
    mask = int.from_bytes(attest[at + 7 : at + 10], "little")
    require({n for n in range(24) if mask >> n & 1} == set(pcrs), "other PCRs")
    require(attest[at + 10 :] == b"\x00\x20" + sha256(*(pcrs[n] for n in sorted(pcrs))), "other PCR values")


def check_ear(ear: bytes, spki: bytes, verdict: dict[int, Any]) -> None:
    token = strict(ear)
    protected, unprotected, payload, signature = token.value
    require(token.tag == 18 and unprotected == {}, "no COSE_Sign1")
    header = {1: -7, 3: f'application/eat+cwt; eat_profile="{PROFILE}"', 4: sha256(spki)}
    require(strict(protected) == header, "another header")
    es256(load_der_public_key(spki), signature, cbor2.dumps(["Signature1", protected, b"", payload], canonical=True))
    claims = strict(payload)
    require(claims[265] == PROFILE and claims[6] == verdict[9] // 10**9 and claims[4] == verdict[11] // 10**9, "other times")
    a = claims[266][verdict[1]]
    said = (a[-70100], a[1000], a.get(1001, {}), a[-70101], a[-70103], a[-70102])
    require(said == (verdict[3], verdict[4], verdict[5], verdict[6], verdict[2], dict(verdict[12])), "a contradiction")


def check(data: bytes, anchor_pem: bytes, at: Any) -> dict[int, Any]:
    """The verdict, when all of it holds."""
    b = strict(data)
    require(set(b) == set(range(15)) and b[0] == 1, "no bundle")
    content, salt, index, proof = b[3]
    own, own_salt, own_proof = b[4]
    require(1 <= index < b[10], "no place for a verdict")
    require(root_of(own_salt + own, 0, b[10], own_proof) == b[11], "leaf 0")
    require(root_of(salt + content, index, b[10], proof) == b[11], "the verdict")
    gateway, verdict = strict(own), strict(content)
    require(gateway[0] == 0 and verdict[0] == 1, "leaves of the wrong kind")
    require(sha256(b[1]) == verdict[13], "another EAR")
    require([h for purpose, h in gateway[1] if purpose == "issuing"] == [sha256(b[2])], "another issuing key")
    require(sha256(cbor2.dumps(b[14], canonical=True)) == gateway[5], "other certificates")
    kind, value = b[8]
    freshness = sha256(bytes([kind]), struct.pack(">H", len(value)), value)
    numbers = struct.pack(">QI", b[9], b[10])
    extra = sha256(b"wardgate-batch-v1\x00", freshness, numbers, b[11], b[12], struct.pack(">Q", b[13]))
    key = check_path(b[14], x509.load_pem_x509_certificate(anchor_pem), at)
    check_quote(key, b[5], b[6], extra, b[7])
    check_ear(b[1], b[2], verdict)
    require(at.timestamp() < verdict[11] / 10**9, "expired")
    return dict(verdict)
