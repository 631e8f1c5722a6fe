"""The page's own key and certificate, until a CA of the hospital gives it one.

Refuses to know where keys are kept and who trusts them.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import InputError

DAYS_MAX = 397  # browsers refuse more
_RENEW_BEFORE = datetime.timedelta(days=30)
_BACKDATE = datetime.timedelta(days=1)  # a browser's clock may be behind ours


def self_signed(names: Sequence[str], now: datetime.datetime | None = None, days: int = DAYS_MAX) -> tuple[bytes, bytes, bytes]:
    """A new P-256 key with a certificate for ``names`` (host names and IP addresses): (key PEM, certificate PEM, SPKI DER).

    ``now``: an aware time from which it is valid. Raises InputError for a name that no certificate can carry.
    """
    if not names:
        raise InputError("a certificate needs a name", "name the host names and addresses of the page under [web] names")
    if not 1 <= days <= DAYS_MAX:
        raise InputError(f"a certificate lasts 1 to {DAYS_MAX} days", "ask for fewer days")
    start = (now or datetime.datetime.now(datetime.UTC)) - _BACKDATE
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_name(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )


def renewal_due(certificate: bytes, now: datetime.datetime) -> bool:
    """Whether ``now`` (aware) lies outside the certificate's time, or so near its end that it should be replaced."""
    held = x509.load_pem_x509_certificate(certificate)
    return not held.not_valid_before_utc <= now <= held.not_valid_after_utc - _RENEW_BEFORE


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except (ValueError, TypeError):
        raise InputError(f"{name!r} is no host name", "write it in ASCII, as DNS knows it") from None
