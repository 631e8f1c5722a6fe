"""The certificate of the CA that enrolled this gateway, kept so that its page can check its own certificates as a stranger would.

Kept only once it vouches for this gateway's attestation key. It is public, and nothing here is believed because of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from gateway.errors import InputError
from gateway.verifier.x509path import verify_path

NAME = "anchor.pem"
_MAX = 16 * 1024  # bytes; one certificate in PEM is 1 to 4 KiB


def keep(given: Path, chain: Sequence[bytes], state: Path) -> None:
    """Keep the certificate in ``given`` (PEM) under ``state``. ``chain``: DER, the attestation key's first.

    Raises InputError when it is no certificate, EvidenceError when it does not vouch for the key.
    """
    with given.open("rb") as f:
        pem = f.read(_MAX)
    try:
        anchor = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise InputError(f"{given} is no PEM certificate", "give the certificate of the CA that enrols this gateway") from None
    verify_path(tuple(chain), anchor, datetime.now(UTC))
    kept = state / NAME
    kept.write_bytes(pem)
    kept.chmod(0o644)
