"""Brokers with bad habits: none of them costs a reading, none of them keeps another topic waiting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.machine_clock import MachineClock
from gateway.model.effect import Send
from gateway.model.outbox import Letter
from gateway.store.outbox import Outbox
from gateway.uplink import lanes, link, sender
from gateway.uplink.messages import event_body
from hil.broker import issue
from tests.uplink.conftest import Running, free_port, reading, settings_for, until, until_async
from tests.uplink.hostile import ACK, ACK_AND_CLOSE, CLOSE, Hostile, good, silent_always

CLOCK = MachineClock()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's patience, a tenth of it."""
    monkeypatch.setattr(lanes, "_FIRST_S", 0.05)
    monkeypatch.setattr(lanes, "_LONGEST_S", 0.5)
    monkeypatch.setattr(lanes, "_TELL_S", 0.15)
    monkeypatch.setattr(sender, "_FIRST_S", 0.05)
    monkeypatch.setattr(sender, "_UP_S", 0.1)
    monkeypatch.setattr(sender, "_DOWN_S", 0.3)
    monkeypatch.setattr(sender, "RECEIPT_S", 0.5)
    monkeypatch.setattr(link, "ANSWER_S", 0.7)


@contextlib.asynccontextmanager
async def serving(ca: Path, tmp_path: Path, broker: Hostile, port: int = 0) -> AsyncIterator[Hostile]:
    issue(ca, tmp_path, "hostile", names=("127.0.0.1",))
    async with broker.serving(ca, tmp_path / "hostile", port or free_port()):
        yield broker


def ids(broker: Hostile) -> list[int]:
    """Every reading that the broker acknowledged, in order, repetitions included."""
    bodies = [json.loads(p) for t, p in broker.took if "/readings/" in t]
    return [o["id"] for b in bodies for o in b["observations"]]


async def put(outbox: Outbox, number: int, device: str = "patch-1") -> None:
    await outbox.put([reading(CLOCK, device, float(i)) for i in range(number)])


async def empty(outbox: Outbox) -> bool:
    return await outbox.pending() == 0


async def test_one_refused_topic_becomes_dead_letters_with_the_reason_and_the_others_go_on(
    ca: Path, tmp_path: Path, outbox: Outbox
) -> None:
    def habit(_: Hostile, topic: str, payload: bytes) -> tuple[str, int]:
        return ACK, 0x87 if topic.endswith("/bad") else 0

    await put(outbox, 10, "bad")
    await put(outbox, 1000, "good")
    async with serving(ca, tmp_path, Hostile(habit)) as broker, Running(settings_for(ca, broker.port), outbox).running() as run:
        await until(lambda: len(ids(broker)) == 1000, "the good ones", 3)
        await until_async(lambda: empty(outbox), "nothing waits")
        assert sorted(ids(broker)) == list(range(11, 1011))
        (letter,) = (await outbox.look(True, "")).dead_letters
        assert (letter.topic, letter.readings, letter.device_id) == ("readings/bad", 10, "bad")
        assert "not authorized" in letter.reason
        assert "0x87" in letter.reason
        assert len(json.loads(letter.body)["observations"]) == 10
        await until(lambda: run.told and not run.told[-1].up and "readings/bad" in run.told[-1].detail, "somebody is told")
        broker.habit = good  # the access list is mended
        assert await outbox.revive() == 1
        await until(lambda: len(ids(broker)) == 1010, "the dead letter, after all")
        await until(lambda: run.told[-1].up, "its end is told too")
    (bad, fine) = await outbox.counts()
    assert (bad.acknowledged, bad.dead, fine.acknowledged) == (10, 0, 1000)


async def test_a_broker_that_accepts_and_forgets_costs_nothing_when_the_receiver_acknowledges(
    ca: Path, tmp_path: Path, outbox: Outbox
) -> None:
    settings = {"acknowledge": "receiver"}
    async with serving(ca, tmp_path, Hostile()) as broker, Running(settings_for(ca, broker.port, **settings), outbox).running():
        await put(outbox, 50)
        await until(lambda: len(ids(broker)) >= 150, "the same again, while nobody confirms", 5)
        assert await outbox.pending() == 50
        answer = {"schema": "wardgate/acknowledgement/1", "stream": await outbox.stream(), "messages": ["r1-50-50"]}
        await broker.say("wardgate/gw-test/acknowledged", json.dumps(answer).encode())
        await until_async(lambda: empty(outbox), "confirmed")


