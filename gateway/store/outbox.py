"""What still has to leave: written ahead, deleted only when acknowledged, bounded with a visible drop policy.

Implements ``gateway.driver.OutboxPort`` and ``gateway.ports.OutgoingPort``. When a bound is reached, the device that holds
most loses its oldest readings first, the least urgent messages their oldest; every loss is counted. What is taken in and
what is acknowledged share one commit. Refuses to know where anything goes.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.clock import Clock
from gateway.errors import InputError
from gateway.model.certificate import CertificateId
from gateway.model.instant import Instant, TimeQuality
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.model.outbox import DeviceCounts, Letter, MessageCounts, OutboxView, Waiting
from gateway.store import letters
from gateway.store.database import Connection, Database
from gateway.store.group import GroupCommit

__all__ = ["Bounds", "DeviceCounts", "Outbox", "Waiting"]

COMMIT_INTERVAL_S = 0.5  # two commits a second is what an SD card or eMMC survives for years; a reading can wait that long
FULL_GROUP = 500  # readings that go at once: beyond that a commit's cost no longer shows (114,000 a second, fsync included)
_PIECE = 200  # rows looked at for their age in each commit
_ROW_BYTES = 200  # one stored row without its texts, index and certificate included


_Row = tuple[str | float | int | bytes | None, ...]
_Change = Callable[[Connection], int]  # anything that is done beside the rows, in the same transaction; returns its count
_Item = _Row | _Change


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait. What comes first counts. Defaults: 90 days of a small ward, 1 GiB of disk; a few days of messages."""

    rows: int = 5_000_000
    bytes: int = 1024**3
    age_s: float = 90 * 86_400.0
    letters: int = 100_000
    dead: int = 10_000


class Outbox:
    """Durable outbox on one database; ``close`` writes what waits. ``arrived`` is set whenever something new can be taken."""

    def __init__(self, database: Database, clock: Clock, bounds: Bounds | None = None) -> None:
        self._db, self._clock, self._bounds = database, clock, bounds or Bounds()
        self._group: GroupCommit[_Item, int] = GroupCommit(self._write, interval_s=COMMIT_INTERVAL_S, full=FULL_GROUP)
        self.arrived = asyncio.Event()

    # --- in ---

    async def put(self, batch: Sequence[Observation]) -> None:
        """Store a batch; returns when it is durable, within half a second. Raises UnavailableError or InputError: none was kept."""
        if batch:
            await self._group.submit([_row(o) for o in batch])

    async def put_letters(self, batch: Sequence[Letter]) -> None:
        """Store messages (their ids are given here); at once when one of them is urgent (priority 0)."""
        if batch:
            bounds = self._bounds
            change: _Change = lambda db: letters.store(db, batch, bounds.letters)  # noqa: E731 - closes over this batch
            await self._group.submit([change], urgent=any(x.priority == 0 for x in batch))

    # --- out ---

    async def stream(self) -> str:
        """Which numbering the ids belong to: 16 hex digits, new with every file."""
        return str(await self._db.run(lambda db: db.execute("SELECT name FROM outbox_stream").fetchone()[0]))

    async def take(self, limit: int = 500, after: int = 0, device_id: str | None = None) -> Sequence[Waiting]:
        """The oldest readings after id ``after`` (of one device, if given), at most ``limit``. They stay until acknowledged."""
        where, arguments = ("id > ?", [after]) if device_id is None else ("device_id = ? AND id > ?", [device_id, after])
        sql = f"SELECT id, {_COLUMNS} FROM outbox WHERE {where} ORDER BY id LIMIT ?"  # noqa: S608 - our names
        rows = await self._db.run(lambda db: db.conn.execute(sql, [*arguments, limit]).fetchall())
        return [Waiting(r[0], _observation(r[1:])) for r in rows]

    async def take_letters(self, topic: str, after: int = 0, limit: int = 50) -> Sequence[Letter]:
        """The oldest messages on a topic."""
        return await self._db.run(lambda db: letters.take(db, topic, after, limit))

    async def lanes(self) -> tuple[Sequence[str], Sequence[tuple[str, int]]]:
        """Devices with waiting readings, and (topic, priority) of waiting messages."""
        sql = "SELECT device_id FROM outbox_counts WHERE waiting > 0 ORDER BY device_id"

        def work(db: Connection) -> tuple[Sequence[str], Sequence[tuple[str, int]]]:
            return [r[0] for r in db.execute(sql)], letters.topics(db)

        return await self._db.run(work)

    async def acknowledge(self, ids: Sequence[int], letter_ids: Sequence[int] = ()) -> int:
        """Delete what the other side has; returns how many were still there. Shares the next commit, within half a second."""
        changes: list[_Item] = [_acknowledgement(ids)] if ids else []
        if letter_ids:
            changes.append(lambda db: letters.acknowledge(db, letter_ids))
        return await self._group.submit(changes, urgent=len(ids) >= FULL_GROUP) if changes else 0

    async def bury(self, topic: str, body: str, reason: str, *, ids: Sequence[int] = (), letter: Letter | None = None) -> None:
        """Set aside what is refused for good: readings by id or one letter, with the message as it was sent and the reason."""
        now, most = self._clock.now(), self._bounds.dead
        await self._group.submit([lambda db: letters.bury(db, topic, body, reason, ids, letter, now, most)])

    async def revive(self) -> int:
        """Send every dead letter again, behind everything else; returns how many there were."""
        now = self._clock.now()
        return await self._group.submit([lambda db: letters.revive(db, now)])

    # --- looking ---

    async def pending(self) -> int:
        """How many readings wait."""
        return sum(c.waiting for c in await self.counts())

    async def counts(self) -> Sequence[DeviceCounts]:
        """The counters of every device, by id."""
        sql = "SELECT device_id, waiting, bytes, accepted, acknowledged, dropped, dead FROM outbox_counts ORDER BY device_id"
        return [DeviceCounts(*r) for r in await self._db.run(lambda db: db.execute(sql).fetchall())]

    async def message_counts(self) -> Sequence[MessageCounts]:
        """The counters of messages, by priority."""
        return await self._db.run(letters.counts)

    async def look(self, up: bool, state: str) -> OutboxView:
        """All of it for people; ``state`` says how the way out is."""
        now, devices = self._clock.now(), tuple(await self.counts())
        messages, dead = await self.message_counts(), await self._db.run(lambda db: letters.dead(db, 20))
        oldest = await self._db.run(_oldest)
        return OutboxView(
            state=state, up=up,
            readings=sum(c.waiting for c in devices), messages=sum(c.waiting for c in messages),
            bytes=sum(c.bytes for c in devices) + sum(c.bytes for c in messages),
            oldest_s=max((at.age_s(now) for at in oldest), default=None),
            accepted=sum(c.accepted for c in devices), delivered=sum(c.acknowledged for c in devices),
            dropped=sum(c.dropped for c in devices) + sum(c.dropped for c in messages), dead=sum(c.dead for c in devices),
            devices=devices, dead_letters=tuple(dead),
        )  # fmt: skip

    async def close(self) -> None:
        """Write what waits and take nothing more. The database is closed by its owner."""
        await self._group.close()

    async def _write(self, batches: list[Sequence[_Item]]) -> list[int]:
        now = self._clock.now()
        done = await self._db.run(lambda db: _commit(db, batches, self._bounds, now))
        self.arrived.set()
        return done


