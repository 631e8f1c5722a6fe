"""PURE. An EAR as CWT (COSE_Sign1, ES256) and as JWT (JWS compact, ES256): statements for a signer, and strict verification.

The issuer never signs: it builds a ``Statement``, whoever holds the key signs ``to_sign`` (raw r || s), ``seal`` joins the two.
"""

from __future__ import annotations

import hashlib
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway import codec
from gateway.errors import EvidenceError
from gateway.issuer import ear as claims
from gateway.issuer.ear import PROFILE, Ear, b64, unb64
from gateway.issuer.es256 import low_s, require_low_s
from gateway.issuer.strict import Reader, malformed
from gateway.model.certificate import Statement

# RFC 9782: the EAT media types with their profile.
CWT_TYPE = f'application/eat+cwt; eat_profile="{PROFILE}"'
JWT_TYPE = "eat+jwt"
MAX_TOKEN = 64 * 1024
_JWT_PARTS = 3


def key_id(spki: bytes) -> bytes:
    """How a token names its key: SHA-256 of the DER SubjectPublicKeyInfo, as leaf 0 of a batch names it."""
    return hashlib.sha256(spki).digest()


def issuing_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a DER SubjectPublicKeyInfo; raises EvidenceError on any other."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, TypeError) as e:
        raise malformed("an issuing key that does not parse") from e
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceError("an issuing key that is not on P-256", "the gateway signs with ES256")
    return key


def cwt_statement(ear: Ear, spki: bytes) -> Statement:
    """What a signer signs for the CWT form."""
    protected = codec.sign1_protected(key_id(spki), CWT_TYPE)
    payload = claims.to_cbor(ear)
    return Statement("cwt", codec.sign1_to_sign(protected, payload), protected, payload)


def jwt_statement(ear: Ear, spki: bytes) -> Statement:
    """What a signer signs for the JWT form."""
    header = _compact({"alg": "ES256", "kid": b64(key_id(spki)), "typ": JWT_TYPE})
    payload = _compact(claims.to_json(ear))
    return Statement("jwt", f"{b64(header)}.{b64(payload)}".encode(), header, payload)


def seal(statement: Statement, signature: bytes) -> bytes:
    """The finished token. ``signature``: raw r || s by the key whose SPKI the statement names; its s is lowered if need be."""
    signature = low_s(signature)
    if statement.kind == "cwt":
        return codec.sign1(statement.protected, statement.payload, signature)
    return statement.to_sign + b"." + b64(signature).encode()


def verify_cwt(data: bytes, spki: bytes) -> Ear:
    """Check the signature of a CWT by the key ``spki`` and return its claims. Raises EvidenceError; expiry is the caller's."""
    if len(data) > MAX_TOKEN:
        raise malformed("a CWT that is too long")
    token = codec.parse_sign1(data)
    if token.header.get(3) != CWT_TYPE or token.header.get(4) != key_id(spki):
        raise EvidenceError("an EAR with another content type or key id", "the certificate was changed; fetch it again")
    require_low_s(token.signature)
    return claims.from_cbor(token.verify(issuing_key(spki)))


def verify_jwt(data: bytes, spki: bytes) -> Ear:
    """As ``verify_cwt``, for the JWT form."""
    parts = data.decode("ascii", "replace").split(".") if len(data) <= MAX_TOKEN else []
    if len(parts) != _JWT_PARTS:
        raise malformed("not a JWT in compact form")
    header = Reader(claims.strict_json(unb64(parts[0])), "the JWT header")
    named = (header.take("alg", str, "alg"), header.take("typ", str, "typ"), header.take("kid", str, "kid"))
    header.finish()
    if named != ("ES256", JWT_TYPE, b64(key_id(spki))):
        raise EvidenceError("a JWT with another algorithm, type or key id", "ask for an ES256 EAR of this key")
    payload, signature = unb64(parts[1]), unb64(parts[2])
    require_low_s(signature)
    codec.verify_es256(issuing_key(spki), signature, f"{parts[0]}.{parts[1]}".encode())
    return claims.from_json(payload)


def _compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
