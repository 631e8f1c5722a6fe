"""State older than the TPM remembers is told until a person accepts it, and a crash in between is not taken for it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import EvidenceError, UnavailableError
from gateway.housekeeping import Housekeeping, accept_state, compare, leave_checkpoint
from gateway.model.effect import Record
from gateway.model.event import PartChanged
from gateway.store.audit import AuditLog, Keeping
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from tests.store.conftest import HandClock


class Counter:
    """A TPM's counter, and nothing else of an attester; ``away`` makes it unreachable."""

    def __init__(self) -> None:
        self.value, self.away, self.forgets = 1, False, False

    async def nv_counter(self, increment: bool = False) -> int:
        if self.away:
            raise UnavailableError("the TPM does not answer", "check it")
        self.value += increment
        if increment and self.forgets:
            raise UnavailableError("the power went", "switch it on")
        return self.value


class State:
    """One state directory on one machine."""

    def __init__(self, path: Path, counter: Counter) -> None:
        self.path, self.counter, self.clock = path, counter, HandClock()
        self.database = Database(path)
        self.audit, self.cache = AuditLog(self.database), CertificateCache(self.database)

    async def write(self, number: int = 3) -> None:
        await self.audit.append([(self.clock.now(), Record("k", "", f"{n}")) for n in range(number)])

    @property
    def parts(self) -> tuple[AuditLog, CertificateCache, Any]:
        return self.audit, self.cache, self.counter


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    made = State(tmp_path / "w.sqlite", Counter())
    await made.database.open()
    yield made
    await made.database.close()


async def test_an_older_disk_is_noticed_until_a_person_accepts_it(state: State, tmp_path: Path) -> None:
    await compare(*state.parts)
    await state.write()
    for _ in range(2):
        await leave_checkpoint(*state.parts, state.clock.now())
    await compare(*state.parts)
    await state.database.run(lambda db: db.execute("SELECT 1").fetchone())
    await state.database.close()
    shutil.copy(state.path, tmp_path / "old.sqlite")
    again = State(state.path, state.counter)
    await again.database.open()
    await again.write()
    for _ in range(2):
        await leave_checkpoint(*again.parts, again.clock.now())
    await again.database.close()
    old = State(tmp_path / "old.sqlite", state.counter)
    await old.database.open()
    with pytest.raises(EvidenceError, match="2 checkpoints older than the TPM remembers"):
        await compare(*old.parts)
    assert "2 checkpoints older" in await accept_state(*old.parts, old.clock.now(), "the disk died; last week's image")
    await compare(*old.parts)
    assert "the disk died" in (await old.audit.tail(1))[0].text
    assert await accept_state(*old.parts, old.clock.now(), "again") == ""
    await old.database.close()
    state.database = old.database


async def test_a_fresh_disk_under_a_tpm_that_remembers_is_noticed(state: State) -> None:
    state.counter.value = 7
    with pytest.raises(EvidenceError, match="remembers checkpoints that the stored state does not have"):
        await compare(*state.parts)


async def test_a_record_that_was_cut_off_is_noticed(state: State) -> None:
    await state.write(5)
    await leave_checkpoint(*state.parts, state.clock.now())
    await state.database.run(lambda db: db.execute("DELETE FROM audit WHERE sequence > 3"))
    await state.write(5)
    with pytest.raises(EvidenceError, match="does not contain line 5"):
        await compare(*state.parts)


async def test_a_power_cut_between_counter_and_checkpoint_again_and_again_is_no_rollback(state: State) -> None:
    await leave_checkpoint(*state.parts, state.clock.now())
    for _ in range(3):
        state.counter.forgets = True
        with contextlib.suppress(UnavailableError):
            await leave_checkpoint(*state.parts, state.clock.now())
        state.counter.forgets = False
        await compare(*state.parts)


async def _run(state: State, keeping: Keeping, until: Any) -> list[PartChanged]:
    told: list[PartChanged] = []

    async def tell(event: PartChanged) -> None:
        told.append(event)

    keeper = Housekeeping(*state.parts, state.clock, keeping, tell)
    keeper.soon()
    task = asyncio.create_task(keeper.run())
    async with asyncio.timeout(10):
        while not await until():  # noqa: ASYNC110 - a test polls, bounded above
            await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return told


async def test_the_task_packs_trims_and_leaves_a_checkpoint(state: State) -> None:
    await state.write(400)

    async def trimmed() -> bool:
        return (await state.audit.extent()).trimmed > 0

    told = await _run(state, Keeping(lines=50, live=10, most_bytes=600), trimmed)
    assert [(p.part, p.up) for p in told] == [("state", True)]
    assert (await state.cache.checkpoint()).nv_counter == state.counter.value == 2  # type: ignore[union-attr]
    assert (await state.audit.verify()).sequence == 401


async def test_the_task_fills_in_what_an_older_version_did_not_keep(state: State) -> None:
    await state.write(200)
    while await state.audit.close_segment(Keeping(lines=50, live=10), state.clock.now()):
        pass
    await state.database.run(lambda db: db.execute("DELETE FROM audit_segment_ends"))  # none of these lines is read by device

    async def filled() -> bool:
        return bool(await state.database.run(lambda db: db["audit_segment_ends"].count == 3))

    await _run(state, Keeping(lines=50, live=10), filled)
    assert (await state.audit.verify()).sequence == 200


async def test_no_checkpoint_covers_up_a_rollback(state: State) -> None:
    state.counter.value = 9
    await state.write(200)

    async def packed() -> bool:
        return (await state.audit.extent()).packed_bytes > 0

    told = await _run(state, Keeping(lines=50, live=10), packed)
    assert [(p.part, p.up) for p in told] == [("state", False)]
    assert await state.cache.checkpoint() is None
    assert state.counter.value == 9
