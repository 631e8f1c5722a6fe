from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.certify import Batch, complete
from gateway.errors import EvidenceError
from gateway.issuer.bundle import NO_ROOT, Freshness, parse_bundle
from gateway.issuer.leaves import encode_verdict
from gateway.model.certificate import SoftwareKey
from gateway.model.level import TrustLevel
from gateway.verifier.merkle import MerkleTree, verify_inclusion
from tests.certificates import Issuer, salt
from tests.issuer.verdicts import verdict

ISSUER = Issuer()


def test_a_closed_batch_signs_what_the_design_says() -> None:
    v = verdict()
    closed = ISSUER.closed(v, sequence=9)
    ear = closed.entries[0].ear
    leaves = [closed.gateway[1] + closed.gateway[0], salt(1) + encode_verdict(v, hashlib.sha256(ear).digest())]
    assert closed.root == MerkleTree(leaves).root
    left, right = (hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves)
    assert closed.root == hashlib.sha256(b"\1" + left + right).digest()
    freshness = Freshness.epoch(9, "boot").value
    expected = hashlib.sha256(
        b"wardgate-batch-v1\0"
        + hashlib.sha256(b"\1\0\x28" + freshness).digest()
        + (9).to_bytes(8, "big")
        + (2).to_bytes(4, "big")
        + closed.root
        + bytes(32)
        + (41).to_bytes(8, "big")
    ).digest()
    assert closed.qualifying == expected and len(closed.qualifying) == 32
    assert closed.size == 2


@settings(max_examples=20)
@given(st.integers(1, 20))
def test_every_device_gets_a_bundle_with_both_proofs(n: int) -> None:
    bundles = ISSUER.bundles(*(verdict(f"device-{i}") for i in range(n)))
    assert set(bundles) == {f"device-{i}" for i in range(n)}
    roots = set()
    for data in bundles.values():
        b = parse_bundle(data)
        roots.add(b.header.root)
        for leaf in (b.gateway, b.verdict):
            verify_inclusion(leaf.leaf, leaf.index, b.header.size, list(leaf.proof), b.header.root)
    assert len(roots) == 1


def test_the_newest_verdict_of_a_device_counts() -> None:
    low = verdict(level=TrustLevel.LIMITED)
    bundles = ISSUER.bundles(low, verdict("other"), verdict())
    assert parse_bundle(bundles["pump-1"]).verdict.index == 3
    assert len(bundles) == 2


def test_a_bundle_says_nothing_of_the_neighbours() -> None:
    bundles = ISSUER.bundles(verdict("pump-1"), verdict("secret-neighbour"))
    neighbour = parse_bundle(bundles["secret-neighbour"]).verdict
    assert b"secret-neighbour" not in bundles["pump-1"]
    assert neighbour.salt not in bundles["pump-1"]


def test_an_empty_batch_is_quoted_and_gives_no_bundles() -> None:
    closed = ISSUER.closed()
    assert closed.size == 1
    assert complete(closed, ISSUER.tpm.quote(closed.qualifying)) == {}


def test_without_a_chain_there_are_no_bundles() -> None:
    bare = Issuer(chain=())
    assert bare.bundles(verdict()) == {}


def test_a_quote_of_another_batch_is_refused() -> None:
    closed, other = ISSUER.closed(verdict()), ISSUER.closed(verdict(), sequence=8)
    with pytest.raises(EvidenceError, match="another batch"):
        complete(closed, ISSUER.tpm.quote(other.qualifying))
    with pytest.raises(EvidenceError, match="another batch"):
        complete(closed, replace(ISSUER.tpm.quote(closed.qualifying), nv_counter=40))


def test_a_batch_names_its_own_issuing_key() -> None:
    with pytest.raises(ValueError, match="another issuing key"):
        Batch((SoftwareKey("issuing", bytes(32)),), ISSUER.key.spki, ISSUER.platform, (), salt(0))


def test_salts_are_sixteen_bytes() -> None:
    with pytest.raises(ValueError, match="16"):
        ISSUER.batch().add(verdict(), b"ear", bytes(15))


def test_a_batch_can_be_closed_again_after_a_failed_quote() -> None:
    batch = ISSUER.batch()
    batch.add(verdict(), ISSUER.ear(verdict()), salt(1))
    first = batch.close(Freshness.epoch(1, "boot"), 1, NO_ROOT, 41)
    second = batch.close(Freshness.epoch(2, "boot"), 2, NO_ROOT, 41)
    assert first.root == second.root and first.qualifying != second.qualifying
    assert len(batch) == 1
