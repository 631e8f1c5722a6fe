"""PURE. The conformity certificate bundle: one deterministic CBOR map that a stranger verifies with nothing but an anchor.

Its bytes are defined in this package's README. Parsing is strict and proves nothing: an ``UnverifiedBundle`` becomes believable
only in ``gateway.relying``. Also here: the freshness of a batch and the 32 bytes its quote signs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gateway import codec
from gateway.issuer.leaves import SALT_SIZE
from gateway.issuer.strict import Reader, malformed, row, sized, whole

VERSION = 1
LABEL = b"wardgate-batch-v1\0"
EPOCH, NONCE = 1, 2  # kinds of freshness
NO_ROOT = bytes(32)  # the previous root of the first batch
_EPOCH_SIZE = 8 + 32
_NONCE_SIZES = (8, 64)  # as eat_nonce, RFC 9711

MAX_BATCH = 1_000_000  # leaves of one batch
_MAX_PROOF = 20  # hashes: two to the twentieth leaves
_MAX_PART = 8192  # bytes of an EAR, a leaf, a certificate; real ones are below 1,500
_MAX_CHAIN = 4
_MAX_PCRS = 24
MAX_BUNDLE = 128 * 1024


@dataclass(frozen=True, slots=True)
class Freshness:
    """What makes a batch fresh: an epoch of one boot (kind 1), or a verifier's nonce (kind 2)."""

    kind: int
    value: bytes

    def __post_init__(self) -> None:
        low, high = (_EPOCH_SIZE, _EPOCH_SIZE) if self.kind == EPOCH else _NONCE_SIZES
        if self.kind not in (EPOCH, NONCE) or not low <= len(self.value) <= high:
            raise ValueError("freshness is an epoch (1, 40 bytes) or a nonce (2, 8 to 64 bytes)")

    @staticmethod
    def epoch(number: int, boot_id: str) -> Freshness:
        """Epoch ``number`` of the boot ``boot_id``: 8 bytes big-endian, then SHA-256 of the boot id in UTF-8."""
        return Freshness(EPOCH, number.to_bytes(8, "big") + hashlib.sha256(boot_id.encode()).digest())

    @staticmethod
    def nonce(value: bytes) -> Freshness:
        """A nonce that a verifier chose."""
        return Freshness(NONCE, value)

    def digest(self) -> bytes:
        """SHA-256(kind 1 || length 2 || value)."""
        return hashlib.sha256(bytes([self.kind]) + len(self.value).to_bytes(2, "big") + self.value).digest()


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What a batch's quote signs beside the PCRs."""

    freshness: Freshness
    sequence: int
    size: int
    root: bytes
    previous_root: bytes
    nv_counter: int

    def __post_init__(self) -> None:
        whole(self.sequence, "a sequence", 0, 2**63 - 1)
        whole(self.size, "a batch's size", 1, MAX_BATCH)
        whole(self.nv_counter, "an NV counter", 0, 2**63 - 1)
        sized(self.root, "a root", 32)
        sized(self.previous_root, "a previous root", 32)

    def qualifying(self) -> bytes:
        """The 32 bytes given to TPM2_Quote as qualifying data."""
        return hashlib.sha256(
            LABEL
            + self.freshness.digest()
            + self.sequence.to_bytes(8, "big")
            + self.size.to_bytes(4, "big")
            + self.root
            + self.previous_root
            + self.nv_counter.to_bytes(8, "big")
        ).digest()


@dataclass(frozen=True, slots=True)
class LeafProof:
    """A leaf's CBOR, its salt, and the hashes from it to the root. ``index`` is its place in the batch."""

    content: bytes
    salt: bytes
    index: int
    proof: tuple[bytes, ...]

    @property
    def leaf(self) -> bytes:
        """The bytes that the tree hashes (after its 0x00 prefix)."""
        return self.salt + self.content


@dataclass(frozen=True, slots=True)
class UnverifiedBundle:
    """Everything in a bundle, parsed and believed by nobody yet."""

    ear: bytes
    issuing_spki: bytes
    verdict: LeafProof
    gateway: LeafProof
    attest: bytes
    signature: bytes
    pcrs: tuple[tuple[int, bytes], ...]
    header: BatchHeader
    chain: tuple[bytes, ...]


def encode_bundle(b: UnverifiedBundle) -> bytes:
    """The bundle's bytes."""
    h = b.header
    return codec.encode(
        {
            0: VERSION,
            1: b.ear,
            2: b.issuing_spki,
            3: [b.verdict.content, b.verdict.salt, b.verdict.index, list(b.verdict.proof)],
            4: [b.gateway.content, b.gateway.salt, list(b.gateway.proof)],
            5: b.attest,
            6: b.signature,
            7: dict(b.pcrs),
            8: [h.freshness.kind, h.freshness.value],
            9: h.sequence,
            10: h.size,
            11: h.root,
            12: h.previous_root,
            13: h.nv_counter,
            14: list(b.chain),
        }
    )


def parse_bundle(data: bytes) -> UnverifiedBundle:
    """Parse a bundle; raises MalformedError on anything that ``encode_bundle`` would not write."""
    r = Reader(codec.decode(data, MAX_BUNDLE), "the bundle")
    r.number(0, "version", VERSION, VERSION)
    content, salt, index, proof = row(r.take(3, list, "verdict"), "the verdict's leaf", bytes, bytes, int, list)
    own, own_salt, own_proof = row(r.take(4, list, "leaf 0"), "leaf 0", bytes, bytes, list)
    header = _header(r)
    bundle = UnverifiedBundle(
        r.octets(1, "EAR", 1, _MAX_PART),
        r.octets(2, "issuing key", 1, 512),
        _leaf(content, salt, whole(index, "the verdict's index", 1, header.size - 1), proof),
        _leaf(own, own_salt, 0, own_proof),
        r.octets(5, "quote", 1, _MAX_PART),
        r.octets(6, "quote signature", 1, 1024),
        _pcrs(r.take(7, dict, "PCRs")),
        header,
        tuple(sized(c, "a certificate", 1, _MAX_PART) for c in r.items(14, "certificates", _MAX_CHAIN)),
    )
    r.finish()
    if not bundle.chain:
        raise malformed("the bundle has no certificate of the gateway's TPM key")
    return bundle


def _header(r: Reader) -> BatchHeader:
    kind, value = row(r.take(8, list, "freshness"), "the freshness", int, bytes)
    try:
        freshness = Freshness(kind, value)
    except ValueError as e:
        raise malformed(str(e)) from None
    return BatchHeader(
        freshness,
        r.number(9, "sequence"),
        r.number(10, "size", 2, MAX_BATCH),
        r.octets(11, "root", 32),
        r.octets(12, "previous root", 32),
        r.number(13, "NV counter"),
    )


def _leaf(content: bytes, salt: bytes, index: int, proof: list[object]) -> LeafProof:
    if len(proof) > _MAX_PROOF:
        raise malformed("a proof that is too long")
    hashes = tuple(sized(h, "a hash of a proof", 32) for h in proof)
    return LeafProof(sized(content, "a leaf", 1, _MAX_PART), sized(salt, "a salt", SALT_SIZE), index, hashes)


def _pcrs(value: dict[object, object]) -> tuple[tuple[int, bytes], ...]:
    if not 1 <= len(value) <= _MAX_PCRS:
        raise malformed("the bundle has no PCRs, or too many")
    return tuple((whole(k, "a PCR's number", 0, 31), sized(v, "a PCR's value", 32)) for k, v in value.items())
