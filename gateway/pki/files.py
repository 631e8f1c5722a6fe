"""Files that prove themselves, brought in by hand or by the network: a CA's revocation list, a CA's certificate.

Whoever carries a file adds nothing to it and can at most bring an older one. Refuses to fetch and to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from gateway.errors import EvidenceError, InputError, MalformedError
from gateway.verifier.x509path import verify_path

MAX_BYTES = 1024 * 1024  # a list of twenty-five thousand revoked certificates
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Proven:
    """A file that proved itself; times in UTC nanoseconds. ``says`` is a sentence for a person."""

    kind: str
    name: str
    issued_ns: int
    good_until_ns: int
    says: str


def verify_file(data: bytes, anchors: Sequence[x509.Certificate], at: datetime) -> Proven:
    """Check a file, PEM or DER, against CA certificates that are trusted here already. Raises EvidenceError or InputError."""
    if len(data) > MAX_BYTES:
        raise MalformedError(f"a file of more than {MAX_BYTES} bytes", "bring a revocation list or a certificate")
    if (crl := _crl(data)) is not None:
        return _verify_crl(crl, anchors, at)
    if (certificate := _certificate(data)) is not None:
        return _verify_ca(certificate, anchors, at)
    raise InputError("the file is neither a revocation list nor a certificate", "bring one in PEM or DER")


def load_crl(data: bytes) -> x509.CertificateRevocationList | None:
    """The list in a file that was verified before; None when it is something else."""
    return _crl(data)


def _crl(data: bytes) -> x509.CertificateRevocationList | None:
    for load in (x509.load_pem_x509_crl, x509.load_der_x509_crl):
        try:
            return load(data)
        except ValueError:
            continue
    return None


def _certificate(data: bytes) -> x509.Certificate | None:
    for load in (x509.load_pem_x509_certificate, x509.load_der_x509_certificate):
        try:
            return load(data)
        except ValueError:
            continue
    return None


def _verify_crl(crl: x509.CertificateRevocationList, anchors: Sequence[x509.Certificate], at: datetime) -> Proven:
    name = crl.issuer.rfc4514_string()[:200]
    issuers = [a for a in anchors if a.subject == crl.issuer and _may_sign_lists(a)]
    if not issuers:
        raise EvidenceError(f"nobody here trusts {name}, who issued this list", "bring that CA's certificate first")
    if not any(_signed_by(crl, issuer) for issuer in issuers):
        raise EvidenceError(f"the list is not signed by {name}", "get it from the CA again")
    if any(e.critical for e in crl.extensions):
        raise EvidenceError("the list has a critical extension that is not known here", "ask the CA for a complete list, no delta")
    until = crl.next_update_utc
    if until is None or until <= at:
        ended = f"ended on {until:%Y-%m-%d %H:%M} UTC" if until else "does not say until when it is good"
        raise EvidenceError(f"the list {ended}", "bring the newest one, and look at the clock")
    if crl.last_update_utc > at:
        raise EvidenceError(f"the list is of {crl.last_update_utc:%Y-%m-%d}, which has not come yet", "look at the clock")
    return Proven("crl", name, _ns(crl.last_update_utc), _ns(until), f"{len(crl)} revoked certificates of {name}")


def _signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False


def _may_sign_lists(certificate: x509.Certificate) -> bool:
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return False


def _verify_ca(certificate: x509.Certificate, anchors: Sequence[x509.Certificate], at: datetime) -> Proven:
    name = certificate.subject.rfc4514_string()[:200]
    if not _may_sign_lists(certificate):
        raise EvidenceError(f"{name} is no CA that may sign lists", "bring the CA's own certificate")
    above = [a for a in anchors if a.subject == certificate.issuer]
    if not above:
        raise EvidenceError(f"nobody here trusts the issuer of {name}", "a new root comes with enrolment, not as a file")
    problems: list[EvidenceError] = []
    for anchor in above:
        try:
            verify_path([certificate], anchor, at)
        except EvidenceError as e:
            problems.append(e)
        else:
            says = f"the CA {name}, certified by {anchor.subject.rfc4514_string()[:200]}"
            return Proven("ca", name, _ns(certificate.not_valid_before_utc), _ns(certificate.not_valid_after_utc), says)
    raise problems[0]


def _ns(at: datetime) -> int:
    return int((at - _EPOCH).total_seconds()) * 1_000_000_000
