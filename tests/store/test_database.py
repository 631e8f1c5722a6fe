"""The file itself: versions, damage, a full disk, a power cut, another process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import InputError, UnavailableError
from gateway.model.effect import Record
from gateway.model.instant import Instant
from gateway.store import database as database_module
from gateway.store.audit import AuditLog
from gateway.store.database import Database, schema_files

# What was released stays as it is. A new version adds a line; a changed line means that old files would not be understood.
RELEASED: dict[int, str] = {
    1: "b9ae5907db4b691c274a27202a06644622ad781190106f58debfd74f7fe5f6ef",
    2: "0d7e424d9c919d8c921446f1f53738e8d6cf227f41ef4a98257f77213b43f46f",
}

AT = Instant("boot", 1, 2)


def test_schema_files_are_numbered_and_released_ones_unchanged() -> None:
    found = schema_files()
    assert [v for v, _ in found] == list(range(1, len(found) + 1))
    for version, digest in RELEASED.items():
        assert hashlib.sha256(found[version - 1][1].encode()).hexdigest() == digest


@pytest.mark.parametrize("version", range(len(schema_files()) + 1))
async def test_every_old_version_is_brought_up_to_date_twice(tmp_path: Path, version: int) -> None:
    path = tmp_path / "w.sqlite"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE schema_versions (version INTEGER PRIMARY KEY, sql TEXT NOT NULL) STRICT")
    for number, sql in schema_files()[:version]:
        raw.executescript(sql)
        raw.execute("INSERT INTO schema_versions VALUES (?, ?)", (number, sql))
    raw.commit()
    raw.close()
    seen = []
    for _ in range(2):
        db = Database(path)
        assert await db.open() == ""
        seen.append(await db.run(lambda d: (d.schema, d.execute("SELECT version FROM schema_versions").fetchall())))
        await db.close()
    fresh = Database(tmp_path / "fresh.sqlite")
    await fresh.open()
    wanted = await fresh.run(lambda d: {t.name: t.schema for t in d.tables if t.name != "schema_versions"})
    await fresh.close()
    assert seen[0] == seen[1]
    assert seen[0][1] == [(v,) for v, _ in schema_files()]
    assert all(sql in seen[0][0] for sql in wanted.values())


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    db = Database(path)
    await db.open()
    await db.run(lambda d: d.execute("INSERT INTO schema_versions VALUES (999, '')"))
    await db.close()
    before = path.read_bytes()
    again = Database(path)
    with pytest.raises(InputError, match=r"newer wardgate \(schema 999"):
        await again.open()
    await again.close()
    assert path.read_bytes() == before


async def test_the_file_is_for_its_owner_only_and_durable(database: Database) -> None:
    assert database.path.stat().st_mode & 0o777 == 0o600
    assert await database.run(lambda d: d.execute("PRAGMA synchronous").fetchone()[0]) == 2  # FULL
    assert await database.run(lambda d: d.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"


async def test_a_failing_piece_of_work_leaves_nothing_behind(database: Database) -> None:
    def work(d: database_module.Connection) -> None:
        d.execute("INSERT INTO users VALUES ('anna', 'admin', 'x')")
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await database.run(work)
    assert await database.run(lambda d: d.execute("SELECT count(*) FROM users").fetchone()[0]) == 0


async def _fill(path: Path) -> None:
    db = Database(path)
    await db.open()
    log = AuditLog(db)
    await log.append([(AT, Record("k", "pump-1", f"line {i}", (("filler", "x" * 300),))) for i in range(300)])
    await db.run(lambda d: d.execute("INSERT INTO users VALUES ('anna', 'admin', 'x')"))
    await db.run(lambda d: d.execute("INSERT INTO vetoes (device_id, media_type, text, sequence) VALUES ('pump-1', 'm', 't', 7)"))
    await log.close()
    await db.close()


@pytest.mark.parametrize("where", ["header", "audit pages"])
async def test_a_damaged_file_is_set_aside_never_deleted(tmp_path: Path, where: str) -> None:
    path = tmp_path / "w.sqlite"
    await _fill(path)
    broken = bytearray(path.read_bytes())
    if where == "header":
        broken[:100] = bytes(100)
    else:
        at = broken.index(b"line 150")
        page = at // 4096 * 4096
        broken[page : page + 4096] = b"\xa5" * 4096
    path.write_bytes(broken)
    db = Database(path)
    alarm = await db.open()
    assert "damaged" in alarm
    assert str(tmp_path / "w.sqlite.damaged-1") in alarm
    assert (tmp_path / "w.sqlite.damaged-1").read_bytes() == bytes(broken)
    users = await db.run(lambda d: d.execute("SELECT name FROM users").fetchall())
    vetoes = await db.run(lambda d: d.execute("SELECT device_id, media_type FROM vetoes").fetchall())
    if where == "header":
        assert "incomplete: devices" in alarm
    else:  # what can be read is kept: above all the veto
        assert users == [("anna",)]
        assert vetoes == [("pump-1", "m")]
    await AuditLog(db).append([(AT, Record("k", "", "it goes on"))])
    await db.close()
    assert await Database(path).open() == ""


async def test_damage_is_set_aside_even_when_stopped_between_the_two_renames(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    await _fill(path)
    path.rename(tmp_path / "w.sqlite.salvaged")
    db = Database(path)
    assert await db.open() == ""
    assert await db.run(lambda d: d.execute("SELECT name FROM users").fetchall()) == [("anna",)]
    await db.close()


async def test_damage_while_running_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    await _fill(path)
    db = Database(path)
    await db.open()
    await db.run(lambda d: d.execute("PRAGMA cache_size = 0"))
    with path.open("r+b") as f:
        f.seek(4096)
        f.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.raises(UnavailableError, match="damaged"):
        await db.run(lambda d: d.execute("SELECT sum(length(body)) FROM audit").fetchall())
    with pytest.raises(UnavailableError, match="restart"):
        await db.run(lambda d: d.execute("SELECT 1").fetchall())
    await db.close()


async def test_a_read_only_look_from_another_process(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    await _fill(path)
    look = Database(path, read_only=True)
    await look.open()
    assert (await AuditLog(look).verify()).sequence == 300
    with pytest.raises(UnavailableError, match="read-only"):
        await look.run(lambda d: d.execute("DELETE FROM users"))
    await look.close()
    absent = Database(tmp_path / "absent.sqlite", read_only=True)
    with pytest.raises(UnavailableError):
        await absent.open()
    await absent.close()
    assert not (tmp_path / "absent.sqlite").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.mark.rig
async def test_a_full_disk_is_an_error_and_needs_no_restart(small_disk: Path) -> None:
    db = Database(small_disk / "w.sqlite")
    assert await db.open() == ""
    log = AuditLog(db)
    durable = [r.sequence for r in await log.append([(AT, Record("k", "", "before"))])]
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as f:
        for _ in range(1024):
            f.write(bytes(4096))
    refused = 0
    for i in range(40):
        try:
            durable += [r.sequence for r in await log.append([(AT, Record("k", "", f"n {i}", (("x", "y" * 3000),)))])]
        except UnavailableError as e:
            refused += 1
            assert e.what == "the disk is full"
            assert "free space or enlarge" in e.remedy
    assert refused > 0
    ballast.unlink()
    durable += [r.sequence for r in await log.append([(AT, Record("k", "", "after"))])]
    assert durable == list(range(1, len(durable) + 1))  # what was refused left no gap, what was acknowledged is there
    assert (await log.verify()).sequence == len(durable)
    await log.close()
    await db.close()


_WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.store.database import Database
from gateway.store.audit import AuditLog
from gateway.model.effect import Record
from gateway.model.instant import Instant
async def main():
    db = Database(Path(sys.argv[1])); await db.open(); log = AuditLog(db)
    async def one():
        while True:
            for r in await log.append([(Instant("b", 1, 2), Record("k", "", "text", (("x", "y" * 500),)))]):
                print(r.sequence, r.digest.hex(), flush=True)
    await asyncio.gather(*(one() for _ in range(5)))
asyncio.run(main())
"""


