"""Readings that still have to leave: written ahead, deleted only when acknowledged, bounded with a visible drop policy.

Implements ``gateway.driver.OutboxPort``. When a bound is reached, the device that holds most loses its oldest readings
first, and every loss is counted. Refuses to know where readings go.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.errors import InputError
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.store.database import Connection, Database
from gateway.store.group import GroupCommit

COMMIT_INTERVAL_S = 0.5  # two commits a second is what an SD card or eMMC survives for years; a reading can wait that long
FULL_GROUP = 500  # readings that go at once: beyond that a commit's cost no longer shows (114,000 a second, fsync included)
_PIECE = 200  # rows looked at for their age in each commit
_ROW_BYTES = 160  # one stored row without its texts, index included


_Row = tuple[str | float | int | None, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait. What comes first counts. Defaults: 90 days of a small ward, 1 GiB of disk."""

    rows: int = 5_000_000
    bytes: int = 1024**3
    age_s: float = 90 * 86_400.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stored reading and the id that acknowledges it."""

    id: int
    observation: Observation


@dataclass(frozen=True, slots=True)
class DeviceCounts:
    """What went through the outbox for one device, since the file was made. ``dropped`` were lost to a bound."""

    device_id: str
    waiting: int
    bytes: int
    accepted: int
    acknowledged: int
    dropped: int


class Outbox:
    """Durable outbox on one database; ``close`` writes what waits."""

    def __init__(self, database: Database, clock: Clock, bounds: Bounds | None = None) -> None:
        self._db, self._clock, self._bounds = database, clock, bounds or Bounds()
        self._group: GroupCommit[_Row, None] = GroupCommit(self._write, interval_s=COMMIT_INTERVAL_S, full=FULL_GROUP)

    async def put(self, batch: Sequence[Observation]) -> None:
        """Store a batch; returns when it is durable, within half a second. Raises UnavailableError or InputError: none was kept."""
        if batch:
            await self._group.submit([_row(o) for o in batch])

    async def take(self, limit: int = 500, after: int = 0) -> Sequence[Waiting]:
        """The oldest readings after id ``after``, at most ``limit``. They stay until acknowledged."""
        sql = f"SELECT id, {_COLUMNS} FROM outbox WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - our names
        rows = await self._db.run(lambda db: db.execute(sql, (after, limit)).fetchall())
        return [Waiting(r[0], _observation(r[1:])) for r in rows]

    async def acknowledge(self, ids: Sequence[int]) -> int:
        """Delete what the other side has; returns how many were still there."""

        def work(db: Connection) -> int:
            gone: Counter[str] = Counter()
            freed: Counter[str] = Counter()
            for i in ids:
                row = db.execute("SELECT device_id, bytes FROM outbox WHERE id = ?", (i,)).fetchone()
                if row is not None:
                    gone[row[0]] += 1
                    freed[row[0]] += row[1]
                    db.execute("DELETE FROM outbox WHERE id = ?", (i,))
            for device_id, number in gone.items():
                db.execute(_LESS.format("acknowledged"), (number, freed[device_id], number, device_id))
            return gone.total()

        return await self._db.run(work)

    async def pending(self) -> int:
        """How many readings wait."""
        return sum(c.waiting for c in await self.counts())

    async def counts(self) -> Sequence[DeviceCounts]:
        """The counters of every device, by id."""
        sql = "SELECT device_id, waiting, bytes, accepted, acknowledged, dropped FROM outbox_counts ORDER BY device_id"
        return [DeviceCounts(*r) for r in await self._db.run(lambda db: db.execute(sql).fetchall())]

    async def close(self) -> None:
        """Write what waits and take nothing more. The database is closed by its owner."""
        await self._group.close()

    async def _write(self, batches: list[Sequence[_Row]]) -> list[None]:
        rows = [row for batch in batches for row in batch]
        now = self._clock.now()
        await self._db.run(lambda db: _store(db, rows, self._bounds, now))
        return [None] * len(batches)


_COLUMNS = (
    "device_id, quantity, unit, value, absent, level, taken_boot, taken_mono_ns, taken_utc_ns, taken_quality,"
    " received_boot, received_mono_ns, received_utc_ns, received_quality"
)
_INSERT = f"INSERT INTO outbox ({_COLUMNS}, bytes) VALUES ({', '.join('?' * 15)})"  # noqa: S608 - our names
_MORE = (
    "INSERT INTO outbox_counts (device_id, waiting, bytes, accepted) VALUES (?1, ?2, ?3, ?2) ON CONFLICT (device_id)"
    " DO UPDATE SET waiting = waiting + ?2, bytes = bytes + ?3, accepted = accepted + ?2"
)
_LESS = "UPDATE outbox_counts SET waiting = waiting - ?, bytes = bytes - ?, {0} = {0} + ? WHERE device_id = ?"


def _store(db: Connection, rows: list[_Row], bounds: Bounds, now: Instant) -> None:
    db.conn.executemany(_INSERT, rows)
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for row in rows:
        number[str(row[0])] += 1
        size[str(row[0])] += int(str(row[-1]))
    db.conn.executemany(_MORE, [(d, n, size[d]) for d, n in number.items()])
    _drop_old(db, bounds, now)
    _drop_beyond(db, bounds)


def _drop_old(db: Connection, bounds: Bounds, now: Instant) -> None:
    limit_ns = round(bounds.age_s * NS_PER_S)
    names = "received_boot, received_mono_ns, received_utc_ns, received_quality"
    while True:
        oldest = db.execute(f"SELECT id, {names} FROM outbox ORDER BY id LIMIT {_PIECE}").fetchall()  # noqa: S608 - our names
        old = [r[0] for r in oldest if _age_ns(r[1:], now) > limit_ns]
        _drop(db, old)
        if len(old) < _PIECE:
            return


def _age_ns(received: Sequence[object], now: Instant) -> int:
    """On boot time; across a reboot on wall time, and only when nobody doubts either end (else the reading counts as new)."""
    at = _instant(received)
    if at.boot_id == now.boot_id:
        return now.mono_ns - at.mono_ns
    return now.utc_ns - at.utc_ns if min(at.quality, now.quality) >= TimeQuality.RTC else 0


def _drop_beyond(db: Connection, bounds: Bounds) -> None:
    while True:
        rows, size = db.execute("SELECT coalesce(sum(waiting), 0), coalesce(sum(bytes), 0) FROM outbox_counts").fetchone()
        over = max(rows - bounds.rows, 0 if size <= bounds.bytes else -(-(size - bounds.bytes) // (_ROW_BYTES * 2)))
        if over <= 0:
            return
        device = db.execute("SELECT device_id FROM outbox_counts ORDER BY bytes DESC, device_id LIMIT 1").fetchone()[0]
        found = db.execute("SELECT id FROM outbox WHERE device_id = ? ORDER BY id LIMIT ?", (device, over)).fetchall()
        _drop(db, [r[0] for r in found])


def _drop(db: Connection, ids: Sequence[int]) -> None:
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for i in ids:
        device_id, length = db.execute("SELECT device_id, bytes FROM outbox WHERE id = ?", (i,)).fetchone()
        number[device_id] += 1
        size[device_id] += length
        db.execute("DELETE FROM outbox WHERE id = ?", (i,))
    for device_id, n in number.items():
        db.execute(_LESS.format("dropped"), (n, size[device_id], n, device_id))


def _row(o: Observation) -> _Row:
    """The stored form and its size; refuses here what would make a whole group of other devices' readings fail."""
    if o.value is not None and not math.isfinite(o.value):
        raise InputError(f"a reading of {o.device_id} that is no number", "give the reason for its absence instead")
    t, r = o.taken_at, o.received_at
    try:
        texts = "".join((o.device_id, o.device_id, o.quantity, o.unit, o.absent or "", t.boot_id, r.boot_id)).encode()
    except UnicodeEncodeError:
        raise InputError(f"a reading of {o.device_id} with text that is no Unicode", "mend the driver") from None
    level = None if o.level is None else int(o.level)
    head = (o.device_id, o.quantity, o.unit, o.value, o.absent, level)
    taken = (t.boot_id, t.mono_ns, t.utc_ns, int(t.quality))
    return (*head, *taken, r.boot_id, r.mono_ns, r.utc_ns, int(r.quality), _ROW_BYTES + len(texts))


def _observation(r: Sequence[object]) -> Observation:
    device_id, quantity, unit, value, absent, level, *when = r
    return Observation(
        device_id=str(device_id),
        quantity=str(quantity),
        unit=str(unit),
        taken_at=_instant(when[:4]),
        received_at=_instant(when[4:]),
        level=None if level is None else TrustLevel(int(str(level))),
        value=None if value is None else float(str(value)),
        absent=None if absent is None else str(absent),
    )


def _instant(r: Sequence[object]) -> Instant:
    return Instant(str(r[0]), int(str(r[1])), int(str(r[2])), TimeQuality(int(str(r[3]))))
