"""A disk that fills is told of while there is still room, once, and is well again only with room to spare."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import free_space
from gateway.free_space import FreeSpace, bound_of
from gateway.model.effect import Record
from gateway.model.event import PartChanged
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from tests.store.test_audit import AT as NOW

MIB = 2**20


@pytest.mark.parametrize(
    ("total_mib", "bound_mib"),
    [(64, 8), (256, 32), (512, 64), (2048, 64), (4096, 81), (16_384, 327), (32_768, 512), (2_000_000, 512)],
)
def test_the_bound_fits_the_disk(total_mib: int, bound_mib: int) -> None:
    assert bound_of(total_mib * MIB) // MIB == bound_mib


def seen(free_mib: float, total_mib: int = 2048, files: int = 1000, free_files: int = 10) -> Any:
    return SimpleNamespace(
        f_bavail=int(free_mib * 256), f_frsize=4096, f_blocks=total_mib * 256, f_files=files, f_favail=free_files
    )


def test_it_is_told_once_and_well_only_with_room_to_spare() -> None:
    told: list[PartChanged] = []
    space = FreeSpace(Path("/state"), told.append)
    for free in (2000, 65, 63.9, 30, 64, 65, 95.9, 63, 96, 65, 63):
        space.judge(seen(free))
    assert [t.up for t in told] == [False, True, False]
    assert told[0].detail.startswith("only 64 MiB of 2048 MiB are free at /state; when it is full nothing can be recorded")
    assert told[1].detail == "96 MiB of 2048 MiB are free at /state"


def test_a_disk_without_inodes_is_full_and_one_that_counts_none_is_not() -> None:
    told: list[PartChanged] = []
    space = FreeSpace(Path("/state"), told.append)
    space.judge(seen(2000, files=0, free_files=0))
    assert told == []
    space.judge(seen(2000, free_files=0))
    assert "no inodes are left at /state" in told[0].detail
    space.judge(seen(2000))
    assert told[1].up


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.rig
async def test_a_real_disk_that_fills_is_told_of_while_the_record_is_still_written(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 MiB: the bound is 4 MiB. Something else eats it; the record goes on, and so does the loop."""
    monkeypatch.setattr(free_space, "_LOOK_S", 0.05)
    database = Database(small / "w.sqlite")
    await database.open()
    audit, told = AuditLog(database), asyncio.Queue[PartChanged]()
    watching = asyncio.create_task(FreeSpace(small, told.put_nowait).run())
    try:
        await audit.append([(NOW, Record("decision", "p", "before"))])
        await asyncio.sleep(0.2)
        assert told.empty()
        eaten = small / "eaten"
        await asyncio.to_thread(eaten.write_bytes, bytes(29 * MIB))
        began = time.monotonic()
        low = await asyncio.wait_for(told.get(), 5)
        assert (low.part, low.up) == ("free-space", False)
        assert f"of 32 MiB are free at {small}" in low.detail
        print(f"told {time.monotonic() - began:.3f} s after it was short")
        await audit.append([(NOW, Record("decision", "p", "still written"))])
        assert (await audit.tail(1))[0].text == "still written"
        await asyncio.to_thread(os.truncate, eaten, 27 * MIB)  # 4 to 6 MiB are free: not well yet
        await asyncio.sleep(0.3)
        assert told.empty()
        await asyncio.to_thread(eaten.unlink)
        assert (await asyncio.wait_for(told.get(), 5)).up
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await audit.close()
        await database.close()


async def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "_LOOK_S", 0.01)
    told: list[PartChanged] = []
    task = asyncio.create_task(FreeSpace(tmp_path / "gone", told.append).run())
    await asyncio.sleep(0.1)
    assert not task.done()
    assert told == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
