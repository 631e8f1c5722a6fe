"""Lines of the record by filter and in pages, from live and packed lines alike; and the chain, checked while it grows."""

from __future__ import annotations

import pytest

from gateway.model.effect import Record
from gateway.model.inquiry import EventQuery
from gateway.store import search as search_module
from gateway.store.audit import AuditLog, Keeping
from gateway.store.database import Database
from gateway.store.follow import Follower
from gateway.store.search import Search
from tests.store.conftest import HandClock

KEEPING = Keeping(lines=50, age_s=3600, live=20, most_bytes=10**9)


async def filled(database: Database, clock: HandClock, number: int = 240) -> AuditLog:
    """Lines of three devices, every second one an input that nobody reads; most of them are packed."""
    log, rows = AuditLog(database), []
    for i in range(number):
        clock.forward(60)
        kind, text = ("event", "EvidenceArrived") if i % 2 else ("decision", f"pump-{i % 3}: Level {i}")
        severity = "alarm" if i % 10 == 0 else "information"
        rows.append((clock.now(), Record(kind, f"pump-{i % 3}", text, (("severity", severity),))))
    await log.append(rows)
    while await log.close_segment(KEEPING, clock.now()):
        pass
    return log


async def test_pages_meet_without_gap_or_overlap_across_packed_lines(database: Database, clock: HandClock) -> None:
    await filled(database, clock)
    search, seen, before = Search(database), [], None
    while True:
        page = await search.find(EventQuery(), 17, before)
        assert page.complete
        seen += [e.sequence for e in page.events]
        before = page.older
        if before is None:
            break
    assert seen == list(range(239, 0, -2))
    await AuditLog(database).append([(clock.now(), Record("part", "", "a new line", ()))])
    again = await search.find(EventQuery(), 17, seen[16])
    assert [e.sequence for e in again.events] == seen[17:34], "a cursor is not moved by what is written meanwhile"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (EventQuery(device_id="pump-1"), lambda i: i % 2 == 0 and i % 3 == 1),
        (EventQuery(severity="alarm"), lambda i: i % 10 == 0),
        (EventQuery(severity="warning"), lambda i: i % 10 == 0),
        (EventQuery(kinds=("decision",), text="LEVEL 23"), lambda i: i % 2 == 0 and str(i).startswith("23")),
        (EventQuery(kinds=("event",)), lambda i: False),  # what is not for people is never shown
        (EventQuery(text="%"), lambda i: False),
        (EventQuery(text="' OR 1=1 --"), lambda i: False),
    ],
)
async def test_filters(database: Database, clock: HandClock, query: EventQuery, wanted) -> None:
    await filled(database, clock)
    found = await Search(database).find(query, 500)
    assert [e.sequence - 1 for e in found.events] == [i for i in range(239, -1, -1) if wanted(i)]
    assert [e async for e in Search(database).each(query, 10**6)] == list(found.events)


async def test_a_time_range_includes_its_beginning_and_not_its_end(database: Database, clock: HandClock) -> None:
    start = clock.now().utc_ns
    await filled(database, clock)
    minute = 60 * 10**9
    found = await Search(database).find(EventQuery(since_ns=start + minute, until_ns=start + 5 * minute), 500)
    assert [e.sequence for e in found.events] == [3, 1]


async def test_a_long_search_stops_at_its_bound_and_goes_on_from_there(
    database: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(database, clock)
    monkeypatch.setattr(search_module, "_PIECE", 5)
    monkeypatch.setattr(search_module, "_PIECES", 3)
    search, before, pages, found = Search(database), None, 0, []
    query = EventQuery(text="pump-0: level 0")
    while True:
        page = await search.find(query, 100, before)
        pages, found, before = pages + 1, [*found, *page.events], page.older
        if before is None:
            break
        assert not page.complete
    assert [e.sequence for e in found] == [1]
    assert pages > 5


async def test_an_export_stops_at_its_bound(database: Database, clock: HandClock) -> None:
    await filled(database, clock)
    assert [e.sequence async for e in Search(database).each(EventQuery(), 3)] == [239, 237, 235]


async def test_the_record_is_followed_line_by_line(database: Database, clock: HandClock) -> None:
    log, told = await filled(database, clock), list[str]()
    follower = Follower(log, told.append)
    await follower.catch_up()
    assert (follower.check.first, follower.check.last, follower.check.head) == (1, 240, 240)
    await log.append([(clock.now(), Record("part", "", "one more", ()))])
    await follower.catch_up()
    assert (follower.check.last, follower.check.ok, told) == (241, True, [])
    late = Follower(log, told.append, back=30)
    await late.catch_up()
    assert (late.check.first, late.check.last) == (212, 241)


@pytest.mark.parametrize("column", ["text", "prev", "device_id"])
async def test_a_line_that_somebody_changed_is_named_once(database: Database, clock: HandClock, column: str) -> None:
    log, told = await filled(database, clock), list[str]()

    def forge(db: object) -> None:
        conn = db.conn  # type: ignore[attr-defined]
        conn.execute("DROP TRIGGER audit_is_never_changed")
        value = bytes(32) if column == "prev" else "x"
        conn.execute(f"UPDATE audit SET {column} = ? WHERE sequence = 235", (value,))  # noqa: S608

    await database.run(forge)
    follower = Follower(log, told.append)
    await follower.catch_up()
    assert follower.check.last == 234
    assert told == [follower.check.trouble]
    assert "235" in told[0]