async def test_a_broker_that_ends_the_connection_after_each_message_gets_everything(
    ca: Path, tmp_path: Path, outbox: Outbox
) -> None:
    broker = Hostile(lambda b, t, p: (ACK_AND_CLOSE, 0))
    for device in ("a", "b", "c"):
        await put(outbox, 600, device)
    async with serving(ca, tmp_path, broker), Running(settings_for(ca, broker.port), outbox).running() as run:
        await until_async(lambda: empty(outbox), "everything", 15)
        assert set(ids(broker)) == set(range(1, 1801))
        assert broker.connections >= 9
        assert len([t for t in run.told if not t.up]) <= broker.connections / 3, "no storm of alarms"
    assert all(c.dead == c.dropped == 0 for c in await outbox.counts())


async def test_a_broker_that_ends_the_connection_before_it_answers_costs_no_message(
    ca: Path, tmp_path: Path, outbox: Outbox
) -> None:
    broker = Hostile(lambda b, t, p: (CLOSE, 0))
    await put(outbox, 100)
    async with serving(ca, tmp_path, broker), Running(settings_for(ca, broker.port), outbox).running() as run:
        await until(lambda: broker.connections > 8, "tries", 15)
        assert await outbox.pending() == 100
        assert (await outbox.counts())[0].dead == 0
        assert run.told
        assert not run.told[-1].up
        broker.habit = good
        await until_async(lambda: empty(outbox), "everything, once it behaves", 15)
    assert sorted(ids(broker)) == list(range(1, 101))


async def test_a_message_at_which_the_connection_ends_is_set_aside_alone(ca: Path, tmp_path: Path, outbox: Outbox) -> None:
    def habit(_: Hostile, topic: str, payload: bytes) -> tuple[str, int]:
        return (CLOSE, 0) if b'"value":666.0' in payload else (ACK, 0)

    broker = Hostile(habit)
    await put(outbox, 300, "a")
    await outbox.put([reading(CLOCK, "poison", 666.0)])
    async with serving(ca, tmp_path, broker), Running(settings_for(ca, broker.port), outbox).running():
        began, late = time.monotonic(), 0
        while not (counts := {c.device_id: c for c in await outbox.counts()})["poison"].dead:
            assert time.monotonic() - began < 20
            await put(outbox, 1, "a")  # the ward goes on
            late += 1
            await asyncio.sleep(0.1)
        await until_async(lambda: empty(outbox), "the rest")
    assert len(set(ids(broker))) == 300 + late
    assert (counts["poison"].dead, counts["a"].dead) == (1, 0)


async def test_a_broker_that_falls_silent_is_left_and_nothing_is_lost(ca: Path, tmp_path: Path, outbox: Outbox) -> None:
    broker = Hostile(silent_always)
    await put(outbox, 20)
    async with serving(ca, tmp_path, broker), Running(settings_for(ca, broker.port), outbox).running() as run:
        await until(lambda: broker.connections >= 2, "a second connection")
        await until(lambda: run.told and not run.told[-1].up, "somebody is told")
        assert "does not answer" in run.told[-1].detail
        broker.habit = good
        await until_async(lambda: empty(outbox), "everything")
        await until(lambda: run.told[-1].up, "well again")
    assert sorted(set(ids(broker))) == list(range(1, 21))


async def test_a_cable_that_is_out_is_known_before_the_connection_notices(ca: Path, tmp_path: Path, outbox: Outbox) -> None:
    async with serving(ca, tmp_path, Hostile()) as broker, Running(settings_for(ca, broker.port), outbox).running() as run:
        await until(lambda: run.told and run.told[-1].up, "well")
        run.sender.cable("no cable on hosp0; look at the cable")
        assert (run.told[-1].up, run.told[-1].detail) == (False, "no cable on hosp0; look at the cable")
        assert run.sender.state == (False, "no cable on hosp0; look at the cable")
        await put(outbox, 1)
        await until_async(lambda: empty(outbox), "what is acknowledged all the same")
        assert not run.told[-1].up
        run.sender.cable("")
        assert run.told[-1].up and run.sender.state[0]
        assert broker.connections == 1


