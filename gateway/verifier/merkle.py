"""PURE. The Merkle tree of an epoch's verdicts: the hashes of RFC 6962, section 2.1.

A leaf is hashed with prefix 0x00 and a node with 0x01, so neither can pose as the other; an odd node is promoted, never
doubled, so two different lists cannot share a root (CVE-2012-2459). Refuses to know what a leaf says: see ``gateway.issuer``.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest

from gateway.errors import EvidenceError, MalformedError

HASH_BYTES = 32
MAX_LEAVES = 0xFFFF_FFFF  # a batch names its size in four bytes
_LEAF, _NODE = b"\x00", b"\x01"


class MerkleTree:
    """A tree over raw leaf bytes. An empty one raises ValueError: a batch always holds leaf 0."""

    __slots__ = ("_rows",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ValueError("a Merkle tree needs at least one leaf")
        if len(leaves) > MAX_LEAVES:
            raise ValueError(f"a Merkle tree has at most {MAX_LEAVES} leaves")
        row = [sha256(_LEAF + leaf).digest() for leaf in leaves]
        rows = [row]
        while len(row) > 1:
            pairs = iter(row)
            above = [sha256(_NODE + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
            if len(row) & 1:
                above.append(row[-1])
            rows.append(row := above)
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows[0])

    @property
    def root(self) -> bytes:
        """The 32 bytes that stand for every leaf and its place."""
        return self._rows[-1][0]

    def proof(self, index: int) -> list[bytes]:
        """The hashes beside the path of leaf ``index``, from leaf to root. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"leaf {index} of {len(self)}")
        beside = []
        for row in self._rows[:-1]:
            sibling = index ^ 1
            if sibling < len(row):
                beside.append(row[sibling])
            index >>= 1
        return beside


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that ``leaf`` is leaf ``index`` of the ``size`` leaves under ``root``; raises EvidenceError.

    The proof must have exactly the length that ``index`` and ``size`` call for: nothing missing, nothing to spare.
    """
    if type(index) is not int or type(size) is not int or not 0 <= index < size <= MAX_LEAVES:
        raise MalformedError("an inclusion proof for a leaf outside its tree", "ask the gateway for a new certificate")
    if len(root) != HASH_BYTES:
        raise MalformedError(f"a Merkle root of {len(root)} bytes where it has {HASH_BYTES}", "fetch the file again")
    found = sha256(_LEAF + leaf).digest()
    left, used = size, 0
    try:
        while left > 1:
            if index ^ 1 < left:
                beside = proof[used]
                used += 1
                if len(beside) != HASH_BYTES:
                    raise MalformedError("an inclusion proof with a hash that is not 32 bytes", "fetch the file again")
                found = sha256(_NODE + beside + found if index & 1 else _NODE + found + beside).digest()
            index >>= 1
            left = (left + 1) >> 1
    except IndexError:
        raise MalformedError("an inclusion proof that is too short", "fetch the file again") from None
    if used != len(proof):
        raise MalformedError("an inclusion proof that is too long", "fetch the file again")
    if not compare_digest(found, root):
        raise EvidenceError("the leaf is not in the tree of this root", "the leaf, its place or the proof was changed")
