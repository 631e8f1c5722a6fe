"""The key with which this gateway is a TLS client of the hospital, certified by the same enrolment as the attestation key.

A software key (TLS needs it many times a second) beside its certificate; the next key waits as ``KEY.next`` until a
certificate for it has come, so that an enrolment that fails changes nothing. Knows no connection.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.attester.state import write_private
from gateway.errors import InputError, UnavailableError

_AGAIN = "make a new request with `wardgate enrol`"


def make_request(key_file: Path, gateway_id: str) -> bytes:
    """A PKCS #10 request (DER) for the next key, which is made first if none waits. Raises UnavailableError."""
    waiting = _next(key_file)
    if not waiting.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(waiting, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gateway_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(_read(waiting), hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def accept(key_file: Path, certificate_file: Path, chain: Sequence[x509.Certificate], gateway_id: str) -> datetime.datetime:
    """Keep a certificate and the key it is for; returns when it ends. Raises InputError, and nothing changes then.

    ``chain``: ours first. The key is replaced before the certificate: after a crash between the two, ``accept`` again.
    """
    if not chain:
        raise InputError("the CA certified no client key", "ask whoever runs the CA; the uplink needs one")
    first, waiting = chain[0], _next(key_file)
    names = [n.value for n in first.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    candidates = [path for path in (waiting, key_file) if path.exists()]
    held = next((path for path in candidates if _read(path).public_key() == first.public_key()), None)
    if held is None or names != [gateway_id]:
        raise InputError("the CA certified another client key or another gateway", _AGAIN)
    try:
        purposes = first.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])  # absent: no restriction (RFC 5280 4.2.1.12)
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise InputError("the CA's certificate is not for a TLS client", "ask whoever runs the CA")
    write_private(key_file, held.read_bytes())
    write_private(certificate_file, b"".join(c.public_bytes(Encoding.PEM) for c in chain))
    waiting.unlink(missing_ok=True)
    return first.not_valid_after_utc


def _next(key_file: Path) -> Path:
    return key_file.with_name(f"{key_file.name}.next")


def _read(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as e:
        raise UnavailableError(f"cannot read {path}: {e.strerror}", "run it as root or as the wardgate user") from None
    except (ValueError, TypeError):
        raise InputError(f"{path} is damaged", f"remove it, then {_AGAIN}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path} is no P-256 key", f"remove it, then {_AGAIN}")
    return key
