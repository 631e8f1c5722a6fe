"""Messages acknowledged in a receiver's place: durable before the acknowledgement, in order, the same one only once.

Implements ``gateway.driver.JournalPort``. What waits is never dropped: when too much does, the next promise is refused. Delivered
ones leave their answer behind for a while, so that a resend is answered as before. Refuses to know what a message is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.driver import Kept
from gateway.errors import UnavailableError
from gateway.model.instant import Instant, TimeQuality
from gateway.store.database import Connection, Database

_PURGE_EVERY = 64  # commits between two looks at what may be forgotten
_ROW_BYTES = 200  # one row without its body and answer, indexes included
_RETRY_S = 0.5
_PURGED = 5_000  # rows a look, so that no commit takes long

_INSERT = (
    "INSERT INTO journal (route, key, body, answer, boot, mono_ns, utc_ns, quality) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (route, key) DO NOTHING"
)

_Row = tuple[str, bytes, bytes, bytes, str, int, int, int]


@dataclass(frozen=True, slots=True)
class JournalBounds:
    """Bytes that may wait; answers remembered; messages kept aside. Defaults: a day of a full ward, and 100 MB beside it."""

    bytes: int = 512 * 1024 * 1024
    answers: int = 200_000
    aside: int = 2_000


@dataclass(frozen=True, slots=True)
class JournalCounts:
    """How many messages wait, were delivered (of those remembered), are kept aside."""

    waiting: int
    delivered: int
    aside: int


@dataclass(slots=True)
class _Promise:
    row: _Row
    done: asyncio.Future[bytes]


class Journal:
    """Durable journal on one database; ``close`` writes what waits. Everything asked for in one turn is one commit."""

    def __init__(self, database: Database, bounds: JournalBounds | None = None) -> None:
        self._db, self._bounds = database, bounds or JournalBounds()
        self._new: list[_Promise] = []
        self._settled: list[tuple[int, str]] = []
        self._task: asyncio.Task[None] | None = None
        self._bytes: int | None = None  # that wait; None: to be counted. Touched in the owner's thread only
        self._commits = 0
        self._closed = False

    def keep(self, route: str, key: bytes, body: bytes, answer: bytes, received: Instant) -> asyncio.Future[bytes]:
        """See ``JournalPort``."""
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self._closed:
            done.set_exception(UnavailableError("the store is closed", "start wardgate again"))
            return done
        when = (received.boot_id, received.mono_ns, received.utc_ns, int(received.quality))
        self._new.append(_Promise((route, key, body, answer, *when), done))
        self._start()
        return done

    def settle(self, message_id: int, refused: str = "") -> None:
        """See ``JournalPort``."""
        self._settled.append((message_id, refused))
        self._start()

    async def take(self, route: str, after: int, limit: int) -> Sequence[Kept]:
        """See ``JournalPort``."""
        sql = (
            "SELECT id, body, boot, mono_ns, utc_ns, quality FROM journal WHERE route = ? AND state = 0 AND id > ?"
            " ORDER BY id LIMIT ?"
        )
        rows = await self._db.run(lambda db: db.execute(sql, (route, after, limit)).fetchall())
        return [Kept(r[0], bytes(r[1]), Instant(r[2], r[3], r[4], TimeQuality(r[5]))) for r in rows]

    async def counts(self) -> JournalCounts:
        """How much there is of each."""
        found = await self._db.run(lambda db: dict(db.execute("SELECT state, count(*) FROM journal GROUP BY state").fetchall()))
        return JournalCounts(found.get(0, 0), found.get(1, 0), found.get(2, 0))

    async def close(self) -> None:
        """Write what waits and take nothing more. The database is closed by its owner."""
        self._closed = True
        if self._task is not None:
            await self._task

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all(), name="journal")

    async def _write_all(self) -> None:
        while self._new or self._settled:
            promises, self._new = self._new, []
            settled, self._settled = self._settled, []
            try:
                answers = await self._db.run(lambda db, p=promises, s=settled: self._write(db, [x.row for x in p], s))  # type: ignore[misc]
            except Exception as e:  # noqa: BLE001 - whatever it was, each sender hears of it; none may wait for ever
                _fail(promises, e)
                self._settled = settled + self._settled if isinstance(e, UnavailableError) else self._settled
                if self._closed:
                    break
                if not self._new:
                    await asyncio.sleep(_RETRY_S)  # nobody waits for these; what was delivered is noted when the disk is back
                continue
            for promise, answer in zip(promises, answers, strict=True):
                if not promise.done.done():
                    if answer is None:
                        promise.done.set_exception(
                            UnavailableError("too many messages wait", "see to the receivers, or enlarge the disk")
                        )
                    else:
                        promise.done.set_result(answer)
        self._task = None  # no await since the check above: nobody can have come in between

    # --- everything below runs in the database's thread, in one transaction ---

    def _write(self, db: Connection, rows: list[_Row], settled: list[tuple[int, str]]) -> list[bytes | None]:
        try:
            answers = self._insert(db, rows) if rows else []
            for message_id, refused in settled:
                self._settle(db, message_id, refused)
            self._commits += 1
            if self._commits % _PURGE_EVERY == 1:
                self._purge(db)
        except BaseException:
            self._bytes = None  # it is rolled back
            raise
        return answers

    def _insert(self, db: Connection, rows: list[_Row]) -> list[bytes | None]:
        if self._bytes is None:
            counted = db.execute("SELECT coalesce(sum(length(body) + ?), 0) FROM journal WHERE state = 0", (_ROW_BYTES,))
            self._bytes = int(counted.fetchone()[0])
        size = sum(len(r[2]) + _ROW_BYTES for r in rows)
        if self._bytes + size > self._bounds.bytes:
            return [self._known(db, r) for r in rows]
        before = db.conn.total_changes
        db.conn.executemany(_INSERT, rows)
        if db.conn.total_changes - before == len(rows):
            self._bytes += size
            return [r[3] for r in rows]
        self._bytes = None  # some are the same as others: count again
        return [self._known(db, r) for r in rows]

    @staticmethod
    def _known(db: Connection, row: _Row) -> bytes | None:
        found = db.execute("SELECT answer FROM journal WHERE route = ? AND key = ?", row[:2]).fetchone()
        return bytes(found[0]) if found else None

    def _settle(self, db: Connection, message_id: int, refused: str) -> None:
        found = db.execute("SELECT length(body) FROM journal WHERE id = ? AND state = 0", (message_id,)).fetchone()
        if found is None:
            return
        if self._bytes is not None:
            self._bytes -= int(found[0]) + _ROW_BYTES
        if refused:
            db.execute("UPDATE journal SET state = 2, reason = ? WHERE id = ?", (refused, message_id))
        else:
            db.execute("UPDATE journal SET state = 1, body = NULL WHERE id = ?", (message_id,))

    def _purge(self, db: Connection) -> None:
        """Forget the oldest answers, and the oldest of what is kept aside. What waits is never touched."""
        newest = int(db.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0])
        old = "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE id <= ? AND state = 1 ORDER BY id LIMIT ?)"
        db.execute(old, (newest - self._bounds.answers, _PURGED))
        aside = "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE state = 2 ORDER BY id DESC LIMIT ? OFFSET ?)"
        db.execute(aside, (_PURGED, self._bounds.aside))


def _fail(promises: Sequence[_Promise], error: Exception) -> None:
    for promise in promises:
        if not promise.done.done():
            promise.done.set_exception(UnavailableError(error.what, error.remedy) if isinstance(error, UnavailableError) else error)
