"""How far each reader of the audit log has come, kept beside it: the log is the spool, nothing is copied.

Refuses to know who reads and where to.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.view import EventView
from gateway.store.audit import AuditLog
from gateway.store.database import Database


class AuditSpool:
    """One reader's view of the audit log."""

    def __init__(self, database: Database, audit: AuditLog, reader: str) -> None:
        self._db, self._audit, self._reader = database, audit, reader

    async def since(self, sequence: int) -> Sequence[EventView]:
        """Lines for people after ``sequence``, oldest first, at most 1000."""
        return await self._audit.since(sequence)

    async def behind(self, sequence: int) -> tuple[int, int | None]:
        """(how many lines for people come after ``sequence``, the oldest one's UTC nanoseconds), as ``AuditLog.behind``."""
        return await self._audit.behind(sequence)

    async def end(self) -> tuple[int, bytes]:
        """The newest line's sequence and hash."""
        head = await self._audit.head()
        return head.sequence, head.hash

    async def position(self) -> int:
        """The last line that this reader is done with; 0 at the beginning."""
        sql = "SELECT sequence FROM positions WHERE reader = ?"
        row = await self._db.run(lambda db: db.execute(sql, (self._reader,)).fetchone())
        return int(row[0]) if row else 0

    async def keep(self, sequence: int) -> None:
        """Remember that it is done up to here."""
        sql = "INSERT INTO positions VALUES (?, ?) ON CONFLICT (reader) DO UPDATE SET sequence = excluded.sequence"
        await self._db.run(lambda db: db.execute(sql, (self._reader, sequence)))
