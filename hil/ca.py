"""The bench's CA: certifies attestation keys of TPMs whose maker it knows. What a hospital's CA does, small.

``python -m hil.ca serve --dir D --port P --maker ROOT.pem --intermediate ISSUER.pem`` answers enrolment requests by HTTP
on loopback; ``Ca`` is the same in Python. ``D`` holds ``ca.key`` and ``ca.pem`` (the anchor a relying party uses). It
needs no TPM and no TSS.
"""

from __future__ import annotations

import argparse
import datetime
import http.server
import json
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from gateway.attester import enrol
from gateway.attester.credential import AttestationKey, read_ak
from gateway.errors import EvidenceError, WardgateError

_EK_CERTIFICATE = ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_AK_CERTIFICATE = ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate
_MAX_DEPTH = 4


class Ca:
    """A CA in a directory, made at first use. ``roots`` are the TPM makers it trusts, ``intermediates`` stand below them."""

    def __init__(
        self,
        directory: Path,
        roots: Sequence[x509.Certificate],
        intermediates: Sequence[x509.Certificate] = (),
        name: str = "Wardgate bench CA",
    ) -> None:
        self.roots, self.intermediates = tuple(roots), tuple(intermediates)
        self.anchor_file = directory / "ca.pem"
        if not self.anchor_file.exists():
            _make(directory, name)
        key = load_pem_private_key((directory / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key, self.certificate = key, x509.load_pem_x509_certificate(self.anchor_file.read_bytes())

    def answer(self, request: enrol.Request) -> enrol.Answer:
        """Certify the AK, for that TPM's eyes only. Raises EvidenceError (an unknown maker, a key that proves nothing)."""
        ek = self._verify_ek(request.ek_certificate)
        ak = read_ak(request.ak_public)
        certificate = self._issue(request.gateway_id, ak)
        client = [self._client(request)] if request.client_request else []
        return enrol.seal([certificate.public_bytes(Encoding.DER)], ek.public_key(), ak.name, client)

    def _client(self, request: enrol.Request) -> bytes:
        """A TLS client's certificate (DER) for the key that signed the request; the name is the gateway's, whatever it asks for."""
        try:
            asked = x509.load_der_x509_csr(request.client_request)
            key, signed = asked.public_key(), asked.is_signature_valid
        except (ValueError, UnsupportedAlgorithm) as e:
            raise EvidenceError(f"the client's request cannot be read ({e})", "make a new one") from None
        if not signed or not isinstance(key, ec.EllipticCurvePublicKey):
            raise EvidenceError("the client's request is not signed by its own P-256 key", "make a new one")
        builder = issued(self.certificate, key, request.gateway_id, ExtendedKeyUsageOID.CLIENT_AUTH, 365)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _verify_ek(self, der: bytes) -> x509.Certificate:
        """A valid EK certificate of a maker we know. Its critical directory-name SAN rules out the library's TLS path check."""
        try:
            ek = x509.load_der_x509_certificate(der)
            purposes = list(ek.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        except (ValueError, x509.ExtensionNotFound) as e:
            raise EvidenceError(f"this is not an EK certificate ({e})", "do not certify this gateway") from None
        if _EK_CERTIFICATE not in purposes:
            raise EvidenceError("this is not an EK certificate", "do not certify this gateway")
        below = ek
        for _ in range(_MAX_DEPTH):
            _in_time(below)
            if any(_issued(below, root) for root in self.roots):
                return ek
            above = next((c for c in self.intermediates if _issued(below, c) and _is_ca(c)), None)
            if above is None:
                break
            below = above
        raise EvidenceError("the TPM's maker is not known here", "add its root certificate, if it is a maker you accept")

    def _issue(self, gateway_id: str, ak: AttestationKey) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gateway_id)]))
            .issuer_name(self.certificate.subject)
            .public_key(ak.public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage([_AK_CERTIFICATE]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ak.public_key), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
            .sign(self._key, hashes.SHA256())
        )


def issued(
    anchor: x509.Certificate, key: ec.EllipticCurvePublicKey, name: str, purpose: ObjectIdentifier, days: int,
) -> x509.CertificateBuilder:  # fmt: skip
    """What every certificate of this CA for TLS has; the caller signs it."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(anchor.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), False)
    )


def load_certificates(paths: Sequence[Path]) -> list[x509.Certificate]:
    """All certificates of these PEM files."""
    return [c for path in paths for c in x509.load_pem_x509_certificates(path.read_bytes())]


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _in_time(certificate: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise EvidenceError(f"{certificate.subject.rfc4514_string()} is not valid now", "check the clock")


def _make(directory: Path, name: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(True, 1), True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(directory / "ca.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as f:
        f.write(secret)
    (directory / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def serve(ca: Ca, port: int) -> http.server.HTTPServer:
    """An HTTP server on loopback that answers POSTed requests; the caller runs ``serve_forever``. Port 0: any free one."""

    class Desk(http.server.BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            try:
                document = enrol.parse(self.rfile.read(min(length, enrol.MAX_DOCUMENT + 1)))
                code, reply = 200, ca.answer(enrol.Request.from_json(document)).to_json()
            except WardgateError as e:
                code, reply = 403, {"error": str(e)}
            body = json.dumps(reply).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, form: str, *values: object) -> None:
            print(form % values, flush=True)

    return http.server.HTTPServer(("127.0.0.1", port), Desk)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="hil.ca")
    command = parser.add_subparsers(required=True).add_parser("serve", help="answer enrolment requests by HTTP on loopback")
    command.add_argument("--dir", type=Path, required=True)
    command.add_argument("--port", type=int, required=True)
    command.add_argument("--maker", type=Path, action="append", required=True, help="a TPM maker's root certificate")
    command.add_argument("--intermediate", type=Path, action="append", default=[], help="a certificate below a maker's root")
    arguments = parser.parse_args()
    ca = Ca(arguments.dir, load_certificates(arguments.maker), load_certificates(arguments.intermediate))
    with serve(ca, arguments.port) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
