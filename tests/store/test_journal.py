"""The journal: durable before the promise, the same message once, in order, bounded without ever dropping what waits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import InputError, RefusedError, UnavailableError
from gateway.model.instant import Instant, TimeQuality
from gateway.store.database import Database
from gateway.store.journal import REUSED_S, Journal, JournalBounds

AT = Instant("boot-1", 5, 7, TimeQuality.RTC)


def key(n: int, content: int = 0) -> bytes:
    return n.to_bytes(8, "big") + content.to_bytes(8, "big")


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
    database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(route_bytes=2000))
    assert await journal.keep("r", key(1), b"x" * 1500, b"a", AT) == b"a"
    with pytest.raises(UnavailableError, match="too many messages of this route wait"):
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


async def test_an_answer_is_read_before_it_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that takes a resend, and so many new messages that the first one's answer goes."""
    monkeypatch.setattr("gateway.store.journal._PURGE_EVERY", 2)
    database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(answers=3))
    await journal.keep("r", key(0), b"b", b"first", AT)
    for kept in await journal.take("r", 0, 20):
        journal.settle(kept.id)
    await journal.keep("r", key(1), b"b", b"a", AT)
    together = [
        journal.keep("r", key(0), b"b", b"another", AT),
        *(journal.keep("r", key(10 + i), b"b", b"a", AT) for i in range(9)),
    ]
    assert (await asyncio.gather(*together))[0] == b"first"
    await closed(database, journal)


