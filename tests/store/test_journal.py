"""The journal: durable before the promise, the same message once, in order, bounded without ever dropping what waits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import UnavailableError
from gateway.model.instant import Instant, TimeQuality
from gateway.store.database import Database
from gateway.store.journal import Journal, JournalBounds

AT = Instant("boot-1", 5, 7, TimeQuality.RTC)


def key(n: int) -> bytes:
    return n.to_bytes(16, "big") * 2


async def opened(path: Path, bounds: JournalBounds | None = None) -> tuple[Database, Journal]:
    database = Database(path)
    await database.open()
    return database, Journal(database, bounds)


async def closed(database: Database, journal: Journal) -> None:
    await journal.close()
    await database.close()


async def test_kept_in_order_and_known_again(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite")
    first = [journal.keep("r", key(i), b"body %d" % i, b"answer %d" % i, AT) for i in range(50)]
    assert await asyncio.gather(*first) == [b"answer %d" % i for i in range(50)]
    assert await journal.keep("r", key(7), b"body 7", b"another answer", AT) == b"answer 7"
    assert await journal.keep("other", key(7), b"body 7", b"another answer", AT) == b"another answer"
    mixed = [journal.keep("r", key(i), b"b", b"new %d" % i, AT) for i in (3, 60, 60, 61)]
    assert await asyncio.gather(*mixed) == [b"answer 3", b"new 60", b"new 60", b"new 61"]
    taken = await journal.take("r", 0, 1000)
    assert [k.body for k in taken] == [b"body %d" % i for i in range(50)] + [b"b", b"b"]
    assert taken[0].received == AT and [k.id for k in taken] == sorted(k.id for k in taken)
    assert [k.body for k in await journal.take("r", taken[9].id, 2)] == [b"body 10", b"body 11"]
    await closed(database, journal)
    database, journal = await opened(tmp_path / "w.sqlite")
    assert len(await journal.take("r", 0, 1000)) == 52
    assert await journal.keep("r", key(7), b"", b"x", AT) == b"answer 7"
    await closed(database, journal)


async def test_settled_is_out_of_the_way_and_its_answer_stays(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite")
    for i in range(3):
        await journal.keep("r", key(i), b"body", b"answer", AT)
    ids = [k.id for k in await journal.take("r", 0, 10)]
    journal.settle(ids[0])
    journal.settle(ids[1], "the receiver refused it")
    journal.settle(ids[0], "twice changes nothing")
    await journal.keep("r", key(9), b"body", b"answer", AT)  # the same commit, or a later one
    assert [k.id for k in await journal.take("r", 0, 10)] == [ids[2], ids[2] + 1]
    assert await journal.keep("r", key(0), b"body", b"another", AT) == b"answer"
    counts = await journal.counts()
    assert (counts.waiting, counts.delivered, counts.aside) == (2, 1, 1)
    row = await database.run(lambda db: db.execute("SELECT body, reason FROM journal WHERE id = ?", (ids[1],)).fetchone())
    assert row == (b"body", "the receiver refused it")
    await closed(database, journal)


async def test_too_much_waits_and_nothing_is_dropped(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(bytes=2000))
    assert await journal.keep("r", key(1), b"x" * 1500, b"a", AT) == b"a"
    with pytest.raises(UnavailableError, match="too many messages wait"):
        await journal.keep("r", key(2), b"x" * 1500, b"a", AT)
    assert await journal.keep("r", key(1), b"x" * 1500, b"b", AT) == b"a"  # a resend is known all the same
    taken = await journal.take("r", 0, 10)
    assert len(taken) == 1
    journal.settle(taken[0].id)
    await asyncio.sleep(0.1)
    assert await journal.keep("r", key(2), b"x" * 1500, b"a", AT) == b"a"
    await closed(database, journal)


async def test_old_answers_are_forgotten_and_what_waits_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.journal._PURGE_EVERY", 2)
    database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(answers=5, aside=2))
    for i in range(20):
        await journal.keep("r", key(i), b"b", b"a", AT)
    for kept in (await journal.take("r", 0, 20))[1:]:
        journal.settle(kept.id, "refused" if kept.id % 2 else "")
    for i in range(4):
        await journal.keep("r", key(100 + i), b"b", b"a", AT)
    counts = await journal.counts()
    assert counts.waiting == 5 and counts.aside == 2 and counts.delivered <= 5
    assert (await journal.take("r", 0, 1))[0].id == 1
    await closed(database, journal)


async def test_a_resend_is_known_within_bounds_and_after_a_restart(tmp_path: Path) -> None:
    bounds = JournalBounds(keys=5)
    database, journal = await opened(tmp_path / "w.sqlite", bounds)
    for i in range(10):
        await journal.keep("r", key(i), b"b", b"first", AT)
        await journal.keep("s", key(i), b"b", b"first", AT)
    for _ in range(2):
        assert await journal.keep("r", key(9), b"b", b"second", AT) == b"first"
        assert await journal.keep("s", key(5), b"b", b"second", AT) == b"first"
        await closed(database, journal)
        database, journal = await opened(tmp_path / "w.sqlite", bounds)
    assert await journal.keep("r", key(1), b"b", b"second", AT) == b"second"  # too long ago: the receiver knows it by its number
    assert len(await journal.take("r", 0, 100)) == 11
    await closed(database, journal)


async def test_a_key_whose_row_is_forgotten_is_new_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.journal._PURGE_EVERY", 2)
    database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(answers=3))
    for i in (1, 2):
        await journal.keep("quiet", key(i), b"b", b"first", AT)
    journal.settle((await journal.take("quiet", 0, 1))[0].id)
    for i in range(10):
        await journal.keep("busy", key(i), b"b", b"a", AT)
    assert await journal.keep("quiet", key(1), b"b", b"second", AT) == b"second"
    assert await journal.keep("quiet", key(2), b"b", b"second", AT) == b"first"  # it still waits, so it is still known
    await closed(database, journal)


async def test_a_failing_disk_promises_nothing_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, journal = await opened(tmp_path / "w.sqlite")
    await journal.keep("r", key(1), b"b", b"a", AT)
    kept = (await journal.take("r", 0, 1))[0]
    real = database.run

    async def fails(work: object) -> object:
        raise UnavailableError("the disk is full", "free space")

    monkeypatch.setattr(database, "run", fails)
    journal.settle(kept.id)
    both = await asyncio.gather(*(journal.keep("r", key(i), b"b", b"a", AT) for i in (2, 3)), return_exceptions=True)
    assert all(isinstance(e, UnavailableError) for e in both)
    monkeypatch.setattr(database, "run", real)
    assert await journal.keep("r", key(2), b"b", b"a", AT) == b"a"
    for _ in range(40):
        if (await journal.counts()).delivered == 1:
            break
        await asyncio.sleep(0.05)
    assert (await journal.counts()).delivered == 1  # what was delivered meanwhile is noted after all
    await closed(database, journal)
    with pytest.raises(UnavailableError, match="closed"):
        await journal.keep("r", key(4), b"b", b"a", AT)


WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.model.instant import Instant
from gateway.store.database import Database
from gateway.store.journal import Journal

async def main():
    database = Database(Path(sys.argv[1]))
    await database.open()
    journal = Journal(database)

    async def one(route):
        n = 0
        while True:
            key = n.to_bytes(16, "big") * 2
            await journal.keep(route, key, b"%s %d" % (route.encode(), n), b"a", Instant("b", n, n))
            sys.stdout.write(f"{route} {n}\\n")
            sys.stdout.flush()
            n += 1

    await asyncio.gather(*(one(f"r{i}") for i in range(8)))

asyncio.run(main())
"""


def _writer(path: Path) -> subprocess.Popen[str]:
    top = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=top)


async def test_whatever_was_promised_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    child = _writer(path)
    assert child.stdout is not None
    promised = [child.stdout.readline().split() for _ in range(400)]
    os.kill(child.pid, signal.SIGKILL)
    promised += [line.split() for line in child.stdout.read().splitlines() if line.count(" ") == 1]
    child.wait(10)
    child.stdout.close()
    database, journal = await opened(path)
    for route in {r for r, _ in promised}:
        kept = [k.body.decode() for k in await journal.take(route, 0, 100_000)]
        numbers = [int(n) for r, n in promised if r == route]
        assert kept[: max(numbers) + 1] == [f"{route} {n}" for n in range(max(numbers) + 1)]
    await closed(database, journal)
