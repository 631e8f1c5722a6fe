"""PURE. One form for every ECDSA signature we hand out: of the two signatures (r, s) and (r, n-s) only that with the low s counts.

ECDSA lets anybody turn one valid signature into another valid one. A bundle must fail when anything in it is changed, so makers
lower s and checkers refuse a high one. Knows P-256 and TPMT_SIGNATURE, no keys.
"""

from __future__ import annotations

from gateway.errors import EvidenceError, MalformedError

# Order of P-256's base point (FIPS 186-5 / SP 800-186, section 3.2.1.3).
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HALF = ORDER // 2
SIZE = 64

_TPM_ALG_ECDSA = b"\x00\x18"  # TPM 2.0 Library Part 2, table 9
_TPM_P256 = 2 + 2 + 2 + 32 + 2 + 32  # sigAlg, hash, then r and s each as TPM2B_ECC_PARAMETER


def low_s(signature: bytes) -> bytes:
    """A raw r || s signature with its s lowered; the same signature when it is low already."""
    if len(signature) != SIZE:
        raise MalformedError(f"an ES256 signature of {len(signature)} bytes", "an ES256 signature is 64 bytes, r then s")
    s = int.from_bytes(signature[32:], "big")
    return signature if s <= _HALF else signature[:32] + (ORDER - s).to_bytes(32, "big")


def require_low_s(signature: bytes) -> None:
    """Raise EvidenceError unless s is low."""
    if low_s(signature) != signature:
        raise EvidenceError("a signature in its second form (high s)", "the object was changed; fetch it again")


def low_s_tpmt(signature: bytes) -> bytes:
    """A TPMT_SIGNATURE by a P-256 key in its one form: r and s of 32 bytes each, s low. Others (RSA has one form) stay as they are.

    Source: TPM 2.0 Library Part 2, sections 11.2.5 (TPM2B_ECC_PARAMETER) and 11.3.4 (TPMT_SIGNATURE).
    """
    if signature[:2] != _TPM_ALG_ECDSA or len(signature) > _TPM_P256:
        return signature
    r, rest = _parameter(signature[4:])
    s, rest = _parameter(rest)
    if rest:
        raise MalformedError("a TPM signature with trailing bytes", "fetch it again")
    s = min(s, ORDER - s) if 0 < s < ORDER else s
    return signature[:4] + b"".join(b"\x00\x20" + v.to_bytes(32, "big") for v in (r, s))


def require_low_s_tpmt(signature: bytes) -> None:
    """Raise EvidenceError unless a P-256 TPMT_SIGNATURE is in its one form."""
    if low_s_tpmt(signature) != signature:
        raise EvidenceError(
            "the quote's signature is not in its one form (32-byte r, low s)", "the file was changed; fetch it again"
        )


def _parameter(data: bytes) -> tuple[int, bytes]:
    length = int.from_bytes(data[:2], "big")
    if len(data) < 2 + length or not 0 < length <= 32:
        raise MalformedError("a TPM signature that does not parse", "fetch it again")
    return int.from_bytes(data[2 : 2 + length], "big"), data[2 + length :]