async def test_a_backlog_of_long_messages_is_taken_in_small_parts(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite")
    sizes = [100, 100, 150_000, 150_000, 900_000, 900_000, 100]
    for i, size in enumerate(sizes):
        await journal.keep("r", key(i), b"x" * size, b"a", AT)
    taken, after = [], 0
    while some := await journal.take("r", after, 64):
        taken.append([len(k.body) for k in some])
        after = some[-1].id
    assert taken == [[100, 100, 150_000], [150_000], [900_000], [900_000], [100]]
    await closed(database, journal)


async def test_what_was_delivered_is_not_forgotten_whatever_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, journal = await opened(tmp_path / "w.sqlite")
    await journal.keep("r", key(1), b"b", b"a", AT)
    kept = (await journal.take("r", 0, 1))[0]
    real = database.run

    async def fails(work: object) -> object:
        raise TypeError("a fault of ours")

    monkeypatch.setattr(database, "run", fails)
    journal.settle(kept.id)
    with pytest.raises(TypeError):
        await journal.keep("r", key(2), b"b", b"a", AT)
    monkeypatch.setattr(database, "run", real)
    await journal.keep("r", key(2), b"b", b"a", AT)
    assert (await journal.counts()).delivered == 1
    await closed(database, journal)


async def test_one_name_for_two_messages_is_refused_while_they_could_be_confused(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite")
    first = journal.keep("r", key(1, 1), b"one", b"answer", AT)
    with pytest.raises(RefusedError, match="control id"):  # in the same commit
        await journal.keep("r", key(1, 2), b"two", b"other", AT)
    assert await first == b"answer"
    assert await journal.keep("s", key(1, 2), b"two", b"other", AT) == b"other"
    long_after = Instant("boot-1", round((REUSED_S + 1) * 1e9), 7, TimeQuality.RTC)
    with pytest.raises(RefusedError):  # it still waits
        await journal.keep("r", key(1, 2), b"two", b"other", long_after)
    journal.settle((await journal.take("r", 0, 1))[0].id)
    await journal.keep("r", key(5), b"five", b"", AT)
    with pytest.raises(RefusedError):  # it was a short time ago
        await journal.keep("r", key(1, 2), b"two", b"other", Instant("boot-1", 99, 7, TimeQuality.RTC))
    assert await journal.keep("r", key(1, 1), b"one", b"x", AT) == b"answer"
    assert await journal.keep("r", key(1, 2), b"two", b"other", long_after) == b"other"  # it counts anew
    assert [k.body for k in await journal.take("r", 0, 9)] == [b"five", b"two"]
    await closed(database, journal)


async def test_a_receiver_that_is_gone_takes_no_room_from_another(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(bytes=8000))
    for name in ("a/r", "b/r"):
        assert not await journal.take(name, 0, 1)
    kept = [journal.keep("a/r", key(i), b"x" * 800, b"a", AT) for i in range(9)]
    refused = [isinstance(e, UnavailableError) for e in await asyncio.gather(*kept, return_exceptions=True)]
    assert refused == [False] * 4 + [True] * 5  # half of the whole
    for i in range(4):
        assert await journal.keep("b/r", key(i), b"x" * 800, b"a", AT) == b"a"
    routes, _ = await journal.look(AT)
    assert [(r.route, r.device_id, r.waiting, r.bytes, r.room, r.refused) for r in routes] == [
        ("a/r", "a", 4, 4000, 4000, 5), ("b/r", "b", 4, 4000, 4000, 0),
    ]  # fmt: skip
    await closed(database, journal)


async def test_kept_aside_listed_sent_again_or_discarded(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite")
    for i in range(4):
        await journal.keep("m-1/r", key(i), b"body %d" % i, b"answer %d" % i, AT)
    ids = [k.id for k in await journal.take("m-1/r", 0, 10)]
    for i in ids[:3]:
        journal.settle(i, f"refused {i}")
    await journal.keep("m-1/r", key(9), b"b", b"", AT)
    for _ in range(2):
        routes, aside = await journal.look(Instant("boot-1", 5 + 10**9, 7, TimeQuality.RTC))
        assert [(m.id, m.route, m.device_id, m.reason, m.bytes) for m in aside] == [
            (i, "m-1/r", "m-1", f"refused {i}", 6) for i in (ids[2], ids[1], ids[0])
        ]
        assert (routes[0].waiting, routes[0].aside, routes[0].oldest_s) == (2, 3, 1.0)
        await closed(database, journal)
        database, journal = await opened(tmp_path / "w.sqlite")
    assert await journal.retry(ids[0]) == "m-1/r"
    assert await journal.discard(ids[1], "printed and signed") == "m-1/r"
    for gone in (ids[0], ids[1], ids[3], 999):
        for act in (journal.retry(gone), journal.discard(gone, "x")):
            with pytest.raises(InputError, match="kept aside"):
                await act
    assert [k.body for k in await journal.take("m-1/r", ids[3], 9)] == [b"b", b"body 0"]  # behind the others
    assert await journal.keep("m-1/r", key(0), b"body 0", b"new", AT) == b"answer 0"  # still the same message
    assert [m.id for m in (await journal.look(AT))[1]] == [ids[2]]
    row = await database.run(lambda db: db.execute("SELECT body, reason FROM journal WHERE id = ?", (ids[1],)).fetchone())
    assert row == (None, "discarded: printed and signed")
    await closed(database, journal)


async def test_what_is_too_much_to_keep_aside_is_forgotten_and_counted(tmp_path: Path) -> None:
    database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(aside=3))
    for i in range(6):
        await journal.keep("r", key(i), b"body", b"answer", AT)
        journal.settle((await journal.take("r", 0, 1))[0].id, f"refused {i}")
        await journal.keep("s", key(i), b"body", b"answer", AT)
    for _ in range(2):
        async with asyncio.timeout(5):  # what is too much goes with the next commit
            while len((await journal.look(AT))[1]) > 3:  # noqa: ASYNC110 - bounded above
                await asyncio.sleep(0.01)
        routes, aside = await journal.look(AT)
        assert [m.reason for m in aside] == ["refused 5", "refused 4", "refused 3"]
        assert [(r.route, r.aside, r.forgotten, r.waiting) for r in routes] == [("r", 3, 3, 0), ("s", 0, 0, 6)]
        await closed(database, journal)
        database, journal = await opened(tmp_path / "w.sqlite", JournalBounds(aside=3))
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
            key = n.to_bytes(8, "big") * 2
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
