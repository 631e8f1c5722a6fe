"""The gateway's record as the bench reads it from the disk while the daemon writes: live lines and packed ones alike.

Reads only. A story that looked at one of the two tables would prove nothing about what is in the other.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from gateway.store.segments import Segment, unpack

_SEGMENTS = "SELECT first, last, prev, hash, utc_ns, bytes, body FROM audit_segments ORDER BY first DESC"
Row = tuple[str, str, str, int, dict[str, Any]]


def lines(database: Path, after_ns: int) -> list[Row]:
    """(kind, text, device id, boot time in ns, body) of every line made after a moment of this boot, oldest first."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5, isolation_level=None)) as db:
        db.execute("BEGIN")  # one moment: a line is in one of the two
        sql = "SELECT kind, text, device_id, mono_ns, body FROM audit WHERE mono_ns > ? ORDER BY sequence"
        found: list[Row] = [(k, t, d, at, json.loads(b)) for k, t, d, at, b in db.execute(sql, (after_ns,))]
        for row in db.execute(_SEGMENTS):
            packed = unpack(Segment(*row))
            newer = [x for x in packed if x.at.mono_ns > after_ns]
            found[:0] = [(x.kind, x.text, x.device_id, x.at.mono_ns, json.loads(x.body)) for x in newer]
            if len(newer) < len(packed):
                break
    return found
