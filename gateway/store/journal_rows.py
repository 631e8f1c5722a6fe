"""The journal's table: rows kept, delivered, kept aside and let go. Runs in the database's thread, in one transaction.

A row is waiting (state 0), over (1: its body is gone; ``reason`` says so if it was not delivered) or kept aside (2). Refuses to
know who waits for a promise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gateway.errors import InputError
from gateway.model.instant import Instant, TimeQuality
from gateway.model.outbox import AsideMessage
from gateway.store.database import Connection

ROW_BYTES = 200  # one row without its body and answer, indexes included
MOST_ROWS = 32  # of one statement: each statement is one hand-over between the threads
FORGOTTEN = "forgotten: "
_PURGED = 5_000  # rows a look, so that no commit takes long
_KNOWN = 50_000  # newest rows whose keys are read back at start

_COLUMNS = "route, key, body, answer, boot, mono_ns, utc_ns, quality"
_IDS = "id IN (SELECT value FROM json_each(?))"

Row = tuple[str, bytes, bytes, bytes, str, int, int, int]


@dataclass(frozen=True, slots=True)
class Settled:
    """A message that waits no more: delivered, or kept aside for a reason."""

    id: int
    route: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a file holds at start: (id, route, bytes) of what waits and of what is kept aside, counts of what was forgotten, and the
    newest keys as (id, route, key, boot id, boot time in ns), oldest first."""

    waiting: Sequence[tuple[int, str, int]]
    aside: Sequence[tuple[int, str, int]]
    forgotten: Sequence[tuple[str, int]]
    known: Sequence[tuple[int, str, bytes, str, int]]


@lru_cache(MOST_ROWS)
def _insert(rows: int) -> str:
    values = ", ".join([f"({', '.join('?' * 8)})"] * rows)
    return f"INSERT INTO journal ({_COLUMNS}) VALUES {values}"  # noqa: S608 - our names


def insert(db: Connection, rows: Sequence[Row]) -> int:
    """Store rows in order; returns the id of the first."""
    last = 0
    for at in range(0, len(rows), MOST_ROWS):
        some = rows[at : at + MOST_ROWS]
        last = int(db.conn.execute(_insert(len(some)), [value for row in some for value in row]).lastrowid or 0)
    return last - len(rows) + 1


def settle(db: Connection, settled: Sequence[Settled]) -> None:
    """What was delivered leaves only its answer; what was refused stays."""
    if done := [s.id for s in settled if not s.reason]:
        db.conn.execute(f"UPDATE journal SET state = 1, body = NULL WHERE {_IDS} AND state = 0", (json.dumps(done),))  # noqa: S608
    aside = [(s.reason, s.id) for s in settled if s.reason]
    if aside:
        db.conn.executemany("UPDATE journal SET state = 2, reason = ? WHERE id = ? AND state = 0", aside)


def forget(db: Connection, ids: Sequence[int]) -> None:
    """The oldest of what is kept aside, for want of room: the content goes, that it was there stays."""
    sql = f"UPDATE journal SET state = 1, body = NULL, reason = ? || reason WHERE {_IDS} AND state = 2"  # noqa: S608
    db.conn.execute(sql, (FORGOTTEN, json.dumps(list(ids))))


def answers(db: Connection, ids: Sequence[int]) -> list[bytes]:
    """The answers that were given to these messages."""
    return [bytes(db.conn.execute("SELECT answer FROM journal WHERE id = ?", (i,)).fetchone()[0]) for i in ids]


def take(db: Connection, ids: Sequence[int]) -> list[tuple[int, bytes, Instant]]:
    """(id, body, received) of those that still wait, oldest first."""
    sql = f"SELECT id, body, boot, mono_ns, utc_ns, quality FROM journal WHERE {_IDS} AND state = 0 ORDER BY id"  # noqa: S608
    return [(r[0], bytes(r[1]), _instant(r[2:])) for r in db.conn.execute(sql, (json.dumps(list(ids)),)).fetchall()]


