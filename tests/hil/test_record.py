"""What the stories read of the record is all of it, packed or not."""

from __future__ import annotations

from gateway.model.effect import Record
from gateway.store.audit import AuditLog, Keeping
from gateway.store.database import Database
from hil.record import lines
from tests.store.conftest import HandClock, clock, database

__all__ = ["clock", "database"]


async def test_packed_and_live_lines_are_read_alike(database: Database, clock: HandClock) -> None:
    log = AuditLog(database)
    rows, start = [], clock.now().mono_ns
    for n in range(200):
        clock.forward(1)
        rows.append((clock.now(), Record("decision", "pump-1", f"{n}", (("level", n),))))
    await log.append(rows)
    before = {at: lines(database.path, start + at * 10**9) for at in (0, 3, 120, 190)}
    while await log.close_segment(Keeping(lines=30, live=20), clock.now()):
        pass
    assert {at: lines(database.path, start + at * 10**9) for at in before} == before
    assert [len(found) for found in before.values()] == [200, 197, 80, 10]
    assert before[190][0][:3] == ("decision", "190", "pump-1") and before[190][0][4]["level"] == 190
