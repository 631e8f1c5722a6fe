"""How the run before this one ended: with a line that says so, or without. Reads the audit log, changes nothing.

Refuses to know why it ended: a crash, a kill and a power cut look alike from here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from gateway.model.instant import Instant, TimeQuality
from gateway.store.audit import AuditLog
from gateway.store.database import Connection, Database
from gateway.store.told import START

STOP = "stop"
_RESTORED = "restored-backup"  # gateway.restore: the copy was made while the gateway ran
SAYS_ITS_END = ("says_its_end", True)  # in the body of a start: an older version went without a word, and nobody alarms for that


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that began and never said that it ended. ``heard``: its last line."""

    heard: Instant


class Runs:
    """``unfinished`` is asked before this run's first line is written."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._db, self._audit = database, audit

    async def unfinished(self) -> Unfinished | None:
        """The run before, when it did not say that it ended. Raises UnavailableError, or EvidenceError for a changed segment."""
        found = await self._db.run(_last)
        if found is None:
            return None
        sequence, heard = found
        async for line in self._audit.lines(sequence - 1):
            told = json.loads(line.body).get(SAYS_ITS_END[0]) if line.sequence == sequence else None
            return Unfinished(heard) if told is True else None
        return None


def _last(db: Connection) -> tuple[int, Instant] | None:
    """(the newest start, the newest line's instant); None: there is none, or it ended."""
    began = _newest(db, START, 0, "boot_id IS NOT NULL")
    if began is None or any(_newest(db, kind, began) for kind in (STOP, _RESTORED)):
        return None
    for end in ("audit ORDER BY sequence", "audit_segment_ends ORDER BY last"):
        row = db.execute(f"SELECT boot_id, mono_ns, utc_ns, quality FROM {end} DESC LIMIT 1").fetchone()  # noqa: S608 - our names
        if row:
            return began, Instant(row[0], row[1], row[2], TimeQuality(row[3]))
    return None


def _newest(db: Connection, kind: str, after: int, indexed: str = "1") -> int | None:
    """The sequence of the newest line of a kind that is about no device."""
    people = "text <> '' AND kind NOT IN ('event', 'wake')"  # as in the index
    for where in (f"audit WHERE {people} AND", f"audit_told WHERE {indexed} AND"):
        sql = f"SELECT sequence FROM {where} device_id = '' AND kind = ? AND sequence > ? ORDER BY sequence DESC LIMIT 1"  # noqa: S608
        if found := db.execute(sql, (kind, after)).fetchone():
            return int(found[0])
    return None
