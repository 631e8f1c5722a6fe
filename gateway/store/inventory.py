"""The inventory: devices, their profiles and references, drafts, open repairs, and vetoes, kept across restarts.

Stores and returns the model's nouns; refuses to know what a profile means or whether a change is legal. A veto is
cleared, never deleted, and restoring an older file cannot lift one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from gateway import codec
from gateway.errors import InputError, MalformedError
from gateway.model.device import Bond, Device, DeviceState
from gateway.model.event import ServiceWindow
from gateway.model.instant import Instant
from gateway.model.profile import References
from gateway.store.database import Connection, Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A profile's text as it was confirmed. ``digest`` is SHA-256 (hex) of its UTF-8 bytes."""

    id: str
    toml: str
    digest: str
    confirmed_by: str
    confirmed_at: Instant


@dataclass(frozen=True, slots=True)
class Draft:
    """What someone is preparing; nothing obeys it."""

    name: str
    body: str
    author: str
    at: Instant


@dataclass(frozen=True, slots=True)
class KeptVeto:
    """A veto: raised after audit line ``sequence``; ``cleared`` after that line, or None while it stands."""

    device_id: str
    media_type: str
    text: str
    sequence: int
    cleared: int | None = None


class Inventory:
    """All of it on one database. Every method raises UnavailableError when the disk does not let it, and then kept nothing."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # --- devices ---

    async def save_device(self, device: Device, passkey: int | None = None) -> None:
        """Add or replace a device. ``passkey`` None keeps the one that is stored."""
        sql = (
            "INSERT INTO devices (id, body, passkey) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET body = excluded.body, passkey = coalesce(excluded.passkey, passkey)"
        )
        if passkey is not None and not 0 <= passkey <= 999_999:
            raise InputError("a passkey is six digits", "read it from the device's label or display")
        await self._db.run(lambda db: db.execute(sql, (device.id, _dump(device), passkey)))

    async def devices(self) -> Sequence[Device]:
        """Every device, retired ones too, by id."""
        rows = await self._db.run(lambda db: db.execute("SELECT body FROM devices ORDER BY id").fetchall())
        return [_load(Device, r[0]) for r in rows]

    async def device(self, device_id: str) -> Device:
        """One device. Raises InputError when there is none."""
        return await self._db.run(lambda db: _device(db, device_id))

    async def passkey(self, device_id: str) -> int | None:
        """The BLE passkey, a secret: for the driver's assignment only, never for a view."""
        row = await self._db.run(lambda db: db.execute("SELECT passkey FROM devices WHERE id = ?", (device_id,)).fetchone())
        return row[0] if row else None

    async def keep_state(self, device_id: str, state: DeviceState, service: ServiceWindow | None = None) -> None:
        """Store a device's new state and its open service window, or close the window. One transaction."""

        def work(db: Connection) -> None:
            changed = replace(_device(db, device_id), state=state)
            db.execute("UPDATE devices SET body = ? WHERE id = ?", (_dump(changed), device_id))
            db.execute("DELETE FROM service_windows WHERE device_id = ?", (device_id,))
            if service is not None:
                db.execute("INSERT INTO service_windows VALUES (?, ?)", (device_id, _dump(service)))

        await self._db.run(work)

    async def keep_bond(self, device_id: str, bond: Bond) -> None:
        """Store how a device is bonded, and nothing else of it. Raises InputError when there is no such device."""

        def work(db: Connection) -> None:
            db.execute("UPDATE devices SET body = ? WHERE id = ?", (_dump(replace(_device(db, device_id), bond=bond)), device_id))

        await self._db.run(work)

    async def services(self) -> Sequence[ServiceWindow]:
        """Service windows still open. One from another boot cannot be timed any more: its owner ends it."""
        rows = await self._db.run(lambda db: db.execute("SELECT body FROM service_windows ORDER BY device_id").fetchall())
        return [_load(ServiceWindow, r[0]) for r in rows]

    # --- profiles ---

    async def save_profile(self, profile_id: str, toml: str, confirmed_by: str, at: Instant) -> StoredProfile:
        """Make ``toml`` the confirmed text of a profile; the one before it is kept for ``rollback_profile``."""
        kept = StoredProfile(profile_id, toml, hashlib.sha256(toml.encode()).hexdigest(), confirmed_by, at)

        def work(db: Connection) -> None:
            current = db.execute("SELECT digest FROM profiles WHERE id = ? AND current = 1", (profile_id,)).fetchone()
            if current and current[0] == kept.digest:
                return
            db.execute("UPDATE profiles SET current = 0 WHERE id = ?", (profile_id,))
            row = (kept.id, kept.digest, kept.toml, kept.confirmed_by, _dump(at))
            names = "id, digest, toml, confirmed_by, confirmed_at, current"
            db.execute(f"INSERT INTO profiles ({names}) VALUES (?, ?, ?, ?, ?, 1)", row)  # noqa: S608 - our names

        await self._db.run(work)
        return kept

    async def profiles(self) -> Sequence[StoredProfile]:
        """The confirmed text of every profile, by id. Raises MalformedError when a text does not match its digest."""
        sql = "SELECT id, toml, digest, confirmed_by, confirmed_at FROM profiles WHERE current = 1 ORDER BY id"
        rows = await self._db.run(lambda db: db.execute(sql).fetchall())
        for r in rows:
            if hashlib.sha256(r[1].encode()).hexdigest() != r[2]:
                raise MalformedError(f"profile {r[0]} is not the text that was confirmed", "confirm it again")
        return [StoredProfile(r[0], r[1], r[2], r[3], _load(Instant, r[4])) for r in rows]

    async def rollback_profile(self, profile_id: str) -> StoredProfile:
        """Go back to the text confirmed before the current one. Raises InputError when there is none."""

        def work(db: Connection) -> None:
            sql = "SELECT number FROM profiles WHERE id = ? ORDER BY number DESC LIMIT 2"
            numbers = [r[0] for r in db.execute(sql, (profile_id,)).fetchall()]
            if len(numbers) < 2:
                raise InputError(f"there is no earlier version of profile {profile_id}", "`wardgate reference list` shows all")
            db.execute("DELETE FROM profiles WHERE number = ?", (numbers[0],))
            db.execute("UPDATE profiles SET current = 1 WHERE number = ?", (numbers[1],))

        await self._db.run(work)
        return next(p for p in await self.profiles() if p.id == profile_id)

    # --- references ---

    async def save_references(self, device_id: str, references: References) -> None:
        """Replace the trust anchors and reference values of one device."""
        sql = "INSERT INTO device_references VALUES (?, ?) ON CONFLICT (device_id) DO UPDATE SET body = excluded.body"
        await self._db.run(lambda db: db.execute(sql, (device_id, _dump(references))))

    async def references(self) -> Sequence[tuple[str, References]]:
        """(device id, its references), by id."""
        sql = "SELECT device_id, body FROM device_references ORDER BY device_id"
        rows = await self._db.run(lambda db: db.execute(sql).fetchall())
        return [(r[0], _load(References, r[1])) for r in rows]

    # --- drafts ---

    async def save_draft(self, draft: Draft) -> None:
        """Add or replace a draft."""
        row = (draft.name, draft.body, draft.author, _dump(draft.at))
        await self._db.run(lambda db: db.execute("INSERT OR REPLACE INTO drafts VALUES (?, ?, ?, ?)", row))

    async def drafts(self) -> Sequence[Draft]:
        """All drafts, by name."""
        rows = await self._db.run(lambda db: db.execute("SELECT * FROM drafts ORDER BY name").fetchall())
        return [Draft(r[0], r[1], r[2], _load(Instant, r[3])) for r in rows]

    async def drop_draft(self, name: str) -> None:
        """Forget a draft; one that is not there is no error."""
        await self._db.run(lambda db: db.execute("DELETE FROM drafts WHERE name = ?", (name,)))

    # --- vetoes ---

    async def raise_veto(self, device_id: str, media_type: str, text: str) -> None:
        """Remember a veto; one that stands already gets the newer text and keeps its place."""
        sql = (
            f"INSERT INTO vetoes (device_id, media_type, text, sequence) VALUES (?, ?, ?, {_AUDIT_END})"  # noqa: S608 - our text
            " ON CONFLICT (device_id, media_type) WHERE cleared IS NULL DO UPDATE SET text = excluded.text"
        )
        await self._db.run(lambda db: db.execute(sql, (device_id, media_type, text)))

    async def clear_veto(self, device_id: str, media_type: str) -> None:
        """Note that a veto fell; one that does not stand is no error."""
        sql = f"UPDATE vetoes SET cleared = {_AUDIT_END} WHERE device_id = ? AND media_type = ? AND cleared IS NULL"  # noqa: S608
        await self._db.run(lambda db: db.execute(sql, (device_id, media_type)))

    async def standing_vetoes(self) -> Sequence[tuple[str, str, str]]:
        """(device id, media type, sentence) of every veto that stands, as ``Configured`` takes them."""
        sql = "SELECT device_id, media_type, text FROM vetoes WHERE cleared IS NULL ORDER BY device_id, media_type"
        return [tuple(r) for r in await self._db.run(lambda db: db.execute(sql).fetchall())]

    async def all_vetoes(self) -> Sequence[KeptVeto]:
        """Every veto there ever was, oldest first: what a backup carries and ``merge_vetoes`` takes."""
        sql = "SELECT device_id, media_type, text, sequence, cleared FROM vetoes ORDER BY number"
        return [KeptVeto(*r) for r in await self._db.run(lambda db: db.execute(sql).fetchall())]

    async def merge_vetoes(self, restored: Sequence[KeptVeto]) -> None:
        """Bring in the vetoes of a restored file: those that stood there stand here; none that stands here is lifted."""
        await self._db.run(lambda db: merge_vetoes(db, restored))


