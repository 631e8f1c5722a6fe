"""What people read of packed lines, kept beside the segments so that looking back unpacks nothing.

All of it follows from the lines of one segment, so ``audit verify`` can compare it. An older version kept less: what is
missing is filled in later, the newest segment first. Refuses to know why lines are packed, and what a level means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.model.instant import TimeQuality
from gateway.store.chain import Line
from gateway.store.database import Connection
from gateway.store.segments import Segment

START, DECISION, BEHAVIOUR, LAPSED = "start", "decision", "behaviour", "lapsed"  # kinds that a device's history is read from
SHOWN = "sequence, utc_ns, mono_ns, kind, severity, device_id, text"
_MORE = "boot_id, quality, level, count, last_before"
_END = "last, first, boot_id, mono_ns, utc_ns, quality"
_SEGMENT = "first, last, prev, hash, utc_ns, bytes, body"
_NO_MORE = (None,) * 5
_MOST = 2**31  # a level is 0 to 3, a count what happens in a minute

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """What is kept beside one segment: the rows that people read, and its end (None: not filled in yet)."""

    rows: tuple[Row, ...]
    end: Row | None


def beside(segment: Segment, lines: Sequence[Line], *, filled: bool = True) -> Beside:
    """What belongs beside a segment of these lines; ``filled`` False: as an older version left it."""
    rows = []
    for before, line in zip([None, *lines], lines, strict=False):
        if line.for_people:
            at = line.at
            shown = (line.sequence, at.utc_ns, at.mono_ns, line.kind, line.severity, line.device_id, line.text)
            rows.append((*shown, *(_more(line, before) if filled else _NO_MORE)))
    at = lines[-1].at
    end = (segment.last, segment.first, at.boot_id, at.mono_ns, at.utc_ns, int(at.quality))
    return Beside(tuple(rows), end if filled else None)


def number_of(body: str, key: str) -> int | None:
    """A small whole number of a line's body; None when it has none."""
    try:
        found = json.loads(body).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if type(found) is int and 0 <= found < _MOST else None


def since_of(body: str) -> str | None:
    """The instant at which a lease lapsed, of such a line's body: JSON, as of a start; None when it has none."""
    try:
        match json.loads(body)["since"]:
            case [str(), int(), int(), int() as quality] as since if 0 <= quality <= TimeQuality.AUTHENTICATED:
                return json.dumps(since, separators=(",", ":"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None


def _more(line: Line, before: Line | None) -> Row:
    if line.kind not in (START, DECISION, BEHAVIOUR, LAPSED):
        return _NO_MORE
    level = number_of(line.body, "level") if line.kind == DECISION else None
    count = number_of(line.body, "count") if line.kind == BEHAVIOUR else None
    last = since_of(line.body) if line.kind == LAPSED else None
    if line.kind == START and before is not None:
        at = before.at
        last = json.dumps([at.boot_id, at.mono_ns, at.utc_ns, int(at.quality)], separators=(",", ":"))
    return (line.at.boot_id, int(line.at.quality), level, count, last)


# --- inside a transaction ---


def put(db: Connection, kept: Beside) -> None:
    """Keep what belongs beside a new segment."""
    db.conn.executemany(f"INSERT INTO audit_told ({SHOWN}, {_MORE}) VALUES ({_marks(12)})", kept.rows)  # noqa: S608 - our names
    _put_end(db, kept)


def fill(db: Connection, segment: Segment, kept: Beside) -> bool:
    """Add what an older version did not keep beside a segment, unless another process did so meanwhile."""
    if filled_after(db) != segment.last:
        return False
    rows = [(*r[7:], r[0]) for r in kept.rows if r[7] is not None]
    sql = "UPDATE audit_told SET boot_id = ?, quality = ?, level = ?, count = ?, last_before = ? WHERE sequence = ?"
    db.conn.executemany(sql, rows)
    _put_end(db, kept)
    return True


def forget(db: Connection, through: int) -> None:
    """What was told of lines up to ``through`` goes with them."""
    db.execute("DELETE FROM audit_told WHERE sequence <= ?", (through,))
    db.execute("DELETE FROM audit_segment_ends WHERE last <= ?", (through,))


def found_beside(db: Connection, segment: Segment) -> tuple[Beside, bool]:
    """(what is there, whether it should be filled in)."""
    sql = f"SELECT {SHOWN}, {_MORE} FROM audit_told WHERE sequence BETWEEN ? AND ? ORDER BY sequence"  # noqa: S608 - our names
    rows = tuple(db.execute(sql, (segment.first, segment.last)).fetchall())
    end = db.execute(f"SELECT {_END} FROM audit_segment_ends WHERE last = ?", (segment.last,)).fetchone()  # noqa: S608 - our names
    return Beside(rows, end), segment.first > filled_after(db)


def filled_after(db: Connection) -> int:
    """The last packed line that is not filled in; 0: all are. Before it everything is as an older version left it."""
    found = db.execute("SELECT first - 1 FROM audit_segment_ends ORDER BY last LIMIT 1").fetchone()
    found = found or db.execute("SELECT last FROM audit_segments ORDER BY first DESC LIMIT 1").fetchone()
    return int(found[0]) if found else 0


def unfilled(db: Connection) -> Segment | None:
    """The newest segment that is not filled in."""
    sql = f"SELECT {_SEGMENT} FROM audit_segments WHERE first <= ? ORDER BY first DESC LIMIT 1"  # noqa: S608 - our names
    found = db.execute(sql, (filled_after(db),)).fetchone()
    return Segment(*found) if found else None


def known_from(db: Connection) -> int | None:
    """The UTC (ns) of the first line of which everything is told here; None: that is the record's very first."""
    anchor = db.execute("SELECT sequence FROM audit_anchor").fetchone()
    after = max(anchor[0] if anchor else 0, filled_after(db))
    if after == 0:
        return None
    found = db.execute("SELECT utc_ns FROM audit_segments WHERE first = ?", (after + 1,)).fetchone()
    found = found or db.execute("SELECT utc_ns FROM audit WHERE sequence = ?", (after + 1,)).fetchone()
    return int(found[0]) if found else 2**63 - 1


def strangers(db: Connection, through: int, told: int) -> bool:
    """Whether anything is told that no segment holds; ``told`` rows were found to be right up to line ``through``."""
    newest = db.execute("SELECT last FROM audit_segments ORDER BY first DESC LIMIT 1").fetchone()
    beyond = "SELECT count(*) FROM audit_told WHERE sequence <= ? OR sequence > ?"
    ends = (
        "SELECT count(*) FROM audit_segment_ends e LEFT JOIN audit_segments s ON s.first = e.first AND s.last = e.last"
        " WHERE s.first IS NULL"
    )
    found: int = db.execute(beyond, (through, newest[0] if newest else 0)).fetchone()[0]
    return found != told or bool(db.execute(ends).fetchone()[0])


def _put_end(db: Connection, kept: Beside) -> None:
    db.execute(f"INSERT INTO audit_segment_ends ({_END}) VALUES ({_marks(6)})", kept.end)  # noqa: S608 - our names


def _marks(number: int) -> str:
    return ", ".join("?" * number)
