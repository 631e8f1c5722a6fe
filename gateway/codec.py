"""PURE. Deterministic CBOR (RFC 8949, section 4.2.1), strict COSE_Sign1, and plain (JSON-able) forms of the model.

Strict means: what is parsed must encode back to the very same bytes, and unprotected headers are empty. So any changed,
added or removed byte of a signed object is noticed. Refuses to know keys' whereabouts, files and sockets.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum, StrEnum
from functools import lru_cache
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from gateway.errors import EvidenceError, MalformedError

COSE_SIGN1_TAG = 18
ALG_ES256 = -7
MAX_CBOR = 1024 * 1024  # bytes; the largest object we make is a bundle of a few kilobytes
_MAX_DEPTH = 16


def encode(value: object) -> bytes:
    """Deterministic CBOR: shortest forms, map keys sorted bytewise, definite lengths. Source: RFC 8949, section 4.2.1."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, limit: int = MAX_CBOR) -> Any:
    """Parse deterministic CBOR; raises MalformedError on anything that does not encode back to itself."""
    if len(data) > limit:
        raise MalformedError(f"{len(data)} bytes of CBOR where {limit} are the most", "send less")
    try:
        value = cbor2.loads(data)
        _check_depth(value, _MAX_DEPTH)
        again = encode(value)
    except (cbor2.CBORDecodeError, cbor2.CBOREncodeError, ValueError, TypeError, RecursionError, OverflowError) as e:
        raise MalformedError("not well-formed CBOR", "the file is broken; fetch it again") from e
    if again != data:
        raise MalformedError("CBOR that is not deterministically encoded", "the file was changed; fetch it again")
    return value


