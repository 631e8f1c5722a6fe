"""A gateway's keys in software: an attestation key that quotes, its CA, and an issuing key. For tests of certificates.

Behaves as the TPM and the enrolling CA do, on the wire; knows nothing of batches and bundles.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import codec
from gateway.model.certificate import QuotedState
from tests.verifier import tpmwire

NOW = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)
AK_PURPOSE = "2.23.133.8.3"  # tcg-kp-AIKCertificate
PCRS = {n: bytes([n + 1]) * 32 for n in range(8)}


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass
class FakeCa:
    """A CA with a self-signed certificate, ``pathlen`` 1 so that it may have one below it."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    name: str = "Test CA"
    issuer: FakeCa | None = None
    extra: x509.ExtensionType | None = None
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        signer = self.issuer or self
        builder = self._builder(self.key.public_key(), self.name, signer.name, signer.key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0 if self.issuer else 1), critical=True)
        if self.extra:
            builder = builder.add_extension(self.extra, critical=False)
        self.certificate = builder.add_extension(_usage(certify=True), critical=True).sign(signer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def certify(self, public_key: ec.EllipticCurvePublicKey, name: str = "AK", *, purpose: str | None = AK_PURPOSE) -> bytes:
        """A DER certificate for an attestation key, or for something with another purpose."""
        builder = self._builder(public_key, name, self.name, self.key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if purpose:
            builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose)]), critical=False)
        certificate = builder.add_extension(_usage(certify=False), critical=True).sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.DER)

    def _builder(
        self, subject: ec.EllipticCurvePublicKey, name: str, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=365))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )


def _usage(*, certify: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certify,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certify,
        crl_sign=certify,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass
class FakeTpm:
    """An attestation key with PCRs and a counter."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    pcrs: dict[int, bytes] = field(default_factory=lambda: dict(PCRS))
    nv_counter: int = 41

    def quote(self, qualifying: bytes) -> QuotedState:
        attest = tpmwire.attest(self.pcrs, qualifying)
        signature = tpmwire.ecdsa_signature(self.key, attest)
        return QuotedState(attest, signature, tuple(sorted(self.pcrs.items())), qualifying, self.nv_counter)


@dataclass
class SigningKey:
    """A per-boot issuing key: ``sign`` as the attester's, raw r || s with whatever s comes."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=_key)

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        return codec.raw_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
