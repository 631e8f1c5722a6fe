"""Nothing acknowledged is lost, nothing is kept beyond the bounds, every loss is counted."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import InputError
from gateway.model.certificate import CertificateId
from gateway.model.instant import Instant, TimeQuality
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.model.outbox import Letter
from gateway.store.database import Database
from gateway.store.outbox import Bounds, DeviceCounts, Outbox
from tests.store.conftest import HandClock

HEART_RATE = "147842"  # MDC_ECG_HEART_RATE


def reading(clock: HandClock, device: str = "patch-1", value: float = 72.0) -> Observation:
    return Observation(device, HEART_RATE, "/min", clock.now(), clock.now(), TrustLevel.FULL, value)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commit at once, for what does not depend on when."""
    monkeypatch.setattr("gateway.store.outbox.COMMIT_INTERVAL_S", 0.0)


boots = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
times = st.integers(0, 2**62)
instants = st.builds(Instant, boots, times, times, st.sampled_from(TimeQuality))
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    value = draw(st.none() | st.floats(allow_nan=False, allow_infinity=False))
    return Observation(
        draw(st.sampled_from(["a", "b"])), draw(text), draw(text), draw(instants), draw(instants),
        draw(st.none() | st.sampled_from(TrustLevel)), value, draw(text) if value is None else None,
    )  # fmt: skip


@pytest.mark.usefixtures("at_once")
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(batch=st.lists(observations(), min_size=1, max_size=20))
async def test_a_reading_comes_back_as_it_was(tmp_path: Path, batch: list[Observation]) -> None:
    clock = HandClock()
    db = Database(tmp_path / "w.sqlite")
    await db.open()
    outbox = Outbox(db, clock, Bounds(age_s=2**62))
    await outbox.put(batch)
    found = await outbox.take(100)
    assert [w.observation for w in found] == batch
    assert await outbox.acknowledge([w.id for w in found]) == len(batch)
    assert await outbox.pending() == 0
    await outbox.close()
    await db.close()


async def test_puts_within_half_a_second_share_a_commit(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock)
    commits = 0
    run = database.run

    async def counted(work):  # type: ignore[no-untyped-def]
        nonlocal commits
        commits += 1
        return await run(work)

    database.run = counted  # type: ignore[method-assign]
    begin = time.monotonic()

    async def device(i: int) -> None:
        for _ in range(4):
            await outbox.put([reading(clock, f"d-{i}")])

    await asyncio.gather(*(device(i) for i in range(50)))
    elapsed = time.monotonic() - begin
    assert await outbox.pending() == 200
    assert commits - 1 <= elapsed * 2 + 1  # two fsyncs a second, whatever the number of devices
    await outbox.close()


async def test_a_large_batch_does_not_wait(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock)
    batch = [reading(clock, value=float(i)) for i in range(500)]
    await outbox.put(batch)
    begin = time.monotonic()
    for _ in range(10):
        await outbox.put(batch)
    elapsed = time.monotonic() - begin
    print(f"{5000 / elapsed:,.0f} readings/s, fsync included")
    assert elapsed < 2.5  # ten half-second waits would take five
    await outbox.close()


@pytest.mark.usefixtures("at_once")
async def test_acknowledged_is_gone_the_rest_stays_and_ids_are_never_used_again(tmp_path: Path, clock: HandClock) -> None:
    for _ in range(2):
        db = Database(tmp_path / "w.sqlite")
        await db.open()
        outbox = Outbox(db, clock)
        await outbox.put([reading(clock, value=float(i)) for i in range(5)])
        found = await outbox.take(5)
        assert await outbox.acknowledge([w.id for w in found]) == 5
        assert await outbox.acknowledge([w.id for w in found]) == 0
        newest = found[-1].id
        await outbox.close()
        await db.close()
    assert newest == 10
    assert found[0].id == 6


