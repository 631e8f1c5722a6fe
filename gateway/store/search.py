"""Looking for lines of the record: by device, kind, severity, time and text; newest first, a bounded number of lines at a time.

Only lines that are meant for people are looked at. Refuses to know what they mean.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from gateway.model.inquiry import EventPage, EventQuery
from gateway.model.instant import NS_PER_S
from gateway.model.view import EventView
from gateway.store.database import Connection, Database

PAGE_MAX = 500
_PIECE = 20_000  # lines looked at in one go: the owner thread stays free for grants between two of them (about 20 ms)
_PIECES = 25  # half a million lines for one page; the next page goes on from there
_COLUMNS = "sequence, utc_ns, mono_ns, kind, severity, device_id, text"
_LIVE = "text <> '' AND kind NOT IN ('event', 'wake')"
_NEWEST = 2**62


class Search:
    """On one database. Methods raise UnavailableError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def find(self, query: EventQuery, limit: int = 100, before: int | None = None) -> EventPage:
        """The newest ``limit`` (at most 500) lines with a sequence below ``before``."""
        limit, cursor = max(1, min(limit, PAGE_MAX)), before if before is not None else _NEWEST
        found: list[EventView] = []
        for _ in range(_PIECES):
            rows, down_to = await self._db.run(partial(_piece, query=query, before=cursor, limit=limit - len(found)))
            found += rows
            if down_to is None:
                return EventPage(tuple(found), None)
            cursor = down_to
            if len(found) >= limit:
                return EventPage(tuple(found), found[-1].sequence)
        return EventPage(tuple(found), cursor, complete=False)

    async def each(self, query: EventQuery, most: int) -> AsyncIterator[EventView]:
        """Up to ``most`` lines, newest first, read in pieces: for an export."""
        cursor, left = _NEWEST, most
        while left > 0:
            rows, down_to = await self._db.run(partial(_piece, query=query, before=cursor, limit=min(left, PAGE_MAX)))
            for row in rows:
                yield row
            left -= len(rows)
            if down_to is None:
                return
            cursor = down_to


def _piece(db: Connection, query: EventQuery, before: int, limit: int) -> tuple[list[EventView], int | None]:
    """Matches among the next lines below ``before``, and how far down was looked (None: to the end of the record)."""
    for table, for_people in (("audit", _LIVE), ("audit_told", "1")):
        bound = f"SELECT sequence FROM {table} WHERE {for_people} AND sequence < ? ORDER BY sequence DESC LIMIT 1 OFFSET ?"  # noqa: S608
        if db.execute(bound, (before, 0)).fetchone() is None:
            continue
        floor = db.execute(bound, (before, _PIECE - 1)).fetchone()
        low = floor[0] if floor else 0
        where, values = _where(query)
        sql = (
            f"SELECT {_COLUMNS} FROM {table} WHERE {for_people} AND sequence < ? AND sequence >= ?{where}"  # noqa: S608 - our text
            " ORDER BY sequence DESC LIMIT ?"
        )
        rows = [_view(r) for r in db.execute(sql, (before, low, *values, limit)).fetchall()]
        if len(rows) == limit:
            return rows, rows[-1].sequence
        if floor:
            return rows, low
        packed = table == "audit" and db.execute("SELECT max(sequence) FROM audit_told WHERE sequence < ?", (before,)).fetchone()
        return rows, packed[0] + 1 if packed and packed[0] is not None else None
    return [], None


def _where(query: EventQuery) -> tuple[str, list[object]]:
    parts, values = [""], list[object]()
    if query.device_id:
        parts.append("device_id = ?")
        values.append(query.device_id)
    for column, wanted in (("kind", query.kinds), ("severity", query.severities if query.severity else ())):
        if wanted:
            parts.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    for sign, moment in ((">=", query.since_ns), ("<", query.until_ns)):
        if moment is not None:
            parts.append(f"utc_ns {sign} ?")
            values.append(moment)
    if query.text:
        parts.append("instr(lower(text), lower(?)) > 0")
        values.append(query.text)
    return " AND ".join(parts), values


def _view(r: Any) -> EventView:
    at = datetime.fromtimestamp(r[1] / NS_PER_S, tz=UTC).isoformat(timespec="milliseconds")
    return EventView(r[0], at, *r[2:])
