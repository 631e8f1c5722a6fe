"""Leases lapse by themselves in this process too; tasks come back by themselves and say so once."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from gateway.errors import UnavailableError
from gateway.grants import Grants
from gateway.model.decision import Lease
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.supervisor import Supervisor


def _now() -> Instant:
    return Instant("b", time.monotonic_ns(), time.time_ns())


def _lease(seconds: float, level: TrustLevel = TrustLevel.FULL) -> Lease:
    return Lease("d", (), level, _now().plus(seconds))


async def test_an_unknown_device_has_level_none() -> None:
    assert Grants().of("x").current(_now()).level is TrustLevel.NONE


async def test_a_lease_lapses_and_wakes_its_watcher() -> None:
    grant = Grants().of("d")
    grant.put(_lease(0.15), _now())
    assert grant.current(_now()).level is TrustLevel.FULL
    async with asyncio.timeout(2):
        assert (await grant.changed()).level is TrustLevel.NONE
    assert grant.current(_now()).level is TrustLevel.NONE


async def test_a_renewal_wakes_nobody_and_a_revocation_does() -> None:
    grant = Grants().of("d")
    grant.put(_lease(5), _now())
    watcher = asyncio.create_task(grant.changed())
    await asyncio.sleep(0)
    grant.put(_lease(9), _now())
    await asyncio.sleep(0.02)
    assert not watcher.done()
    grant.put(_lease(0, TrustLevel.NONE), _now())
    async with asyncio.timeout(1):
        assert (await watcher).level is TrustLevel.NONE


async def test_a_task_that_fails_starts_again_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.supervisor._STEADY_S", 0.2)
    monkeypatch.setattr("gateway.supervisor._FIRST_S", 0.1)
    told: list[tuple[str, bool, str]] = []
    runs = 0
    recovered = asyncio.Event()

    async def tell(name: str, up: bool, detail: str) -> None:
        told.append((name, up, detail))
        if up:
            recovered.set()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise UnavailableError("the bus is gone", "wait")
        if runs == 2:
            raise ZeroDivisionError("a bug")
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            Supervisor(group, tell).keep("bus", work)
            async with asyncio.timeout(5):
                await recovered.wait()
            raise asyncio.CancelledError

    with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
        await main()
    assert runs == 3
    assert [(n, up) for n, up, _ in told] == [("bus", False), ("bus", True)]
    assert "the bus is gone; wait" in told[0][2]
