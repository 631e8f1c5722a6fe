"""The support file's look into the store: counts, sizes, how far the record reaches, and its newest lines without payloads.

Reads only, from a copy of nothing: a row's content is never taken out but for the columns named here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.store.audit import AuditLog
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.store.inventory import Inventory
from gateway.store.moved import counts_of
from gateway.support_words import in_own_words, numbered, word

_LINES = 500
_NUMBERS = ("level", "before", "count", "tier", "raised")  # of a line's body: levels and counts, never what was measured
_WORDS = ("code", "severity")


def store(state: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the database in numbers, the newest lines of the record). Raises WardgateError when it cannot be opened."""
    return asyncio.run(_store(state / "wardgate.sqlite"))


async def _store(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    database = Database(path, read_only=True)
    await database.open()
    try:
        audit = AuditLog(database)
        extent = await audit.extent()
        checkpoint = await CertificateCache(database).checkpoint()
        devices = await Inventory(database).devices()
        names = numbered(d.id for d in devices)
        version, rows = await database.run(counts_of)
        sizes = {s.lstrip("-") or "file": p.stat().st_size for s in ("", "-wal") if (p := path.with_name(path.name + s)).exists()}
        found = {
            "schema": version, "rows": rows, "bytes": sizes,
            "record": {"first": extent.first, "last": extent.last, "first_utc_ns": extent.first_utc_ns, "trimmed": extent.trimmed,
                       "packed_bytes": extent.packed_bytes},
            "checkpoint": checkpoint and {"line": checkpoint.audit_sequence, "counter": checkpoint.nv_counter},
            "devices": [{"device": names[d.id], "bus": d.bus.value, "state": d.state.value, "bond": d.bond.value,
                         "wired": d.binding is not None, "profile": word(d.profile)} for d in devices],
        }  # fmt: skip
        lines = [_line(x, names) async for x in audit.lines(max(0, extent.last - _LINES))]
    finally:
        await database.close()
    return found, lines


def _line(x: Any, names: Mapping[str, str]) -> dict[str, Any]:
    body = json.loads(x.body)
    kept: dict[str, Any] = {k: body[k] for k in _NUMBERS if type(body.get(k)) in (int, bool)}
    kept |= {k: word(body[k]) for k in _WORDS if k in body}
    text = word(x.text) if x.kind in ("event", "wake") else in_own_words(x.text, names)  # an event's text is its type
    device = names.get(x.device_id, "unknown") if x.device_id else ""
    return {"sequence": x.sequence, "utc_ns": x.at.utc_ns, "mono_ns": x.at.mono_ns, "quality": int(x.at.quality),
            "kind": word(x.kind), "severity": word(x.severity), "device": device, "text": text, **kept}  # fmt: skip
