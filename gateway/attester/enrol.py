"""Enrolment: how a CA that knows a TPM's maker certifies the AK inside it, in one question and one answer.

The question carries the EK certificate and the AK's public area. The answer carries a credential (``credential``) and
the AK's certificate encrypted under the secret in it, so that nobody but this TPM, beside this AK, can use the certificate.
A request for the gateway's TLS client key may come along, and its certificate goes back the same way.
Both are JSON documents, carried as files or over HTTP. Knows no TPM: ``attester`` asks it to open the credential.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.attester.credential import make_credential
from gateway.errors import InputError, UnavailableError

MAX_DOCUMENT = 256 * 1024  # bytes: an EK certificate is about 1 KiB, a chain a few
_MAX_CHAIN = 8
_AGAIN = "make a new request with `wardgate enrol`"
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Request:
    """What a gateway asks its CA."""

    gateway_id: str
    ek_certificate: bytes
    ak_public: bytes
    client_request: bytes = b""  # PKCS #10, DER: the key of ``client_key``; empty: none asked for

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        document = {
            "version": 1,
            "gateway": self.gateway_id,
            "ek_certificate": base64.b64encode(self.ek_certificate).decode(),
            "ak_public": base64.b64encode(self.ak_public).decode(),
        }
        asked = {"client_request": base64.b64encode(self.client_request).decode()} if self.client_request else {}
        return document | asked

    @classmethod
    def from_json(cls, document: object) -> Request:
        """Parse a document. Raises InputError."""
        blobs = ["ek_certificate", "ak_public"]
        if isinstance(document, dict) and "client_request" in document:
            blobs.append("client_request")
        fields = _fields(document, "enrolment request", ("gateway",), blobs)
        client = bytes(fields.get("client_request", b""))
        return cls(str(fields["gateway"]), bytes(fields["ek_certificate"]), bytes(fields["ak_public"]), client)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the CA answers: ``credential`` and ``secret`` for TPM2_ActivateCredential, ``sealed`` the certificates."""

    credential: bytes
    secret: bytes
    sealed: bytes

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        named = (("credential", self.credential), ("secret", self.secret), ("sealed", self.sealed))
        return {"version": 1, **{name: base64.b64encode(value).decode() for name, value in named}}

    @classmethod
    def from_json(cls, document: object) -> Answer:
        """Parse a document. Raises InputError."""
        fields = _fields(document, "enrolment answer", (), ("credential", "secret", "sealed"))
        return cls(bytes(fields["credential"]), bytes(fields["secret"]), bytes(fields["sealed"]))


@dataclass(frozen=True, slots=True)
class Certified:
    """What came out of an answer: each chain with its own certificate first; ``client`` empty: none was asked for."""

    ak: tuple[x509.Certificate, ...]
    client: tuple[x509.Certificate, ...] = ()


def seal(chain: Sequence[bytes], ek: Any, ak_name: bytes, client: Sequence[bytes] = ()) -> Answer:
    """The CA's side: certificates (DER, own first) that only the TPM with ``ek`` can open, and only beside the AK of that name."""
    secret = secrets.token_bytes(32)
    credential, encrypted = make_credential(ek, ak_name, secret)
    chains = {"ak": chain, "client": client}
    content = json.dumps({name: [base64.b64encode(c).decode() for c in listed] for name, listed in chains.items()}).encode()
    nonce = secrets.token_bytes(12)
    return Answer(credential, encrypted, nonce + AESGCM(_key(secret)).encrypt(nonce, content, ak_name))


def open_sealed(answer: Answer, secret: bytes, ak_name: bytes) -> Certified:
    """The gateway's side. Raises InputError."""
    try:
        content = AESGCM(_key(secret)).decrypt(answer.sealed[:12], answer.sealed[12:], ak_name)
        listed = json.loads(content)
        ak, client = (
            tuple(x509.load_der_x509_certificate(base64.b64decode(c, validate=True)) for c in listed[name])
            for name in ("ak", "client")
        )
    except (InvalidTag, ValueError, TypeError, KeyError):
        raise InputError("the certificate in the CA's answer does not open", _AGAIN) from None
    if not 1 <= len(ak) <= _MAX_CHAIN or len(client) > _MAX_CHAIN:
        raise InputError("the CA's answer has no certificate, or too many", _AGAIN)
    return Certified(ak, client)


def ask(url: str, request: Request, timeout_s: float = 30.0) -> Answer:
    """POST the request to a CA and return its answer. Blocks. HTTPS, or HTTP to this machine.

    Raises InputError (a bad address, a refusal) or UnavailableError.
    """
    where = urllib.parse.urlsplit(url)
    if where.scheme != "https" and not (where.scheme == "http" and where.hostname in _LOCAL):
        raise InputError(f"the CA's address {url} is not an https:// address", "give one")
    body = json.dumps(request.to_json()).encode()
    post = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(post, timeout=timeout_s) as reply:  # noqa: S310 - checked above
            return Answer.from_json(parse(reply.read(MAX_DOCUMENT + 1)))
    except urllib.error.HTTPError as e:
        said = e.read(500).decode(errors="replace").strip()
        raise InputError(f"the CA refused ({e.code}): {said}", "ask whoever runs the CA") from None
    except (OSError, http.client.HTTPException) as e:
        raise UnavailableError(f"the CA at {url} does not answer ({e})", "check the address and the network") from None


def parse(raw: bytes) -> object:
    """A JSON document of bounded size. Raises InputError."""
    if len(raw) > MAX_DOCUMENT:
        raise InputError(f"the document is larger than {MAX_DOCUMENT} bytes", _AGAIN)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError("the document is not JSON", _AGAIN) from None


def _key(secret: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, None, b"wardgate enrolment: AK certificate v1").derive(secret)


def _fields(document: object, what: str, texts: Sequence[str], blobs: Sequence[str]) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("version") != 1:
        raise InputError(f"this is not a Wardgate {what} of version 1", _AGAIN)
    found: dict[str, Any] = {}
    for name in (*texts, *blobs):
        value = document.get(name)
        if not isinstance(value, str) or not value or len(value) > MAX_DOCUMENT:
            raise InputError(f"the {what} has no {name}", _AGAIN)
        try:
            found[name] = value if name in texts else base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"the {what}'s {name} is not base64", _AGAIN) from None
    return found