_COLUMNS = (
    "device_id, quantity, unit, value, absent, level, taken_boot, taken_mono_ns, taken_utc_ns, taken_quality,"
    " received_boot, received_mono_ns, received_utc_ns, received_quality, cert_sequence, cert_hash"
)
_INSERT = f"INSERT INTO outbox ({_COLUMNS}, bytes) VALUES ({', '.join('?' * 17)})"  # noqa: S608 - our names
_MORE = (
    "INSERT INTO outbox_counts (device_id, waiting, bytes, accepted) VALUES (?1, ?2, ?3, ?2) ON CONFLICT (device_id)"
    " DO UPDATE SET waiting = waiting + ?2, bytes = bytes + ?3, accepted = accepted + ?2"
)


def _commit(db: Connection, batches: list[Sequence[_Item]], bounds: Bounds, now: Instant) -> list[int]:
    """All rows first, in one go, then what else was asked for; one result a batch."""
    rows = [item for batch in batches for item in batch if isinstance(item, tuple)]
    if rows:
        _store(db, rows, bounds, now)
    return [sum(item(db) for item in batch if not isinstance(item, tuple)) for batch in batches]


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


def _acknowledgement(ids: Sequence[int]) -> _Change:
    return lambda db: letters.remove(db, ids, "acknowledged")


def _oldest(db: Connection) -> list[Instant]:
    sql = "SELECT received_boot, received_mono_ns, received_utc_ns, received_quality FROM outbox ORDER BY id LIMIT 1"
    return [_instant(r) for r in (*db.execute(sql).fetchall(), *letters.oldest(db))]


def _drop_old(db: Connection, bounds: Bounds, now: Instant) -> None:
    names = "received_boot, received_mono_ns, received_utc_ns, received_quality"
    while True:
        oldest = db.execute(f"SELECT id, {names} FROM outbox ORDER BY id LIMIT {_PIECE}").fetchall()  # noqa: S608 - our names
        old = [r[0] for r in oldest if _instant(r[1:]).age_s(now) > bounds.age_s]
        letters.remove(db, old, "dropped")
        if len(old) < _PIECE:
            return


def _drop_beyond(db: Connection, bounds: Bounds) -> None:
    while True:
        rows, size = db.execute("SELECT coalesce(sum(waiting), 0), coalesce(sum(bytes), 0) FROM outbox_counts").fetchone()
        over = max(rows - bounds.rows, 0 if size <= bounds.bytes else -(-(size - bounds.bytes) // (_ROW_BYTES * 2)))
        if over <= 0:
            return
        device = db.execute("SELECT device_id FROM outbox_counts ORDER BY bytes DESC, device_id LIMIT 1").fetchone()[0]
        found = db.execute("SELECT id FROM outbox WHERE device_id = ? ORDER BY id LIMIT ?", (device, over)).fetchall()
        letters.remove(db, [r[0] for r in found], "dropped")


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
    received = (r.boot_id, r.mono_ns, r.utc_ns, int(r.quality))
    certificate = (o.certificate.sequence, o.certificate.ear_sha256) if o.certificate else (None, None)
    return (*head, *taken, *received, *certificate, _ROW_BYTES + len(texts))


def _observation(r: Sequence[Any]) -> Observation:
    device_id, quantity, unit, value, absent, level, *rest = r
    taken, received = tuple(rest[:4]), tuple(rest[4:8])
    taken_at = _instant(taken)
    return Observation(
        device_id, quantity, unit, taken_at, taken_at if received == taken else _instant(received),
        None if level is None else _LEVELS[level], value, absent,
        None if rest[9] is None else CertificateId(rest[8], rest[9]),
    )  # fmt: skip


def _instant(r: Sequence[Any]) -> Instant:
    return Instant(r[0], r[1], r[2], _QUALITIES[r[3]])


_LEVELS, _QUALITIES = tuple(TrustLevel), tuple(TimeQuality)  # indexed by their values: an Enum's call is slow, and drains are long
