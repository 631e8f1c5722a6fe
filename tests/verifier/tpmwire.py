"""Writes TPM 2.0 wire format and signs it with a key in software: a TPM for tests of the verifier. Knows no gateway code."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

SHA1, SHA256, SHA384 = 0x0004, 0x000B, 0x000C
RSASSA, RSAPSS, ECDSA = 0x0014, 0x0016, 0x0018


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def selection(numbers: object, bank: int = SHA256) -> bytes:
    """A TPML_PCR_SELECTION of one bank."""
    mask = sum(1 << n for n in numbers)  # type: ignore[attr-defined]
    return struct.pack(">IHB", 1, bank, 3) + mask.to_bytes(3, "little")


def attest(
    pcrs: Mapping[int, bytes],
    qualifying: bytes,
    *,
    signer: bytes = b"\x00\x0b" + bytes(32),
    clock: tuple[int, int, int, int] = (123456, 7, 2, 1),
    firmware: int = 0x2019102300163636,
    kind: int = 0x8018,
    magic: bytes = b"\xffTCG",
    selected: bytes | None = None,
) -> bytes:
    """A TPMS_ATTEST of a quote over ``pcrs``."""
    digest = hashlib.sha256(b"".join(pcrs[n] for n in sorted(pcrs))).digest()
    head = magic + struct.pack(">H", kind) + sized(signer) + sized(qualifying)
    return head + struct.pack(">QIIBQ", *clock, firmware) + (selected or selection(pcrs)) + sized(digest)


def ecdsa_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """A TPMT_SIGNATURE, ECDSA with SHA-256."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return struct.pack(">HH", ECDSA, SHA256) + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))


def rsa_signature(key: rsa.RSAPrivateKey, message: bytes, scheme: int = RSASSA) -> bytes:
    """A TPMT_SIGNATURE, RSASSA or RSAPSS (longest salt) with SHA-256."""
    h = hashes.SHA256()
    pad = padding.PKCS1v15() if scheme == RSASSA else padding.PSS(padding.MGF1(h), padding.PSS.MAX_LENGTH)
    return struct.pack(">HH", scheme, SHA256) + sized(key.sign(message, pad, h))