def received(db: Connection, ids: Sequence[int]) -> dict[int, Instant]:
    """When these came."""
    sql = f"SELECT id, boot, mono_ns, utc_ns, quality FROM journal WHERE {_IDS}"  # noqa: S608
    return {r[0]: _instant(r[1:]) for r in db.conn.execute(sql, (json.dumps(list(ids)),)).fetchall()}


def aside(db: Connection, limit: int) -> list[AsideMessage]:
    """What is kept aside, newest first."""
    sql = (
        "SELECT id, route, reason, length(body), boot, mono_ns, utc_ns, quality FROM journal WHERE state = 2"
        " ORDER BY id DESC LIMIT ?"
    )
    rows = db.conn.execute(sql, (limit,)).fetchall()
    return [AsideMessage(r[0], r[1], device_of(r[1]), r[2], _instant(r[4:]), r[3] or 0) for r in rows]


def retry(db: Connection, message_id: int) -> tuple[int, str]:
    """Let a message that is kept aside wait again, behind the others; returns its new id and its route. Raises InputError."""
    route = route_of(db, message_id)
    sql = f"INSERT INTO journal ({_COLUMNS}) SELECT {_COLUMNS} FROM journal WHERE id = ?"  # noqa: S608 - our names
    new = int(db.conn.execute(sql, (message_id,)).lastrowid or 0)
    db.conn.execute("UPDATE journal SET state = 1, body = NULL, reason = 'sent again' WHERE id = ?", (message_id,))
    return new, route


def discard(db: Connection, message_id: int, reason: str) -> str:
    """Let go of a message that is kept aside; returns its route. Raises InputError."""
    route = route_of(db, message_id)
    text = f"discarded: {reason}"
    db.conn.execute("UPDATE journal SET state = 1, body = NULL, reason = ? WHERE id = ?", (text, message_id))
    return route


def route_of(db: Connection, message_id: int) -> str:
    """The route of a message that is kept aside. Raises InputError."""
    found = db.conn.execute("SELECT route FROM journal WHERE id = ? AND state = 2", (message_id,)).fetchone()
    if found is None:
        raise InputError(f"no message {message_id} is kept aside", "see `wardgate outbox`")
    return str(found[0])


def purge(db: Connection, answers_kept: int) -> None:
    """Forget the oldest answers. What waits, and what is kept aside, is never touched."""
    newest = int(db.conn.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0])
    old = "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE id <= ? AND state = 1 ORDER BY id LIMIT ?)"
    db.conn.execute(old, (newest - answers_kept, _PURGED))


def read_back(db: Connection) -> ReadBack:
    """See ``ReadBack``."""
    sized = "SELECT id, route, length(body) FROM journal WHERE state = ? ORDER BY id"
    forgotten = "SELECT route, count(*) FROM journal WHERE state = 1 AND reason LIKE ? || '%' GROUP BY route"
    known = "SELECT id, route, key, boot, mono_ns FROM journal ORDER BY id DESC LIMIT ?"
    execute = db.conn.execute
    return ReadBack(
        execute(sized, (0,)).fetchall(), execute(sized, (2,)).fetchall(),
        execute(forgotten, (FORGOTTEN,)).fetchall(), execute(known, (_KNOWN,)).fetchall()[::-1],
    )  # fmt: skip


def counts(db: Connection) -> dict[int, int]:
    """Rows by state."""
    return dict(db.conn.execute("SELECT state, count(*) FROM journal GROUP BY state").fetchall())


def device_of(route: str) -> str:
    """Whose route it is: its name begins with the device's id."""
    return route.partition("/")[0]


def _instant(r: Sequence[object]) -> Instant:
    boot, mono_ns, utc_ns, quality = r
    return Instant(str(boot), int(str(mono_ns)), int(str(utc_ns)), TimeQuality(int(str(quality))))
