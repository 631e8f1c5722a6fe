"""What a port promises holds for the fake that tests use and for the real adapter on the bench alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.driver import GrantView
from gateway.enforcer.client import EnforcerClient
from gateway.errors import RefusedError
from gateway.grants import Grant
from gateway.model.decision import Lease
from gateway.model.effect import Record
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.ports import AuditPort, EnforcerPort
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from tests.enforcer.ward import PUMP4, PUMP6, bench
from tests.fakes.context import FakeClock, FakeGrant
from tests.fakes.ports import FakeAudit, FakeEnforcer


def now() -> Instant:
    """The present, on the clock that the kernel's leases run on."""
    return Instant("boot", time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())


def lease(level: TrustLevel, seconds: float = 20.0) -> Lease:
    """A lease for the bench's pump."""
    return Lease("pump-1", (PUMP4, PUMP6), level, now().plus(seconds))


# --- AuditPort ---


@pytest.fixture(params=["fake", "real"])
async def audit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AuditPort]:
    if request.param == "fake":
        yield FakeAudit([])
        return
    database = Database(tmp_path / "a.sqlite")
    await database.open()
    log = AuditLog(database)
    yield log
    await log.close()
    await database.close()


async def test_records_come_back_in_order_with_rising_sequences(audit: AuditPort) -> None:
    records = [(now(), Record("kind", f"d-{n}", f"text {n}", (("n", n),))) for n in range(5)]
    first = await audit.append(records[:3])
    second = await audit.append(records[3:])
    assert [r.record.device_id for r in (*first, *second)] == [f"d-{n}" for n in range(5)]
    assert [r.sequence for r in first] == sorted({r.sequence for r in first})
    assert [r.at for r in first] == [at for at, _ in records[:3]]


async def test_nothing_to_record_is_no_fault(audit: AuditPort) -> None:
    assert list(await audit.append([])) == []


# --- EnforcerPort ---


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    with bench() as made:
        yield made


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.rig)])
async def enforcer(request: pytest.FixtureRequest) -> AsyncIterator[tuple[EnforcerPort, Callable[[], dict[str, int]]]]:
    if request.param == "fake":
        fake = FakeEnforcer([])
        yield fake, lambda: dict(fake.levels)
        return
    made = request.getfixturevalue("kernel")
    client = EnforcerClient(made.socket)
    await client.open()

    def held() -> dict[str, int]:
        listed = {**made.ask({"do": "dump"})["leases"]}
        return {address: int(v["level"]) for address, v in listed.items()}

    yield client, held
    await client.drop((PUMP4, PUMP6))
    await client.close()


Enforcer = tuple[EnforcerPort, Callable[[], dict[str, int]]]


async def test_a_grant_covers_every_address_and_a_later_one_replaces_it(enforcer: Enforcer) -> None:
    port, held = enforcer
    await port.grant([lease(TrustLevel.FULL)])
    assert await asyncio.to_thread(held) == {PUMP4: 3, PUMP6: 3}
    await port.grant([lease(TrustLevel.LIMITED)])
    assert await asyncio.to_thread(held) == {PUMP4: 1, PUMP6: 1}


async def test_a_drop_takes_all_and_is_idempotent(enforcer: Enforcer) -> None:
    port, held = enforcer
    await port.grant([lease(TrustLevel.FULL)])
    port.drop_now((PUMP4, PUMP6))
    await port.drop((PUMP4, PUMP6))
    assert await asyncio.to_thread(held) == {}


async def test_nobody_gets_more_than_the_confirmed_cap(enforcer: Enforcer) -> None:
    port, held = enforcer
    if isinstance(port, FakeEnforcer):
        port.cap = 2
        above = lease(TrustLevel.FULL)
    else:
        above = Lease("stranger", ("10.77.0.99",), TrustLevel.LIMITED, now().plus(5))
    with pytest.raises(RefusedError):
        await port.grant([above])
    assert await asyncio.to_thread(held) == {}


# --- GrantView ---


def _put(grant: GrantView, level: TrustLevel, seconds: float) -> None:
    if isinstance(grant, FakeGrant):
        grant.set(level, seconds=seconds)
    else:
        assert isinstance(grant, Grant)
        at = FakeClock().now()
        grant.put(Lease("d", (), level, at.plus(seconds)), at)


@pytest.fixture(params=["fake", "real"])
def grant(request: pytest.FixtureRequest) -> GrantView:
    return FakeGrant("d", FakeClock()) if request.param == "fake" else Grant("d")


async def test_a_lease_reads_as_level_0_after_its_end(grant: GrantView) -> None:
    _put(grant, TrustLevel.STANDARD, 0.3)
    assert grant.current(FakeClock().now()).level is TrustLevel.STANDARD
    await asyncio.sleep(0.35)
    assert grant.current(FakeClock().now()).level is TrustLevel.NONE


async def test_a_change_of_level_wakes_whoever_waits(grant: GrantView) -> None:
    waiting = asyncio.ensure_future(grant.changed())
    await asyncio.sleep(0.02)
    _put(grant, TrustLevel.FULL, 5)
    async with asyncio.timeout(2):
        assert (await waiting).level is TrustLevel.FULL
