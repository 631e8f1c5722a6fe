"""The record in segments: packed it is the same chain; trimmed it verifies from its anchor; nothing is changed unseen."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import EvidenceError
from gateway.model.effect import Record
from gateway.model.instant import Instant, TimeQuality
from gateway.store.audit import AuditLog, Head, Keeping, Line
from gateway.store.database import Database
from gateway.store.segments import pack, unpack
from tests.store.conftest import HandClock

KEEPING = Keeping(lines=50, age_s=3600, live=20, most_bytes=10**9)


async def _write(log: AuditLog, clock: HandClock, number: int, start: int = 0) -> None:
    rows = []
    for i in range(start, start + number):
        clock.forward(1)
        kind, text = ("event", "EvidenceArrived") if i % 5 else ("decision", f"pump-1: level {i}")
        rows.append((clock.now(), Record(kind, "pump-1", text, (("event", {"n": i, "hex": f"{i * 7919:064x}"}), ("level", i % 3)))))
    await log.append(rows)


async def _packed(database: Database, clock: HandClock, number: int = 300) -> AuditLog:
    log = AuditLog(database)
    await _write(log, clock, number)
    while await log.close_segment(KEEPING, clock.now()):
        pass
    return log


async def test_packed_lines_are_the_same_lines_in_the_same_chain(database: Database, clock: HandClock) -> None:
    log = AuditLog(database)
    await _write(log, clock, 300)
    before, head = [x async for x in log.lines()], await log.verify()
    exported, told = [x async for x in log.export()], await log.tail(100)
    replayed = [x async for x in log.replay()]
    while await log.close_segment(KEEPING, clock.now()):
        pass
    rows = await database.run(lambda db: [db[t].count for t in ("audit", "audit_segments")])
    assert rows == [50, 5], "the newest lines stay as they are"
    assert [x async for x in log.lines()] == before
    assert [x async for x in log.lines(137)] == before[137:]
    assert await log.verify() == await log.verify(head) == head
    assert [x async for x in log.export()] == exported
    assert await log.tail(100) == told
    assert [x async for x in log.replay()] == replayed
    assert await log.tail(10, before=100) == [e for e in told if e.sequence < 100][:10]
    assert [e.sequence for e in await log.since(3)] == sorted(e.sequence for e in told if e.sequence > 3)
    await _write(log, clock, 3, 300)
    assert (await log.verify()).sequence == 303


async def test_nothing_is_packed_too_early_and_what_is_old_is_packed_however_little_it_is(
    database: Database, clock: HandClock
) -> None:
    log = AuditLog(database)
    await _write(log, clock, 69)
    assert not await log.close_segment(KEEPING, clock.now())
    clock.forward(KEEPING.age_s)
    assert await log.close_segment(KEEPING, clock.now())
    assert not await log.close_segment(KEEPING, clock.now())
    assert await database.run(lambda db: db.execute("SELECT count(*) FROM audit").fetchone()[0]) == KEEPING.live
    clock.reboot()
    await _write(log, clock, 1, 69)
    assert await log.close_segment(KEEPING, clock.now()), "a line of another boot is old"
    assert (await log.verify()).sequence == 70


async def test_large_bodies_close_a_segment_by_their_bytes(database: Database, clock: HandClock) -> None:
    log = AuditLog(database)
    await log.append([(clock.now(), Record("k", "", "x", (("v", "y" * 1_000_000),)))] * 8)
    assert await log.close_segment(Keeping(live=1), clock.now())
    segment = await database.run(lambda db: db.execute("SELECT first, last, bytes FROM audit_segments").fetchone())
    assert segment[:2] == (1, 4)
    assert segment[2] < 5 * 1024 * 1024
    assert (await log.verify()).sequence == 8


async def test_trimmed_to_its_bound_the_record_verifies_from_its_anchor_and_says_how_far_it_reaches(
    database: Database, clock: HandClock
) -> None:
    log = await _packed(database, clock)
    whole = await log.extent()
    old = await log.head()
    keeping = Keeping(lines=50, live=20, most_bytes=whole.packed_bytes // 2)
    gone = await log.trim(keeping, clock.now())
    extent = await log.extent()
    assert gone == extent.trimmed == 150
    assert extent.first == 151
    assert extent.packed_bytes <= keeping.most_bytes
    assert extent.first_utc_ns == whole.first_utc_ns + 150 * 10**9  # type: ignore[operator]
    head = await log.verify()
    assert head.sequence == 301
    assert await log.verify(old) == head, "a checkpoint from before still fits"
    assert await log.verify(Head(3, b"?" * 32)) == head, "one from before the anchor says nothing"
    assert (await log.tail(1))[0].text == "the record up to line 150 was trimmed to stay within 0 MiB"
    assert min(e.sequence for e in await log.tail(1000)) > 150
    assert json.loads(await anext(log.export()))["sequence"] == 151
    assert await log.trim(keeping, clock.now()) == 0
    await _write(log, clock, 200, 300)
    while await log.close_segment(keeping, clock.now()):
        pass
    assert await log.trim(keeping, clock.now()) > 0
    assert (await log.verify()).sequence == 502


def _edit(path: Path, *statements: str) -> None:
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER audit_segments_are_never_changed")  # who can write to the file can do this too
    for sql in statements:
        raw.execute(sql)
    raw.commit()
    raw.close()


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("UPDATE audit_segments SET body = substr(body, 1, length(body) - 9) WHERE first = 51", "51 to 100 were changed"),
        ("UPDATE audit_segments SET body = (SELECT body FROM audit_segments WHERE first = 1) WHERE first = 51", "51 to 100 were"),
        ("UPDATE audit_segments SET hash = zeroblob(32) WHERE first = 51", "51 to 100 were changed"),
        ("UPDATE audit_segments SET prev = zeroblob(32) WHERE first = 51", "51 to 100 were changed"),
        ("UPDATE audit_segments SET bytes = 1000000000000 WHERE first = 51", "51 to 100 were changed"),
        ("UPDATE audit_segments SET bytes = 20 WHERE first = 51", "51 to 100 were changed"),
        ("DELETE FROM audit_segments WHERE first = 51", "line 51 is missing"),
        ("DELETE FROM audit_segments WHERE first = 1", "line 1 is missing"),
        ("UPDATE audit_told SET text = 'all was well' WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("DELETE FROM audit_told WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_told SET level = 3 WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_told SET level = NULL WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_told SET count = 1 WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_told SET boot_id = 'boot-9' WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_told SET boot_id = NULL WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_told SET quality = 0 WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_told SET last_before = '[1,2,3,0]' WHERE sequence = 61", "what is shown of audit lines 51 to 100"),
        ("UPDATE audit_segment_ends SET utc_ns = 5 WHERE first = 51", "what is shown of audit lines 51 to 100"),
        ("DELETE FROM audit_segment_ends WHERE first = 51", "what is shown of audit lines 51 to 100"),
        ("DELETE FROM audit_segment_ends", "what is shown of audit lines 1 to 50"),
        ("INSERT INTO audit_segment_ends VALUES (262, 251, 'b', 1, 2, 0)", "that are not in"),
        ("INSERT INTO audit_told VALUES (262, 0, 0, 'decision', 'alarm', '', 'never', 'b', 1, 3, NULL, NULL)", "that are not in"),
    ],
)
async def test_what_is_changed_in_a_segment_is_named(database: Database, clock: HandClock, sql: str, named: str) -> None:
    log = await _packed(database, clock)
    await log.verify()
    _edit(database.path, sql)
    with pytest.raises(EvidenceError, match=named):
        await log.verify()


async def test_an_old_part_that_someone_took_away_is_not_taken_for_trimmed(database: Database, clock: HandClock) -> None:
    log = await _packed(database, clock)
    _edit(
        database.path,
        "INSERT INTO audit_anchor SELECT 1, last, hash FROM audit_segments WHERE first = 51",
        "DELETE FROM audit_segments WHERE last <= 100",
        "DELETE FROM audit_told WHERE sequence <= 100",
    )
    with pytest.raises(EvidenceError, match="1 to 100 are gone, and no line says that they were trimmed"):
        await log.verify()


async def test_two_processes_that_pack_at_once_keep_one_chain(tmp_path: Path, clock: HandClock) -> None:
    import asyncio

    first, second = Database(tmp_path / "w.sqlite"), Database(tmp_path / "w.sqlite")
    await first.open()
    await second.open()
    logs = [AuditLog(first), AuditLog(second)]
    await _write(logs[0], clock, 200)

    async def work(log: AuditLog) -> None:
        for i in range(8):
            await log.close_segment(KEEPING, clock.now())
            await log.append([(clock.now(), Record("k", "", f"{i}"))])

    await asyncio.gather(*(work(log) for log in logs))
    assert (await logs[0].verify()).sequence == 216
    for db in (first, second):
        await db.close()


texts = st.text(max_size=40).filter(lambda t: "\x00" not in t)
lines = st.lists(
    st.tuples(st.sampled_from(["boot-1", "boot-2"]), st.integers(0, 2**62), st.integers(0, 2**62), st.sampled_from(TimeQuality),
              texts, texts, texts, texts),
    min_size=1, max_size=20,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(given_=lines, start=st.integers(1, 2**40), prev=st.binary(min_size=32, max_size=32))
def test_packing_is_undone_by_unpacking(given_: list[tuple[object, ...]], start: int, prev: bytes) -> None:
    made: list[Line] = []
    for number, (boot, mono, utc, quality, kind, device, text, body) in enumerate(given_, start):
        at = Instant(str(boot), int(str(mono)), int(str(utc)), TimeQuality(quality))  # type: ignore[arg-type]
        draft = Line(number, at, str(kind), "warning", str(device), str(text), str(body), prev, b"")
        prev = draft.digest()
        made.append(Line(number, at, str(kind), "warning", str(device), str(text), str(body), draft.prev, prev))
    assert unpack(pack(made)) == made
