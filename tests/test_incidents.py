"""What befell the gateway itself: noticed on waking, recorded, told until it was looked at or for an hour."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.conductor import Conductor
from gateway.grants import Grants
from gateway.model.effect import Alarm, Grant, Record
from gateway.model.event import LeasesLapsed, OperatorCommand, PartChanged
from gateway.model.incident import LAST_RUN, STANDSTILL
from gateway.model.instant import Instant
from tests.fakes.ports import FakeAudit, FakeCertifier, FakeEnforcer, FakeKeeper
from tests.fakes.ward import Ward


@pytest.fixture
def ward() -> Ward:
    w = Ward()
    w.link()
    w.attest_all()
    return w


class WardClock:
    """The ward's own time."""

    def __init__(self, ward: Ward) -> None:
        self._ward = ward

    def now(self) -> Instant:
        """Now."""
        return self._ward.now


async def awake_again(ward: Ward, asleep_s: float) -> FakeAudit:
    """A conductor that decides, is stopped for so long, and decides again."""
    audit = FakeAudit([])

    async def attest(device_id: str, media_type: str, nonce: bytes) -> None:
        """Nobody answers."""

    conductor = Conductor(
        ward.engine, WardClock(ward), audit=audit, enforcer=FakeEnforcer([]), grants=Grants(), keeper=FakeKeeper(),
        certifier=FakeCertifier(), attest=attest, draw_nonce=lambda media_type: bytes(32),
    )  # fmt: skip
    tasks = [asyncio.create_task(conductor.carry()), asyncio.create_task(conductor.decide())]
    await conductor.emit(PartChanged("clock", up=True))
    await conductor.drained()
    ward.now = ward.now.plus(asleep_s)
    await conductor.emit(PartChanged("disk", up=True))
    await conductor.drained()
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return audit


async def test_who_slept_longer_than_a_lease_notices_before_anything_else_is_decided(ward: Ward) -> None:
    audit = await awake_again(ward, 45)
    kinds = [r.kind for _, r in audit.rows if r.kind in ("lapsed", "decision")]
    assert kinds == ["lapsed", "lapsed", "decision", "decision"]
    lapsed = next(r for _, r in audit.rows if r.kind == "lapsed" and r.device_id == "pump-1")
    assert "not renewed for 15.0 s" in lapsed.text
    alarm = next(r for _, r in audit.rows if r.kind == "alarm" and dict(r.body)["raised"])
    assert dict(alarm.body)["severity"] == "alarm" and "for 45 s" in alarm.text and "patch-1, pump-1" in alarm.text
    assert not ward.engine.parts[STANDSTILL][0]


async def test_who_wakes_while_the_leases_still_hold_says_nothing(ward: Ward) -> None:
    audit = await awake_again(ward, 19)
    assert not [r for _, r in audit.rows if r.kind in ("lapsed", "alarm")]
    assert STANDSTILL not in ward.engine.parts


def lapsed(ward: Ward, asleep_s: float) -> LeasesLapsed:
    held = tuple((s.id, s.lease_until) for s in ward.engine.standings.values() if s.lease_until)
    since, ward.now = ward.now, ward.now.plus(asleep_s)
    return LeasesLapsed(since, held)


def test_a_lapsed_lease_is_granted_anew_after_its_record_and_never_as_a_renewal(ward: Ward) -> None:
    effects = ward.feed(lapsed(ward, 45))
    grant = ward.grants(effects, "pump-1")[-1]
    assert not grant.renewal and grant.lease.until.seconds_since(ward.now) > 0
    order = [type(e) for e in effects if isinstance(e, (Record, Grant))]
    assert order.index(Record) < order.index(Grant)


def test_an_incident_is_told_until_somebody_has_looked(ward: Ward) -> None:
    ward.feed(PartChanged(LAST_RUN, up=False, detail="it ended without a word"))
    assert ward.engine.parts[LAST_RUN] == (False, "it ended without a word")
    over = ward.feed(OperatorCommand("ann", "clinical", "acknowledge"))
    assert LAST_RUN not in ward.engine.parts
    ended = next(e for e in over if isinstance(e, Alarm))
    assert not ended.raised and ended.code == f"part-{LAST_RUN}" and "ann has looked at it" in ended.text


def test_an_incident_is_told_for_an_hour_at_most_and_a_second_one_begins_it_anew(ward: Ward) -> None:
    ward.feed(PartChanged(LAST_RUN, up=False, detail="first"))
    ward.pass_time(3000)
    ward.feed(PartChanged(LAST_RUN, up=False, detail="second"))
    ward.pass_time(3000)
    assert ward.engine.parts[LAST_RUN] == (False, "second")
    over = ward.pass_time(700)
    assert LAST_RUN not in ward.engine.parts
    assert [e.raised for e in over if isinstance(e, Alarm) and e.code == f"part-{LAST_RUN}"] == [False]
