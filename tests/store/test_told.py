"""What is told of packed lines: the same as before they were packed, as far as the record reaches, and no further."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.errors import EvidenceError
from gateway.model.effect import Record
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.sheet import LevelChange, Refusal
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.history import _STARTS_MAX, START, History
from gateway.store.segments import Keeping
from gateway.store.told import number_of

KEEPING = Keeping(lines=40, live=30)
DEVICES = ("pump-1", "pump-2", "patch-1")
T0 = Instant("boot-0", 10**12, 1_800_000_000 * NS_PER_S, TimeQuality.RTC)
Entry = tuple[Instant, Record]
Answers = list[tuple[tuple[Sequence[LevelChange], bool], Sequence[Refusal]]]


class Story:
    """Lines as a ward makes them, from a seed: inputs, levels, refusals, restarts with and without a reboot, a clock that jumps."""

    def __init__(self, seed: int = 7) -> None:
        self._dice, self.now, self._boots = random.Random(seed), T0, 0

    def lines(self, number: int) -> list[Entry]:
        return [self._line() for _ in range(number)]

    def _line(self) -> Entry:
        dice = self._dice
        self.now = self.now.plus(dice.random() * 20)
        device, chance = dice.choice(DEVICES), dice.random()
        if chance < 0.03:
            if dice.random() < 0.5:
                self._boots += 1
                ahead = self.now.plus(dice.choice([60, 600, -300]))
                self.now = Instant(f"boot-{self._boots}", 5 * NS_PER_S, ahead.utc_ns, dice.choice(list(TimeQuality)))
            return self.now, Record(START, "", "Wardgate starts", ())
        if chance < 0.08:
            level = dice.randrange(4)
            return self.now, Record("decision", device, f"{device}: level {level}", (("level", level), ("steps", ("a", "b"))))
        if chance < 0.12:
            return self.now, Record("behaviour", device, f"{device}: refused", (("code", "x"), ("count", dice.randrange(1, 99))))
        if chance < 0.14:
            return self.now, Record("alarm", device, f"{device}: alarm", (("level", 3), ("count", 5)))
        return self.now, Record("event", device, "EvidenceArrived", (("event", {"level": 1}),))


async def _answers(history: History, now: Instant) -> Answers:
    """Everything that can be asked: each device, windows from a minute to all of it, few and many."""
    found: Answers = []
    for device in (*DEVICES, "", "nobody"):
        for seconds in (60, 900, 3600, 9000, 10**6):
            for limit in (1, 7, 400):
                levels = await history.levels(device, now.utc_ns - seconds * NS_PER_S, limit)
                found.append((levels, await history.refused(device, now, limit)))
    return found


async def _pack(log: AuditLog, now: Instant) -> None:
    while await log.close_segment(KEEPING, now):
        pass


async def test_packed_again_and_again_the_chart_and_the_refusals_stay_the_same(
    store: tuple[AuditLog, History, Database], tmp_path: Path
) -> None:
    log, history, db = store
    plain = Database(tmp_path / "plain.sqlite")
    await plain.open()
    unpacked, story, edges = AuditLog(plain), Story(), set()
    for number in (300, 1, 39, 41, 700, 1500, 7, 33, 1400):
        lines = story.lines(number)
        await log.append(lines)
        await unpacked.append(lines)
        await _pack(log, story.now)
        assert await _answers(history, story.now) == await _answers(History(plain), story.now)
        live = await db.run(lambda d: d.execute("SELECT kind FROM audit ORDER BY sequence LIMIT 1").fetchone()[0])
        edges.add(live == START)
    sql = "SELECT count(*), count(last_before) FROM audit_told WHERE kind = ?"
    starts, inside = await db.run(lambda d: d.execute(sql, (START,)).fetchone())
    assert starts > inside > 50, "some starts begin a segment, most are in one"
    assert (await log.verify()).sequence == 4021
    assert await db.run(lambda d: [d["audit"].count, d["audit_segments"].count > 95]) == [KEEPING.live, True]
    await unpacked.close()
    await plain.close()


@pytest.mark.parametrize("at", range(38, 44))
async def test_wherever_a_segment_ends_a_start_leaves_its_gap(store: tuple[AuditLog, History, Database], at: int) -> None:
    log, history, _ = store
    level = (T0.plus(1), Record("decision", "pump-1", "pump-1: level 3", (("level", 3),)))
    lines = [level, *((T0.plus(2 + i), Record("event", "", "x", (("event", None),))) for i in range(150))]
    again = Instant("boot-9", 5 * NS_PER_S, T0.plus(9000).utc_ns, TimeQuality.UNKNOWN)
    lines[at] = (again, Record(START, "", "Wardgate starts", ()))
    for cut in (at + 1, at + 2, len(lines)):
        await log.append(lines[(await log.head()).sequence : cut])
        await log.close_segment(Keeping(lines=40, live=1), T0)
        changes, complete = await history.levels("pump-1", T0.utc_ns)
        assert ([(c.at, c.level) for c in changes], complete) == ([(T0.plus(1), 3), (lines[at - 1][0], None)], True)


async def test_after_trimming_what_is_older_than_the_anchor_is_not_known_and_that_is_said(
    store: tuple[AuditLog, History, Database],
) -> None:
    log, history, db = store
    story = Story(3)
    await log.append(story.lines(3000))
    whole = await history.levels("pump-1", 0, 1000)
    refused = await history.refused("pump-1", story.now, 200)
    assert whole[1]
    await _pack(log, story.now)
    size = (await log.extent()).packed_bytes
    assert await log.trim(Keeping(most_bytes=size // 2), story.now.plus(1)) > 1000
    extent = await log.extent()
    changes, complete = await history.levels("pump-1", 0, 1000)
    known = [c for c in changes if c.level is not None]
    assert not complete
    assert 5 < len(known) < len([c for c in whole[0] if c.level is not None])
    assert list(changes) == list(whole[0])[-len(changes) :]
    kept = await history.refused("pump-1", story.now, 200)
    assert list(kept) == [r for r in refused if r.sequence >= extent.first]
    first = known[0].at.utc_ns
    assert (await history.levels("pump-1", first + 1, 1000))[1], "the level at the edge of the window is in the record"
    assert extent.first_utc_ns is not None
    assert (await history.levels("nobody", extent.first_utc_ns))[1], "nothing is missing of a window that begins in the record"
    assert not (await history.levels("nobody", extent.first_utc_ns - 1))[1]
    assert await db.run(lambda d: d.execute("SELECT min(first) FROM audit_segment_ends").fetchone()[0]) == extent.first
    assert (await log.verify()).sequence == 3001
    assert await log.trim(Keeping(most_bytes=0), story.now.plus(2)) > 1000
    assert await db.run(lambda d: [d[t].count for t in ("audit_segments", "audit_told", "audit_segment_ends")]) == [0, 0, 0]
    extent = await log.extent()
    assert not (await history.levels("nobody", 0))[1], "all that was packed is gone"
    assert (await history.levels("nobody", extent.first_utc_ns or 0))[1]
    assert all(r.sequence >= extent.first for r in await history.refused("pump-1", story.now, 200))
    assert (await log.verify()).sequence == 3002


async def _as_before(db: Database) -> None:
    """The file as a version left it that kept nothing of this: all packed lines, none filled in."""

    def work(d: object) -> None:
        d.execute("UPDATE audit_told SET boot_id = NULL, quality = NULL, level = NULL, count = NULL, last_before = NULL")  # type: ignore[attr-defined]
        d.execute("DELETE FROM audit_segment_ends")  # type: ignore[attr-defined]

    await db.run(work)


async def test_what_an_older_version_packed_is_not_known_until_it_is_filled_in(store: tuple[AuditLog, History, Database]) -> None:
    log, history, db = store
    story = Story(5)
    await log.append(story.lines(1200))
    await _pack(log, story.now)
    await _as_before(db)
    old = await db.run(lambda d: d["audit_segments"].count)
    assert (await log.verify()).sequence == 1200
    changes, complete = await history.levels("pump-1", 0)
    oldest_live = await db.run(lambda d: d.execute("SELECT utc_ns FROM audit ORDER BY sequence LIMIT 1").fetchone()[0])
    assert not complete
    assert all(c.at.utc_ns >= oldest_live for c in changes)
    await log.append(story.lines(600))
    await _pack(log, story.now)
    told, steps = [len((await history.levels("pump-1", 0))[0])], 0
    assert (await log.verify()).sequence == 1800
    while await log.fill_told():
        steps += 1
        assert (await log.verify()).sequence == 1800
        told.append(len((await history.levels("pump-1", 0))[0]))
    assert steps == old > 28
    assert told == sorted(told)
    plain = await _answers(history, story.now)
    assert plain[14][0][1], "all of it is there"
    await db.run(lambda d: d.execute("CREATE TEMP TABLE was AS SELECT * FROM audit_told"))
    await _as_before(db)
    while await log.fill_told():
        pass
    assert await db.run(lambda d: d.execute("SELECT * FROM was EXCEPT SELECT * FROM audit_told").fetchall()) == []
    assert await _answers(history, story.now) == plain


async def test_a_segment_that_was_changed_is_not_filled_in_nor_what_is_before_it(
    store: tuple[AuditLog, History, Database],
) -> None:
    log, history, db = store
    story = Story(5)
    await log.append(story.lines(400))
    await _pack(log, story.now)
    await _as_before(db)
    await db.run(lambda d: d.execute("DROP TRIGGER audit_segments_are_never_changed"))
    await db.run(lambda d: d.execute("UPDATE audit_segments SET hash = zeroblob(32) WHERE first = 201"))
    done = [await log.fill_told() for _ in range(6)]
    assert done == [True, True, True, False, False, False]
    assert not (await history.levels("pump-1", 0))[1]
    with pytest.raises(EvidenceError, match="201 to 240 were changed"):
        await log.verify()


async def test_two_processes_fill_in_once(store: tuple[AuditLog, History, Database]) -> None:
    import asyncio

    log, _, db = store
    story = Story(5)
    await log.append(story.lines(120))
    await _pack(log, story.now)
    await _as_before(db)
    other = Database(db.path)
    await other.open()
    await asyncio.gather(*(x.fill_told() for x in (log, AuditLog(other)) for _ in range(4)))
    while await log.fill_told():
        pass
    assert (await log.verify()).sequence == 120
    assert await db.run(lambda d: d["audit_segment_ends"].count) == 2
    await other.close()


async def test_more_restarts_than_are_told_hide_no_gap(store: tuple[AuditLog, History, Database]) -> None:
    log, history, _ = store
    lines = []
    for i in range(_STARTS_MAX + 50):
        lines.append((T0.plus(10 * i), Record(START, "", "Wardgate starts", ())))
        lines.append((T0.plus(10 * i + 1), Record("decision", "pump-1", "pump-1: level", (("level", i % 4),))))
    await log.append(lines)
    for _ in range(2):
        changes, complete = await history.levels("pump-1", 0)
        assert not complete
        assert all((a.level is None) != (b.level is None) for a, b in pairwise(changes)), "every level ends with its gap"
        assert len(changes) > _STARTS_MAX
        await _pack(log, T0)


async def test_a_level_that_is_no_number_is_not_known(store: tuple[AuditLog, History, Database]) -> None:
    log, history, _ = store
    odd = ("three", True, -1, 2**40, None, 1.5)
    await log.append([(T0.plus(i), Record("decision", "pump-1", "x", (("level", v),))) for i, v in enumerate(odd)])
    await log.append([(T0.plus(9), Record("event", "", "x", (("event", None),)))])
    for _ in range(2):
        changes, _ = await history.levels("pump-1", 0)
        assert [c.level for c in changes] == [None] * 6
        await log.close_segment(Keeping(lines=6, live=1), T0)
    assert (await log.verify()).sequence == 7
    assert [number_of(b, "level") for b in ("[1]", "{", "7", '{"level":2}', "[" * 100_000)] == [None, None, None, 2, None]
