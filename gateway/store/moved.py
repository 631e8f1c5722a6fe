"""What of the database can be moved: the ward, its people and its vetoes, as rows in and out of a backup.

Not moved, because it would be wrong somewhere else or a second time: the record, readings and messages that wait,
certificates and the chain of batches, cached files, checkpoints, sessions, claims, open repairs. Refuses to know
files and passphrases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway import codec
from gateway.errors import InputError, MalformedError
from gateway.model.device import Bond, Bus, Device
from gateway.model.effect import Record
from gateway.model.instant import Instant
from gateway.model.profile import References
from gateway.store.accounts import ROLES
from gateway.store.audit import append_within
from gateway.store.database import Connection, Database
from gateway.store.inventory import KeptVeto, merge_vetoes

# The columns that are moved. Rows of a later version may have more: those are refused, not dropped.
TABLES: Mapping[str, tuple[str, ...]] = {
    "devices": ("id", "body", "passkey"),
    "profiles": ("id", "digest", "toml", "confirmed_by", "confirmed_at", "current", "number"),
    "device_references": ("device_id", "body"),
    "reference_versions": ("number", "device_id", "body", "actor", "at"),
    "drafts": ("name", "body", "author", "at"),
    "users": ("name", "role", "password"),
    "vetoes": ("device_id", "media_type", "text", "sequence", "cleared"),
}
_MOST_ROWS = 100_000
Rows = dict[str, list[list[Any]]]


@dataclass(frozen=True, slots=True)
class PutIn:
    """What a restore did: how many devices and people there are now, and whose reference values stayed because a veto stands."""

    devices: int
    users: int
    kept: tuple[str, ...]


async def take_out(database: Database) -> Rows:
    """The rows of every table that is moved, as they are at one moment."""

    def work(db: Connection) -> Rows:
        return {t: [list(r) for r in db.execute(f"SELECT {', '.join(c)} FROM {t}")] for t, c in TABLES.items()}  # noqa: S608

    return await database.run(work)


def check_rows(tables: Any) -> Rows:
    """Rows from a file, parsed as what they are. Raises InputError."""
    problem = _problem(tables)
    if problem:
        raise InputError(f"the backup's inventory does not hold together ({problem})", "use another file; nothing was changed")
    return {name: [list(row) for row in tables[name]] for name in TABLES}


def _problem(tables: Any) -> str:
    if not isinstance(tables, dict) or set(tables) != set(TABLES):
        return "not its tables"
    for name, columns in TABLES.items():
        rows = tables[name]
        if not isinstance(rows, list) or len(rows) > _MOST_ROWS:
            return f"{name}: no list of rows"
        if not all(isinstance(r, list) and len(r) == len(columns) and all(_plain(v) for v in r) for r in rows):
            return f"{name}: rows of another kind"
    return _meaning(tables)


def _plain(value: Any) -> bool:
    return value is None or type(value) is str or (type(value) is int and abs(value) < 2**63)


def _meaning(tables: Rows) -> str:
    try:
        for device_id, body, _ in tables["devices"]:
            if codec.from_plain(Device, json.loads(body)).id != device_id:
                return f"device {device_id}: another one inside"
        for body in (*(r[1] for r in tables["device_references"]), *(r[2] for r in tables["reference_versions"])):
            codec.from_plain(References, json.loads(body))
        for row in tables["profiles"]:
            codec.from_plain(Instant, json.loads(row[4]))
        for row in tables["drafts"]:
            codec.from_plain(Instant, json.loads(row[3]))
    except (ValueError, TypeError, MalformedError) as e:
        return str(e)[:200]
    wrong = [name for name, role, password in tables["users"] if role not in ROLES or not str(password).startswith("$argon2id$")]
    return f"user {wrong[0]}" if wrong else ""


async def put_in(database: Database, rows: Rows, line: tuple[Instant, Record], *, same_machine: bool) -> PutIn:
    """Replace the ward and its people by a file's, and write ``line`` into the record: one transaction.

    A veto that stands here goes on standing, and while it does the device keeps the reference values it has here. On another
    machine no bond is taken over: the keys of bonds stay in the old one's adapter.
    """
    return await database.run(lambda db: _put_in(db, rows, line, same_machine))


def _put_in(db: Connection, rows: Rows, line: tuple[Instant, Record], same_machine: bool) -> PutIn:
    vetoed = {r[0] for r in db.execute("SELECT device_id FROM vetoes WHERE cleared IS NULL")}
    own = dict(db.execute("SELECT device_id, body FROM device_references").fetchall())
    kept = {d: own[d] for d in sorted(vetoed & own.keys())}
    for name in ("service_windows", "sessions", "view_links", "claim", *(t for t in TABLES if t != "vetoes")):
        db.execute(f"DELETE FROM {name}")  # noqa: S608 - our names
    devices = [[i, body if same_machine else _unbonded(body), passkey] for i, body, passkey in rows["devices"]]
    references = [r for r in rows["device_references"] if r[0] not in kept] + [[d, b] for d, b in kept.items()]
    for name, found in {**rows, "devices": devices, "device_references": references}.items():
        if name != "vetoes":
            columns = TABLES[name]
            marks = ", ".join("?" * len(columns))
            db.conn.executemany(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})", found)  # noqa: S608 - our names
    merge_vetoes(db, [KeptVeto(*r) for r in rows["vetoes"]])
    append_within(db, [line])
    return PutIn(len(devices), len(rows["users"]), tuple(kept))


def _unbonded(body: str) -> str:
    device = codec.from_plain(Device, json.loads(body))
    if device.bus is not Bus.BLE or device.bond is Bond.NONE:
        return body
    return json.dumps(codec.to_plain(replace(device, bond=Bond.NONE)), sort_keys=True, separators=(",", ":"))


def counts_of(db: Connection) -> tuple[int, dict[str, int]]:
    """(schema version, rows of each table): what may be told of a store without telling what is in it."""
    version = int(db.execute("SELECT max(version) FROM schema_versions").fetchone()[0])
    return version, {t: int(db[t].count) for t in sorted(db.table_names()) if not t.startswith("sqlite_")}


def devices_of(rows: Rows) -> Sequence[Device]:
    """The devices among rows that were checked."""
    return [codec.from_plain(Device, json.loads(r[1])) for r in rows["devices"]]
