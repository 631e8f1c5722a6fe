"""Merkle inclusion: the published roots, every proof of every size, and nothing but the right proof."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EvidenceError, MalformedError
from gateway.verifier.merkle import MerkleTree, verify_inclusion

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "merkle.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int) -> None:
    assert MerkleTree(LEAVES[:size]).root.hex() == VECTORS["roots"][size - 1]


@pytest.mark.parametrize("size", [*range(1, 35), 100, 1000])
def test_every_leaf_proves_itself_and_no_other(size: int) -> None:
    leaves = [n.to_bytes(4, "big") for n in range(size)]
    tree = MerkleTree(leaves)
    for n in range(0, size, max(1, size // 40)):
        proof = tree.proof(n)
        verify_inclusion(leaves[n], n, size, proof, tree.root)
        with pytest.raises(EvidenceError):
            verify_inclusion(b"other", n, size, proof, tree.root)
        if size > 1:
            with pytest.raises(EvidenceError):
                verify_inclusion(leaves[n], (n + 1) % size, size, proof, tree.root)


def test_empty_and_out_of_range() -> None:
    with pytest.raises(ValueError, match="at least one"):
        MerkleTree([])
    for index in (-1, 3):
        with pytest.raises(IndexError):
            MerkleTree([b"a", b"b", b"c"]).proof(index)


def test_an_odd_list_is_not_the_list_with_its_last_leaf_twice() -> None:
    assert MerkleTree([b"a", b"b", b"c"]).root != MerkleTree([b"a", b"b", b"c", b"c"]).root


def test_a_node_cannot_pose_as_a_leaf() -> None:
    tree = MerkleTree([b"a", b"b"])
    children = b"".join(hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"a", b"b"))
    with pytest.raises(EvidenceError):
        verify_inclusion(children, 0, 1, [], tree.root)


@pytest.mark.parametrize(
    ("index", "size", "length", "root"),
    [
        (0, 0, 0, 32),
        (5, 5, 3, 32),
        (-1, 5, 3, 32),
        (0, 2**32, 3, 32),
        (True, 5, 3, 32),
        (0, 5, 2, 32),
        (0, 5, 4, 32),
        (0, 5, 3, 31),
    ],
)
def test_malformed_proofs(index: int, size: int, length: int, root: int) -> None:
    with pytest.raises(MalformedError):
        verify_inclusion(b"a", index, size, [bytes(32)] * length, bytes(root))


def test_a_hash_of_another_length_is_refused() -> None:
    with pytest.raises(MalformedError):
        verify_inclusion(b"a", 0, 2, [bytes(31)], bytes(32))


@given(st.integers(1, 64), st.data())
def test_a_changed_proof_or_size_proves_nothing(size: int, data: st.DataObject) -> None:
    leaves = [bytes([n]) for n in range(size)]
    tree = MerkleTree(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = tree.proof(index)
    other = data.draw(st.integers(1, 80).filter(lambda n: n != size and n > index))
    if len(MerkleTree([b""] * other).proof(index)) != len(proof):  # a path of another shape
        with pytest.raises(EvidenceError):
            verify_inclusion(leaves[index], index, other, proof, tree.root)
    if proof:
        at, bit = data.draw(st.integers(0, len(proof) * 32 - 1)), data.draw(st.integers(0, 7))
        changed = bytearray(b"".join(proof))
        changed[at] ^= 1 << bit
        bad = [bytes(changed[i : i + 32]) for i in range(0, len(changed), 32)]
        with pytest.raises(EvidenceError):
            verify_inclusion(leaves[index], index, size, bad, tree.root)


@given(
    st.binary(max_size=64),
    st.integers(-5, 2**33),
    st.integers(-5, 2**33),
    st.lists(st.binary(max_size=40), max_size=40),
    st.binary(max_size=40),
)
def test_garbage_raises_what_it_says(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> None:
    with pytest.raises(EvidenceError):
        verify_inclusion(leaf, index, size, proof, root)
