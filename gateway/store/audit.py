"""The hash-chained audit log: what happened, when, and why, in an order that nobody can change unseen.

A line's hash is SHA-256 over the deterministic CBOR of all its fields and the hash before it. Lines whose body has an
``event`` are inputs of the engine: fed to a new engine they give the same decisions. Refuses to know what they mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from gateway import codec
from gateway.errors import EvidenceError, InputError
from gateway.logs import clean
from gateway.model.effect import Record, Severity
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.view import EventView
from gateway.ports import Recorded
from gateway.store.database import Connection, Database
from gateway.store.group import GroupCommit

_DOMAIN = "wardgate-audit-v1"
_FIRST_PREV = bytes(32)
_MAX_BODY = 16 * 1024 * 1024  # characters; the largest is a whole confirmed configuration, evidence is at most 128 KiB of hex
_CHUNK = 500  # lines a read: the owner thread stays free for grants between two of them
_COLUMNS = "sequence, boot_id, mono_ns, utc_ns, quality, kind, severity, device_id, text, body, prev, hash"


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends: what a checkpoint remembers. Sequence 0: nothing has been recorded."""

    sequence: int = 0
    hash: bytes = _FIRST_PREV


@dataclass(frozen=True, slots=True)
class Line:
    """One line as stored. ``body`` is the JSON text that the hash covers."""

    sequence: int
    at: Instant
    kind: str
    severity: str
    device_id: str
    text: str
    body: str
    prev: bytes
    hash: bytes

    def digest(self) -> bytes:
        """What ``hash`` must be."""
        at = (self.at.boot_id, self.at.mono_ns, self.at.utc_ns, int(self.at.quality))
        fields = [_DOMAIN, self.sequence, *at, self.kind, self.severity, self.device_id, self.text, self.body, self.prev]
        return hashlib.sha256(codec.encode(fields)).digest()


class AuditLog:
    """Implements ``gateway.ports.AuditPort`` on one database. Concurrent ``append`` calls share a transaction and its fsync."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._group: GroupCommit[tuple[Instant, Record], Sequence[Recorded]] = GroupCommit(self._write)

    async def append(self, records: Sequence[tuple[Instant, Record]]) -> Sequence[Recorded]:
        """Write and fsync; returns when durable. Raises UnavailableError (then nothing of it was kept), InputError (too large)."""
        for _, record in records:
            _body(record)
        return await self._group.submit(records) if records else ()

    async def head(self) -> Head:
        """The newest line's sequence and hash."""
        return await self._db.run(_head)

    async def tail(self, limit: int = 50, before: int | None = None) -> Sequence[EventView]:
        """The newest ``limit`` (at most 1000) lines that have a text for people, newest first."""
        bound = (before if before is not None else 2**62, max(1, min(limit, 1000)))
        where = "text <> '' AND kind NOT IN ('event', 'wake') AND sequence < ? ORDER BY sequence DESC LIMIT ?"
        return [_view(line) for line in await self._db.run(lambda db: _lines(db, where, bound))]

    async def since(self, sequence: int) -> Sequence[EventView]:
        """Lines for people after ``sequence``, oldest first, at most 1000."""
        where = "text <> '' AND kind NOT IN ('event', 'wake') AND sequence > ? ORDER BY sequence LIMIT 1000"
        return [_view(line) for line in await self._db.run(lambda db: _lines(db, where, (sequence,)))]

    async def verify(self, expect: Head | None = None) -> Head:
        """Walk the whole chain and return its head. Raises EvidenceError naming the first broken line.

        ``expect``: a head remembered elsewhere (a checkpoint). The chain must still contain it, or its end was cut off.
        """
        last, seen = Head(), expect is None or expect.sequence == 0
        async for line in self.lines():
            if line.sequence != last.sequence + 1:
                raise EvidenceError(f"audit line {last.sequence + 1} is missing", _REMEDY)
            if line.prev != last.hash or line.digest() != line.hash:
                raise EvidenceError(f"audit line {line.sequence} was changed, or does not follow the line before it", _REMEDY)
            last = Head(line.sequence, line.hash)
            seen = seen or last == expect
        if not seen and expect is not None:
            raise EvidenceError(
                f"the audit log ends at line {last.sequence} and does not contain the remembered line {expect.sequence}", _REMEDY
            )
        return last

    async def lines(self, after: int = 0) -> AsyncIterator[Line]:
        """Every line after ``after``, oldest first, read in pieces."""
        while True:
            where, bound = "sequence > ? ORDER BY sequence LIMIT ?", (after, _CHUNK)
            chunk = await self._db.run(lambda db, w=where, b=bound: _lines(db, w, b))  # type: ignore[misc]
            for line in chunk:
                yield line
            if len(chunk) < _CHUNK:
                return
            after = chunk[-1].sequence

    async def export(self, after: int = 0) -> AsyncIterator[str]:
        """Every line as one JSON object with its hashes in hex: enough to check the chain elsewhere."""
        async for line in self.lines(after):
            yield json.dumps(
                {
                    "sequence": line.sequence,
                    "boot_id": line.at.boot_id,
                    "mono_ns": line.at.mono_ns,
                    "utc_ns": line.at.utc_ns,
                    "quality": int(line.at.quality),
                    "kind": line.kind,
                    "severity": line.severity,
                    "device_id": line.device_id,
                    "text": line.text,
                    "body": line.body,
                    "prev": line.prev.hex(),
                    "hash": line.hash.hex(),
                },
                ensure_ascii=True,
            )

    async def replay(self, after: int = 0) -> AsyncIterator[tuple[Instant, str, dict[str, Any]]]:
        """(instant, kind, body) of every line whose body has an ``event``, oldest first: the engine's inputs in their order."""
        async for line in self.lines(after):
            body = json.loads(line.body)
            if "event" in body:
                yield line.at, line.kind, body

    async def close(self) -> None:
        """Write what waits. The database is closed by its owner."""
        await self._group.close()

    async def _write(self, batches: list[Sequence[tuple[Instant, Record]]]) -> list[Sequence[Recorded]]:
        return await self._db.run(lambda db: list(_append(db, batches)))


