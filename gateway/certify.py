"""PURE. One TPM quote for N devices: an epoch's verdicts become a Merkle tree, its root goes under a quote, and every device
gets a bundle that a stranger verifies alone.

Two steps, since a quote takes a TPM's time between them: ``Batch.close`` gives the 32 bytes to quote, ``complete`` takes the quote.
Refuses to know the TPM, the store and the clock; salts come from the caller, who alone may draw them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.errors import EvidenceError
from gateway.issuer.bundle import MAX_BATCH, BatchHeader, Freshness, LeafProof, UnverifiedBundle, encode_bundle
from gateway.issuer.es256 import low_s_tpmt
from gateway.issuer.leaves import ISSUING, SALT_SIZE, GatewayLeaf, Platform, chain_hash, encode_gateway, encode_verdict
from gateway.model.certificate import QuotedState, SoftwareKey, Verdict
from gateway.verifier.merkle import MerkleTree


class _Entry(NamedTuple):  # not a dataclass: a batch makes ten thousand, and this is four times faster
    device_id: str
    ear: bytes
    leaf: bytes


@dataclass(frozen=True, slots=True)
class ClosedBatch:
    """A batch that takes no more verdicts. ``qualifying`` is what the TPM must quote."""

    header: BatchHeader
    qualifying: bytes
    tree: MerkleTree
    gateway: tuple[bytes, bytes]
    entries: tuple[_Entry, ...]
    issuing_spki: bytes
    chain: tuple[bytes, ...]

    @property
    def root(self) -> bytes:
        """The tree's root; the next batch names it as its previous one."""
        return self.header.root

    @property
    def size(self) -> int:
        """Leaves in the batch, leaf 0 included."""
        return self.header.size


class Batch:
    """The verdicts of one epoch. ``keys`` must name the issuing key; ``ak_chain`` is DER, AK first, without the anchor."""

    def __init__(
        self, keys: Sequence[SoftwareKey], issuing_spki: bytes, platform: Platform, ak_chain: Sequence[bytes], salt: bytes
    ) -> None:
        leaf = GatewayLeaf(tuple(keys), platform, chain_hash(ak_chain))
        if leaf.key_hash(ISSUING) != hashlib.sha256(issuing_spki).digest():
            raise ValueError("leaf 0 names another issuing key")
        self._gateway = (encode_gateway(leaf), _salt(salt))
        self._spki = issuing_spki
        self._chain = tuple(ak_chain)
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        """Verdicts collected so far."""
        return len(self._entries)

    def add(self, verdict: Verdict, ear: bytes, salt: bytes) -> None:
        """Add a verdict with its EAR (CWT) and a fresh salt of 16 random bytes."""
        if len(self._entries) + 1 >= MAX_BATCH:
            raise ValueError(f"a batch holds {MAX_BATCH} leaves at most")
        leaf = _salt(salt) + encode_verdict(verdict, hashlib.sha256(ear).digest())
        self._entries.append(_Entry(verdict.device_id, ear, leaf))

    def close(self, freshness: Freshness, sequence: int, previous_root: bytes, nv_counter: int) -> ClosedBatch:
        """Build the tree. The batch may go on for another try (another freshness) when the quote fails."""
        content, salt = self._gateway
        tree = MerkleTree([salt + content, *[e.leaf for e in self._entries]])
        header = BatchHeader(freshness, sequence, len(self._entries) + 1, tree.root, previous_root, nv_counter)
        return ClosedBatch(header, header.qualifying(), tree, self._gateway, tuple(self._entries), self._spki, self._chain)


def complete(closed: ClosedBatch, quoted: QuotedState) -> dict[str, bytes]:
    """The bundles of a batch by device id, once it is quoted; of several verdicts on one device the newest counts.

    Raises EvidenceError when the quote is of another batch. Without an AK chain (before enrolment) there are no bundles.
    """
    if quoted.qualifying != closed.qualifying or quoted.nv_counter != closed.header.nv_counter:
        raise EvidenceError("a quote that was made for another batch", "quote this batch again")
    if not closed.chain:
        return {}
    content, salt = closed.gateway
    own = LeafProof(content, salt, 0, tuple(closed.tree.proof(0)))
    signature = low_s_tpmt(quoted.signature)
    bundles: dict[str, bytes] = {}
    for index, entry in {e.device_id: (i, e) for i, e in enumerate(closed.entries, start=1)}.values():
        salt, content = entry.leaf[:SALT_SIZE], entry.leaf[SALT_SIZE:]
        verdict = LeafProof(content, salt, index, tuple(closed.tree.proof(index)))
        bundles[entry.device_id] = encode_bundle(
            UnverifiedBundle(
                entry.ear,
                closed.issuing_spki,
                verdict,
                own,
                quoted.attest,
                signature,
                quoted.pcrs,
                closed.header,
                closed.chain,
            )
        )
    return bundles


def _salt(value: bytes) -> bytes:
    if len(value) != SALT_SIZE:
        raise ValueError(f"a salt is {SALT_SIZE} random bytes")
    return value
