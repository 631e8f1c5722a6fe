"""Dossiers over a real engine and a real record: what is asked of them by the page, the API and the command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.dossiers import Dossiers, Sources
from gateway.errors import InputError
from gateway.model.device import Bus
from gateway.model.effect import Record
from gateway.model.event import DeviceSeen
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.outbox import DeviceCounts
from gateway.model.view import GatewayView, WardView
from gateway.picture import device_view
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.history import START, History
from tests.certificates import Issuer
from tests.fakes.ward import Ward, profile
from tests.issuer.verdicts import NOW_NS, verdict

ISSUER = Issuer()
PROFILES = {p.id: p for p in map(profile, ("infusion-pump", "heart-rate-patch", "pulse-oximeter"))}


class Setting:
    """A ward, its record and its dossiers; the clock is the ward's."""

    def __init__(self, path: Path) -> None:
        self.ward = Ward()
        self.ward.link()
        self.database = Database(path / "w.sqlite")
        self.audit, self.anchor = AuditLog(self.database), path / "anchor.pem"
        sources = Sources(self.view, History(self.database), self.counts, self.bundle, PROFILES, self.anchor)
        conductor = SimpleNamespace(engine=self.ward.engine)
        self.dossiers = Dossiers(conductor, self, sources)  # type: ignore[arg-type]

    def now(self) -> Instant:
        return self.ward.now

    def view(self) -> WardView:
        devices = tuple(device_view(s, self.ward.now, None, (), None) for s in self.ward.engine.standings.values())
        gateway = GatewayView("g", "G", "0", "enforcing", (), 0, 0, 0, 0, "2027-01-15T08:00:00+00:00", "rtc")
        return WardView(0, gateway, devices, ())

    async def counts(self) -> list[DeviceCounts]:
        return [DeviceCounts("pump-1", 1, 100, 10, 7, 2, 0)]

    async def bundle(self, device_id: str) -> bytes:
        return ISSUER.bundles(verdict())["pump-1"]


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    made = Setting(tmp_path)
    await made.database.open()
    yield made
    await made.audit.close()
    await made.database.close()


async def test_a_sheet_brings_the_engine_the_record_and_the_outbox_together(setting: Setting) -> None:
    await setting.audit.append([(setting.now(), Record("behaviour", "pump-1", "refused", (("count", 2),)))])
    found = await setting.dossiers.sheet("pump-1")
    assert [r.count for r in found.refused] == [2]
    assert found.traffic is not None
    assert (found.traffic.accepted, found.traffic.dropped) == (10, 2)
    with pytest.raises(InputError, match="there is no device"):
        await setting.dossiers.sheet("nobody")


async def test_levels_end_with_the_present_even_when_no_record_says_so(setting: Setting) -> None:
    await setting.audit.append([(setting.now(), Record(START, "", "Wardgate starts", ()))])
    setting.ward.now = setting.ward.now.plus(3600)
    history = await setting.dossiers.levels("pump-1", 24)
    assert [(s.level, s.age_ms // 60_000) for s in history.steps] == [(None, 24 * 60), (0, 60)]
    for hours in (0, 169):
        with pytest.raises(InputError):
            await setting.dossiers.levels("pump-1", hours)


async def test_what_was_found_comes_newest_first_and_bounded(setting: Setting) -> None:
    setting.ward.feed(DeviceSeen(Bus.BLE, "C0:00:00:00:00:08", "x" * 10_000, "h" * 10_000, -70))
    setting.ward.now = setting.ward.now.plus(5)
    setting.ward.feed(DeviceSeen(Bus.BLE, "C0:00:00:00:00:09", "patch", "heart-rate", -50))
    setting.ward.feed(DeviceSeen(Bus.BLE, "C0:00:00:00:00:01", "ours", "heart-rate", -50))
    first, second = setting.dossiers.found()
    assert (first.key, first.seen_ms, first.suggestions[0].profile) == ("new-c0-00-00-00-00-09", 0, "heart-rate-patch")
    assert (second.seen_ms, len(second.name), len(second.hint)) == (5_000, 80, 400)


async def test_asking_for_evidence_tells_what_came_and_what_did_not(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    ward, began = setting.ward, setting.now()

    async def pass_time(seconds: float) -> None:
        ward.now = ward.now.plus(seconds)
        if ward.now.seconds_since(began) == pytest.approx(0.1):
            ward.token("pump-1")

    monkeypatch.setattr(asyncio, "sleep", pass_time)
    outcome = await setting.dossiers.attested("pump-1", began)
    assert outcome.ok
    assert "firmware is as expected" in outcome.text
    assert "configuration gave no answer yet" in outcome.text
    assert 4.0 <= ward.now.seconds_since(began) < 4.2
    ward.link(up=False)
    assert "has no link now" in (await setting.dossiers.attested("pump-1", ward.now)).text


async def test_a_certificate_is_examined_against_the_kept_anchor_or_a_given_one(setting: Setting) -> None:
    setting.ward.now = Instant("boot", setting.ward.now.mono_ns, NOW_NS + 60 * NS_PER_S)
    with pytest.raises(InputError, match="keeps no certificate of the CA"):
        await setting.dossiers.verify("pump-1")
    assert (await setting.dossiers.verify("pump-1", ISSUER.ca.pem)).ok
    setting.anchor.write_bytes(ISSUER.ca.pem)
    assert (await setting.dossiers.verify("pump-1")).ok
    assert not (await setting.dossiers.verify("pump-1", Issuer().ca.pem)).ok
    with pytest.raises(InputError, match="at most"):
        await setting.dossiers.verify("pump-1", b"x" * 20_000)
