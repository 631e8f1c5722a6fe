"""PURE. Checks one certificate path against one anchor at a given time. Source: RFC 5280, section 6.1, as far as one path needs.

The path is given, leaf first; nothing is searched, fetched or cached. Whatever this file does not know and a certificate
marks as critical is refused. Refuses to know revocation (a CA's own list, ``gateway.pki``) and what the leaf may be used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from gateway.errors import EvidenceError, MalformedError

MAX_PATH = 6  # an AK, a sub-CA and a hospital's two or three levels; longer ones are an attack or a mistake
MAX_CERTIFICATE = 16 * 1024  # bytes; a certificate with every extension we know has two thousand

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
_E = TypeVar("_E", bound=x509.ExtensionType)
_KNOWN = (
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.NAME_CONSTRAINTS,
)


def verify_path(chain: Sequence[bytes | x509.Certificate], anchor: bytes | x509.Certificate, at: datetime) -> PublicKey:
    """Check ``chain`` (leaf first, the anchor left out or last) up to ``anchor`` at ``at`` (aware); return the leaf's key.

    Certificates are DER bytes or parsed. Raises EvidenceError: expired, forged, not a CA, too long, outside a name
    constraint, or with a critical extension that is not known here.
    """
    if at.tzinfo is None:
        raise ValueError("the time of a path check is an aware datetime")
    if not 1 <= len(chain) <= MAX_PATH:
        raise MalformedError(f"a certificate path of {len(chain)}", f"send 1 to {MAX_PATH} certificates, leaf first")
    top = _parse(anchor)
    path = [_parse(c) for c in chain]
    if path[-1] != top:
        path.append(top)
    try:
        for below, certificate in enumerate(path):
            _check_one(certificate, at)
            if below:
                _check_issuer(certificate, path[below - 1], below - 1)
                _check_names(certificate, path[0])
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as e:  # an extension that does not parse
        raise MalformedError(f"a certificate that does not parse ({e})", "ask its CA for a new one") from e
    return _public_key(path[0])


def _parse(certificate: bytes | x509.Certificate) -> x509.Certificate:
    if isinstance(certificate, x509.Certificate):
        return certificate
    if len(certificate) > MAX_CERTIFICATE:
        raise MalformedError(f"a certificate of {len(certificate)} bytes", f"at most {MAX_CERTIFICATE} are read")
    try:
        return x509.load_der_x509_certificate(certificate)
    except (ValueError, x509.InvalidVersion) as e:
        raise MalformedError("a certificate that does not parse", "send X.509 in DER") from e


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string()[:120])


def _public_key(certificate: x509.Certificate) -> PublicKey:
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError) as e:
        raise MalformedError(f"{_name(certificate)} has a key that does not parse", "use P-256 or RSA") from e
    if isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise EvidenceError(f"{_name(certificate)} has a key of a weak or unknown kind", "use P-256, or RSA of 2048 bits and more")


def _check_one(certificate: x509.Certificate, at: datetime) -> None:
    now = at.astimezone(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        span = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise EvidenceError(
            f"{_name(certificate)} is valid from {span}, not at {now:%Y-%m-%d %H:%M}", "renew it, or check the clock"
        )
    if not certificate.public_bytes(Encoding.DER).endswith(b"\0" + certificate.signature):
        # a signature is whole octets; a count of unused bits other than 0 would be a second form of the same certificate
        raise MalformedError(f"{_name(certificate)} has a signature that is not whole octets", "it was changed; fetch it again")
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN:
            raise EvidenceError(
                f"{_name(certificate)} has a critical extension {extension.oid.dotted_string} that is not known here",
                "use a CA that does without it",
            )


def _check_issuer(issuer: x509.Certificate, issued: x509.Certificate, cas_below: int) -> None:
    """``cas_below``: how many CA certificates stand between ``issuer`` and the leaf."""
    if issued.issuer != issuer.subject:
        raise EvidenceError(f"{_name(issued)} was not issued by {_name(issuer)}", "send the whole path, leaf first")
    basic = _value(issuer, x509.BasicConstraints)
    usage = _value(issuer, x509.KeyUsage)
    if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
        raise EvidenceError(f"{_name(issuer)} is not a CA that may issue certificates", "use the CA's own certificate")
    if basic.path_length is not None and cas_below > basic.path_length:
        raise EvidenceError(
            f"{_name(issuer)} allows {basic.path_length} CAs below it, not {cas_below}", "issue from a CA higher up"
        )
    try:
        issued.verify_directly_issued_by(issuer)
    except InvalidSignature:
        raise EvidenceError(
            f"the signature on {_name(issued)} does not verify", "it was changed, or another CA signed it"
        ) from None
    except (TypeError, UnsupportedAlgorithm) as e:
        raise EvidenceError(f"{_name(issued)} is signed in a way that is not known here", "use ECDSA or RSA with SHA-256") from e


def _check_names(issuer: x509.Certificate, leaf: x509.Certificate) -> None:
    """DNS subtrees only (RFC 5280, 4.2.1.10): under a constraint the leaf's names are DNS names inside it, and nothing else."""
    constraints = _value(issuer, x509.NameConstraints)
    if constraints is None:
        return
    permitted, excluded = (list(s or ()) for s in (constraints.permitted_subtrees, constraints.excluded_subtrees))
    if not all(isinstance(n, x509.DNSName) for n in (*permitted, *excluded)):
        raise EvidenceError(f"{_name(issuer)} constrains names other than DNS names", "use a CA constrained to a DNS subtree")
    names = _value(leaf, x509.SubjectAlternativeName)
    for name in names or ():
        if not isinstance(name, x509.DNSName):
            raise EvidenceError(f"{_name(leaf)} has a name that is no DNS name under a constrained CA", "name it in DNS only")
        inside = not permitted or any(_within(name.value, p.value) for p in permitted)
        if not inside or any(_within(name.value, e.value) for e in excluded):
            raise EvidenceError(f"{_name(leaf)} is named {name.value[:80]!r}, outside what its CA may name", "use a name inside")


def _within(name: str, subtree: str) -> bool:
    name, subtree = name.lower().rstrip("."), subtree.lower().strip(".")
    return name == subtree or name.endswith("." + subtree)


def _value(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
