"""The database file and the one thread that touches it: opening, schema versions, damage, disk errors.

Work is handed in as a function of the connection and runs in one transaction. After any disk error the connection is
closed and the next call opens it again, so a full disk needs room, not a restart. Refuses to know what is in the tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TypeVar

from sqlite_utils import Database as Connection

from gateway.errors import InputError, UnavailableError

__all__ = ["Connection", "Database", "schema_files"]

T = TypeVar("T")

CHECK_WHOLE_BYTES = 64 * 1024 * 1024  # larger files have only their small tables checked at start: 3 s to the first grant
_LARGE_TABLES = ("audit", "audit_segments", "audit_told", "outbox")  # `audit verify` walks the first, the uplink empties the second
# What flash wears out by: fifty devices had 8 GB of readings a day written, and 11 GB of record, with SQLite's usual settings.
_PAGE_BYTES = 1024  # of a new file: a commit changes a few hundred bytes in each of a dozen places
_CHECKPOINT_PAGES = 4000  # 4 MB of write-ahead log, SQLite's usual size: what is written again and again is copied once
_BUSY_MS = 5000  # the CLI may read while the daemon writes; nobody holds the file for longer
_MIN_FREE_BYTES = 64 * 1024  # with less than this free an I/O error is a full disk (tmpfs and the -shm file say IOERR)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SUFFIXES = ("-wal", "-shm", "")  # the file itself last


def schema_files() -> tuple[tuple[int, str], ...]:
    """(version, SQL) of every schema file, in order: 0001.sql upward without a gap."""
    folder = resources.files("gateway.store") / "schema"
    found = sorted((int(f.name[:4]), f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".sql"))
    if [v for v, _ in found] != list(range(1, len(found) + 1)):
        raise UnavailableError("the schema files are not complete", "install again")
    return tuple(found)


class Database:
    """One SQLite file, WAL, synchronous=FULL. ``open`` once, ``run`` from any task of one event loop, ``close`` at the end.

    ``read_only``: for a look from another process; never creates, migrates or repairs anything.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db: Connection | None = None
        self._damaged = False
        self._closed = False

    async def open(self) -> str:
        """Open, check, migrate. Returns alarm text when a damaged file was set aside, else an empty string.

        Raises InputError for a newer schema, UnavailableError when the disk does not let us.
        """
        return await self._in_owner(self._open_checked)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction in the owner thread; on disk and fsynced when this returns.

        Raises UnavailableError (full, read-only, gone, damaged); then nothing of ``work`` was kept.
        """
        return await self._in_owner(partial(self._transact, work))

    async def close(self) -> None:
        """Close the file and end the thread. Idempotent."""
        if not self._closed:
            await self._in_owner(self._drop)
            self._closed = True
            self._owner.shutdown(wait=True)

    async def _in_owner(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise UnavailableError("the store is closed", "start wardgate again")
        # Shielded: a cancelled caller must not leave a transaction that nobody waits for and that fails unseen.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._owner, work))

    # --- everything below runs in the owner thread ---

    def _transact(self, work: Callable[[Connection], T]) -> T:
        try:
            db = self._db or self._reopen()
            with self._transaction(db):
                return work(db)
        except sqlite3.Error as e:
            if isinstance(e, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
                raise  # our own mistake, not the disk's
            self._drop()
            raise self._translate(e) from e

    @contextlib.contextmanager
    def _transaction(self, db: Connection) -> Iterator[None]:
        """One that other processes (the command line, as root) wait for, instead of failing when both read and then write."""
        try:
            db.conn.execute("BEGIN" if self._read_only else "BEGIN IMMEDIATE")
        except sqlite3.OperationalError as e:
            if _primary(e) != sqlite3.SQLITE_READONLY:
                raise
            db.conn.execute("BEGIN")  # a disk that went read-only can still be read, and a write says why it fails
        try:
            yield
            db.conn.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise

    def _reopen(self) -> Connection:
        if self._damaged:
            raise UnavailableError(
                f"the database {self.path} is damaged", "restart wardgate: it sets the file aside and salvages what it can"
            )
        return self._connect()

    def _open_checked(self) -> str:
        try:
            if not self.path.exists() and self._salvaged().exists() and not self._read_only:
                self._salvaged().rename(self.path)  # we were stopped between the two renames of _quarantine
            if self.path.exists() and self.path.stat().st_size > 0:
                problem = self._find_damage()
                if problem:
                    return self._quarantine(problem)
            self._connect()
        except (sqlite3.Error, OSError) as e:
            self._drop()
            raise self._translate(e) from e
        return ""

    def _connect(self) -> Connection:
        if self._read_only:
            raw = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))  # password hashes and passkeys are in it
            raw = sqlite3.connect(self.path)
        try:
            self._db = self._prepare(raw)
        except BaseException:
            raw.close()
            raise
        return self._db

    def _prepare(self, raw: sqlite3.Connection) -> Connection:
        raw.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        db = Connection(raw, execute_plugins=False)
        _refuse_newer(db, self.path)
        if not self._read_only:
            raw.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # ignored by a file that has one
            raw.execute("PRAGMA secure_delete = FAST")  # Debian's default writes every freed page once more, as zeros
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            raw.execute("PRAGMA synchronous = FULL")
            raw.execute("PRAGMA foreign_keys = ON")
            _migrate(db)
        elif _version(db) < len(schema_files()):
            raise InputError(f"{self.path} has an older schema", "start wardgate once: it brings the file up to date")
        return db

    def _find_damage(self) -> str:
        """One sentence on what is broken, or an empty string."""
        raw = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rw'}", uri=True)
        try:
            for pragma in _checks(raw, whole=self.path.stat().st_size <= CHECK_WHOLE_BYTES):
                found = raw.execute(pragma).fetchone()[0]
                if found != "ok":
                    return " ".join(str(found).split())
        except sqlite3.DatabaseError as e:
            if _primary(e) not in _DAMAGE:
                raise
            return str(e)
        finally:
            raw.close()
        return ""

    def _quarantine(self, problem: str) -> str:
        """Salvage into a new file, set the damaged one aside, put the new one in place: a crash loses nothing in between."""
        if self._read_only:
            raise UnavailableError(f"the database {self.path} is damaged ({problem})", "start wardgate: it sets the file aside")
        for suffix in _SUFFIXES:
            self._salvaged(suffix).unlink(missing_ok=True)
        fresh = Database(self._salvaged())
        try:
            saved = _salvage(fresh._connect(), self.path)
        finally:
            fresh._drop()
            fresh._owner.shutdown()
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
        self._salvaged().rename(self.path)
        self._connect()
        return f"the database was damaged ({problem}) and was set aside as {aside}; {saved}; the audit log begins anew"

    def _salvaged(self, suffix: str = "") -> Path:
        return self.path.with_name(f"{self.path.name}.salvaged{suffix}")

    def _drop(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.conn.close()
            self._db = None

    def _translate(self, error: sqlite3.Error | OSError) -> UnavailableError:
        primary = _primary(error)
        if primary == sqlite3.SQLITE_FULL or (primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and self._no_room()):
            return UnavailableError("the disk is full", "free space or enlarge it; no restart is needed")
        if primary in _DAMAGE:
            self._damaged = True
            return UnavailableError(f"the database {self.path} is damaged", "restart wardgate: it sets the file aside")
        if primary == sqlite3.SQLITE_READONLY:
            return UnavailableError(f"{self.path} is read-only", "check the mount and its permissions")
        return UnavailableError(f"the database {self.path} does not answer ({error})", "check the disk")

    def _no_room(self) -> bool:
        try:
            room = os.statvfs(self.path.parent)
        except OSError:
            return False
        return room.f_bavail * room.f_frsize < _MIN_FREE_BYTES or (room.f_files > 0 and room.f_favail == 0)


def _primary(error: BaseException) -> int:
    """The primary result code (sqlite.org/rescode.html); 0 when there is none."""
    if isinstance(error, OSError):
        return sqlite3.SQLITE_FULL if error.errno == 28 else sqlite3.SQLITE_CANTOPEN  # 28: ENOSPC
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _version(db: Connection) -> int:
    if not db["schema_versions"].exists():
        return 0
    return int(db.execute("SELECT coalesce(max(version), 0) FROM schema_versions").fetchone()[0])


def _refuse_newer(db: Connection, path: Path) -> None:
    have, known = _version(db), len(schema_files())
    if have > known:
        raise InputError(
            f"{path} was written by a newer wardgate (schema {have}, this one knows {known})",
            "install that version again, or restore the backup made before the upgrade",
        )


def _migrate(db: Connection) -> None:
    for version, sql in schema_files()[_version(db) :]:
        with db.atomic():
            db.execute("CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, sql TEXT NOT NULL) STRICT")
            db.executescript(sql)
            db.execute("INSERT INTO schema_versions VALUES (?, ?)", (version, sql))


# Salvaged on damage: without them a gateway would forget its ward, its people and, worst, its vetoes. The order matters
# to nobody. The audit log is not: half a chain proves nothing; the file set aside stays readable by `audit verify`.
_SALVAGED = (
    "devices", "profiles", "device_references", "service_windows", "vetoes", "users", "outbox", "outbox_counts",
    "outbox_messages", "outbox_message_counts", "dead_letters", "journal", "reference_versions", "cached_files", "assignments",
)  # fmt: skip


def _checks(raw: sqlite3.Connection, *, whole: bool) -> list[str]:
    if whole:
        return ["PRAGMA integrity_check(1)"]
    names = [r[0] for r in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
    return [f"PRAGMA integrity_check([{n}])" for n in names if n not in _LARGE_TABLES]


def _salvage(db: Connection, damaged: Path) -> str:
    kept: list[str] = []
    lost: list[str] = []
    old = sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True)
    try:
        for table in _SALVAGED:
            (kept if _copy(old, db, table) else lost).append(table)
    finally:
        old.close()
    return f"salvaged: {', '.join(kept) or 'nothing'}" + (f"; incomplete: {', '.join(lost)}" if lost else "")


def _copy(old: sqlite3.Connection, db: Connection, table: str) -> bool:
    """Copy what can be read, in the new file's own columns; whether that was all. Errors of the new file are raised."""
    names = ", ".join(f"[{c.name}]" for c in db[table].columns)
    insert = f"INSERT INTO [{table}] ({names}) VALUES ({', '.join('?' * len(db[table].columns))})"  # noqa: S608 - our names
    complete = True
    with db.atomic():
        try:
            rows = old.execute(f"SELECT {names} FROM [{table}]")  # noqa: S608 - our names
        except sqlite3.DatabaseError:
            return False
        while True:
            try:
                row = rows.fetchone()
            except sqlite3.DatabaseError:
                return False  # what was read before the damage is kept: the block commits
            if row is None:
                return complete
            try:
                db.execute(insert, row)
            except sqlite3.IntegrityError:
                complete = False  # a row of the damaged file that fits no rule
