"""PURE. CBOR and COSE as other people's devices write them: bounded and unambiguous, but not necessarily deterministic.

Our own objects go through ``gateway.codec``, which is stricter. Here a signature is checked over the bytes as received; what
is refused is what two parsers could read differently: indefinite lengths, duplicate keys, trailing bytes, tags with a meaning.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import cbor2
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway import codec
from gateway.errors import EvidenceError, MalformedError

MAX_TOKEN = 16 * 1024  # bytes; a token with twenty measured components has four thousand
MAX_DEPTH = 8  # token, claims, components, one component, its values
_SIGN1, _MAC0 = 18, 17
_ALG, _CRIT = 1, 2


def _no_meaning(_: object, __: bool) -> NoReturn:
    raise ValueError("a tag that has no place in a token")


# every tag that the CBOR library gives a meaning to (dates, big numbers, shared references, regular expressions …)
_REFUSED: Mapping[int, Callable[[Any, bool], Any]] = dict.fromkeys(  # a plain dict: the decoder reads it on every call
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 43000, 52, 54, 100, 256, 258, 260, 261, 1004, 55799), _no_meaning
)
MAP = (dict, cbor2.frozendict)  # what the decoder makes of a CBOR map; frozen inside a tag
_CURVES: Mapping[int, tuple[type[ec.EllipticCurve], int, ec.ECDSA]] = MappingProxyType(  # RFC 9053, section 2.1
    {
        -7: (ec.SECP256R1, 32, ec.ECDSA(hashes.SHA256())),
        -35: (ec.SECP384R1, 48, ec.ECDSA(hashes.SHA384())),
        -36: (ec.SECP521R1, 66, ec.ECDSA(hashes.SHA512())),
    }
)

# RFC 9053, section 3.1: hash, and bytes of the tag
_HASHES: Mapping[int, tuple[str, int]] = MappingProxyType({5: ("sha256", 32), 6: ("sha384", 48), 7: ("sha512", 64)})
MIN_SHARED = 32  # bytes of a key shared with a device: less is no key for HMAC 256/256 (RFC 9053, section 3.1)


def decode(data: bytes, what: str) -> Any:
    """One CBOR item that fills ``data``; ``what`` names it in the error. Raises MalformedError and nothing else."""
    if len(data) > MAX_TOKEN:
        raise MalformedError(f"{what} of {len(data)} bytes where {MAX_TOKEN} are the most", "send less")
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream, semantic_decoders=_REFUSED, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False
        ).decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as e:
        raise MalformedError(f"{what} that is not plain CBOR", "check how the device encodes it") from e
    if stream.tell() != len(data):
        raise MalformedError(f"{what} with {len(data) - stream.tell()} bytes after its end", "send nothing after it")
    return value


class UnverifiedToken(NamedTuple):  # not a dataclass, as every attestation of every device builds one
    """A parsed COSE_Sign1 whose signature nobody has checked. ``verify`` gives its payload."""

    protected: bytes
    algorithm: int
    unverified_payload: bytes
    signature: bytes

    def verify(self, spki: bytes) -> bytes:
        """The payload, if the key (DER SubjectPublicKeyInfo) signed it; raises EvidenceError."""
        curve, size, scheme = _CURVES[self.algorithm]
        key = _key(spki)
        if not isinstance(key.curve, curve) or len(self.signature) != 2 * size:
            raise EvidenceError("a token signed with another algorithm than its key's", "check the device's trust anchor")
        r, s = int.from_bytes(self.signature[:size], "big"), int.from_bytes(self.signature[size:], "big")
        message = codec.sign1_to_sign(self.protected, self.unverified_payload)
        try:
            key.verify(encode_dss_signature(r, s), message, scheme)
        except InvalidSignature:
            raise EvidenceError("a token whose signature does not verify", "it was changed, or another key signed it") from None
        return self.unverified_payload


class UnverifiedMac(NamedTuple):
    """A parsed COSE_Mac0 whose tag nobody has checked. ``verify`` gives its payload."""

    protected: bytes
    algorithm: int
    unverified_payload: bytes
    tag: bytes

    def verify(self, key: bytes) -> bytes:
        """The payload, if the key shared with the device made the tag; raises EvidenceError."""
        name, size = _HASHES[self.algorithm]
        if len(key) < MIN_SHARED:
            raise EvidenceError("a COSE_Mac0 token, and the key shared with its device is not at hand", "see `wardgate check`")
        message = codec.encode(["MAC0", self.protected, b"", self.unverified_payload])  # RFC 9052, section 6.3
        if len(self.tag) != size or not hmac.compare_digest(hmac.digest(key, message, name), self.tag):
            raise EvidenceError("a token whose MAC does not verify", "it was changed, or made with another key")
        return self.unverified_payload


def parse_token(data: bytes) -> UnverifiedToken | UnverifiedMac:
    """Parse a tagged COSE_Sign1 or COSE_Mac0 (RFC 9052, 4.2 and 6.2) with an attached payload. Raises MalformedError.

    Unprotected headers are nobody's word: they may be there and are not read.
    """
    value = decode(data, "a token")
    if not (isinstance(value, cbor2.CBORTag) and value.tag in (_SIGN1, _MAC0) and _is_array(value.value, 4)):
        raise MalformedError("a token that is no tagged COSE_Sign1 or COSE_Mac0", "send CBOR tag 18 or 17 around its four parts")
    protected, unprotected, payload, proof = value.value
    if not (type(protected) is type(payload) is type(proof) is bytes and isinstance(unprotected, MAP)):
        raise MalformedError("a token with parts of the wrong kind or a detached payload", "attach the claims")
    if value.tag == _MAC0:
        return UnverifiedMac(protected, _algorithm(protected, _MAC0), payload, proof)
    return UnverifiedToken(protected, _algorithm(protected, _SIGN1), payload, proof)


@lru_cache(maxsize=64)  # a handful of headers is all that devices send; a refused one is not remembered
def _algorithm(protected: bytes, tag: int) -> int:
    header = decode(protected, "a protected header")
    if not isinstance(header, MAP) or _CRIT in header:
        raise MalformedError("a protected header that is no map, or asks for what is not known here", "send the algorithm alone")
    algorithm = header.get(_ALG)
    known: Mapping[int, object] = _CURVES if tag == _SIGN1 else _HASHES
    if type(algorithm) is not int or algorithm not in known:
        use = "ES256, ES384 or ES512" if tag == _SIGN1 else "HMAC 256/256, 384/384 or 512/512"
        raise MalformedError(f"a token made with COSE algorithm {algorithm!r:.40}", f"use {use}")
    return algorithm


def _is_array(value: object, size: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == size


@lru_cache(maxsize=1024)  # the devices of one gateway attest every ten seconds with the same keys
def _key(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise EvidenceError("a trust anchor whose key does not parse", "import the device's key again (DER)") from e
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EvidenceError("a trust anchor that is no elliptic-curve key", "import the device's own key")
    return key
