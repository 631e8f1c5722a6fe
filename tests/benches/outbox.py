"""Readings into the outbox, fsync included, against this disk's bare SQLite; memory while it fills; syncs and bytes a day.

The floor is one table, the same rows, the same groups, ``synchronous=FULL``: what no outbox on this disk can beat.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from gateway.machine_clock import MachineClock
from gateway.model.certificate import CertificateId
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.store.database import Database
from gateway.store.outbox import Outbox
from tests.benches.figure import Figure, figure

_GROUP = 500
_SECONDS = float(os.environ.get("WARDGATE_BENCH_OUTBOX_S", "6"))  # 600: the ten minutes of the budget
_DEVICES = 50
_QUIET_S = 8.0
_CLOCK = MachineClock()


def run() -> Iterable[Figure]:
    """``outbox.put`` in readings/s, ``outbox.memory`` in MiB grown, ``outbox.fsync`` and ``outbox.day`` at 50 devices."""
    with tempfile.TemporaryDirectory(prefix="wardgate-bench-", dir="/var/tmp") as d:  # a disk, not a tmpfs
        yield from asyncio.run(_run(Path(d)))


async def _run(directory: Path) -> list[Figure]:
    floors = [_bare(directory / "floor.sqlite", 20) for _ in range(3)]
    rates, grown, stored = await _fill(directory / "put.sqlite")
    syncs, daily = await _quiet(directory / "quiet.sqlite")
    return [
        figure("outbox.put", _DEVICES, rates, "readings/s", floors, f"{stored:,} stored, groups of {_GROUP}, fsync included"),
        figure("outbox.memory", _DEVICES, [grown], "MiB", note=f"grown while {stored:,} readings came in"),
        figure("outbox.fsync", _DEVICES, [syncs], "fsync/s", note="one reading a second from each device, taken away as fast"),
        figure("outbox.day", _DEVICES, [daily], "MiB/day", note="written to the device, journal included"),
    ]


def _reading(device: int, value: float) -> Observation:
    now = _CLOCK.now()
    certificate = CertificateId(1, bytes(32))
    return Observation(f"d-{device:02d}", "MDC_ECG_HEART_RATE", "/min", now, now, TrustLevel.FULL, value, certificate=certificate)


def _bare(path: Path, commits: int) -> float:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q)")
    row = ("d-01", "MDC_ECG_HEART_RATE", "/min", 72.0, None, 3, "b" * 36, 1, 2, 3, "b" * 36, 1, 2, 3, 1, bytes(32), 200)
    insert = f"INSERT INTO t VALUES (NULL{', ?' * 17})"  # noqa: S608 - no words but ours
    began = time.perf_counter()
    for _ in range(commits):
        db.execute("BEGIN")
        db.executemany(insert, [row] * _GROUP)
        db.execute("COMMIT")
    took = time.perf_counter() - began
    db.close()
    return commits * _GROUP / took


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel tells no VmRSS")


async def _fill(path: Path) -> tuple[list[float], float, int]:
    """Rates of each second, what memory grew after the first, and how many were stored."""
    database = Database(path)
    await database.open()
    outbox = Outbox(database, MachineClock())
    batches = [[_reading((i * 7 + k) % _DEVICES, float(k)) for k in range(_GROUP)] for i in range(8)]
    rates: list[float] = []
    total, base, end = 0, 0.0, time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        began, number = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            await asyncio.gather(*(outbox.put(b) for b in batches))
            number += len(batches) * _GROUP
        rates.append(number / (time.perf_counter() - began))
        total += number
        base = base or _resident()
    grown = _resident() - base
    await outbox.close()
    await database.close()
    return rates, grown, total


async def _quiet(path: Path) -> tuple[float, float]:
    """(fsync a second, MiB a day) while 50 devices send one reading a second each and an uplink takes them away."""
    database = Database(path)
    await database.open()
    outbox = Outbox(database, MachineClock())
    commits, work = 0, database.run

    async def counted(piece):  # type: ignore[no-untyped-def]
        nonlocal commits
        before = await work(lambda db: db.conn.total_changes)
        done = await work(piece)
        commits += (await work(lambda db: db.conn.total_changes)) != before
        return done

    database.run = counted  # type: ignore[method-assign]
    written, began = _written(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for i in range(_DEVICES):
            group.create_task(_device(outbox, i, began + _QUIET_S))
        group.create_task(_uplink(outbox, began + _QUIET_S))
    took = time.perf_counter() - began
    await outbox.close()
    await database.close()
    return commits / took, (_written() - written) / took * 86_400 / 2**20


async def _device(outbox: Outbox, number: int, end: float) -> None:
    await asyncio.sleep(number / _DEVICES)
    while time.perf_counter() < end:
        await outbox.put([_reading(number, 72.0)])
        await asyncio.sleep(1.0)


async def _uplink(outbox: Outbox, end: float) -> None:
    while time.perf_counter() < end:
        await asyncio.sleep(0.2)
        await outbox.acknowledge([w.id for w in await outbox.take(500)])


def _written() -> int:
    """Bytes this process had written to the device (/proc/self/io; block writes where that is not to be had)."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["write_bytes"])
    except (OSError, KeyError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_oublock * 512