def merge_vetoes(db: Connection, restored: Sequence[KeptVeto]) -> None:
    """``Inventory.merge_vetoes`` inside a transaction that does more."""
    known = {KeptVeto(*r) for r in db.execute("SELECT device_id, media_type, text, sequence, cleared FROM vetoes")}
    fell = {(v.device_id, v.media_type, v.sequence) for v in known if v.cleared is not None}
    for v in restored:
        if v.cleared is None and (v.device_id, v.media_type, v.sequence) not in fell:
            db.execute(
                "INSERT INTO vetoes (device_id, media_type, text, sequence) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (device_id, media_type) WHERE cleared IS NULL DO NOTHING",
                (v.device_id, v.media_type, v.text, v.sequence),
            )


_AUDIT_END = "(SELECT coalesce((SELECT max(sequence) FROM audit), (SELECT max(last) FROM audit_segments), 0))"


def _device(db: Connection, device_id: str) -> Device:
    row = db.execute("SELECT body FROM devices WHERE id = ?", (device_id,)).fetchone()
    if row is None:
        raise InputError(f"there is no device {device_id!r}", "`wardgate device list` shows all")
    return _load(Device, row[0])


def _dump(value: object) -> str:
    return json.dumps(codec.to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _load(kind: type[T], text: str) -> T:
    return cast(T, codec.from_plain(kind, json.loads(text)))
