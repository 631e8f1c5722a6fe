"""Readings on their way out of a monitor's messages: of accepted ones only, each once, with the level of their receipt, bounded."""

from __future__ import annotations

import asyncio

import pytest

from drivers.hl7.ack import Verdict
from gateway.model.event import Behaviour
from gateway.model.level import TrustLevel
from hil.hl7 import stamp
from tests.drivers.hl7.ward import LIVE, ORDERS, RESULTS, SETTINGS, Bench, device, order, oru
from tests.fakes.context import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.delivery.GATHER_S", 0.02)
    monkeypatch.setattr("drivers.hl7.readings._TURN_S", 0.02)


def fresh(raw: bytes) -> bytes:
    """A message of this second."""
    return raw.replace(b"20261124053000+0000", b"20261124053000").replace(b"20261124053000", stamp())


def values(b: Bench) -> list[float | None]:
    return [o.value for o in b.context.outbox.observations]


@pytest.mark.parametrize("port", [LIVE, RESULTS])
async def test_an_accepted_message_gives_its_readings_once_with_the_level_of_its_receipt(port: int) -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial(port)
        first = fresh(oru(b"M1"))
        await s.ask(first)
        await s.ask(first)  # a resend
        b.grant(3)
        await s.ask(fresh(oru(b"M2", observations=3)))
        old = oru(b"M3", observations=1)  # it waited in the device since before there was evidence: nobody knows what it was then
        await s.ask(old)
        await until(lambda: len(values(b)) == 6, "all of them")
        await asyncio.sleep(0.2)
        assert values(b) == [71.0, 72.0, 71.0, 72.0, 73.0, 71.0]
        found = b.context.outbox.observations
        assert [o.level for o in found] == [TrustLevel.STANDARD] * 2 + [TrustLevel.FULL] * 3 + [None]
        assert all(o.received_at.seconds_since(o.taken_at) < 5 for o in found[:5])
        assert found[5].received_at.seconds_since(found[5].taken_at) > 60
        assert {(o.device_id, o.quantity, o.unit) for o in found} == {("monitor-1", "MDC_ECG_HEART_RATE", "/min")}
        assert not [w for w in ("DOE", "JANE", "100012") if w in repr(found)]


async def test_what_was_not_accepted_gives_no_readings() -> None:
    async with Bench(answer_s=0.2, hold_s=0.2).running() as b:
        b.attests = False
        b.grant(2)
        s = await b.dial()
        assert b"|AE|" in await s.ask(oru(b"N1"))  # not attested
        await b.attest()
        b.grant(1)
        assert b"|AE|" in await s.ask(oru(b"N2"))
        b.grant(2)
        for verdict in (Verdict.ERROR, Verdict.REJECT):
            b.receiver.answer = lambda raw, v=verdict: b.receiver.accept(raw, v)  # type: ignore[misc]
            await s.ask(oru(b"N3"))
        b.receiver.answer = lambda _: None
        assert b"|AE|" in await s.ask(oru(b"N4"))
        b.receiver.answer = b.receiver.accept
        b.context.journal.full = True
        assert b"|AE|" in await (await b.dial(RESULTS)).ask(oru(b"N5"))
        assert b"|AR|" in await s.ask(oru(b"N6") + b"obx|1\r")
        assert b"|AA|" in await s.ask(oru(b"GOOD", observations=1))
        await until(lambda: values(b), "those of the good one")
        await asyncio.sleep(0.2)
        assert values(b) == [71.0]


async def test_other_messages_and_those_toward_the_device_are_no_measurements_of_it() -> None:
    async with Bench().running() as b:
        b.grant(3)
        s = await b.dial()
        assert b"|AA|" in await s.ask(oru(b"A1").replace(b"ORU^R01^ORU_R01", b"ADT^A01"))
        for port in (SETTINGS, ORDERS):
            t = await b.dial(port)
            told = order(b"T%d" % port) + oru().partition(b"\r")[2]
            assert b"|AA|" in await t.ask(told)
        await asyncio.sleep(0.2)
        assert values(b) == []


async def test_a_full_disk_delays_readings_and_harms_no_message() -> None:
    async with Bench().running() as b:
        b.grant(2)
        b.context.outbox.full = True
        s = await b.dial()
        for i in range(5):
            assert b"|AA|" in await s.ask(oru(b"F%d" % i, observations=1))
        b.context.outbox.full = False
        await until(lambda: values(b) == [71.0] * 5, "they are stored after all")


async def test_a_flood_is_relayed_and_its_readings_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.readings.BURST", 20.0)
    monkeypatch.setattr("drivers.hl7.readings.PER_S", 50.0)
    async with Bench().running(device(1), device(2)) as b:
        b.grant(2, 1)
        b.grant(2, 2)
        s, other = await b.dial(), await b.dial(LIVE, 2)
        for i in range(300):
            assert b"|AA|" in await s.ask(oru(b"F%03d" % i))
        assert b"|AA|" in await other.ask(oru(b"X", observations=1))
        event = await b.context.wait(Behaviour, lambda e: e.code == "readings-dropped")
        assert event.device_id == "monitor-1" and event.count > 100
        await until(lambda: [o for o in b.context.outbox.observations if o.device_id == "monitor-2"], "the other one's")
        assert 20 <= len(values(b)) < 400


@pytest.mark.parametrize("what", ["unknown measurements", "long messages", "a resend"])
async def test_what_gives_no_readings_costs_its_share_all_the_same(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.readings.BURST", 100.0)
    monkeypatch.setattr("drivers.hl7.readings.PER_S", 1.0)
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        if what == "unknown measurements":
            costly = oru(b"U1") + b"OBX|9|NM|4711^pain^99LOCAL||5|x|||||R\r" * 120
        else:
            costly = oru(b"U1") + b"NTE|1||" + b"x" * 60_000 + b"\r"
        for i in range(5):
            again = costly if what == "a resend" else costly.replace(b"|U1|", b"|U%d|" % i)
            assert b"|AA|" in await s.ask(again)
        await asyncio.sleep(0.3)
        assert b"|AA|" in await s.ask(oru(b"LATE", observations=3))
        await asyncio.sleep(0.5)
        assert 73.0 not in values(b)
        assert b.driver._roster.links["monitor-1"].readings._messages, "it waits for its turn"


async def test_measurements_that_nobody_knows_are_told_and_nothing_else_suffers() -> None:
    async with Bench().running() as b:
        b.grant(2)
        s = await b.dial()
        strange = oru(b"U1") + b"OBX|9|NM|4711^pain^99LOCAL||5|x|||||R\r"
        assert b"|AA|" in await s.ask(strange)
        await until(lambda: len(values(b)) == 2, "the two that are known")
        event = await b.context.wait(Behaviour, lambda e: e.code == "malformed-reading")
        assert event.count == 1
