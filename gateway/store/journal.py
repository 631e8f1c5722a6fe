"""Messages acknowledged in a receiver's place: durable before the acknowledgement, in order, the same one only once.

Implements ``gateway.driver.JournalPort``. What waits is never dropped: when too much does, the next promise is refused. Which
messages wait, and the newest of each route by key, are known in memory (read back from the file at start), so that a commit
writes at the end of the table and nowhere else. Refuses to know what a message is.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.driver import Kept
from gateway.errors import UnavailableError
from gateway.model.instant import Instant, TimeQuality
from gateway.store.database import Connection, Database

_PURGE_EVERY = 64  # commits between two looks at what may be forgotten
_ROW_BYTES = 200  # one row without its body and answer, indexes included
_RETRY_S = 0.5
_GATHER_S = 0.001  # how long a commit waits for as many as came together last time: they wait for one another's commits
_TOGETHER = (64, 16, 4, 1)  # rows a statement: each statement is one hand-over between the threads
_PURGED = 5_000  # rows a look, so that no commit takes long
_KEY = 16  # bytes of a key that are kept: no two messages of a ward share them by chance

_COLUMNS = "route, key, body, answer, boot, mono_ns, utc_ns, quality"
_VALUES = f"({', '.join('?' * 8)})"
_INSERT = {n: f"INSERT INTO journal ({_COLUMNS}) VALUES {', '.join([_VALUES] * n)}" for n in _TOGETHER}  # noqa: S608 - our names

_Row = tuple[str, bytes, bytes, bytes, str, int, int, int]
_Settled = tuple[int, str]


@dataclass(frozen=True, slots=True)
class JournalBounds:
    """Bytes that may wait; answers on disk; keys a route is recognised by (17 hours of a message a minute); messages kept aside."""

    bytes: int = 512 * 1024 * 1024
    answers: int = 100_000
    keys: int = 1_024
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


class _Route:
    """What is known of one route: ids that wait, oldest first, and ids by key, newest last."""

    __slots__ = ("known", "waiting")

    def __init__(self) -> None:
        self.waiting = array("q")
        self.known: OrderedDict[bytes, int] = OrderedDict()


class Journal:
    """Durable journal on one database; ``close`` writes what waits. What is asked for together is one commit."""

    def __init__(self, database: Database, bounds: JournalBounds | None = None) -> None:
        self._db, self._bounds = database, bounds or JournalBounds()
        self._new: list[_Promise] = []
        self._settled: list[_Settled] = []
        self._routes: dict[str, _Route] = {}
        self._task: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self._loaded = self._closed = False
        self._bytes = self._newest = 0  # bytes that wait; the newest id
        self._commits = self._enough = 0  # commits so far; how many a gathering commit waits for
        self._full: asyncio.Event | None = None

    def keep(self, route: str, key: bytes, body: bytes, answer: bytes, received: Instant) -> asyncio.Future[bytes]:
        """See ``JournalPort``."""
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self._closed:
            done.set_exception(UnavailableError("the store is closed", "start wardgate again"))
            return done
        when = (received.boot_id, received.mono_ns, received.utc_ns, int(received.quality))
        self._new.append(_Promise((route, key[:_KEY], body, answer, *when), done))
        if self._full is not None and len(self._new) >= self._enough:
            self._full.set()
        self._start()
        return done

    def settle(self, message_id: int, refused: str = "") -> None:
        """See ``JournalPort``."""
        self._settled.append((message_id, refused))
        self._start()

    async def take(self, route: str, after: int, limit: int) -> Sequence[Kept]:
        """See ``JournalPort``."""
        await self._load()
        waiting = self._routes[route].waiting if route in self._routes else array("q")
        at = bisect_right(waiting, after)
        ids = list(waiting[at : at + limit])
        marks = ", ".join("?" * len(ids))
        sql = f"SELECT id, body, boot, mono_ns, utc_ns, quality FROM journal WHERE id IN ({marks}) AND state = 0 ORDER BY id"  # noqa: S608
        rows = await self._db.run(lambda db: db.execute(sql, ids).fetchall()) if ids else []
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

    # --- commits ---

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all(), name="journal")

    async def _write_all(self) -> None:
        together = 1
        while self._new or self._settled:
            if together > 1 and len(self._new) < together and not self._closed:
                await self._gather(together)
            together = len(self._new)
            if not await self._commit() and not self._closed and not self._new:
                await asyncio.sleep(_RETRY_S)  # nobody waits for these; what was delivered is noted when the disk is back
            if self._closed and not self._new:
                break
        self._task = None  # no await since the check above: nobody can have come in between

    async def _gather(self, number: int) -> None:
        self._enough, self._full = number, asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), _GATHER_S)
        self._full = None

    async def _commit(self) -> bool:
        """One transaction of all that is asked for now; every promise ends. False: the disk refused."""
        try:
            await self._load()
        except UnavailableError as e:
            promises, self._new = self._new, []
            _fail(promises, e)
            return False
        promises, self._new = self._new, []
        settled, self._settled = self._settled, []
        fresh, again = self._sort(promises)
        try:
            rows, known = [p.row for p in fresh], [i for _, i in again]
            first, answers, freed = await self._db.run(lambda db: self._write(db, rows, known, settled))
        except Exception as e:  # noqa: BLE001 - whatever it was, each sender hears of it; none may wait for ever
            self._forget(fresh)
            _fail(promises, e)
            if isinstance(e, UnavailableError):
                self._settled = settled + self._settled
            return False
        self._note(fresh, first)
        for promise in fresh:
            _fulfil(promise, promise.row[3])
        for (promise, place), answer in zip(again, answers, strict=True):
            _fulfil(promise, answer if place > 0 else fresh[-place].row[3])
        self._bytes -= freed
        self._note_settled(settled)
        return True

    def _sort(self, promises: list[_Promise]) -> tuple[list[_Promise], list[tuple[_Promise, int]]]:
        """Those to be written, and those that are known already: with their id, or minus their place among the first."""
        fresh: list[_Promise] = []
        again: list[tuple[_Promise, int]] = []
        for p in promises:
            route = self._routes.setdefault(p.row[0], _Route())
            known, size = route.known, len(p.row[2]) + _ROW_BYTES
            found = known.get(p.row[1])
            if found is not None and (found <= 0 or found > self._newest - self._bounds.answers or found in route.waiting):
                again.append((p, found))
            elif self._bytes + size > self._bounds.bytes:
                _fail([p], UnavailableError("too many messages wait", "see to the receivers, or enlarge the disk"))
            else:
                known.pop(p.row[1], None)  # its row may be forgotten by now: it is new again
                known[p.row[1]] = -len(fresh)
                self._bytes += size
                fresh.append(p)
        return fresh, again

    def _forget(self, fresh: Sequence[_Promise]) -> None:
        for p in fresh:
            del self._routes[p.row[0]].known[p.row[1]]
            self._bytes -= len(p.row[2]) + _ROW_BYTES

    def _note(self, fresh: Sequence[_Promise], first: int) -> None:
        for message_id, p in enumerate(fresh, first):
            route = self._routes[p.row[0]]
            route.waiting.append(message_id)
            route.known[p.row[1]] = self._newest = message_id
            while len(route.known) > self._bounds.keys:
                route.known.popitem(last=False)

    def _note_settled(self, settled: Sequence[_Settled]) -> None:
        """Delivery is in order, so what is settled stands at the beginning."""
        ids = {i for i, _ in settled}
        for route in self._routes.values() if ids else ():
            at = 0
            while at < len(route.waiting) and route.waiting[at] in ids:
                at += 1
            del route.waiting[:at]

    async def _load(self) -> None:
        """Once: what waits, and the newest keys of every route."""
        async with self._loading:
            if not self._loaded:
                waiting, size, known = await self._db.run(_read_back)
                for message_id, route in waiting:
                    self._routes.setdefault(route, _Route()).waiting.append(message_id)
                for message_id, route, key in known:
                    self._routes.setdefault(route, _Route()).known[bytes(key)] = self._newest = message_id
                for r in self._routes.values():
                    while len(r.known) > self._bounds.keys:
                        r.known.popitem(last=False)
                self._bytes, self._loaded = size, True

    # --- everything below runs in the database's thread, in one transaction ---

    def _write(self, db: Connection, rows: list[_Row], known: list[int], settled: list[_Settled]) -> tuple[int, list[bytes], int]:
        """(id of the first row, the answers of those known already, bytes that no longer wait)."""
        at = last = 0
        while at < len(rows):
            n = next(n for n in _TOGETHER if n <= len(rows) - at)
            last = int(db.conn.execute(_INSERT[n], [value for row in rows[at : at + n] for value in row]).lastrowid or 0)
            at += n
        answers = [self._answer(db, i) if i > 0 else b"" for i in known]
        freed = sum(_settle(db, message_id, refused) for message_id, refused in settled)
        self._commits += 1
        if self._commits % _PURGE_EVERY == 1:
            _purge(db, self._bounds)
        return last - len(rows) + 1, answers, freed

    @staticmethod
    def _answer(db: Connection, message_id: int) -> bytes:
        return bytes(db.execute("SELECT answer FROM journal WHERE id = ?", (message_id,)).fetchone()[0])


def _read_back(db: Connection) -> tuple[list[tuple[int, str]], int, list[tuple[int, str, bytes]]]:
    waiting = db.execute("SELECT id, route FROM journal WHERE state = 0 ORDER BY id").fetchall()
    sql = "SELECT coalesce(sum(length(body) + ?), 0) FROM journal WHERE state = 0"
    size = int(db.execute(sql, (_ROW_BYTES,)).fetchone()[0])
    known = db.execute("SELECT id, route, key FROM journal ORDER BY id DESC LIMIT 50000").fetchall()
    return waiting, size, known[::-1]


def _settle(db: Connection, message_id: int, refused: str) -> int:
    """Returns the bytes that no longer wait."""
    found = db.execute("SELECT length(body) FROM journal WHERE id = ? AND state = 0", (message_id,)).fetchone()
    if found is None:
        return 0
    if refused:
        db.execute("UPDATE journal SET state = 2, reason = ? WHERE id = ?", (refused, message_id))
    else:
        db.execute("UPDATE journal SET state = 1, body = NULL WHERE id = ?", (message_id,))
    return int(found[0]) + _ROW_BYTES


def _purge(db: Connection, bounds: JournalBounds) -> None:
    """Forget the oldest answers, and the oldest of what is kept aside. What waits is never touched."""
    newest = int(db.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0])
    old = "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE id <= ? AND state = 1 ORDER BY id LIMIT ?)"
    db.execute(old, (newest - bounds.answers, _PURGED))
    aside = "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE state = 2 ORDER BY id DESC LIMIT ? OFFSET ?)"
    db.execute(aside, (_PURGED, bounds.aside))


def _fulfil(promise: _Promise, answer: bytes) -> None:
    if not promise.done.done():
        promise.done.set_result(answer)


def _fail(promises: Sequence[_Promise], error: Exception) -> None:
    """One instance a sender: a traceback grows on an exception that several raise."""
    for promise in promises:
        if not promise.done.done():
            promise.done.set_exception(UnavailableError(error.what, error.remedy) if isinstance(error, UnavailableError) else error)