_REMEDY = "keep the file as it is, compare it with an export or a backup, and find out who could write to it"


def _append(db: Connection, batches: list[Sequence[tuple[Instant, Record]]]) -> Iterator[Sequence[Recorded]]:
    head, rows = _head(db), []
    for batch in batches:
        recorded = []
        for at, record in batch:
            line = _line(head, at, record)
            head = Head(line.sequence, line.hash)
            rows.append(_row(line))
            recorded.append(Recorded(line.sequence, line.hash, record, at))
        yield recorded
    db.conn.executemany(f"INSERT INTO audit ({_COLUMNS}) VALUES ({', '.join('?' * 12)})", rows)  # noqa: S608 - our names


def _line(head: Head, at: Instant, record: Record) -> Line:
    draft = Line(
        sequence=head.sequence + 1,
        at=at,
        kind=clean(record.kind, 64),
        severity=_severity(record),
        device_id=clean(record.device_id, 64),
        text=clean(record.text),
        body=_body(record),
        prev=head.hash,
        hash=b"",
    )
    return replace(draft, hash=draft.digest())


def _severity(record: Record) -> str:
    said = str(dict(record.body).get("severity", Severity.INFORMATION))
    return said if said in set(Severity) else str(Severity.WARNING)


def _body(record: Record) -> str:
    """Deterministic JSON: sorted keys, no spaces, ASCII only, no NaN."""
    plain = {k: codec.to_plain(v) for k, v in record.body}
    try:
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as e:
        raise InputError(f"a record of kind {record.kind} with a number that JSON does not have", "record it as text") from e
    if len(text) > _MAX_BODY:
        raise InputError(f"a record of kind {record.kind} with {len(text)} characters", f"record at most {_MAX_BODY}")
    return text


def _row(line: Line) -> tuple[object, ...]:
    at = line.at
    when = (at.boot_id, at.mono_ns, at.utc_ns, int(at.quality))
    return (line.sequence, *when, line.kind, line.severity, line.device_id, line.text, line.body, line.prev, line.hash)


def _lines(db: Connection, where: str, bound: tuple[int, ...]) -> list[Line]:
    found = db.execute(f"SELECT {_COLUMNS} FROM audit WHERE {where}", bound).fetchall()  # noqa: S608 - our text
    return [Line(r[0], Instant(r[1], r[2], r[3], TimeQuality(r[4])), *r[5:]) for r in found]


def _head(db: Connection) -> Head:
    found = db.execute("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
    return Head(*found) if found else Head()


def _view(line: Line) -> EventView:
    shown = datetime.fromtimestamp(line.at.utc_ns / NS_PER_S, tz=UTC).isoformat(timespec="milliseconds")
    return EventView(line.sequence, shown, line.at.mono_ns, line.kind, line.severity, line.device_id, line.text)
