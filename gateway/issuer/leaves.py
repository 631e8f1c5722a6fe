"""PURE. What stands in the leaves of an epoch's Merkle tree: the gateway's software keys (leaf 0) and one verdict a device.

A leaf is ``salt (16 bytes) || deterministic CBOR``; the salt keeps a relying party from guessing a neighbour's verdict from the
hashes in its proof. Knows the bytes of both maps (this package's README), not the tree and not the quote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from struct import Struct

from gateway import codec
from gateway.issuer.strict import Reader, malformed, row, sized, whole
from gateway.model.certificate import EvidenceRef, SoftwareKey, Verdict
from gateway.model.evidence import EvidenceClass, Tier, TrustVector
from gateway.model.instant import Instant, TimeQuality
from gateway.model.level import TrustLevel

SALT_SIZE = 16
ISSUING = "issuing"  # the purpose of the key that signs EARs
MEASURED_ROOTS = ("uefi", "none")  # who measured the gateway's boot before its own software ran
_KEYS, _VERDICT = 0, 1
_SHORT = tuple(bytes((n,)) for n in range(256))  # CBOR heads of one byte, and all small numbers
_LONG = Struct(">BQ").pack  # a CBOR head of nine bytes
_MAX_ROWS = 64  # keys, pieces of evidence or functions in one leaf

VECTOR_NAMES = tuple(f.name.replace("_", "-") for f in fields(TrustVector))  # position = the claim's integer key (AR4SI)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the gateway is: its id, its build, and who measured its boot (``uefi``, or ``none`` on a Raspberry Pi)."""

    gateway: str
    build: str
    root_of_measurement: str

    def __post_init__(self) -> None:
        if self.root_of_measurement not in MEASURED_ROOTS:
            raise ValueError(f"root_of_measurement is one of {', '.join(MEASURED_ROOTS)}, got {self.root_of_measurement!r}")


@dataclass(frozen=True, slots=True)
class GatewayLeaf:
    """Leaf 0: the software keys that this boot uses, the platform, and the hash of the AK's certificate chain."""

    keys: tuple[SoftwareKey, ...]
    platform: Platform
    chain_hash: bytes

    def key_hash(self, purpose: str) -> bytes:
        """SHA-256 of the SPKI of the one key with this purpose; raises MalformedError."""
        found = [k.spki_hash for k in self.keys if k.purpose == purpose]
        if len(found) != 1:
            raise malformed(f"leaf 0 names {len(found)} keys for {purpose}")
        return found[0]


@dataclass(frozen=True, slots=True)
class VerdictLeaf:
    """A device's leaf: the verdict (its instant knows wall time only) and SHA-256 of the EAR that goes with it."""

    verdict: Verdict
    ear_hash: bytes


def chain_hash(chain: Sequence[bytes]) -> bytes:
    """SHA-256 over the deterministic CBOR array of the DER certificates."""
    return hashlib.sha256(codec.encode([bytes(c) for c in chain])).digest()


def encode_gateway(leaf: GatewayLeaf) -> bytes:
    """Leaf 0 without its salt."""
    p = leaf.platform
    keys = [[k.purpose, k.spki_hash] for k in leaf.keys]
    return codec.encode({0: _KEYS, 1: keys, 2: p.gateway, 3: p.build, 4: p.root_of_measurement, 5: leaf.chain_hash})


def parse_gateway(data: bytes) -> GatewayLeaf:
    """The inverse of ``encode_gateway``; raises MalformedError."""
    reader = Reader(codec.decode(data), "leaf 0")
    reader.number(0, "kind", _KEYS, _KEYS)
    rows = [row(r, "a key of leaf 0", str, bytes) for r in reader.items(1, "keys", _MAX_ROWS)]
    keys = tuple(SoftwareKey(purpose, sized(digest, "a key's hash", 32)) for purpose, digest in rows)
    gateway, build, root = reader.take(2, str, "gateway"), reader.take(3, str, "build"), reader.take(4, str, "root of measurement")
    digest = reader.octets(5, "chain hash", 32)
    reader.finish()
    if root not in MEASURED_ROOTS:
        raise malformed("leaf 0 has an unknown root of measurement")
    return GatewayLeaf(keys, Platform(gateway, build, root), digest)


def encode_verdict(verdict: Verdict, ear_hash: bytes) -> bytes:
    """A verdict leaf without its salt: deterministic CBOR, written out by hand because a batch has ten thousand of them."""
    v = verdict
    issued = v.issued_at
    return b"".join(
        (
            b"\xae\x00\x01\x01",  # a map of fourteen; 0: kind; 1: ...
            _text(v.device_id),
            b"\x02",
            _known_text(v.profile),
            b"\x03",
            _SHORT[v.level],
            b"\x04",
            _uint(v.tier),
            b"\x05",
            _known_vector(v.vector),
            b"\x06",
            _known_text(v.evidence_class),
            b"\x07",
            _head(0x80, len(v.evidence)),
            *map(_evidence_row, v.evidence),
            b"\x08",
            _known_text(v.policy_id),
            b"\x09",
            _uint(issued.utc_ns),
            b"\x0a",
            _SHORT[issued.quality],
            b"\x0b",
            _uint(v.expires_utc_ns),
            b"\x0c",
            _known_functions(v.functions),
            b"\x0d",
            _octets(ear_hash),
        )
    )


