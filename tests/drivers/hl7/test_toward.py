"""Routes toward a device: what a hospital system tells it needs the device's level, and says nothing of whether it is there."""

from __future__ import annotations

import asyncio

from gateway.model.event import Behaviour, EvidenceArrived, LinkChanged
from tests.drivers.hl7.ward import ORDERS, SETTINGS, Bench, nothing_relayed, order, oru
from tests.fakes.context import until


async def test_at_level_none_it_is_answered_ae_and_not_relayed() -> None:
    async with Bench().running() as b:
        for port in (SETTINGS, ORDERS):
            s = await b.dial(port)
            with nothing_relayed(b):
                assert b"\rMSA|AE|O1|" in await s.ask(order())
            b.grant(1)
            with nothing_relayed(b):
                assert b"\rMSA|AE|O1|" in await s.ask(order())
            b.context.grant("monitor-1").revoke()
        assert (await b.context.wait(Behaviour)).code == "message-below-level"
        assert not b.context.journal.rows


async def test_with_the_devices_level_it_is_relayed_byte_for_byte_and_the_device_answers() -> None:
    async with Bench().running() as b:
        own = await b.dial()
        b.grant(2)
        assert b"|AA|" in await own.ask(oru())  # the level rests on what the device itself says
        s = await b.dial(SETTINGS)
        assert await s.ask(order(b"O7")) == b.toward.answers[-1]
        assert b.toward.messages == [order(b"O7")]
        with nothing_relayed(b):
            assert b"|AR|" in await s.ask(order(b"O8").replace(b"|HIS|", b"|EVIL|"))
            assert b"|AR|" in await s.ask(oru(b"O9"))  # the device's own messages have no business in this direction
        b.context.grant("monitor-1").revoke()  # its serial number changed, say
        with nothing_relayed(b):
            assert b"|AE|O10|" in await s.ask(order(b"O10"))


async def test_a_hospitals_connection_is_no_link_and_no_evidence() -> None:
    async with Bench(linger_s=0.2, attest_s=0.3).running() as b:
        b.grant(2)
        s = await b.dial(SETTINGS)
        assert b"|AA|" in await s.ask(order())
        assert b.context.of(LinkChanged) == []
        await b.driver.attest("monitor-1", "application/vnd.wardgate.hl7+cbor", bytes(32))
        assert b.context.of(EvidenceArrived) == []
        own = await b.dial()
        await b.context.wait(LinkChanged, lambda e: e.up)
        own.writer.close()
        await b.context.wait(LinkChanged, lambda e: not e.up)  # the hospital's connection is still there
        assert b"|AA|" in await s.ask(order(b"O2"))


async def test_hospital_clients_cannot_take_the_devices_own_connections() -> None:
    async with Bench().running() as b:
        b.grant(2)
        kept = [await b.dial(SETTINGS) for _ in range(16)]
        assert await (await b.dial(SETTINGS)).closed()
        assert b"|AA|" in await (await b.dial()).ask(oru())
        assert b"|AA|" in await kept[0].ask(order())


async def test_a_stored_order_waits_while_the_devices_level_is_too_low() -> None:
    """It was accepted at level 2; by the time the device is there again its level is gone."""
    async with Bench().running() as b:
        await b.toward.stop()
        b.grant(2)
        s = await b.dial(ORDERS)
        assert b"|AA|O1" in await s.ask(order())
        b.context.grant("monitor-1").revoke()
        await b.toward.start()
        with nothing_relayed(b):
            await asyncio.sleep(1.5)
        assert b.context.journal.rows[0]["state"] == "waiting"
        b.grant(2)
        await until(lambda: b.toward.messages == [order()], "delivered when it may be", 15)
        await until(lambda: b.context.journal.rows[0]["state"] == "delivered", "and settled")
