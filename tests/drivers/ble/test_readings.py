"""Readings on their way to the outbox: a full disk, a flood, a broken sensor, an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from drivers import delivery
from drivers.ble.heart_rate import MEASUREMENT_UUID
from drivers.ble.readings import Readings
from drivers.delivery import MAX_WAITING
from gateway.model.event import Behaviour
from gateway.model.level import TrustLevel
from tests.fakes.context import FakeContext, until


@asynccontextmanager
async def delivering(r: Readings) -> AsyncIterator[None]:
    """Deliver for the length of a block."""
    task = asyncio.create_task(r.deliver())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def take(r: Readings, context: FakeContext, data: str, level: TrustLevel | None = TrustLevel.FULL) -> None:
    """One notification."""
    r.take(MEASUREMENT_UUID, bytes.fromhex(data), level, context.clock.now())


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> FakeContext:
    """Quick."""
    monkeypatch.setattr(delivery, "GATHER_S", 0.01)
    monkeypatch.setattr(delivery, "RETRY_S", 0.02)
    return FakeContext("readings")


async def test_readings_arrive_in_order_in_batches_with_their_level(context: FakeContext) -> None:
    r = Readings(context, "patch-1")
    async with delivering(r):
        for rate in range(60, 70):
            take(r, context, f"06{rate:02x}", None if rate < 65 else TrustLevel.FULL)
        await until(lambda: len(context.outbox.observations) == 10, "ten readings")
    got = context.outbox.observations
    assert [o.value for o in got] == [float(n) for n in range(60, 70)]
    assert [o.level for o in got] == [None] * 5 + [TrustLevel.FULL] * 5
    assert all(o.device_id == "patch-1" and o.taken_at == o.received_at for o in got)
    assert context.outbox.batches == 1


async def test_a_full_disk_delays_and_then_drops_the_oldest(context: FakeContext) -> None:
    context.outbox.full = True
    r = Readings(context, "patch-1")
    async with delivering(r):
        take(r, context, "0601")
        await asyncio.sleep(0.05)
        for _ in range(MAX_WAITING):
            take(r, context, "0602")
        assert context.outbox.observations == []
        context.outbox.full = False
        await until(lambda: len(context.outbox.observations) == MAX_WAITING, "what was kept")
        told = await context.wait(Behaviour)
    assert {o.value for o in context.outbox.observations} == {2.0}
    assert (told.code, told.count) == ("readings-dropped", 1)


async def test_what_is_left_is_handed_over_at_the_end(context: FakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "GATHER_S", 60.0)
    r = Readings(context, "patch-1")
    async with delivering(r):
        take(r, context, "0648")
        await asyncio.sleep(0.02)
        assert context.outbox.observations == []
    assert [o.value for o in context.outbox.observations] == [72.0]


async def test_malformed_readings_are_counted_and_told_once(context: FakeContext) -> None:
    r = Readings(context, "patch-1")
    async with delivering(r):
        for _ in range(5):
            take(r, context, "0148")
        told = await context.wait(Behaviour)
        take(r, context, "ffff")
        take(r, context, "0648")
        await until(lambda: context.outbox.observations, "the good one")
    assert (told.device_id, told.code, told.count) == ("patch-1", "malformed-reading", 5)
    assert len(context.of(Behaviour)) == 1
