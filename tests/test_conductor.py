"""The order that safety needs: revocations first and never undone, grants only after their record, care through a full disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from gateway.conductor import Conductor
from gateway.engine import Engine
from gateway.errors import UnavailableError
from gateway.grants import Grants
from gateway.model.decision import Lease
from gateway.model.effect import Effect, Grant, Record
from gateway.model.event import LinkChanged
from gateway.model.level import TrustLevel
from tests.fakes.context import FakeClock
from tests.fakes.ports import FakeAudit, FakeCertifier, FakeEnforcer, FakeKeeper

ADDRESS = "10.77.0.11"
EVENT = LinkChanged("pump-1", True)


class SlowEnforcer(FakeEnforcer):
    """A grant that takes a while: what was decided meanwhile must win."""

    slow_s = 0.0

    async def grant(self, leases: Sequence[Lease]) -> None:
        await super().grant(leases)
        await asyncio.sleep(self.slow_s)


class Rig:
    """A conductor whose engine is never asked: the test hands it effects as an engine would."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.clock, self.grants = FakeClock(), Grants()
        self.audit, self.enforcer = FakeAudit(self.journal), SlowEnforcer(self.journal)

        async def attest(device_id: str, media_type: str, nonce: bytes) -> None:
            """Nobody is asked."""

        self.conductor = Conductor(
            Engine(),
            self.clock,
            audit=self.audit,
            enforcer=self.enforcer,
            grants=self.grants,
            keeper=FakeKeeper(),
            certifier=FakeCertifier(),
            attest=attest,
            draw_nonce=lambda media_type: bytes(32),
        )

    def take(self, *effects: Effect) -> None:
        self.conductor.take(EVENT, effects, self.clock.now())

    def grant(self, level: TrustLevel, *, renewal: bool = False, revocation: bool = False) -> Grant:
        return Grant(Lease("pump-1", (ADDRESS,), level, self.clock.now().plus(30)), renewal=renewal, revocation=revocation)

    def level(self) -> int:
        """What drivers see."""
        return int(self.grants.of("pump-1").current(self.clock.now()).level)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    tasks = [asyncio.create_task(made.conductor.carry()), asyncio.create_task(made.conductor.decide())]
    yield made
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - a test polls, bounded above
            await asyncio.sleep(0.005)
    assert holds(), what


WHY = Record("decision", "pump-1", "why")


async def test_a_grant_is_applied_after_the_record_of_why(rig: Rig) -> None:
    rig.audit.slow_s = 0.05
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    assert rig.level() == 0 and not rig.enforcer.levels
    await until(lambda: rig.level() == 3, "granted")
    assert rig.journal.index("record decision pump-1") < rig.journal.index("grant pump-1 3")


async def test_a_revocation_is_applied_at_once_and_recorded_after(rig: Rig) -> None:
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    await until(lambda: rig.level() == 3, "granted")
    rig.audit.slow_s = 0.2
    rig.take(rig.grant(TrustLevel.NONE, revocation=True), WHY)
    assert rig.level() == 0 and ADDRESS not in rig.enforcer.levels


async def test_a_grant_that_waits_behind_the_disk_is_not_applied_after_a_revocation(rig: Rig) -> None:
    rig.audit.slow_s = 0.1
    rig.take(Record("decision", "other", "keeps the disk busy"))
    await asyncio.sleep(0.02)
    rig.take(WHY, rig.grant(TrustLevel.FULL))  # queued: the disk is busy
    rig.take(rig.grant(TrustLevel.NONE, revocation=True), WHY)
    await rig.conductor.drained()
    assert rig.level() == 0 and ADDRESS not in rig.enforcer.levels
    assert "grant pump-1 3" not in rig.journal


async def test_a_grant_on_its_way_to_the_kernel_does_not_undo_a_revocation(rig: Rig) -> None:
    rig.enforcer.slow_s = 0.1
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    await until(lambda: "grant pump-1 3" in rig.journal, "on its way")
    rig.take(rig.grant(TrustLevel.NONE, revocation=True), WHY)
    await asyncio.sleep(0.3)
    assert rig.level() == 0 and ADDRESS not in rig.enforcer.levels