async def test_the_device_that_holds_most_loses_its_oldest_first(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock, Bounds(rows=10))
    await outbox.put([reading(clock, "quiet", float(i)) for i in range(3)] + [reading(clock, "loud", float(i)) for i in range(9)])
    left = await outbox.take(100)
    assert [w.observation.value for w in left if w.observation.device_id == "quiet"] == [0, 1, 2]
    assert [w.observation.value for w in left if w.observation.device_id == "loud"] == [2, 3, 4, 5, 6, 7, 8]
    loud, quiet = await outbox.counts()
    assert loud == DeviceCounts("loud", 7, loud.bytes, 9, 0, 2)
    assert quiet == DeviceCounts("quiet", 3, quiet.bytes, 3, 0, 0)
    await outbox.close()


async def test_bytes_are_bounded_too(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock, Bounds(bytes=10_000))
    for _ in range(3):
        await outbox.put([reading(clock)] * 500)
    (counts,) = await outbox.counts()
    assert counts.bytes <= 10_000
    assert counts.waiting == len(await outbox.take(10_000)) > 20
    assert counts.accepted == 1500 == counts.waiting + counts.dropped
    await outbox.close()


async def test_age_runs_on_boot_time_and_doubtful_wall_time_drops_nothing(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock, Bounds(age_s=60))
    await outbox.put([reading(clock, "old")])
    clock.forward(61)
    await outbox.put([reading(clock, "new")])
    assert [w.observation.device_id for w in await outbox.take()] == ["new"]
    clock.reboot()
    clock.at = Instant("boot-2", 1, 10**19 // 4, TimeQuality.UNKNOWN)  # far in the future, and nobody believes it
    await outbox.put([reading(clock, "doubtful")])
    assert [w.observation.device_id for w in await outbox.take()] == ["new", "doubtful"]
    clock.at = Instant("boot-2", 2, 10**19 // 4, TimeQuality.AUTHENTICATED)
    await outbox.put([reading(clock, "sure")])
    assert [w.observation.device_id for w in await outbox.take()] == ["doubtful", "sure"]
    assert {c.device_id: c.dropped for c in await outbox.counts()} == {"old": 1, "new": 1, "doubtful": 0, "sure": 0}
    await outbox.close()


async def test_a_reading_that_cannot_be_stored_harms_no_other_device(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock)
    bad = Observation("bad", "q", "\ud800", clock.now(), clock.now(), None, 1.0)
    nan = Observation("bad", "q", "u", clock.now(), clock.now(), None, float("nan"))
    results = await asyncio.gather(
        outbox.put([bad]), outbox.put([nan]), outbox.put([reading(clock, "good")]), return_exceptions=True
    )
    assert isinstance(results[0], InputError)
    assert isinstance(results[1], InputError)
    assert results[2] is None
    assert [w.observation.device_id for w in await outbox.take()] == ["good"]
    await outbox.close()


async def test_close_writes_what_waits(tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.outbox.COMMIT_INTERVAL_S", 10.0)
    db = Database(tmp_path / "w.sqlite")
    await db.open()
    outbox = Outbox(db, clock)
    await outbox.put([reading(clock)])
    late = asyncio.create_task(outbox.put([reading(clock)]))
    await asyncio.sleep(0)
    begin = time.monotonic()
    await outbox.close()
    await late
    assert time.monotonic() - begin < 5, "it does not wait for the next commit"
    assert await outbox.pending() == 2
    with pytest.raises(Exception, match="closed"):
        await outbox.put([reading(clock)])
    await db.close()


def letter(clock: HandClock, topic: str = "alarm", priority: int = 0, body: str = "{}") -> Letter:
    return Letter(0, priority, topic, body, clock.now())


async def whole(outbox: Outbox) -> list[DeviceCounts]:
    """The counters, after checking that every reading is somewhere."""
    counts = list(await outbox.counts())
    for c in counts:
        assert c.accepted == c.waiting + c.acknowledged + c.dropped + c.dead
    return counts


async def test_a_certificate_stays_with_its_reading(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock)
    labelled = replace(reading(clock), certificate=CertificateId(41, bytes(range(32))))
    await outbox.put([labelled, reading(clock)])
    assert [w.observation.certificate for w in await outbox.take()] == [labelled.certificate, None]
    await outbox.close()


async def test_an_alarm_does_not_wait_for_the_next_commit(
    database: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.outbox.COMMIT_INTERVAL_S", 10.0)
    outbox = Outbox(database, clock)
    await outbox.put([reading(clock)])
    begin = time.monotonic()
    await outbox.put_letters([letter(clock)])
    assert time.monotonic() - begin < 5
    assert await outbox.lanes() == (["patch-1"], [("alarm", 0)])
    await outbox.close()


async def test_the_least_urgent_messages_are_dropped_first_and_counted(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock, Bounds(letters=3))
    await outbox.put_letters([letter(clock, "decision", 1, f"{i}") for i in range(3)])
    await outbox.put_letters([letter(clock, "alarm", 0, f"{i}") for i in range(2)])
    assert [x.body for x in await outbox.take_letters("decision")] == ["2"]
    assert [x.body for x in await outbox.take_letters("alarm")] == ["0", "1"]
    assert [(c.priority, c.waiting, c.accepted, c.dropped) for c in await outbox.message_counts()] == [(0, 2, 2, 0), (1, 1, 3, 2)]
    await outbox.close()


@pytest.mark.usefixtures("at_once")
async def test_what_is_refused_is_set_aside_sent_again_and_never_lost_from_the_counts(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock)
    await outbox.put([reading(clock, value=float(i)) for i in range(5)])
    ids = [w.id for w in await outbox.take(3)]
    await outbox.bury("readings/patch-1", '{"a": 1}', "not authorized (0x87)", ids=ids)
    (counts,) = await whole(outbox)
    assert (counts.waiting, counts.dead) == (2, 3)
    view = await outbox.look(up=False, state="refused")
    assert (view.dead, view.readings, view.dead_letters[0].reason, view.dead_letters[0].readings) == (
        3,
        2,
        "not authorized (0x87)",
        3,
    )
    assert await outbox.revive() == 1
    (again,) = await outbox.take_letters("readings/patch-1")
    assert (again.body, again.readings, again.device_id) == ('{"a": 1}', 3, "patch-1")
    await outbox.bury("readings/patch-1", again.body, "still not", letter=again)
    assert (await whole(outbox))[0].dead == 3
    await outbox.revive()
    (again,) = await outbox.take_letters("readings/patch-1")
    assert await outbox.acknowledge([], [again.id]) == 1
    (counts,) = await whole(outbox)
    assert (counts.waiting, counts.dead, counts.acknowledged) == (2, 0, 3)
    assert [(c.waiting, c.accepted, c.acknowledged) for c in await outbox.message_counts()] == [(0, 1, 1)]
    await outbox.close()


@pytest.mark.usefixtures("at_once")
async def test_dead_letters_are_bounded_and_a_forgotten_one_is_a_loss(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock, Bounds(dead=2))
    await outbox.put([reading(clock, value=float(i)) for i in range(4)])
    for w in await outbox.take():
        await outbox.bury("t", "{}", "no", ids=[w.id])
    (counts,) = await whole(outbox)
    assert (counts.dead, counts.dropped, len((await outbox.look(True, "")).dead_letters)) == (2, 2, 2)
    await outbox.close()


async def test_acknowledgements_share_a_commit_with_what_comes_in(database: Database, clock: HandClock) -> None:
    outbox = Outbox(database, clock)
    await outbox.put([reading(clock) for _ in range(40)])
    ids = [w.id for w in await outbox.take()]
    commits, run = 0, database.run

    async def counted(work):  # type: ignore[no-untyped-def]
        nonlocal commits
        commits += 1
        return await run(work)

    database.run = counted  # type: ignore[method-assign]
    begin = time.monotonic()
    results = await asyncio.gather(*(outbox.acknowledge([i]) for i in ids), *(outbox.put([reading(clock)]) for _ in range(40)))
    assert time.monotonic() - begin < 1.5
    assert results[:40] == [1] * 40
    assert commits <= 2
    await outbox.close()


async def test_a_file_numbers_its_readings_under_its_own_name(tmp_path: Path, clock: HandClock) -> None:
    names = []
    for file in ("a", "a", "b"):
        db = Database(tmp_path / file)
        await db.open()
        outbox = Outbox(db, clock)
        names.append(await outbox.stream())
        await outbox.close()
        await db.close()
    assert len(names[0]) == 16
    assert names[0] == names[1] != names[2]
