"""Messages acknowledged in a receiver's place: durable before the acknowledgement, in order, the same one only once.

Implements ``gateway.driver.JournalPort``. What waits is never dropped: when a route's room is full, its next promise is refused.
What waits, and the newest messages of each route by name, are known in memory (read back from the file at start), so that a
commit writes at the end of the table and nowhere else. Refuses to know what a message is.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.driver import Kept
from gateway.errors import RefusedError, UnavailableError, WardgateError
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.outbox import AsideMessage, RouteCounts
from gateway.store import journal_rows as rows
from gateway.store.database import Connection, Database
from gateway.store.journal_rows import ROW_BYTES, Row, Settled

_PURGE_EVERY = 64  # commits between two looks at what may be forgotten
_RETRY_S = 0.5
_TAKE_BYTES = 256 * 1024  # of bodies taken at once: after an outage every route takes its share, and each message may be long
_GATHER_S = 0.001  # how long a commit waits for those that are answered together to come together again
_NAME = 8  # bytes of a key that name a message; the rest say what is in it
_KEY = 16
REUSED_S = 600.0  # a name that comes again this soon with other content is no new message; a device that counts anew does so later


@dataclass(frozen=True, slots=True)
class JournalBounds:
    """Bytes that may wait: of a route, and of all (shared out evenly); answers on disk; names a route is known by (17 hours of a
    message a minute); messages of a route kept aside (and no more bytes than may wait)."""

    route_bytes: int = 64 * 1024 * 1024
    bytes: int = 1024 * 1024 * 1024
    answers: int = 100_000
    keys: int = 1_024
    aside: int = 1_000


@dataclass(frozen=True, slots=True)
class JournalCounts:
    """How many messages wait, were delivered (of those remembered), are kept aside."""

    waiting: int
    delivered: int
    aside: int


@dataclass(slots=True)
class _Promise:
    row: Row
    done: asyncio.Future[bytes]


class _Known(NamedTuple):
    """A message by its name: its id (0 or less: minus its place in the commit under way), its content, when it came."""

    id: int
    content: bytes
    boot: str
    mono_ns: int


class _Route:
    """What is known of one route: ids that wait with their bytes, oldest first; what is kept aside; messages by name."""

    __slots__ = ("aside", "bytes", "forgotten", "known", "refused", "sizes", "waiting")

    def __init__(self) -> None:
        self.waiting, self.sizes = array("q"), array("q")
        self.known: OrderedDict[bytes, _Known] = OrderedDict()
        self.aside: OrderedDict[int, int] = OrderedDict()
        self.bytes = self.refused = self.forgotten = 0

    def remember(self, name: bytes, known: _Known, most: int) -> None:
        self.known.pop(name, None)
        self.known[name] = known
        while len(self.known) > most:
            self.known.popitem(last=False)

    def waits(self, message_id: int) -> bool:
        at = bisect_left(self.waiting, message_id)
        return at < len(self.waiting) and self.waiting[at] == message_id

    def next(self, after: int, limit: int) -> list[int]:
        """Ids that wait behind one, as many as may be taken at once; one at least."""
        first = last = bisect_right(self.waiting, after)
        size = 0
        while last < min(len(self.waiting), first + limit) and (last == first or size + self.sizes[last] <= _TAKE_BYTES):
            size += self.sizes[last]
            last += 1
        return list(self.waiting[first:last])

    def end(self, message_id: int) -> int | None:
        """It waits no more; returns its bytes, None if it did not wait."""
        at = bisect_left(self.waiting, message_id)
        if at == len(self.waiting) or self.waiting[at] != message_id:
            return None
        size = self.sizes[at]
        del self.waiting[at], self.sizes[at]
        self.bytes -= size
        return size


class Journal:
    """Durable journal on one database; ``close`` writes what waits. What is asked for together is one commit."""

    def __init__(self, database: Database, bounds: JournalBounds | None = None) -> None:
        self._db, self._bounds = database, bounds or JournalBounds()
        self._new: list[_Promise] = []
        self._settled: list[Settled] = []
        self._taken: dict[int, str] = {}
        self._swollen: set[str] = set()  # routes where something was set aside: what is too much goes with the next commit
        self._routes: dict[str, _Route] = {}
        self._task: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self._loaded = self._closed = False
        self._newest = 0
        self._commits = self._enough = 0  # commits so far; how many a gathering commit waits for
        self._full: asyncio.Event | None = None

    # --- gateway.driver.JournalPort ---

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
        """See ``JournalPort``; once, of what was taken."""
        if (route := self._taken.pop(message_id, None)) is not None:
            self._settled.append(Settled(message_id, route, refused))
            self._start()

    async def take(self, route: str, after: int, limit: int) -> Sequence[Kept]:
        """See ``JournalPort``."""
        await self._load()
        ids = self._route(route).next(after, limit)
        found = await self._db.run(lambda db: rows.take(db, ids)) if ids else []
        self._taken |= {r[0]: route for r in found}
        return [Kept(*r) for r in found]

    # --- for people ---

    async def counts(self) -> JournalCounts:
        """How much there is of each."""
        found = await self._db.run(rows.counts)
        return JournalCounts(found.get(0, 0), found.get(1, 0), found.get(2, 0))

    async def look(self, now: Instant, limit: int = 50) -> tuple[tuple[RouteCounts, ...], tuple[AsideMessage, ...]]:
        """Every route's counts, and the newest ``limit`` messages that are kept aside."""
        await self._load()
        first = {name: r.waiting[0] for name, r in self._routes.items() if r.waiting}

        def work(db: Connection) -> tuple[dict[int, Instant], list[AsideMessage]]:
            return rows.received(db, list(first.values())), rows.aside(db, limit)

        came, aside = await self._db.run(work)
        oldest = {name: came[i].age_s(now) for name, i in first.items() if i in came}
        room = self._room()
        routes = [
            RouteCounts(
                name, rows.device_of(name), len(r.waiting), r.bytes, room, oldest.get(name), len(r.aside), r.forgotten, r.refused
            )
            for name, r in sorted(self._routes.items())
        ]
        return tuple(routes), tuple(aside)

    async def route_of(self, message_id: int) -> str:
        """The route of a message that is kept aside. Raises InputError."""
        return await self._db.run(lambda db: rows.route_of(db, message_id))

    async def retry(self, message_id: int) -> str:
        """Let a message that is kept aside wait again, behind the others; returns its route. Raises InputError."""
        await self._load()
        new, name = await self._db.run(lambda db: rows.retry(db, message_id))
        route = self._route(name)
        size = route.aside.pop(message_id, ROW_BYTES)
        self._wait(route, new, size)
        for key, known in route.known.items():
            if known.id == message_id:
                route.known[key] = known._replace(id=new)
        return name

    async def discard(self, message_id: int, reason: str) -> str:
        """Let go of a message that is kept aside; returns its route. Raises InputError."""
        await self._load()
        name = await self._db.run(lambda db: rows.discard(db, message_id, reason))
        self._route(name).aside.pop(message_id, None)
        return name

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
        """Commit after commit while anything is asked for. Those who were answered together are waited for, for a moment: what
        comes in while a commit is written costs more by the hand-overs between two threads than it wins on two cores."""
        loop, together, took_s = asyncio.get_running_loop(), 1, 0.0
        while self._new or self._settled or self._swollen:
            if len(self._new) < together and not self._closed:
                await self._gather(together, max(_GATHER_S, took_s / 4))
            number, began_s = len(self._new), loop.time()
            if not await self._commit() and not self._closed and not self._new:
                await asyncio.sleep(_RETRY_S)  # nobody waits for these; what was delivered is noted when the disk is back
            together, took_s = number + len(self._new), loop.time() - began_s
            if self._closed and not self._new:
                break
        self._task = None  # no await since the check above: nobody can have come in between

    async def _gather(self, number: int, patience_s: float) -> None:
        self._enough, self._full = number, asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._full.wait()
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
        forgotten = self._beyond()
        try:
            written, known = [p.row for p in fresh], [k.id for _, k in again]
            first, answers = await self._db.run(lambda db: self._write(db, written, known, settled, forgotten))
        except Exception as e:  # noqa: BLE001 - whatever it was, each sender hears of it; none may wait for ever
            self._forget(fresh)
            _fail(promises, e)
            self._settled = settled + self._settled  # each was delivered or refused, whatever the disk says
            return False
        self._note(fresh, first)
        self._note_settled(settled, forgotten)
        for promise in fresh:
            _fulfil(promise, promise.row[3])
        for (promise, k), answer in zip(again, answers, strict=True):
            _fulfil(promise, answer if k.id > 0 else fresh[-k.id].row[3])
        return True

    def _write(
        self, db: Connection, fresh: list[Row], known: list[int], settled: list[Settled], forgotten: list[tuple[str, int]]
    ) -> tuple[int, list[bytes]]:
        """In the database's thread: (id of the first row, the answers of those known already)."""
        first = rows.insert(db, fresh) if fresh else 0
        if settled:
            rows.settle(db, settled)
        if forgotten:
            rows.forget(db, [i for _, i in forgotten])
        at = iter(rows.answers(db, [i for i in known if i > 0]))
        self._commits += 1
        if self._commits % _PURGE_EVERY == 1:  # after the answers were read: one of them may be the oldest
            rows.purge(db, self._bounds.answers)
        return first, [next(at) if i > 0 else b"" for i in known]

    def _sort(self, promises: list[_Promise]) -> tuple[list[_Promise], list[tuple[_Promise, _Known]]]:
        """Those to be written, and those that are known already. Who is neither has heard why."""
        fresh: list[_Promise] = []
        again: list[tuple[_Promise, _Known]] = []
        room = self._room()
        for p in promises:
            route, name, content = self._route(p.row[0]), p.row[1][:_NAME], p.row[1][_NAME:]
            known, size = route.known.get(name), len(p.row[2]) + ROW_BYTES
            under_way = known is not None and (known.id <= 0 or route.waits(known.id))
            if known is not None and content == known.content and (under_way or known.id > self._newest - self._bounds.answers):
                again.append((p, known))
            elif known is not None and content != known.content and (under_way or _soon(p.row, known)):
                what = "its control id is that of another message that it sent a short time ago"
                _fail([p], RefusedError(what, "give each message an id of its own"))
            elif route.bytes + size > room:
                route.refused += 1
                _fail([p], UnavailableError("too many messages of this route wait", "see to its receiver"))
            else:
                route.remember(name, _Known(-len(fresh), content, p.row[4], p.row[5]), self._bounds.keys)
                route.bytes += size
                fresh.append(p)
        return fresh, again

    def _beyond(self) -> list[tuple[str, int]]:
        """(route, id) of what is to be forgotten of what is kept aside: the oldest, where there is too much."""
        room, found = self._room(), []
        for name in self._swollen:
            route = self._route(name)
            number, size = len(route.aside), sum(route.aside.values())
            for message_id, bytes_of in route.aside.items():
                if number <= self._bounds.aside and size <= room:
                    break
                found.append((name, message_id))
                number, size = number - 1, size - bytes_of
        return found

    # --- what is known ---

    def _route(self, name: str) -> _Route:
        found = self._routes.get(name)
        if found is None:
            found = self._routes[name] = _Route()
        return found

    def _room(self) -> int:
        return min(self._bounds.route_bytes, self._bounds.bytes // max(1, len(self._routes)))

    def _wait(self, route: _Route, message_id: int, size: int) -> None:
        route.waiting.append(message_id)
        route.sizes.append(size)
        route.bytes += size
        self._newest = max(self._newest, message_id)

    def _forget(self, fresh: Sequence[_Promise]) -> None:
        for p in fresh:
            route = self._route(p.row[0])
            route.known.pop(p.row[1][:_NAME], None)
            route.bytes -= len(p.row[2]) + ROW_BYTES

    def _note(self, fresh: Sequence[_Promise], first: int) -> None:
        for message_id, p in enumerate(fresh, first):
            route, size = self._route(p.row[0]), len(p.row[2]) + ROW_BYTES
            route.bytes -= size  # counted when it was sorted
            self._wait(route, message_id, size)
            name = p.row[1][:_NAME]
            route.known[name] = _Known(message_id, p.row[1][_NAME:], p.row[4], p.row[5])

    def _note_settled(self, settled: Sequence[Settled], forgotten: Sequence[tuple[str, int]]) -> None:
        self._swollen.clear()
        for s in settled:
            size = self._route(s.route).end(s.id)
            if size is not None and s.reason:
                self._route(s.route).aside[s.id] = size
                self._swollen.add(s.route)
        for name, message_id in forgotten:
            self._route(name).aside.pop(message_id, None)
            self._route(name).forgotten += 1

    async def _load(self) -> None:
        """Once: what waits, what is kept aside, and the newest names of every route."""
        if self._loaded:
            return
        async with self._loading:
            if self._loaded:
                return
            found = await self._db.run(rows.read_back)
            for message_id, name, size in found.waiting:
                self._wait(self._route(name), message_id, size + ROW_BYTES)
            for message_id, name, size in found.aside:
                self._route(name).aside[message_id] = size + ROW_BYTES
            for name, number in found.forgotten:
                self._route(name).forgotten = number
            for message_id, name, key, boot, mono_ns in found.known:
                known = _Known(message_id, bytes(key[_NAME:]), boot, mono_ns)
                self._route(name).remember(bytes(key[:_NAME]), known, self._bounds.keys)
                self._newest = max(self._newest, message_id)
            self._loaded = True


def _soon(row: Row, known: _Known) -> bool:
    return row[4] == known.boot and row[5] - known.mono_ns < REUSED_S * NS_PER_S


def _fulfil(promise: _Promise, answer: bytes) -> None:
    if not promise.done.done():
        promise.done.set_result(answer)


def _fail(promises: Sequence[_Promise], error: Exception) -> None:
    """One instance a sender: a traceback grows on an exception that several raise."""
    for promise in promises:
        if not promise.done.done():
            promise.done.set_exception(type(error)(error.what, error.remedy) if isinstance(error, WardgateError) else error)
