"""What the record says of one device over time: its levels, and what was refused. Reads the audit log, changes nothing.

Live lines and packed ones alike. Between two runs of the gateway nobody knows a device's level, so each start leaves a gap
from the last line before it; so does a lease that nobody was awake to renew, from its end on. Every answer is bounded. Refuses to
know what a level means.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.sheet import LevelChange, Refusal
from gateway.store.database import Connection, Database
from gateway.store.told import BEHAVIOUR, DECISION, LAPSED, START, known_from, number_of, since_of

__all__ = ["START", "History", "age_ms"]

_STARTS_MAX = 200
_OLD_MAX = 500  # lines from before the window that are stepped over, should a clock have gone back
_PEOPLE = "text <> '' AND kind NOT IN ('event', 'wake')"  # as in the index: SQLite then uses it
_FILLED = "boot_id IS NOT NULL"  # as in the index
_AT = ("boot_id", "mono_ns", "utc_ns", "quality")


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
    found, complete = _decided(db, device_id, since_utc_ns, limit)
    if not found:
        return [], complete
    gaps = [*_gaps(db, found[-1][0]), *_lapses(db, device_id, found[-1][0])]
    gaps = sorted(gaps, key=lambda pair: pair[0], reverse=True)[: _STARTS_MAX + 1]
    if len(gaps) > _STARTS_MAX:  # what was before the oldest start that is told may have ended with one that is not
        found, complete = [pair for pair in found if pair[0] > gaps[-1][0]], False
    return [change for _, change in sorted([*found, *gaps], key=lambda pair: pair[0])], complete


def _decided(db: Connection, device_id: str, since_utc_ns: int, limit: int) -> tuple[list[tuple[float, LevelChange]], bool]:
    """(changes newest first, the last of them the level at the edge of the window; whether all of the window are there)."""
    found: list[tuple[float, LevelChange]] = []
    edge, old = None, 0
    with closing(_newest(db, device_id, DECISION)) as lines:
        for sequence, at, _, level in lines:
            pair = (float(sequence), LevelChange(at, level))
            if at.utc_ns < since_utc_ns:
                edge, old = edge or pair, old + 1
                if old > _OLD_MAX:
                    break
            elif len(found) == limit:
                return found, False
            else:
                edge = None
                found.append(pair)
    if edge:
        return [*found, edge], True
    reach = known_from(db)
    return found, reach is None or reach <= since_utc_ns


def _newest(db: Connection, device_id: str, kind: str) -> Generator[tuple[int, Instant, str, int | None]]:
    """(sequence, instant, text, level or count) of a device's lines of one kind, newest first, read as they are asked for."""
    key = "level" if kind == DECISION else "count"
    asked = f"sequence, {', '.join(_AT)}, text"
    live = f"SELECT {asked}, body FROM audit WHERE device_id = ? AND kind = ? AND {_PEOPLE} ORDER BY sequence DESC"  # noqa: S608
    with closing(db.execute(live, (device_id, kind))) as rows:
        for r in rows:
            yield r[0], _instant(r[1:5]), r[5], number_of(r[6], key)
    packed = f"SELECT {asked}, {key} FROM audit_told WHERE device_id = ? AND kind = ? AND {_FILLED} ORDER BY sequence DESC"  # noqa: S608
    with closing(db.execute(packed, (device_id, kind))) as rows:
        for r in rows:
            yield r[0], _instant(r[1:5]), r[5], r[6]


def _gaps(db: Connection, after: float) -> list[tuple[float, LevelChange]]:
    """For each start of the gateway after a line, newest first, one more than are told: from the last line before it on,
    nobody knows. That line is live, in the start's own segment, or the end of the segment before."""
    bound = f"AND s.sequence > ? ORDER BY s.sequence DESC LIMIT {_STARTS_MAX + 1}"
    ends = "LEFT JOIN audit_segment_ends e ON e.last = s.sequence - 1"
    live = (
        f"SELECT s.sequence, {', '.join(f'coalesce(p.{c}, e.{c}, s.{c})' for c in _AT)} FROM audit s"  # noqa: S608
        f" LEFT JOIN audit p ON p.sequence = s.sequence - 1 {ends} WHERE s.device_id = '' AND s.kind = '{START}'"
        f" AND s.text <> '' AND s.kind NOT IN ('event', 'wake') {bound}"
    )
    before = (f"json_extract(s.last_before, '$[{n}]')" for n in range(len(_AT)))
    packed = (
        f"SELECT s.sequence, {', '.join(f'coalesce({b}, e.{c}, s.{c})' for b, c in zip(before, _AT, strict=True))}"  # noqa: S608
        f" FROM audit_told s {ends} WHERE s.device_id = '' AND s.kind = '{START}' AND s.boot_id IS NOT NULL {bound}"
    )
    rows = db.execute(live, (after,)).fetchall() + db.execute(packed, (after,)).fetchall()
    return [(r[0] - 0.5, LevelChange(_instant(r[1:5]), None)) for r in rows[: _STARTS_MAX + 1]]


def _lapses(db: Connection, device_id: str, after: float) -> list[tuple[float, LevelChange]]:
    """For each lease that lapsed after a line, newest first, one more than are told: from its end on, nothing held it up."""
    live = (
        f"SELECT sequence, body FROM audit WHERE device_id = ? AND kind = ? AND {_PEOPLE} AND sequence > ?"  # noqa: S608
        f" ORDER BY sequence DESC LIMIT {_STARTS_MAX + 1}"
    )
    packed = (
        f"SELECT sequence, last_before FROM audit_told WHERE device_id = ? AND kind = ? AND {_FILLED} AND sequence > ?"  # noqa: S608
        f" ORDER BY sequence DESC LIMIT {_STARTS_MAX + 1}"
    )
    bound = (device_id, LAPSED, after)
    rows = [(r[0], since_of(r[1])) for r in db.execute(live, bound).fetchall()] + db.execute(packed, bound).fetchall()
    return [(r[0] - 0.5, LevelChange(_instant(json.loads(r[1])), None)) for r in rows if r[1]]


def _refused(db: Connection, device_id: str, now: Instant, limit: int) -> list[Refusal]:
    with closing(_newest(db, device_id, BEHAVIOUR)) as lines:
        return [_refusal(*line, now) for line in islice(lines, max(1, min(limit, 200)))]


def _refusal(sequence: int, at: Instant, text: str, count: int | None, now: Instant) -> Refusal:
    shown = datetime.fromtimestamp(at.utc_ns / NS_PER_S, tz=UTC).isoformat(timespec="seconds")
    return Refusal(sequence, shown, age_ms(at, now), text, 1 if count is None else count)


def age_ms(at: Instant, now: Instant) -> int:
    """How long ago: on boot time; across a reboot on wall time, which is all there is."""
    ns = now.mono_ns - at.mono_ns if at.boot_id == now.boot_id else now.utc_ns - at.utc_ns
    return max(0, ns) // 1_000_000


def _instant(row: Sequence[Any]) -> Instant:
    return Instant(row[0], row[1], row[2], TimeQuality(row[3]))
