"""A device's secure element: PSA attestation tokens (RFC 9783, profile tfm) in COSE_Sign1 (ES256) or COSE_Mac0 (HMAC 256/256).

A small device has no key pair but one device key; for every gateway it derives keys that no other gateway knows. Written from
the standard and on purpose not from the gateway's own codec, so that the verifier meets foreign bytes. Knows no bus.
``overrides`` let a test make a device that lies.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cbor2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

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


class Signer:
    """One device's identity and boot state. ``components`` may be replaced: that is a change of firmware."""

    ueid: bytes

    def __init__(self, implementation_id: bytes, components: Sequence[Component], seed: bytes) -> None:
        self.implementation_id = implementation_id
        self.components = tuple(components)
        self.boot_seed = hashlib.sha256(b"boot" + seed).digest()

    def payload(self, nonce: bytes, overrides: Mapping[str, object]) -> bytes:
        """The claims of a token. ``overrides`` by claim name (see ``_CLAIMS``); None leaves the claim out."""
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
        return cbor2.dumps({_CLAIMS[k]: v for k, v in claims.items() if v is not None}, canonical=True)

    def measured(self) -> dict[str, object]:
        """The reference values that a maker publishes, everything in hex."""
        return {
            "ueid": self.ueid.hex(),
            "implementation-id": self.implementation_id.hex(),
            "components": {c.type: c.measurement.hex() for c in self.components},
            "signers": {c.type: c.signer.hex() for c in self.components},
        }


class PsaSigner(Signer):
    """A device with a key pair."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, implementation_id: bytes, components: Sequence[Component]) -> None:
        self._key = key
        super().__init__(implementation_id, components, self.spki)

    @property
    def spki(self) -> bytes:
        """The public key, DER SubjectPublicKeyInfo."""
        return self._key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def ueid(self) -> bytes:  # type: ignore[override]
        """The instance id: 0x01 and 32 bytes that name the key (section 4.2.1)."""
        return b"\x01" + hashlib.sha256(self.spki).digest()

    def token(self, nonce: bytes, **overrides: object) -> bytes:
        """A COSE_Sign1 token for ``nonce``."""
        payload = self.payload(nonce, overrides)
        protected = cbor2.dumps({1: -7}, canonical=True)
        der = self._key.sign(cbor2.dumps(["Signature1", protected, b"", payload]), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big")]))

    def reference(self, _gateway: str = "") -> dict[str, object]:
        """What the maker would publish of this device: trust anchor and reference values."""
        return {**self.measured(), "spki": self.spki.hex()}


class MacSigner(Signer):
    """A device with one 32-byte device key, which never leaves it."""

    def __init__(self, device_key: bytes, implementation_id: bytes, components: Sequence[Component]) -> None:
        self._key = device_key
        self.ueid = b"\x01" + hashlib.sha256(hashlib.sha256(device_key).digest()).digest()  # as in appendix A.2
        super().__init__(implementation_id, components, self.ueid)

    def derived(self, use: str, gateway: str) -> bytes:
        """The key for one use (``token``, ``beacon``) and one gateway: HKDF-SHA256 without salt."""
        info = f"wardgate {use} v1".encode() + b"\0" + gateway.encode()
        return HKDF(hashes.SHA256(), 32, None, info).derive(self._key)

    def token(self, nonce: bytes, gateway: str, **overrides: object) -> bytes:
        """A COSE_Mac0 token for ``nonce`` that ``gateway`` can check, and no other."""
        payload, protected = self.payload(nonce, overrides), cbor2.dumps({1: 5}, canonical=True)
        tag = hmac.digest(self.derived("token", gateway), cbor2.dumps(["MAC0", protected, b"", payload]), "sha256")
        return cbor2.dumps(cbor2.CBORTag(17, [protected, {}, payload, tag]))

    def beacon(self, gateway: str, epoch_id: bytes, epoch: int, counter: int, readings: bytes) -> bytes:
        """The advertised bytes: version and epoch bits, counter, readings, the first 8 bytes of the MAC."""
        parts = sorted((c.type, c.measurement) for c in self.components)
        measured = hashlib.sha256(b"".join(kind.encode() + b"\0" + value for kind, value in parts)).digest()
        body = bytes([1 << 4 | epoch & 0xF]) + counter.to_bytes(4, "big") + readings
        made = hmac.digest(self.derived("beacon", gateway), b"wardgate-beacon-v1\0" + epoch_id + measured + body, "sha256")
        return body + made[:8]

    def reference(self, gateway: str = "") -> dict[str, object]:
        """What the maker would hand to ``gateway`` and to nobody else; without a gateway, no key."""
        uses = ("token", "beacon") if gateway else ()
        keys = {f"{use}-key": self.derived(use, gateway).hex() for use in uses}
        return {**self.measured(), "gateway": gateway, **keys}


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


def load_device_key(path: Path) -> bytes:
    """A small device's key; made at first use, as in a factory."""
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def _delivered(model: str) -> tuple[bytes, tuple[Component, ...]]:
    """Implementation id and software of ``model`` as it left the factory: boot loader and firmware, measured."""
    implementation = hashlib.sha256(b"implementation " + model.encode()).digest()
    parts = (
        Component.of("BL", b"boot loader of " + model.encode(), "2.1.0"),
        Component.of("FW", b"firmware of " + model.encode(), "1.4.2"),
    )
    return implementation, parts


def signer_of(model: str, key: ec.EllipticCurvePrivateKey) -> PsaSigner:
    """A genuine device of ``model`` with a key pair."""
    return PsaSigner(key, *_delivered(model))


def mac_signer_of(model: str, device_key: bytes) -> MacSigner:
    """A genuine device of ``model`` with a device key."""
    return MacSigner(device_key, *_delivered(model))


def main() -> None:
    """Print the maker's reference for a model and key file: ``python -m hil.psa --model patch --key FILE``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--key", type=Path, required=True)
    a = parser.parse_args()
    print(json.dumps(signer_of(a.model, load_key(a.key)).reference(), indent=1))


if __name__ == "__main__":
    main()