def _head(major: int, number: int) -> bytes:
    """A CBOR head in its shortest form. Source: RFC 8949, section 3."""
    if number < 24:
        return _SHORT[major | number]
    if number < 0x100:
        return bytes((major | 24, number))
    if number < 0x10000:
        return bytes((major | 25,)) + number.to_bytes(2, "big")
    if number < 0x1_0000_0000:
        return bytes((major | 26,)) + number.to_bytes(4, "big")
    return _LONG(major | 27, number)


def _uint(number: int) -> bytes:
    return _LONG(27, number) if number > 0xFFFF_FFFF else _head(0, number)


def _octets(value: bytes) -> bytes:
    return _head(0x40, len(value)) + value


def _text(value: str) -> bytes:
    raw = value.encode()
    length = len(raw)
    return (_SHORT[0x60 | length] if length < 24 else _head(0x60, length)) + raw


def _evidence_row(e: EvidenceRef) -> bytes:
    digest, nonce = e.evidence_hash, e.nonce
    return b"\x84%b%b%b%b%b%b" % (
        _known_text(e.media_type),
        _head(0x40, len(digest)),
        digest,
        _head(0x40, len(nonce)),
        nonce,
        _text(e.channel),
    )


_known_text = lru_cache(maxsize=256)(_text)  # profiles, classes, policy ids, media types: few, and the same in every batch


@lru_cache(maxsize=256)
def _known_vector(vector: TrustVector) -> bytes:
    return codec.encode(vector_claims(vector))


@lru_cache(maxsize=256)
def _known_functions(functions: tuple[tuple[str, bool], ...]) -> bytes:
    return codec.encode([[name, allowed] for name, allowed in functions])


def parse_verdict(data: bytes) -> VerdictLeaf:
    """The inverse of ``encode_verdict``; boot time is not in a leaf. Raises MalformedError."""
    r = Reader(codec.decode(data), "the verdict")
    r.number(0, "kind", _VERDICT, _VERDICT)
    evidence = tuple(_evidence(e) for e in r.items(7, "evidence", _MAX_ROWS))
    functions = tuple((n, a) for n, a in (row(f, "a function", str, bool) for f in r.items(12, "functions", _MAX_ROWS)))
    issued = Instant("", 0, r.number(9, "time"), TimeQuality(r.number(10, "time quality", 0, max(TimeQuality))))
    verdict = Verdict(
        r.take(1, str, "device id"),
        r.take(2, str, "profile"),
        TrustLevel(r.number(3, "level", 0, 3)),
        parse_tier(r.take(4, int, "tier")),
        parse_vector(r.take(5, dict, "vector")),
        parse_class(r.take(6, str, "evidence class")),
        evidence,
        r.take(8, str, "policy id"),
        issued,
        r.number(11, "expiry"),
        functions,
    )
    digest = r.octets(13, "EAR hash", 32)
    r.finish()
    return VerdictLeaf(verdict, digest)


def _evidence(value: object) -> EvidenceRef:
    media, digest, nonce, channel = row(value, "a piece of evidence", str, bytes, bytes, str)
    return EvidenceRef(media, sized(digest, "an evidence hash", 32), sized(nonce, "a nonce", 0, 64), channel)


def vector_claims(vector: TrustVector) -> dict[int, int]:
    """The claims that say something, by their AR4SI integer key."""
    return {VECTOR_NAMES.index(name): value for name, value in vector.claims().items()}


def parse_vector(value: dict[object, object]) -> TrustVector:
    """The inverse of ``vector_claims``; zero claims are left out, never written."""
    claims: dict[str, int] = {}
    for key, number in value.items():
        position = whole(key, "a vector claim's key", 0, len(VECTOR_NAMES) - 1)
        claims[VECTOR_NAMES[position].replace("-", "_")] = whole(number, "a vector claim", -128, 127)
    if 0 in claims.values():
        raise malformed("a vector claim that claims nothing")
    return TrustVector(**claims)


def parse_tier(value: int) -> Tier:
    """A tier by its EAR code."""
    if value not in tuple(Tier):
        raise malformed("an unknown trust tier")
    return Tier(value)


def parse_class(value: str) -> EvidenceClass:
    """An evidence class by its name."""
    if value not in tuple(EvidenceClass):
        raise malformed("an unknown class of evidence")
    return EvidenceClass(value)
