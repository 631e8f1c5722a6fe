"""PURE. Verifies a TPM 2.0 quote from its wire bytes. Source: TPM 2.0 Library, Part 2, sections 10.12 and 11.3.4.

Strict: TPM_GENERATED and the quote's type, one SHA-256 selection, every length used up and nothing after it. Needs no TSS,
no TPM. Refuses to know whose key it is, and what a PCR's value means.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from struct import Struct
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from gateway.errors import EvidenceError, MalformedError

MAX_ATTEST = 1024  # bytes; a quote over one bank is 145, a signer's name and 64 bytes of qualifying data included
MAX_SIGNATURE = 1024 + 6  # an RSA-8192 signature with its header; no TPM signs with more
PCRS = 24  # a PC client's TPM has so many, in three bytes of selection
PCR_BYTES = 32

_HEAD = b"\xffTCG\x80\x18"  # TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE
_SHA256 = b"\x00\x0b"
_SELECTION = b"\x00\x00\x00\x01" + _SHA256 + b"\x03"  # one selection, SHA-256, three bytes
_FIXED = 79  # bytes of a quote over one SHA-256 bank beside the signer's name and the qualifying data
_RSASSA, _RSAPSS, _ECDSA = 0x0014, 0x0016, 0x0018
_ES256 = ec.ECDSA(hashes.SHA256())
_HASH = hashes.SHA256()
_AGAIN = "ask for a new quote"


class Quote(NamedTuple):  # not a dataclass: building one would cost a third of everything here that is not the signature
    """A quote that verified. ``clock_ms``, ``reset_count``, ``restart_count``, ``safe`` are the TPM's clock (Part 2, 10.11.1).

    ``signer`` is the qualified name of the key that signed; ``pcrs`` are the PCR numbers it covers, in ascending order.
    """

    signer: bytes
    qualifying_data: bytes
    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    pcrs: tuple[int, ...]
    pcr_digest: bytes


def verify_quote(
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | object,
    attest: bytes,
    signature: bytes,
    qualifying_data: bytes,
    pcrs: Mapping[int, bytes],
) -> Quote:
    """Check signature, qualifying data and PCR values of a quote (TPMS_ATTEST, TPMT_SIGNATURE); raises EvidenceError.

    ``public_key``: P-256 (ECDSA) or RSA of 2048 bits and more (RSASSA or RSAPSS), with SHA-256. ``pcrs`` must hold exactly
    the PCRs that the quote selects.
    """
    quote = verify_signed_state(public_key, attest, signature, pcrs)
    if not compare_digest(quote.qualifying_data, qualifying_data):
        raise EvidenceError("a quote that answers another question (its qualifying data differs)", _AGAIN)
    return quote


def verify_signed_state(public_key: object, attest: bytes, signature: bytes, pcrs: Mapping[int, bytes]) -> Quote:
    """As ``verify_quote``, but what the quote answers is left to the caller: an old answer is another fault than a forged one."""
    _verify_signature(public_key, attest, signature)
    quote = _parse_attest(attest)
    if not compare_digest(_pcr_digest(quote.pcrs, pcrs), quote.pcr_digest):
        raise EvidenceError("PCR values that are not those the TPM quoted", _AGAIN)
    return quote


def _pcr_digest(selected: tuple[int, ...], pcrs: Mapping[int, bytes]) -> bytes:
    try:
        values = [pcrs[n] for n in selected]
    except KeyError as e:
        raise EvidenceError(f"PCR {e} is quoted but its value is missing", "send the value of every quoted PCR") from None
    if len(values) != len(pcrs):
        raise EvidenceError("values of PCRs that the quote does not cover", "send the quoted PCRs only")
    for value in values:
        if len(value) != PCR_BYTES:
            raise MalformedError(f"a SHA-256 PCR value of {len(value)} bytes", "send 32 bytes a PCR")
    return sha256(b"".join(values)).digest()


# --- TPMS_ATTEST ---


def _parse_attest(data: bytes) -> Quote:
    """Two lengths decide the layout of a quote over one bank; they must account for every byte."""
    if len(data) > MAX_ATTEST or data[:6] != _HEAD:
        raise MalformedError("not a quote made by a TPM", "send the TPMS_ATTEST of TPM2_Quote")
    signer_bytes = int.from_bytes(data[6:8], "big")
    extra_bytes = int.from_bytes(data[8 + signer_bytes : 10 + signer_bytes], "big")
    if signer_bytes + extra_bytes + _FIXED != len(data):
        raise MalformedError("a quote whose lengths do not add up, or over more than one bank", "quote PCRs of sha256 only")
    _, _, signer, _, qualifying, clock, resets, restarts, safe, firmware, bank, mask, size, digest = _layout(
        signer_bytes, extra_bytes
    ).unpack(data)
    if bank != _SELECTION or size != PCR_BYTES:
        raise MalformedError("a quote that does not select exactly the SHA-256 bank", "quote PCRs of sha256 only")
    selected = _selected(mask)
    if not selected or safe > 1:
        raise MalformedError("a quote over no PCR, or with a clock that is neither safe nor unsafe", _AGAIN)
    return Quote(signer, qualifying, clock, resets, restarts, safe == 1, firmware, selected, digest)


@lru_cache(maxsize=64)  # one key and one kind of qualifying data have one layout
def _layout(signer_bytes: int, extra_bytes: int) -> Struct:
    return Struct(f">6sH{signer_bytes}sH{extra_bytes}sQIIBQ7s3sH32s")


@lru_cache(maxsize=64)  # a gateway and its peers quote the same few selections again and again
def _selected(mask: bytes) -> tuple[int, ...]:
    bits = int.from_bytes(mask, "little")
    return tuple(n for n in range(PCRS) if bits >> n & 1)


# --- TPMT_SIGNATURE ---


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """A TPM2B at ``at``, and where it ends. Slicing gives too little at the end; the caller's last check notices."""
    start = at + 2
    end = start + int.from_bytes(data[at:start], "big")
    return data[start:end], end


