"""What the record says of one device over time: its levels, and what was refused. Reads the audit log, changes nothing.

Between two runs of the gateway nobody knows a device's level, so each start leaves a gap from the last line before it.
Every answer is bounded. Refuses to know what a level means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.sheet import LevelChange, Refusal
from gateway.store.database import Connection, Database

START = "start"  # the kind of the line that each run of the gateway begins with
_STARTS_MAX = 200
_PEOPLE = "text <> '' AND kind NOT IN ('event', 'wake')"  # as in the index: SQLite then uses it
_AT = "boot_id, mono_ns, utc_ns, quality"


class History:
    """Implements ``gateway.ports.HistoryPort``. Every method raises UnavailableError while the disk refuses."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def levels(self, device_id: str, since_utc_ns: int, limit: int = 400) -> tuple[Sequence[LevelChange], bool]:
        """(changes oldest first, whether all of them are there). The first may be older than ``since_utc_ns``."""
        return await self._db.run(lambda db: _levels(db, device_id, since_utc_ns, limit))

    async def refused(self, device_id: str, now: Instant, limit: int = 20) -> Sequence[Refusal]:
        """The newest refusals of a device, newest first."""
        return await self._db.run(lambda db: _refused(db, device_id, now, limit))


def _levels(db: Connection, device_id: str, since_utc_ns: int, limit: int) -> tuple[list[LevelChange], bool]:
    where = f"device_id = ? AND kind = 'decision' AND {_PEOPLE}"
    sql = f"SELECT sequence, {_AT}, json_extract(body, '$.level') FROM audit WHERE {where}"  # noqa: S608 - our text
    rows = db.execute(f"{sql} AND utc_ns >= ? ORDER BY sequence DESC LIMIT ?", (device_id, since_utc_ns, limit + 1)).fetchall()
    complete = len(rows) <= limit
    rows = rows[:limit]
    if complete:
        first = rows[-1][0] if rows else 2**62
        rows += db.execute(f"{sql} AND sequence < ? ORDER BY sequence DESC LIMIT 1", (device_id, first)).fetchall()
    found = [(float(r[0]), LevelChange(_instant(r[1:5]), int(r[5]))) for r in rows if isinstance(r[5], int)]
    oldest = min((s for s, _ in found), default=0.0)
    found += [gap for gap in _gaps(db, since_utc_ns) if gap[0] > oldest]
    return [change for _, change in sorted(found, key=lambda pair: pair[0])], complete


def _gaps(db: Connection, since_utc_ns: int) -> list[tuple[float, LevelChange]]:
    """For each start of the gateway: from the last line before it on, nobody knows."""
    sql = (
        f"SELECT s.sequence, {', '.join(f'coalesce(p.{c.strip()}, s.{c.strip()})' for c in _AT.split(','))} FROM audit s"  # noqa: S608
        f" LEFT JOIN audit p ON p.sequence = s.sequence - 1 WHERE s.device_id = '' AND s.kind = '{START}'"
        f" AND s.text <> '' AND s.kind NOT IN ('event', 'wake') AND s.utc_ns >= ? ORDER BY s.sequence DESC LIMIT {_STARTS_MAX}"
    )
    return [(r[0] - 0.5, LevelChange(_instant(r[1:5]), None)) for r in db.execute(sql, (since_utc_ns,)).fetchall()]


def _refused(db: Connection, device_id: str, now: Instant, limit: int) -> list[Refusal]:
    where = f"device_id = ? AND kind = 'behaviour' AND {_PEOPLE} ORDER BY sequence DESC LIMIT ?"
    sql = f"SELECT sequence, {_AT}, text, body FROM audit WHERE {where}"  # noqa: S608 - our text
    return [_refusal(r, now) for r in db.execute(sql, (device_id, max(1, min(limit, 200)))).fetchall()]


def _refusal(row: Sequence[object], now: Instant) -> Refusal:
    sequence, at = int(str(row[0])), _instant(row[1:5])
    count = json.loads(str(row[6])).get("count", 1)
    shown = datetime.fromtimestamp(at.utc_ns / NS_PER_S, tz=UTC).isoformat(timespec="seconds")
    return Refusal(sequence, shown, age_ms(at, now), str(row[5]), count if isinstance(count, int) else 1)


def age_ms(at: Instant, now: Instant) -> int:
    """How long ago: on boot time; across a reboot on wall time, which is all there is."""
    ns = now.mono_ns - at.mono_ns if at.boot_id == now.boot_id else now.utc_ns - at.utc_ns
    return max(0, ns) // 1_000_000


def _instant(row: Sequence[object]) -> Instant:
    return Instant(str(row[0]), int(str(row[1])), int(str(row[2])), TimeQuality(int(str(row[3]))))
