"""What a batch of 10,000 verdicts costs beside its quote, and what one inclusion costs to verify.

The batch is the product's own: verdicts written as leaves, salted, hashed into a tree, its header hashed for the TPM. The
budget: 40 ms, and 12 µs an inclusion, in CPU time. Both floors are the SHA-256 calls alone, over bytes of the same lengths.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Iterable

from gateway.certify import Batch
from gateway.issuer.bundle import Freshness
from gateway.issuer.leaves import Platform, encode_verdict
from gateway.model.certificate import EvidenceRef, SoftwareKey, Verdict
from gateway.model.evidence import EvidenceClass, MediaType, Tier, TrustVector
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.verifier.merkle import MerkleTree, verify_inclusion
from tests.benches.figure import Figure, figure

_DEVICES, _ROUNDS = 10_000, 15
_SPKI = b"an issuing key's SubjectPublicKeyInfo"
_KEYS = (SoftwareKey("issuing", hashlib.sha256(_SPKI).digest()),)
_PLATFORM = Platform("bench", "1", "uefi")


def verdict(number: int) -> Verdict:
    """The verdict on one of the devices; each has its own id, nonce, evidence and time."""
    token, at = hashlib.sha256(number.to_bytes(4, "big")).digest(), Instant("boot", number, 1_800_000_000_000_000_000 + number)
    evidence = EvidenceRef(MediaType.PSA.value, token, token[::-1], f"port:p-{number}")
    vector, functions = TrustVector(2, 0, 3, 0, 2, 0, 2, 0), (("control", True), ("maintenance", True), ("monitoring", True))
    expires = at.utc_ns + 88_000_000_000
    policy = hashlib.sha256(b"policy").hexdigest()
    return Verdict(
        f"pump-{number}",
        "infusion-pump",
        TrustLevel.FULL,
        Tier.AFFIRMING,
        vector,
        EvidenceClass.ASYMMETRIC,
        (evidence,),
        policy,
        at,
        expires,
        functions,
    )


def batch_ms(verdicts: list[Verdict], salts: list[bytes]) -> float:
    """From verdicts to the 32 bytes that the TPM quotes."""
    gc.collect()
    start = time.process_time()
    batch = Batch(_KEYS, _SPKI, _PLATFORM, (), salts[0])
    for v, salt in zip(verdicts, salts, strict=True):
        batch.add(v, b"an EAR", salt)
    batch.close(Freshness.epoch(1, "boot"), 1, bytes(32), 1)
    return (time.process_time() - start) * 1e3


def hashes_ms(leaves: list[bytes]) -> float:
    """As many SHA-256 calls as a tree over ``leaves`` takes, and nothing else."""
    start = time.process_time()
    for leaf in leaves:
        hashlib.sha256(leaf).digest()
    node = bytes(65)
    for _ in range(len(leaves) - 1):
        hashlib.sha256(node).digest()
    return (time.process_time() - start) * 1e3


def run() -> Iterable[Figure]:
    """The batch, and one inclusion in it."""
    verdicts = [verdict(n) for n in range(_DEVICES)]
    salts = [hashlib.sha256(b"salt%d" % n).digest()[:16] for n in range(_DEVICES)]
    leaves = [salt + encode_verdict(v, bytes(32)) for v, salt in zip(verdicts, salts, strict=True)]
    readings, floors = [], []
    for _ in range(_ROUNDS):
        floors.append(hashes_ms(leaves))
        readings.append(batch_ms(verdicts, salts))
    yield figure("merkle-10000", _DEVICES, readings, "ms", floors, f"leaves of {len(leaves[-1])} bytes encoded and hashed")
    yield inclusion(leaves)


def inclusion(leaves: list[bytes]) -> Figure:
    """Verifying leaves spread over the tree, one at a time."""
    tree = MerkleTree(leaves)
    asked = [(leaves[n], n, tree.proof(n)) for n in range(0, len(leaves), 20)]
    root, readings, floors = tree.root, [], []
    for _ in range(_ROUNDS):
        start = time.process_time()
        for leaf, _, proof in asked:
            node = hashlib.sha256(leaf).digest()
            for beside in proof:
                node = hashlib.sha256(b"\x01" + beside + node).digest()
        floors.append((time.process_time() - start) / len(asked) * 1e6)
        start = time.process_time()
        for leaf, index, proof in asked:
            verify_inclusion(leaf, index, len(leaves), proof, root)
        readings.append((time.process_time() - start) / len(asked) * 1e6)
    return figure("merkle-10000.inclusion", len(leaves), readings, "µs", floors, f"{len(asked[0][2])} hashes deep")
