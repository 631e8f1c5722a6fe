"""The chain: any change to any line is noticed; concurrent callers share a commit; replay gives the inputs in their order."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import EvidenceError, InputError
from gateway.model.effect import Record, Severity
from gateway.model.event import Behaviour, LinkChanged
from gateway.model.instant import Instant, TimeQuality
from gateway.store.audit import AuditLog, Head
from gateway.store.database import Database

AT = Instant("boot", 10, 1_800_000_000_000_000_000, TimeQuality.RTC)


async def _written(path: Path, number: int = 8) -> list[bytes]:
    db = Database(path)
    await db.open()
    log = AuditLog(db)
    done = await log.append(
        [(AT.plus(i), Record("k", "pump-1", f"line {i}", (("n", i), ("severity", "warning")))) for i in range(number)]
    )
    await log.close()
    await db.close()
    return [r.digest for r in done]


async def _verify(path: Path, expect: Head | None = None) -> Head:
    db = Database(path, read_only=True)
    await db.open()
    try:
        return await AuditLog(db).verify(expect)
    finally:
        await db.close()


def _edit(path: Path, sql: str, *values: Any) -> None:
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER audit_is_never_changed")  # who can write to the file can do this too
    raw.execute(sql, values)
    raw.commit()
    raw.close()


COLUMNS = {
    "boot_id": "other",
    "mono_ns": 11,
    "utc_ns": 12,
    "quality": 0,
    "kind": "kk",
    "severity": "information",
    "device_id": "pump-2",
    "text": "something else",
    "body": "{}",
    "prev": bytes(range(32)),
    "hash": bytes(range(32)),
}


@pytest.mark.parametrize("column", COLUMNS)
async def test_any_changed_field_of_any_line_is_named(tmp_path: Path, column: str) -> None:
    for line in (1, 4, 8):
        path = tmp_path / f"{line}.sqlite"
        await _written(path)
        assert (await _verify(path)).sequence == 8
        _edit(path, f"UPDATE audit SET {column} = ? WHERE sequence = ?", COLUMNS[column], line)  # noqa: S608 - our names
        with pytest.raises(EvidenceError, match=f"audit line {line} was changed"):
            await _verify(path)


async def test_a_line_rewritten_with_its_hash_recomputed_breaks_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    await _written(path)
    db = Database(path, read_only=True)
    await db.open()
    lines = [line async for line in AuditLog(db).lines()]
    await db.close()
    forged = replace(lines[3], text="nothing happened")
    _edit(path, "UPDATE audit SET text = ?, hash = ? WHERE sequence = 4", forged.text, forged.digest())
    with pytest.raises(EvidenceError, match="audit line 5 was changed, or does not follow"):
        await _verify(path)


async def test_a_removed_line_is_named(tmp_path: Path) -> None:
    for line in (1, 5):
        path = tmp_path / f"{line}.sqlite"
        await _written(path)
        _edit(path, "DELETE FROM audit WHERE sequence = ?", line)
        with pytest.raises(EvidenceError, match=f"audit line {line} is missing"):
            await _verify(path)


async def test_a_cut_or_rewritten_end_is_noticed_with_a_checkpoint(tmp_path: Path) -> None:
    digests = await _written(tmp_path / "a.sqlite")
    head = Head(8, digests[7])
    assert await _verify(tmp_path / "a.sqlite", head) == head
    assert await _verify(tmp_path / "a.sqlite", Head(3, digests[2])) == head
    _edit(tmp_path / "a.sqlite", "DELETE FROM audit WHERE sequence > 6")
    with pytest.raises(EvidenceError, match="ends at line 6"):
        await _verify(tmp_path / "a.sqlite", head)


async def test_lines_swapped_between_two_logs_do_not_fit(tmp_path: Path) -> None:
    await _written(tmp_path / "a.sqlite", 3)
    with pytest.raises(EvidenceError):
        await _verify(tmp_path / "a.sqlite", Head(3, bytes(32)))


async def test_concurrent_callers_share_commits_and_each_gets_its_own(database: Database) -> None:
    log = AuditLog(database)
    commits = 0
    run = database.run

    async def counted(work: Any) -> Any:
        nonlocal commits
        commits += 1
        return await run(work)

    database.run = counted  # type: ignore[method-assign]
    done = await asyncio.gather(*(log.append([(AT, Record("k", "", f"{i}")), (AT, Record("k", "", f"{i}b"))]) for i in range(100)))
    assert commits <= 5
    assert [[r.record.text for r in batch] for batch in done] == [[f"{i}", f"{i}b"] for i in range(100)]
    assert sorted(r.sequence for batch in done for r in batch) == list(range(1, 201))
    assert (await log.head()) == await log.verify() == Head(200, done[-1][-1].digest)


async def test_two_processes_keep_one_chain(tmp_path: Path) -> None:
    """The daemon and, as root, the command line: `wardgate init --new-claim` while the daemon runs."""
    first, second = Database(tmp_path / "w.sqlite"), Database(tmp_path / "w.sqlite")
    await first.open()
    await second.open()
    logs = [AuditLog(first), AuditLog(second)]

    async def write(log: AuditLog) -> None:
        for i in range(60):
            await log.append([(AT, Record("k", "", f"{i}"))])

    await asyncio.gather(*(write(log) for log in logs))
    assert (await logs[0].verify()).sequence == 120
    for log, db in zip(logs, (first, second), strict=True):
        await log.close()
        await db.close()


async def test_tail_and_since_show_what_is_for_people(database: Database) -> None:
    log = AuditLog(database)
    await log.append(
        [(AT, Record("k", "d", t, (("severity", Severity.ALARM),) if t == "loud" else ())) for t in ["a", "b", "loud"]]
    )
    await log.append([(AT, Record("input", "d", ""))])
    await log.append([(AT, Record("k", "d", "evil\nline\x1b[2J"))])
    tail = await log.tail(3)
    assert [e.sequence for e in tail] == [5, 3, 2]
    assert [e.severity for e in tail] == ["information", "alarm", "information"]
    assert tail[0].text == "evil\\x0aline\\x1b[2J"
    assert tail[0].time_utc.startswith("2027-01-15T08:00:00.000+00:00")
    assert [e.sequence for e in await log.tail(3, before=3)] == [2, 1]
    assert [e.sequence for e in await log.since(2)] == [3, 5]


async def test_replay_gives_the_inputs_in_their_order(database: Database) -> None:
    log = AuditLog(database)
    events = [Behaviour("pump-1", "code", "text", 2), LinkChanged("pump-1", up=True), Behaviour("pump-1", "c2", "é\ud800")]
    for i, event in enumerate(events):
        await log.append([(AT.plus(i), Record("input", "pump-1", "", (("event", event),)))])
        await log.append([(AT.plus(i), Record("decision", "pump-1", "a decision"))])
    seen = [(at, codec.from_plain(type(e), b["event"])) async for (at, _, b), e in _zip(log, events)]
    assert seen == [(AT.plus(i), e) for i, e in enumerate(events)]
    assert (await log.verify()).sequence == 6


async def _zip(log: AuditLog, events: list[Any]) -> Any:
    index = 0
    async for found in log.replay():
        yield found, events[index]
        index += 1
    assert index == len(events)


async def test_export_is_enough_to_check_the_chain(database: Database) -> None:
    import hashlib

    log = AuditLog(database)
    await log.append([(AT, Record("k", "d", f"{i}", (("i", i),))) for i in range(1203)])
    prev, number = bytes(32), 0
    async for text in log.export():
        e = json.loads(text)
        names = ("sequence", "boot_id", "mono_ns", "utc_ns", "quality", "kind", "severity", "device_id", "text", "body")
        prev = hashlib.sha256(codec.encode(["wardgate-audit-v1", *(e[n] for n in names), prev])).digest()
        assert e["hash"] == prev.hex()
        number += 1
    assert number == 1203


async def test_what_json_cannot_say_is_refused_before_anything_is_written(database: Database) -> None:
    log = AuditLog(database)
    with pytest.raises(InputError):
        await log.append([(AT, Record("k", "", "fine")), (AT, Record("k", "", "not", (("x", float("nan")),)))])
    with pytest.raises(InputError):
        await log.append([(AT, Record("k", "", "huge", (("x", "y" * 17_000_000),)))])
    assert await log.head() == Head()
    assert await log.append([]) == ()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kind=st.text(max_size=80), device=st.text(max_size=80), text=st.text(max_size=600), value=plain)
async def test_any_record_can_be_written_and_verified(database: Database, kind: str, device: str, text: str, value: Any) -> None:
    log = AuditLog(database)
    (done,) = await log.append([(AT, Record(kind, device, text, (("v", value),)))])
    assert await log.verify() == Head(done.sequence, done.digest)
    (line,) = [line async for line in log.lines(done.sequence - 1)]
    assert json.loads(line.body) == {"v": json.loads(json.dumps(value))}