def _verify_signature(public_key: object, attest: bytes, signature: bytes) -> None:
    if len(signature) > MAX_SIGNATURE or signature[2:4] != _SHA256:
        raise MalformedError("a quote's signature that is not made over SHA-256", "sign quotes with SHA-256")
    algorithm = signature[0] << 8 | signature[1]
    try:
        if algorithm == _ECDSA and isinstance(public_key, ec.EllipticCurvePublicKey):
            if not isinstance(public_key.curve, ec.SECP256R1):
                raise EvidenceError(f"a quote by a key on {public_key.curve.name}", "use an attestation key on P-256")
            public_key.verify(_ecdsa_der(signature), attest, _ES256)
        elif algorithm in (_RSASSA, _RSAPSS) and isinstance(public_key, rsa.RSAPublicKey):
            _verify_rsa(public_key, algorithm, attest, signature)
        else:
            raise EvidenceError("a quote signed with another algorithm than its key's", "check which key quotes")
    except InvalidSignature:
        raise EvidenceError("a quote whose signature does not verify", "it was changed, or another key signed it") from None


def _ecdsa_der(signature: bytes) -> bytes:
    r, at = _sized(signature, 4)
    s, end = _sized(signature, at)
    if end != len(signature) or not 0 < len(r) <= 32 or not 0 < len(s) <= 32:
        raise MalformedError("an ECDSA signature whose lengths do not add up", "send the TPMT_SIGNATURE as the TPM gave it")
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _verify_rsa(public_key: rsa.RSAPublicKey, algorithm: int, attest: bytes, signature: bytes) -> None:
    if public_key.key_size < 2048:
        raise EvidenceError(f"a quote by an RSA key of {public_key.key_size} bits", "use 2048 bits or more")
    value, end = _sized(signature, 4)
    if end != len(signature) or len(value) != (public_key.key_size + 7) // 8:
        raise MalformedError("an RSA signature whose lengths do not add up", "send the TPMT_SIGNATURE as the TPM gave it")
    if algorithm == _RSASSA:
        public_key.verify(value, attest, padding.PKCS1v15(), _HASH)
    else:  # TPMs use the digest's length or the longest salt (Part 1, annex B.7)
        public_key.verify(value, attest, padding.PSS(padding.MGF1(_HASH), padding.PSS.AUTO), _HASH)
