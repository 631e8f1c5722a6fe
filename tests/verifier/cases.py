"""Evidence as a gateway would hold it, made by the bench's own secure element."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType
from gateway.model.instant import Instant
from gateway.model.profile import Provenance, References, ReferenceValue, TrustAnchor
from hil.psa import PsaSigner, signer_of

NOW = Instant("boot", 1_000_000_000, 1_800_000_000_000_000_000)
NONCE = bytes(range(32))
KEY = ec.generate_private_key(ec.SECP256R1())
DEVICE = signer_of("patch", KEY)
MAKER, LEARNED = Provenance.MAKER, Provenance.LEARNED


def evidence(
    payload: bytes, media_type: str = MediaType.PSA.value, nonce: bytes = NONCE, channel: ChannelKind = ChannelKind.PORT
) -> Evidence:
    """Evidence of ``pump-1``."""
    return Evidence("pump-1", media_type, payload, nonce, Channel(channel, "p-pump-1"), NOW, "modbus")


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key's DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def psa_references(device: PsaSigner = DEVICE, *, provenance: Provenance = MAKER, signers: bool = False) -> References:
    """What the maker of ``device`` publishes."""
    values = {f"component:{c.type}": c.measurement for c in device.components}
    values["implementation-id"] = device.implementation_id
    if signers:
        values |= {f"signer:{c.type}": c.signer for c in device.components}
    return References(
        (TrustAnchor(device.ueid, device.spki),), tuple(ReferenceValue("firmware", n, v, provenance) for n, v in values.items())
    )


OBJECTS = {0: b"Wardgate Bench", 1: b"IP-100", 2: b"1.4.2"}
REGISTERS = {100 + n: 1000 + n for n in range(20)}


def modbus_payload(objects: Mapping[int, bytes] = OBJECTS, registers: Mapping[int, int] = REGISTERS, nonce: bytes = NONCE) -> bytes:
    """A fingerprint as the driver makes it."""
    return cbor2.dumps({1: nonce, 2: dict(objects), 3: dict(registers)}, canonical=True)


def modbus_references(provenance: Provenance = MAKER, *, countersigned: bool = False, without: str = "") -> References:
    """The reference values that match ``OBJECTS`` and ``REGISTERS``."""
    values = {f"object:{n}": v for n, v in OBJECTS.items()} | {f"register:{n}": v.to_bytes(2, "big") for n, v in REGISTERS.items()}
    return References(
        (), tuple(ReferenceValue("configuration", n, v, provenance, countersigned) for n, v in values.items() if n != without)
    )


def modbus(payload: bytes, **more: object) -> Evidence:
    """A fingerprint as evidence."""
    return evidence(payload, MediaType.MODBUS.value, **more)  # type: ignore[arg-type]


def digest(text: str) -> bytes:
    """SHA-256 of a text: something to measure."""
    return hashlib.sha256(text.encode()).digest()
