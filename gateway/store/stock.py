"""Kept beside the inventory: earlier reference values, flows that were seen, files that were brought in.

Refuses to know what any of it means, and to touch a veto: nothing here can lift one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gateway import codec
from gateway.errors import InputError
from gateway.model.instant import Instant
from gateway.model.profile import References
from gateway.store.database import Connection, Database

VERSIONS = 20  # of one device; more than anybody goes back
FILES = 500


@dataclass(frozen=True, slots=True)
class ReferenceVersion:
    """References that were replaced: by whom and when."""

    number: int
    device_id: str
    actor: str
    at: Instant


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file that proved itself: its ``kind`` and ``name``, when it was issued, until when it is good (UTC, ns)."""

    kind: str
    name: str
    body: bytes
    issued_ns: int
    good_until_ns: int


class Stock:
    """On one database. Every method raises UnavailableError when the disk does not let it, and then kept nothing."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def replace_references(self, device_id: str, new: References, actor: str, at: Instant) -> None:
        """Make ``new`` a device's references and keep those before it as a version."""

        def work(db: Connection) -> None:
            row = db.execute("SELECT body FROM device_references WHERE device_id = ?", (device_id,)).fetchone()
            old = row[0] if row else _dump(References())
            sql = "INSERT INTO reference_versions (device_id, body, actor, at) VALUES (?, ?, ?, ?)"
            db.execute(sql, (device_id, old, actor, _dump(at)))
            old_ones = "SELECT number FROM reference_versions WHERE device_id = ? ORDER BY number DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM reference_versions WHERE number IN ({old_ones})", (device_id, VERSIONS))  # noqa: S608 - our text
            _put_references(db, device_id, new)

        await self._db.run(work)

    async def rollback_references(self, device_id: str, merged: Callable[[References, References], References]) -> str:
        """Bring back what the newest import replaced (of ``device_id``, or "": of any device); returns whose it was.

        ``merged(now, before)`` says what becomes of the two. Raises InputError when nothing was replaced.
        """

        def work(db: Connection) -> str:
            sql = "SELECT number, device_id, body FROM reference_versions WHERE ? IN ('', device_id) ORDER BY number DESC LIMIT 1"
            row = db.execute(sql, (device_id,)).fetchone()
            if row is None:
                raise InputError(
                    "no reference values were imported that could be taken back", "`wardgate reference list` shows all"
                )
            now = db.execute("SELECT body FROM device_references WHERE device_id = ?", (row[1],)).fetchone()
            _put_references(db, row[1], merged(_load(now[0]) if now else References(), _load(row[2])))
            db.execute("DELETE FROM reference_versions WHERE number = ?", (row[0],))
            return str(row[1])

        return await self._db.run(work)

    async def reference_versions(self) -> Sequence[ReferenceVersion]:
        """What can be gone back to, oldest first."""
        sql = "SELECT number, device_id, actor, at FROM reference_versions ORDER BY number"
        rows = await self._db.run(lambda db: db.execute(sql).fetchall())
        return [ReferenceVersion(r[0], r[1], r[2], cast(Instant, codec.from_plain(Instant, json.loads(r[3])))) for r in rows]

    async def save_assignments(self, rows: Sequence[tuple[str, str, str, int]], kept: int) -> None:
        """Add (device id, token, boot id, boot time in ns); of each device the newest ``kept`` stay."""

        def work(db: Connection) -> None:
            for row in rows:
                db.execute("INSERT INTO assignments (device_id, token, boot_id, from_ns) VALUES (?, ?, ?, ?)", row)
                old = "SELECT number FROM assignments WHERE device_id = ? ORDER BY number DESC LIMIT -1 OFFSET ?"
                db.execute(f"DELETE FROM assignments WHERE number IN ({old})", (row[0], kept))  # noqa: S608 - our text

        await self._db.run(work)

    async def assignments(self) -> Sequence[tuple[str, str, str, int]]:
        """What ``save_assignments`` kept, oldest first."""
        sql = "SELECT device_id, token, boot_id, from_ns FROM assignments ORDER BY number"
        return [tuple(r) for r in await self._db.run(lambda db: db.execute(sql).fetchall())]

    async def save_seen(self, rows: Sequence[tuple[str, str]]) -> None:
        """Replace what was seen of devices: (device id, JSON)."""
        sql = "INSERT INTO seen_flows VALUES (?, ?) ON CONFLICT (device_id) DO UPDATE SET body = excluded.body"
        await self._db.run(lambda db: db.conn.executemany(sql, rows))

    async def seen(self) -> Sequence[tuple[str, str]]:
        """(device id, JSON) of all devices that were watched."""
        rows = await self._db.run(lambda db: db.execute("SELECT device_id, body FROM seen_flows ORDER BY device_id").fetchall())
        return [(r[0], r[1]) for r in rows]

    async def put_file(self, file: CachedFile) -> None:
        """Keep a file. Raises InputError when a newer one of its name is there, or there are too many."""

        def work(db: Connection) -> None:
            known = db.execute("SELECT issued_ns FROM cached_files WHERE kind = ? AND name = ?", (file.kind, file.name)).fetchone()
            if known and known[0] > file.issued_ns:
                raise InputError(f"a newer {file.kind} of {file.name} is here already", "bring the newest one")
            if known is None and db.execute("SELECT count(*) FROM cached_files").fetchone()[0] >= FILES:
                raise InputError(f"there are {FILES} files here already", "ask for support: no site needs as many")
            row = (file.kind, file.name, file.body, file.issued_ns, file.good_until_ns)
            db.execute("INSERT OR REPLACE INTO cached_files VALUES (?, ?, ?, ?, ?)", row)

        await self._db.run(work)

    async def files(self) -> Sequence[CachedFile]:
        """Every file, by kind and name."""
        rows = await self._db.run(lambda db: db.execute("SELECT * FROM cached_files ORDER BY kind, name").fetchall())
        return [CachedFile(*r) for r in rows]


def _put_references(db: Connection, device_id: str, references: References) -> None:
    sql = "INSERT INTO device_references VALUES (?, ?) ON CONFLICT (device_id) DO UPDATE SET body = excluded.body"
    db.execute(sql, (device_id, _dump(references)))


def _dump(value: Any) -> str:
    return json.dumps(codec.to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _load(text: str) -> References:
    return cast(References, codec.from_plain(References, json.loads(text)))