def _write_and_die(path: Path) -> list[str]:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    first = [writer.stdout.readline() for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)  # in the middle of the next ones
    return [*first, *writer.communicate(timeout=10)[0].splitlines()]


async def test_kill_9_while_writing_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    printed: list[str] = []
    for _ in range(3):
        printed += await asyncio.to_thread(_write_and_die, path)
    pairs = [line.split() for line in printed]
    acknowledged = {p[0]: p[1] for p in pairs if len(p) == 2 and len(p[1]) == 64}  # the last line may be cut short
    db = Database(path)
    assert await db.open() == ""
    log = AuditLog(db)
    head = await log.verify()
    lines = {str(line.sequence): line.hash.hex() async for line in log.lines()}
    assert len(acknowledged) > 30
    assert acknowledged.items() <= lines.items()
    assert head.sequence == len(lines)
    await db.close()


async def test_closed_is_closed(tmp_path: Path) -> None:
    db = Database(tmp_path / "w.sqlite")
    await db.open()
    await db.close()
    await db.close()
    with pytest.raises(UnavailableError, match="closed"):
        await db.run(lambda d: d.execute("SELECT 1"))


async def test_a_cancelled_caller_does_not_break_the_next(database: Database) -> None:
    slow = asyncio.create_task(database.run(lambda d: time.sleep(0.1)))
    await asyncio.sleep(0.02)
    slow.cancel()
    assert await database.run(lambda d: d.execute("SELECT 1").fetchone()) == (1,)