async def test_a_broker_that_never_says_hello(ca: Path, tmp_path: Path, outbox: Outbox) -> None:
    async with serving(ca, tmp_path, Hostile(mute=True)) as broker, Running(settings_for(ca, broker.port), outbox).running() as run:
        await until(lambda: run.told and not run.told[-1].up, "somebody is told", 5)
        assert "cannot be reached" in run.told[-1].detail
        broker.mute = False
        await put(outbox, 1)
        await until_async(lambda: empty(outbox), "delivered")


@pytest.mark.parametrize("connack", [b"\x00\x87\x00", b"\x00\x80\x00", b"\x00", b"\xff\xff\xff\xff", b""])
async def test_a_broker_that_will_not_have_us(ca: Path, tmp_path: Path, outbox: Outbox, connack: bytes) -> None:
    async with (
        serving(ca, tmp_path, Hostile(connack=connack)) as broker,
        Running(settings_for(ca, broker.port), outbox).running() as run,
    ):
        await until(lambda: run.told and not run.told[-1].up, "somebody is told", 5)
        broker.connack = b"\x00\x00\x00"
        await put(outbox, 1)
        await until_async(lambda: empty(outbox), "delivered")


async def test_the_brokers_limits_are_kept(ca: Path, tmp_path: Path, outbox: Outbox) -> None:
    """Receive maximum 2 and packets of 4 KiB (MQTT 5, 3.2.2.3.3 and 3.2.2.3.6)."""
    flying: set[bytes] = set()
    most = 0

    def habit(_: Hostile, topic: str, payload: bytes) -> tuple[str, int]:
        nonlocal most
        most = max(most, len(payload))
        return ACK, 0

    properties = b"\x21\x00\x02" + b"\x27\x00\x00\x10\x00"
    broker = Hostile(habit, connack=b"\x00\x00" + bytes([len(properties)]) + properties)
    await put(outbox, 400)
    async with serving(ca, tmp_path, broker), Running(settings_for(ca, broker.port), outbox).running() as run:
        await until_async(lambda: empty(outbox), "everything", 15)
        assert run.sender._lanes.window == 2
    assert most <= 4096
    assert sorted(ids(broker)) == list(range(1, 401))
    assert not flying


async def test_nothing_from_the_network_is_a_command(ca: Path, tmp_path: Path, outbox: Outbox) -> None:
    """Floods, orders, acknowledgements for things never sent: counted, dropped, and nothing moves."""
    async with (
        serving(ca, tmp_path, Hostile()) as broker,
        Running(settings_for(ca, broker.port, acknowledge="receiver"), outbox).running() as run,
    ):
        await put(outbox, 10)
        await until(lambda: ids(broker), "sent")
        stream = await outbox.stream()
        for name in ("r1-10-9", "r2-10-10", "e1", "*"):
            body = {"schema": "wardgate/acknowledgement/1", "stream": stream, "messages": [name]}
            await broker.say("wardgate/gw-test/acknowledged", json.dumps(body).encode())
        for i in range(3000):
            await broker.say(f"wardgate/gw-test/command/{i % 7}", b'{"verb": "enforce", "device_id": "pump-1"}')
        await until(lambda: run.sender.strangers > 0, "counted")
        await asyncio.sleep(0.3)
        assert await outbox.pending() == 10
        body = {"schema": "wardgate/acknowledgement/1", "stream": stream, "messages": ["r1-10-10"]}
        await broker.say("wardgate/gw-test/acknowledged", json.dumps(body).encode())
        await until_async(lambda: empty(outbox), "the true one still counts")


async def test_alarms_do_not_queue_behind_readings(ca: Path, tmp_path: Path, outbox: Outbox) -> None:
    now = CLOCK.now()
    await put(outbox, 3000)
    body = (("device", "pump-1"), ("severity", "alarm"), ("text", "t"), ("code", "bad-evidence"), ("raised", True))
    await outbox.put_letters([Letter(0, 0, "alarm", event_body(Send("alarm", 0, body), now), now)])
    async with serving(ca, tmp_path, Hostile()) as broker, Running(settings_for(ca, broker.port), outbox).running():
        await until(lambda: broker.seen, "something")
        assert broker.seen[0][0] == "wardgate/gw-test/alarm"
