"""Levels over time from the record: what is known is drawn, what nobody can know is a gap, and every answer is bounded."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.dossiers import _steps
from gateway.model.effect import Record
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.sheet import LevelChange
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.history import START, History
from gateway.store.segments import Keeping

T0 = Instant("boot-1", 10**12, 1_800_000_000 * NS_PER_S, TimeQuality.RTC)
HOUR = 3600.0


def decided(at: Instant, level: int, device: str = "pump-1") -> tuple[Instant, Record]:
    return at, Record("decision", device, f"{device}: level → {level}", (("level", level), ("before", 0)))


def started(at: Instant) -> tuple[Instant, Record]:
    return at, Record(START, "", "Wardgate starts", ())


def noise(at: Instant) -> tuple[Instant, Record]:
    return at, Record("event", "pump-1", "EvidenceArrived", (("event", None),))


def after_reboot(seconds: float) -> Instant:
    return Instant("boot-2", round(seconds * NS_PER_S), T0.plus(10 * HOUR + seconds).utc_ns, TimeQuality.RTC)


async def test_between_two_runs_nobody_knows_the_level(store: tuple[AuditLog, History, Database]) -> None:
    log, history, _ = store
    lines = [started(T0), decided(T0.plus(1), 3), noise(T0.plus(HOUR)), started(after_reboot(0)), decided(after_reboot(5), 2)]
    for line in lines:
        await log.append([line])
    changes, complete = await history.levels("pump-1", T0.utc_ns)
    assert complete
    assert [c.level for c in changes] == [3, None, 2]
    assert changes[1].at == T0.plus(HOUR)  # from the last line of the run before
    steps = _steps(changes, after_reboot(HOUR), 24)
    assert [(s.level, round(s.age_ms / 3_600_000, 2)) for s in steps] == [(None, 24), (3, 11.0), (None, 10.0), (2, 1.0)]


async def test_the_level_at_the_beginning_of_the_window_is_known_from_before(store: tuple[AuditLog, History, Database]) -> None:
    log, history, _ = store
    await log.append([started(T0), decided(T0.plus(1), 3), decided(T0.plus(2), 1, "patch-1"), decided(T0.plus(30 * HOUR), 2)])
    now = T0.plus(31 * HOUR)
    changes, _ = await history.levels("pump-1", now.utc_ns - 24 * 3600 * NS_PER_S)
    assert [(s.level, s.age_ms // 3_600_000) for s in _steps(changes, now, 24)] == [(3, 24), (2, 1)]


async def test_too_many_changes_are_bounded_and_said(store: tuple[AuditLog, History, Database]) -> None:
    log, history, _ = store
    await log.append([started(T0), *(decided(T0.plus(i), i % 4) for i in range(1, 600))])
    changes, complete = await history.levels("pump-1", T0.utc_ns, limit=50)
    assert not complete
    assert len(changes) == 50
    steps = _steps(changes, T0.plus(600), 1)
    assert steps[0].level is None  # what is not told is not known, and never the oldest level that is


async def test_refusals_are_of_this_device_newest_first_and_few(store: tuple[AuditLog, History, Database]) -> None:
    log, history, _ = store
    body = (("code", "denied"), ("count", 7), ("severity", "warning"))
    rows = [(T0.plus(i), Record("behaviour", "pump-1" if i % 2 else "patch-1", f"refused {i}", body)) for i in range(100)]
    await log.append(rows)
    found = await history.refused("pump-1", T0.plus(100), limit=3)
    assert [r.text for r in found] == ["refused 99", "refused 97", "refused 95"]
    assert (found[0].count, found[0].age_ms) == (7, 1_000)


async def test_no_question_walks_the_whole_log(store: tuple[AuditLog, History, Database]) -> None:
    log, history, db = store
    await log.append([started(T0), decided(T0.plus(1), 3)])
    await log.append([noise(T0.plus(2 + i)) for i in range(9)])
    assert await log.close_segment(Keeping(lines=5, live=5), T0)
    asked: list[str] = []
    await db.run(lambda d: d.conn.set_trace_callback(asked.append))
    await history.levels("pump-1", T0.utc_ns)
    await history.refused("pump-1", T0)
    await db.run(lambda d: d.conn.set_trace_callback(None))
    selects = [sql for sql in asked if sql.startswith("SELECT") and "device_id = " in sql]
    assert len(selects) == 8, "levels, starts, lapses and refusals, live and packed"
    for sql in selects:
        plan = await db.run(lambda d, q=sql: [str(r[3]) for r in d.execute(f"EXPLAIN QUERY PLAN {q}").fetchall()])
        assert not [p for p in plan if p.startswith(("SCAN", "USE TEMP B-TREE"))], (sql, plan)
        assert any("audit_of_device" in p or "audit_told_of_device" in p for p in plan), (sql, plan)


@given(
    st.lists(st.tuples(st.integers(-(10**6), 10**6), st.sampled_from([None, 0, 1, 2, 3]), st.booleans()), max_size=30),
    st.sampled_from([1, 24, 168]),
)
def test_steps_are_in_order_inside_the_window_and_begin_at_its_edge(rows: list[tuple[int, int | None, bool]], hours: int) -> None:
    other = [T0.plus(s) if same else Instant("old", 5, T0.plus(s).utc_ns) for s, _, same in rows]
    changes = [LevelChange(at, level) for at, (_, level, _) in zip(other, rows, strict=True)]
    steps = _steps(changes, T0, hours)
    ages = [s.age_ms for s in steps]
    assert ages[0] <= hours * 3_600_000
    assert ages == sorted(set(ages), reverse=True)
    assert all(a.level != b.level for a, b in pairwise(steps))
    if changes and changes[-1].at.utc_ns <= T0.utc_ns:
        assert steps[-1].level == changes[-1].level


def lapsed(at: Instant, since: Instant) -> tuple[Instant, Record]:
    body = (("since", (since.boot_id, since.mono_ns, since.utc_ns, int(since.quality))), ("before", 3))
    return at, Record("lapsed", "pump-1", "pump-1: its lease ended and was not renewed", body)


async def test_a_lease_that_lapsed_while_the_gateway_slept_is_a_gap_live_and_packed(
    store: tuple[AuditLog, History, Database],
) -> None:
    log, history, _ = store
    woke, end = T0.plus(90), T0.plus(31)
    for line in (started(T0), decided(T0.plus(1), 3), lapsed(woke, end), decided(woke, 3)):
        await log.append([line])
    live, _ = await history.levels("pump-1", T0.utc_ns)
    assert [(c.level, c.at) for c in live] == [(3, T0.plus(1)), (None, end), (3, woke)]
    assert [c.level for c in (await history.levels("patch-1", T0.utc_ns))[0]] == []
    for n in range(100):
        await log.append([noise(T0.plus(HOUR + n))])
    assert await log.close_segment(Keeping(lines=50, live=20), T0.plus(2 * HOUR))
    assert (await history.levels("pump-1", T0.utc_ns))[0] == live
    await log.verify()