def _check_depth(value: object, left: int) -> None:
    if left == 0:
        raise ValueError("nested too deep")
    if isinstance(value, Mapping):
        for k, v in value.items():
            _check_depth(k, left - 1)
            _check_depth(v, left - 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for v in value:
            _check_depth(v, left - 1)
    elif isinstance(value, cbor2.CBORTag):
        _check_depth(value.value, left - 1)


# --- COSE_Sign1 with ES256 (RFC 9052, section 4.2; RFC 9053, section 2.1) ---


def sign1_protected(kid: bytes | None = None, content_type: str | None = None) -> bytes:
    """The protected header: ES256, perhaps a key id (4) and a content type (3)."""
    header: dict[int, object] = {1: ALG_ES256}
    if content_type is not None:
        header[3] = content_type
    if kid is not None:
        header[4] = kid
    return encode(header)


def sign1_to_sign(protected: bytes, payload: bytes, external: bytes = b"") -> bytes:
    """Sig_structure for COSE_Sign1: what the signature covers."""
    return encode(["Signature1", protected, external, payload])


def sign1(protected: bytes, payload: bytes, signature: bytes) -> bytes:
    """A tagged COSE_Sign1 with an empty unprotected header; ``signature`` is raw r || s."""
    return encode(cbor2.CBORTag(COSE_SIGN1_TAG, [protected, {}, payload, signature]))


@dataclasses.dataclass(frozen=True, slots=True)
class UnverifiedSign1:
    """A parsed COSE_Sign1 whose signature nobody has checked yet. ``verify`` gives its payload."""

    protected: bytes
    header: Mapping[int, object]
    unverified_payload: bytes
    signature: bytes

    def verify(self, key: ec.EllipticCurvePublicKey, external: bytes = b"") -> bytes:
        """Check the ES256 signature and return the payload; raises EvidenceError."""
        verify_es256(key, self.signature, sign1_to_sign(self.protected, self.unverified_payload, external))
        return self.unverified_payload


def parse_sign1(data: bytes) -> UnverifiedSign1:
    """Parse a strict, tagged COSE_Sign1 (deterministic, empty unprotected header, ES256). Raises MalformedError."""
    value = decode(data)
    if not (
        isinstance(value, cbor2.CBORTag)
        and value.tag == COSE_SIGN1_TAG
        and isinstance(value.value, (list, tuple))
        and len(value.value) == 4
    ):
        raise MalformedError("not a tagged COSE_Sign1", "send a COSE_Sign1 (CBOR tag 18)")
    protected, unprotected, payload, signature = value.value
    if not all(isinstance(x, bytes) for x in (protected, payload, signature)) or unprotected != {}:
        raise MalformedError("a COSE_Sign1 with an unprotected header or a detached payload", "sign everything")
    header = decode(protected)
    if not isinstance(header, dict) or header.get(1) != ALG_ES256 or not set(header) <= {1, 3, 4}:
        raise MalformedError("a COSE_Sign1 header other than ES256 with key id and content type", "use ES256")
    return UnverifiedSign1(protected, header, payload, signature)


def verify_es256(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    """ECDSA P-256/SHA-256 over ``message``; ``signature`` raw r || s, 64 bytes. Raises EvidenceError."""
    if len(signature) != 64 or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceError("an ES256 signature that is not 64 bytes by a P-256 key", "use ES256")
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(der, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise EvidenceError("a signature that does not verify", "the object was changed or signed by another key") from None


def raw_signature(der: bytes) -> bytes:
    """A DER ECDSA P-256 signature as raw r || s."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


# --- plain forms: dataclasses <-> JSON-able values, for the audit log and the API ---


def to_plain(value: object) -> Any:
    """A JSON-able form: dataclasses become objects tagged with ``type``, bytes ``{"hex": …}``, enums their values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
        return {"type": type(value).__name__, **body}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (bytes, bytearray)):
        return {"hex": bytes(value).hex()}
    if isinstance(value, Mapping):
        return {str(k.value if isinstance(k, Enum) else k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"no plain form for {type(value).__name__}")


def from_plain(kind: Any, plain: Any) -> Any:
    """The inverse of ``to_plain`` for an annotation ``kind``; raises MalformedError when it does not fit."""
    try:
        return _from_plain(kind, plain)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise MalformedError(
            f"a stored {getattr(kind, '__name__', kind)} that does not parse ({e})", "restore the file from a backup"
        ) from e


@lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _from_plain(kind: Any, plain: Any) -> Any:
    if kind is object or kind is Any:
        return bytes.fromhex(plain["hex"]) if isinstance(plain, dict) and set(plain) == {"hex"} else plain
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _from_union(kind, plain)
    if origin is tuple:
        args = typing.get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_from_plain(args[0], p) for p in plain)
        return tuple(_from_plain(a, p) for a, p in zip(args, plain, strict=True))
    if origin in (dict, Mapping):
        k, v = typing.get_args(kind)
        return {_from_plain(k, a): _from_plain(v, b) for a, b in plain.items()}
    if origin in (list, Sequence):
        return [_from_plain(typing.get_args(kind)[0], p) for p in plain]
    if dataclasses.is_dataclass(kind):
        return _from_object(kind, plain)
    if kind is bytes:
        return bytes.fromhex(plain["hex"])
    if isinstance(kind, type) and issubclass(kind, (StrEnum, IntEnum)):
        return kind(plain)
    if kind is float and type(plain) is int:
        return float(plain)
    if kind is type(None) and plain is None:
        return None
    if isinstance(kind, type) and type(plain) is kind:
        return plain
    raise TypeError(f"{plain!r} is no {kind}")


def _from_object(kind: Any, plain: Any) -> Any:
    if plain.get("type") != kind.__name__:
        raise TypeError(f"expected a {kind.__name__}, got {plain.get('type')!r}")
    hints = _hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    unknown = set(plain) - names - {"type"}
    if unknown:
        raise TypeError(f"unknown fields {sorted(unknown)}")
    return kind(**{n: _from_plain(hints[n], plain[n]) for n in names if n in plain})


def _from_union(kind: Any, plain: Any) -> Any:
    options = typing.get_args(kind)
    if plain is None and type(None) in options:
        return None
    if isinstance(plain, dict) and "type" in plain:
        for option in options:
            if getattr(option, "__name__", "") == plain["type"]:
                return _from_plain(option, plain)
        raise TypeError(f"unknown type {plain['type']!r}")
    for option in options:
        try:
            return _from_plain(option, plain)
        except (TypeError, ValueError, KeyError):
            continue
    raise TypeError(f"{plain!r} fits none of {options}")
