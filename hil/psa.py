"""A device's secure element: signs PSA attestation tokens (RFC 9783, profile tfm) as COSE_Sign1 with ES256.

Written from the standard and on purpose not from the gateway's own codec, so that the verifier meets foreign bytes.
Knows no bus. ``overrides`` let a test make a device that lies.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cbor2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

PROFILE = "tag:psacertified.org,2023:psa#tfm"
SECURED = 0x3000  # lifecycle, RFC 9783, section 4.3.1
NON_SECURE_CLIENT = -1  # the caller of the token service, section 4.1.2

NONCE, UEID, EAT_PROFILE, BOOT_SEED = 10, 256, 265, 268
CLIENT_ID, LIFECYCLE, IMPLEMENTATION_ID, CERTIFICATION, COMPONENTS = 2394, 2395, 2396, 2398, 2399
_CLAIMS = {
    "nonce": NONCE,
    "ueid": UEID,
    "profile": EAT_PROFILE,
    "boot_seed": BOOT_SEED,
    "client_id": CLIENT_ID,
    "lifecycle": LIFECYCLE,
    "implementation_id": IMPLEMENTATION_ID,
    "certification": CERTIFICATION,
    "components": COMPONENTS,
}


@dataclass(frozen=True, slots=True)
class Component:
    """One measured piece of software: what it is, the SHA-256 of its image, its version, the SHA-256 of its signer's key."""

    type: str
    measurement: bytes
    version: str = "1.0.0"
    signer: bytes = hashlib.sha256(b"maker's firmware signing key").digest()

    @classmethod
    def of(cls, kind: str, image: bytes, version: str = "1.0.0") -> Component:
        """The component whose image is ``image``."""
        return cls(kind, hashlib.sha256(image).digest(), version)

    def claim(self) -> dict[int, object]:
        """The component as an entry of the software-components claim (section 4.4.1)."""
        return {1: self.type, 2: self.measurement, 4: self.version, 5: self.signer}


class PsaSigner:
    """One device's identity and boot state. ``components`` may be replaced: that is a change of firmware."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, implementation_id: bytes, components: Sequence[Component]) -> None:
        self._key = key
        self.implementation_id = implementation_id
        self.components = tuple(components)
        self.boot_seed = hashlib.sha256(b"boot" + self.spki).digest()

    @property
    def spki(self) -> bytes:
        """The public key, DER SubjectPublicKeyInfo."""
        return self._key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def ueid(self) -> bytes:
        """The instance id: 0x01 and 32 bytes that name the key (section 4.2.1)."""
        return b"\x01" + hashlib.sha256(self.spki).digest()

    def token(self, nonce: bytes, **overrides: object) -> bytes:
        """A token for ``nonce``. ``overrides`` by claim name (see ``_CLAIMS``); None leaves the claim out."""
        claims: dict[str, object] = {
            "nonce": nonce,
            "ueid": self.ueid,
            "profile": PROFILE,
            "boot_seed": self.boot_seed,
            "client_id": NON_SECURE_CLIENT,
            "lifecycle": SECURED,
            "implementation_id": self.implementation_id,
            "components": [c.claim() for c in self.components],
        }
        claims.update(overrides)
        payload = cbor2.dumps({_CLAIMS[k]: v for k, v in claims.items() if v is not None}, canonical=True)
        protected = cbor2.dumps({1: -7}, canonical=True)
        der = self._key.sign(cbor2.dumps(["Signature1", protected, b"", payload]), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big")]))

    def reference(self) -> dict[str, object]:
        """What the maker would publish of this device: trust anchor and reference values, everything in hex."""
        return {
            "ueid": self.ueid.hex(),
            "spki": self.spki.hex(),
            "implementation-id": self.implementation_id.hex(),
            "components": {c.type: c.measurement.hex() for c in self.components},
            "signers": {c.type: c.signer.hex() for c in self.components},
        }


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The device's key (PEM, PKCS #8); made at first use, as in a factory."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        path.chmod(0o600)
        return key
    key_read = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key_read, ec.EllipticCurvePrivateKey)
    return key_read


def signer_of(model: str, key: ec.EllipticCurvePrivateKey) -> PsaSigner:
    """A genuine device of ``model`` as it left the factory: boot loader and firmware, measured."""
    implementation = hashlib.sha256(b"implementation " + model.encode()).digest()
    parts = (
        Component.of("BL", b"boot loader of " + model.encode(), "2.1.0"),
        Component.of("FW", b"firmware of " + model.encode(), "1.4.2"),
    )
    return PsaSigner(key, implementation, parts)


def main() -> None:
    """Print the maker's reference for a model and key file: ``python -m hil.psa --model patch --key FILE``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--key", type=Path, required=True)
    a = parser.parse_args()
    print(json.dumps(signer_of(a.model, load_key(a.key)).reference(), indent=1))


if __name__ == "__main__":
    main()
