"""Who signed a MUD file: its detached CMS signature (RFC 8520, section 13) and the path from the signer to the CA that was given.

``cryptography`` makes CMS signatures and does not verify them, so OpenSSL's command does that one step, in a child with
bounded input and time; the path is checked by this product's own rules. Refuses to know what the file says.
"""

from __future__ import annotations

import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from gateway.errors import EvidenceError, InputError, MalformedError, UnavailableError
from gateway.verifier.x509path import MAX_PATH, verify_path

MAX_SIGNATURE = 64 * 1024  # a signature with a path of six certificates has ten thousand bytes
_OPENSSL_S = 10.0


def verify_signature(content: bytes, signature: bytes, ca_pem: bytes, at: datetime) -> str:
    """The signer's name. Raises EvidenceError when the signature or its path does not hold, InputError for a bad CA file.

    ``signature``: DER, detached. ``at`` is aware: an expired signer is refused, and the error says since when.
    """
    if len(signature) > MAX_SIGNATURE:
        raise MalformedError(f"a signature of {len(signature)} bytes", "give the .p7s file that came with the MUD file")
    try:
        anchor = x509.load_pem_x509_certificate(ca_pem)
    except ValueError:
        raise InputError(
            "the CA file holds no certificate in PEM", "give the certificate of the CA that you trust for MUD files"
        ) from None
    signer = _signer(content, signature)
    path = _path(signer, signature, anchor)
    try:
        verify_path(path, anchor, at)
    except EvidenceError as e:
        until = signer.not_valid_after_utc
        late = f" (its signer's certificate ended on {until:%Y-%m-%d})" if at > until else ""
        raise EvidenceError(f"the MUD file's signer does not lead to the CA that was given: {e.what}{late}", e.remedy) from None
    _check_usage(signer)
    return _name(signer)


def _signer(content: bytes, signature: bytes) -> x509.Certificate:
    """The one certificate that the signature over ``content`` verifies with. Its path is not looked at here."""
    with tempfile.TemporaryDirectory(prefix="wardgate-mud-") as name:
        top = Path(name)
        (top / "content").write_bytes(content)
        (top / "signature").write_bytes(signature)
        argv = ["openssl", "cms", "-verify", "-binary", "-noverify", "-inform", "DER", "-in", str(top / "signature")]
        argv += ["-content", str(top / "content"), "-signer", str(top / "signer.pem"), "-out", "/dev/null"]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=_OPENSSL_S, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
        except FileNotFoundError:
            raise UnavailableError("openssl is not installed, and it verifies CMS signatures here", "apt install openssl") from None
        except subprocess.TimeoutExpired:
            raise MalformedError("a signature that takes too long to verify", "ask its maker for a new one") from None
        if done.returncode:
            raise EvidenceError("the signature does not belong to this MUD file", "get both files from the maker again")
        try:
            signers = x509.load_pem_x509_certificates((top / "signer.pem").read_bytes())
        except (OSError, ValueError):
            raise MalformedError("a signature without its signer's certificate", "ask its maker for a new one") from None
    if len(signers) != 1:
        raise MalformedError(f"a signature by {len(signers)} signers", "ask its maker for one by a single signer")
    return signers[0]


def _path(signer: x509.Certificate, signature: bytes, anchor: x509.Certificate) -> list[x509.Certificate]:
    """From the signer upward, by names, out of what the signature carries; ``verify_path`` checks each step."""
    try:
        pool = pkcs7.load_der_pkcs7_certificates(signature)
    except ValueError:
        raise MalformedError("a signature whose certificates do not parse", "ask its maker for a new one") from None
    path = [signer]
    while len(path) < MAX_PATH and path[-1].issuer != anchor.subject:
        above = next((c for c in pool if c.subject == path[-1].issuer and c not in path), None)
        if above is None:
            break
        path.append(above)
    return path


def _check_usage(signer: x509.Certificate) -> None:
    try:
        usage = signer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.digital_signature:
        raise EvidenceError("the signer's certificate is not for signatures", "ask the maker for the right signer")


def _name(signer: x509.Certificate) -> str:
    name = signer.subject.rfc4514_string()[:120] or signer.public_bytes(Encoding.DER)[:8].hex()
    return "".join(c if c.isprintable() else "?" for c in name)