async def test_a_grant_decided_after_a_revocation_is_applied(rig: Rig) -> None:
    rig.take(rig.grant(TrustLevel.NONE, revocation=True), WHY)
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    await until(lambda: rig.level() == 3 and rig.enforcer.levels.get(ADDRESS) == 3, "granted again")


async def test_a_full_disk_stops_new_grants_not_renewals_and_delays_no_revocation(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.conductor._RETRY_S", 0.02)
    rig.take(WHY, rig.grant(TrustLevel.STANDARD))
    await until(lambda: rig.level() == 2, "granted")
    rig.audit.full = True
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    await asyncio.sleep(0.1)
    assert rig.level() == 2, "more than before needs a record"
    before = rig.journal.count("grant pump-1 2")
    rig.take(rig.grant(TrustLevel.STANDARD, renewal=True))
    await until(lambda: rig.journal.count("grant pump-1 2") > before, "renewed")
    with pytest.raises(UnavailableError, match="record"):
        await rig.conductor.drained(0.05)
    rig.take(rig.grant(TrustLevel.NONE, revocation=True), WHY)
    assert rig.level() == 0
    rig.audit.full = False
    await rig.conductor.drained()
    assert rig.level() == 0 and ADDRESS not in rig.enforcer.levels, "what waited was decided before the revocation"
    assert len([r for _, r in rig.audit.rows if r.text == "why"]) == 3, "nothing was lost"


async def test_a_revocation_reaches_an_enforcer_that_was_away(rig: Rig) -> None:
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    await until(lambda: rig.enforcer.levels.get(ADDRESS) == 3, "granted")
    rig.enforcer.away = True
    rig.take(rig.grant(TrustLevel.NONE, revocation=True), WHY)
    assert rig.level() == 0
    await asyncio.sleep(0.05)
    rig.enforcer.away = False
    await until(lambda: ADDRESS not in rig.enforcer.levels, "dropped after all")


async def test_decided_means_decided(rig: Rig) -> None:
    """Not merely queued; and somebody who gave up waiting stops nothing."""
    gone = asyncio.create_task(rig.conductor.decided())
    await asyncio.sleep(0)
    gone.cancel()
    seen: list[int] = []
    rig.conductor.listen(lambda: seen.append(1))
    for _ in range(3):
        await rig.conductor.emit(EVENT)
    assert not seen
    async with asyncio.timeout(5):
        await rig.conductor.decided()
    assert len(seen) == 3


async def test_inputs_that_decided_nothing_share_a_commit_and_a_decision_takes_them_along(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway import conductor

    monkeypatch.setattr(conductor, "QUIET_S", 0.6)
    appended: list[int] = []
    append = rig.audit.append

    async def counted(records):  # type: ignore[no-untyped-def]
        appended.append(len(records))
        return await append(records)

    rig.audit.append = counted  # type: ignore[method-assign]
    for _ in range(20):
        rig.take()
        await asyncio.sleep(0.001)
    assert appended == [], "nobody waits for these"
    await until(lambda: appended == [20], "all of them in one commit, soon")
    rig.take()
    await asyncio.sleep(0.01)
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    await until(lambda: rig.level() == 3, "granted")
    assert appended == [20, 3], "the input before it is on disk with the decision"
    assert [r.kind for _, r in rig.audit.rows[-3:]] == ["event", "event", "decision"]


async def test_a_renewal_does_not_wait_for_the_disk_and_the_end_writes_what_waits(rig: Rig) -> None:
    rig.take(WHY, rig.grant(TrustLevel.FULL))
    await until(lambda: rig.level() == 3, "granted")
    rig.audit.full = True
    before = rig.journal.count("grant pump-1 3")
    rig.take(rig.grant(TrustLevel.FULL, renewal=True))
    await until(lambda: rig.journal.count("grant pump-1 3") == before + 1, "renewed with a full disk")
    with pytest.raises(UnavailableError):
        await rig.conductor.close()
    rig.audit.full = False
    rig.take()
    await asyncio.sleep(0.02)
    await rig.conductor.close()
    assert rig.audit.rows[-1][1].kind == "event"
