"""Certificates only get newer; a rolled-back state is noticed."""

from __future__ import annotations

import pytest

from gateway.errors import EvidenceError, InputError
from gateway.store.cache import BatchHead, CertificateCache, Checkpoint
from gateway.store.database import Database


async def test_the_newest_certificate_is_kept(database: Database) -> None:
    cache = CertificateCache(database)
    assert await cache.certificate("pump-1") is None
    with pytest.raises(InputError, match="no certificate"):
        await cache.bundle("pump-1")
    await cache.save_ear("pump-1", 5, b"five", "five", 500)
    await cache.save_ear("pump-1", 4, b"four", "four", 400)
    found = await cache.certificate("pump-1")
    assert found is not None
    assert (found.ear_sequence, found.cwt, found.bundle) == (5, b"five", None)
    await cache.save_batch(BatchHead(5, bytes(32), 1), [("pump-1", b"bundle 5", 500), ("unknown", b"x", 1)])
    assert await cache.bundle("pump-1") == b"bundle 5"
    await cache.save_ear("pump-1", 6, b"six", "six", 600)
    found = await cache.certificate("pump-1")
    assert found is not None
    assert (found.cwt, found.bundle, found.bundle_sequence) == (b"six", b"bundle 5", 5)  # complete until the next quote
    assert await cache.certificates() == [found]


async def test_a_batch_follows_the_one_before(database: Database) -> None:
    cache = CertificateCache(database)
    assert await cache.batch_head() is None
    await cache.save_ear("pump-1", 7, b"c", "j", 1)
    await cache.save_batch(BatchHead(7, b"r" * 32, 3), [("pump-1", b"seven", 1)])
    for sequence in (7, 6):
        with pytest.raises(InputError, match="does not follow"):
            await cache.save_batch(BatchHead(sequence, b"x" * 32, 3), [("pump-1", b"other", 1)])
    assert await cache.batch_head() == BatchHead(7, b"r" * 32, 3)
    assert await cache.bundle("pump-1") == b"seven"


async def test_a_rolled_back_state_is_noticed(database: Database) -> None:
    cache = CertificateCache(database)
    assert await cache.checkpoint() is None
    checkpoint = Checkpoint(12, b"h" * 32, 10**18, nv_counter=40, reset_count=2)
    await cache.save_checkpoint(checkpoint)
    assert await cache.checkpoint() == checkpoint
    checkpoint.verify(40)
    checkpoint.verify(41)  # power went between the counter and the checkpoint
    with pytest.raises(EvidenceError, match="older than the TPM remembers"):
        checkpoint.verify(42)
    with pytest.raises(EvidenceError, match="another TPM"):
        checkpoint.verify(39)
