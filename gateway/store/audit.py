"""The hash-chained audit log: what happened, when, and why, in an order that nobody can change unseen.

A line's hash is SHA-256 over the deterministic CBOR of all its fields and the hash before it. Lines whose body has an
``event`` are inputs of the engine: fed to a new engine they give the same decisions. Refuses to know what they mean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gateway import codec
from gateway.errors import EvidenceError, InputError
from gateway.logs import clean
from gateway.model.effect import Record, Severity
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.view import EventView
from gateway.ports import Recorded
from gateway.store import told
from gateway.store.chain import Head, Line
from gateway.store.database import Connection, Database
from gateway.store.group import GroupCommit
from gateway.store.segments import REMEDY, Extent, Keeping, Segment, pack, unpack

__all__ = ["AuditLog", "Extent", "Head", "Keeping", "Line"]

_MAX_BODY = 16 * 1024 * 1024  # characters; the largest is a whole confirmed configuration, evidence is at most 128 KiB of hex
_CHUNK = 500  # lines a read: the owner thread stays free for grants between two of them
_COLUMNS = "sequence, boot_id, mono_ns, utc_ns, quality, kind, severity, device_id, text, body, prev, hash"


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
        end, limit = before if before is not None else 2**62, max(1, min(limit, 1000))
        return await self._db.run(lambda db: _told(db, "sequence < ? ORDER BY sequence DESC LIMIT ?", end, limit))

    async def since(self, sequence: int) -> Sequence[EventView]:
        """Lines for people after ``sequence``, oldest first, at most 1000."""
        found = await self._db.run(lambda db: _told(db, "sequence > ? ORDER BY sequence LIMIT ?", sequence, 1000))
        return sorted(found, key=lambda e: e.sequence)[:1000]

    async def behind(self, sequence: int) -> tuple[int, int | None]:
        """(how many lines for people come after ``sequence``, at most ``MOST_BEHIND``; the oldest one's UTC nanoseconds)."""
        return await self._db.run(lambda db: _behind(db, sequence))

    async def extent(self) -> Extent:
        """How far back the record reaches."""
        return await self._db.run(_extent)

    async def verify(self, expect: Head | None = None) -> Head:
        """Walk the chain, from where it was trimmed if it was, and return its head. Raises EvidenceError naming what is broken.

        ``expect``: a head remembered elsewhere (a checkpoint). The chain must still contain it, or its end was cut off; one
        that was trimmed since says nothing. What was trimmed is named by a line of the chain itself.
        """
        anchor = await self._db.run(_anchor)
        last, seen, shown, packed = anchor, expect is None or expect.sequence <= anchor.sequence, 0, 0
        named = anchor.sequence == 0
        async for segment, lines in self._pieces(0):
            for line in lines:
                _follows(line, last)
                last = Head(line.sequence, line.hash)
                seen = seen or last == expect
                named = named or (line.kind == TRIMMED and _names(line, anchor))
            if segment is not None:
                shown, packed = shown + await self._verify_told(segment, lines), segment.last
        if not named:
            raise EvidenceError(f"audit lines 1 to {anchor.sequence} are gone, and no line says that they were trimmed", REMEDY)
        if not seen and expect is not None:
            raise EvidenceError(
                f"the audit log ends at line {last.sequence} and does not contain the remembered line {expect.sequence}", REMEDY
            )
        if await self._db.run(lambda db: told.strangers(db, packed, shown)):
            raise EvidenceError("lines are shown that are not in the audit log", REMEDY)
        return last

    async def verify_holds(self, remembered: Head) -> None:
        """That the log still has a line with this hash, or was trimmed beyond it. Raises EvidenceError. Looks there only."""
        if remembered.sequence <= (await self._db.run(_anchor)).sequence:
            return
        async for line in self.lines(remembered.sequence - 1):
            if line.sequence == remembered.sequence and line.hash == remembered.hash:
                return
            break
        raise EvidenceError(f"the audit log does not contain line {remembered.sequence} as it was remembered", REMEDY)

    async def _verify_told(self, segment: Segment, lines: Sequence[Line]) -> int:
        """What people read of packed lines is what the lines say; returns how many there are."""
        found, filled = await self._db.run(lambda db: told.found_beside(db, segment))
        if found != told.beside(segment, lines, filled=filled):
            raise EvidenceError(f"what is shown of audit lines {segment.first} to {segment.last} was changed", REMEDY)
        return len(found.rows)

    async def lines(self, after: int = 0) -> AsyncIterator[Line]:
        """Every line after ``after`` that is kept, oldest first, read in pieces. Raises EvidenceError for a changed segment."""
        async for _, found in self._pieces(after):
            for line in found:
                if line.sequence > after:
                    yield line

    async def _pieces(self, after: int) -> AsyncIterator[tuple[Segment | None, Sequence[Line]]]:
        while True:
            piece = await self._db.run(lambda db, a=after: _piece(db, a))  # type: ignore[misc]
            segment = piece if isinstance(piece, Segment) else None
            found: Sequence[Line] = await asyncio.to_thread(unpack, piece) if isinstance(piece, Segment) else piece
            if not found:
                return
            yield segment, found
            after = found[-1].sequence

    # --- keeping within bounds ---

    async def close_segment(self, keeping: Keeping, now: Instant) -> bool:
        """Pack the oldest lines when there are enough of them, or they are old enough; whether it did."""
        lines = await self._db.run(lambda db: _closable(db, keeping, now))
        if not lines:
            return False
        segment = await asyncio.to_thread(pack, lines)
        return await self._db.run(lambda db: _close(db, segment, lines))

    async def fill_told(self) -> bool:
        """Keep beside one packed segment, the newest first, what an older version did not; whether there was one to do."""
        segment = await self._db.run(told.unfilled)
        if segment is None:
            return False
        try:
            lines = await asyncio.to_thread(unpack, segment)
        except EvidenceError:
            return False  # `audit verify` names it; what is not filled in is told as not known
        return await self._db.run(lambda db: told.fill(db, segment, told.beside(segment, lines)))

    async def trim(self, keeping: Keeping, now: Instant) -> int:
        """Forget the oldest segments beyond the bound, with a line that says so; returns how many lines went."""
        return await self._db.run(lambda db: _trim(db, keeping, now))

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


def append_within(db: Connection, records: Sequence[tuple[Instant, Record]]) -> None:
    """Continue the chain inside a transaction that does more: what is done and the line that says so are on disk together."""
    list(_append(db, [records]))


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
    for table, last in (("audit", "sequence"), ("audit_segments", "last")):
        found = db.execute(f"SELECT {last}, hash FROM {table} ORDER BY {last} DESC LIMIT 1").fetchone()  # noqa: S608 - our names
        if found:
            return Head(*found)
    return _anchor(db)


def _shown(r: Sequence[Any]) -> EventView:
    shown = datetime.fromtimestamp(r[1] / NS_PER_S, tz=UTC).isoformat(timespec="milliseconds")
    return EventView(r[0], shown, *r[2:])


# --- segments ---

TRIMMED = "trimmed"
MOST_BEHIND = 100_000  # counted in 10 ms; who is further behind is far behind
_SEGMENT = "first, last, prev, hash, utc_ns, bytes, body"
_SIZES = "coalesce(sum(length(body)), 0)"
_ROOM = 0.98  # trimmed a little below the bound, so that it is not done for every segment


def _told(db: Connection, where: str, bound: int, limit: int) -> list[EventView]:
    live = f"SELECT {told.SHOWN} FROM audit WHERE text <> '' AND kind NOT IN ('event', 'wake') AND {where}"  # noqa: S608 - our text
    found = [_shown(r) for r in db.execute(live, (bound, limit)).fetchall()]
    if len(found) < limit or "DESC" not in where:
        found += _packed_told(db, where, bound, limit if "DESC" not in where else limit - len(found))
    return found


def _packed_told(db: Connection, where: str, *bound: int) -> list[EventView]:
    return [_shown(r) for r in db.execute(f"SELECT {told.SHOWN} FROM audit_told WHERE {where}", bound).fetchall()]  # noqa: S608


def _behind(db: Connection, sequence: int) -> tuple[int, int | None]:
    number, oldest = 0, None
    for table in ("audit_told WHERE", "audit WHERE text <> '' AND kind NOT IN ('event', 'wake') AND"):
        sql = f"SELECT count(*), min(sequence) FROM (SELECT sequence FROM {table} sequence > ? ORDER BY sequence LIMIT ?)"  # noqa: S608
        count, first = db.execute(sql, (sequence, MOST_BEHIND - number)).fetchone()
        number += count
        if oldest is None and first is not None:
            name = table.partition(" ")[0]
            oldest = db.execute(f"SELECT utc_ns FROM {name} WHERE sequence = ?", (first,)).fetchone()[0]  # noqa: S608
    return number, oldest


def _follows(line: Line, last: Head) -> None:
    if line.sequence != last.sequence + 1:
        raise EvidenceError(f"audit line {last.sequence + 1} is missing", REMEDY)
    if line.prev != last.hash or line.digest() != line.hash:
        raise EvidenceError(f"audit line {line.sequence} was changed, or does not follow the line before it", REMEDY)


def _anchor(db: Connection) -> Head:
    found = db.execute("SELECT sequence, hash FROM audit_anchor").fetchone()
    return Head(*found) if found else Head()


def _names(line: Line, anchor: Head) -> bool:
    body = json.loads(line.body)
    return bool((body.get("sequence"), body.get("hash")) == (anchor.sequence, anchor.hash.hex()))


def _extent(db: Connection) -> Extent:
    anchor, head = _anchor(db), _head(db)
    size = int(db.execute(f"SELECT {_SIZES} FROM audit_segments").fetchone()[0])  # noqa: S608 - our text
    oldest = db.execute("SELECT utc_ns FROM audit_segments ORDER BY first LIMIT 1").fetchone()
    oldest = oldest or db.execute("SELECT utc_ns FROM audit ORDER BY sequence LIMIT 1").fetchone()
    return Extent(anchor.sequence + 1, head.sequence, oldest[0] if oldest else None, size, anchor.sequence)


def _segment(db: Connection, after: int) -> Segment | None:
    """The oldest segment with a line after ``after``."""
    sql = f"SELECT {_SEGMENT} FROM audit_segments WHERE last > ? ORDER BY first LIMIT 1"  # noqa: S608 - our names
    found = db.execute(sql, (after,)).fetchone()
    return Segment(*found) if found else None


def _piece(db: Connection, after: int) -> Segment | list[Line]:
    return _segment(db, after) or _lines(db, "sequence > ? ORDER BY sequence LIMIT ?", (after, _CHUNK))


def _closable(db: Connection, keeping: Keeping, now: Instant) -> list[Line]:
    """The lines of the next segment; none when it is too early."""
    oldest, newest = db.execute("SELECT min(sequence), max(sequence) FROM audit").fetchone()
    if oldest is None or (spare := newest - oldest + 1 - keeping.live) < 1:
        return []
    first = _lines(db, "sequence = ?", (oldest,))[0].at
    aged = first.boot_id != now.boot_id or now.seconds_since(first) > keeping.age_s
    sizes = db.execute(
        "SELECT length(body) + length(text) + 100 FROM audit ORDER BY sequence LIMIT ?", (min(spare, keeping.lines),)
    ).fetchall()
    number = total = 0
    for (size,) in sizes:
        total += size
        if number and total > keeping.segment_bytes:
            break
        number += 1
    whole = number == keeping.lines or total > keeping.segment_bytes
    return _lines(db, "sequence < ? ORDER BY sequence", (oldest + number,)) if whole or aged else []


def _close(db: Connection, segment: Segment, lines: Sequence[Line]) -> bool:
    """Put a segment in the place of its lines, unless another process did so meanwhile."""
    oldest = db.execute("SELECT min(sequence) FROM audit").fetchone()[0]
    if oldest != segment.first:
        return False
    values = (segment.first, segment.last, segment.prev, segment.hash, segment.utc_ns, segment.size, segment.body)
    db.execute(f"INSERT INTO audit_segments ({_SEGMENT}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608 - our names
    told.put(db, told.beside(segment, lines))
    db.execute("DELETE FROM audit WHERE sequence <= ?", (segment.last,))
    return True


def _trim(db: Connection, keeping: Keeping, now: Instant) -> int:
    over = int(db.execute(f"SELECT {_SIZES} FROM audit_segments").fetchone()[0]) - keeping.most_bytes  # noqa: S608 - our text
    if over <= 0:
        return 0
    over += round(keeping.most_bytes * (1 - _ROOM))
    before, end = _anchor(db), None
    for last, digest, size in db.execute("SELECT last, hash, length(body) FROM audit_segments ORDER BY first").fetchall():
        end, over = Head(last, digest), over - size
        if over <= 0:
            break
    if end is None:
        return 0
    text = f"the record up to line {end.sequence} was trimmed to stay within {keeping.most_bytes // 2**20} MiB"
    line = Record(TRIMMED, "", text, (("sequence", end.sequence), ("hash", end.hash.hex())))
    append_within(db, [(now, line)])
    db.execute("INSERT OR REPLACE INTO audit_anchor VALUES (1, ?, ?)", (end.sequence, end.hash))
    db.execute("DELETE FROM audit_segments WHERE last <= ?", (end.sequence,))
    told.forget(db, end.sequence)
    return end.sequence - before.sequence
