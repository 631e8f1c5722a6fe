"""Wearables that share a key with the gateway, over real processes: the oximeter's tokens and readings, the beacon on the air."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drivers.ble.driver import BleDriver
from drivers.ble.listener import FORGED, STALE
from gateway.driver import Assignment
from gateway.errors import UnavailableError
from gateway.model.device import Bond, Bus, Device
from gateway.model.event import Behaviour, EvidenceArrived, EvidenceFailed, LinkChanged, PartChanged
from gateway.model.evidence import Channel, ChannelKind, Evidence, EvidenceClass, MediaType, Tier
from gateway.model.level import TrustLevel
from gateway.model.profile import (
    BEACON_KEY,
    TOKEN_KEY,
    Function,
    GattRule,
    OnLoss,
    Profile,
    Provenance,
    References,
    ReferenceValue,
    Target,
    TrustAnchor,
)
from gateway.verifier.appraise import appraise
from gateway.verifier.beacon import Screen
from hil.ble import BleBench
from hil.control import ask
from tests.fakes.context import FakeContext, until

pytestmark = pytest.mark.rig
OXIMETER, TEMPERATURE = "C0:00:00:00:00:02", "C0:00:00:00:00:03"
PASSKEYS = {"oximeter-1": 314159, "beacon-1": 161803}
CHARACTERISTICS = {"oximeter-1": ("2A5F", "2A5E"), "beacon-1": ("2A1C",)}


def profile(device_id: str) -> Profile:
    beacon = device_id == "beacon-1"
    target = Target(
        "firmware", MediaType.BEACON if beacon else MediaType.PSA, EvidenceClass.BEACON if beacon else EvidenceClass.SYMMETRIC
    )
    rules = tuple(GattRule(c, "notify", TrustLevel.STANDARD) for c in CHARACTERISTICS[device_id])
    return Profile(
        device_id, device_id, Bus.BLE, "IIa", (Function("readings", TrustLevel.STANDARD, OnLoss.CUT, rules=rules),), (target,)
    )


class Ward:
    """The driver with one of the two, and what the maker hands out for this gateway."""

    def __init__(self, bench: BleBench) -> None:
        self.bench, self.context = bench, FakeContext("ble")
        self.driver = BleDriver(self.context, {"bus": bench.bus_address})
        self._task: asyncio.Task[None] | None = None

    async def ask(self, device_id: str, do: str = "state", **more: object) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.bench.ctl / f"{device_id}.sock", do, **more)

    async def references(self, device_id: str, gateway: str = "gw-test") -> References:
        told = (await self.ask(device_id, "reference", gateway=gateway))["reference"]
        ueid = bytes.fromhex(told["ueid"])
        keys = {TOKEN_KEY: bytes.fromhex(told["token-key"]), BEACON_KEY: bytes.fromhex(told["beacon-key"])}
        named = {"implementation-id": told["implementation-id"], **{f"component:{k}": v for k, v in told["components"].items()}}
        values = tuple(ReferenceValue("firmware", n, bytes.fromhex(v), Provenance.MAKER, True) for n, v in named.items())
        return References(tuple(TrustAnchor(ueid, b"", shared=use) for use in keys), values).with_secrets(keys)

    async def serve(self, device_id: str, bond: Bond = Bond.NONE) -> References:
        references = await self.references(device_id)
        address = TEMPERATURE if device_id == "beacon-1" else OXIMETER
        device = Device(device_id, device_id, Bus.BLE, device_id, address, bond=bond)

        def screen(payload: bytes) -> None:
            Screen(references).verify(payload)

        self.driver.assign([Assignment(device, profile(device_id), PASSKEYS[device_id], screen)])
        self._task = asyncio.create_task(self.driver.run())
        return references

    async def up(self, since: int = 0) -> LinkChanged:
        return await self.context.wait(LinkChanged, lambda e: e.up, since, timeout_s=15)

    async def attest(self, device_id: str, nonce: bytes) -> Evidence:
        since = len(self.context.events)
        await self.driver.attest(device_id, MediaType.BEACON if device_id == "beacon-1" else MediaType.PSA, nonce)
        got = self.context.of(EvidenceArrived, since) + self.context.of(EvidenceFailed, since)
        assert len(got) == 1 and isinstance(got[0], EvidenceArrived), got
        return got[0].evidence

    def epoch(self) -> bytes:
        return self.context.epochs.current(self.context.clock.now()).id

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=10)
            assert self._task.done(), "the driver did not end"
            if not self._task.cancelled() and (e := self._task.exception()) is not None:
                raise e
            self._task = None


@pytest.fixture(scope="module")
def air() -> Iterator[BleBench]:
    """A bus, an air, org.bluez, an oximeter and a beacon."""
    directory = Path(tempfile.mkdtemp(prefix="wgshk"))
    bench = BleBench(directory, advertising_ms=100.0, patch=False)
    try:
        bench.start()
        bench.start_wearable("oximeter", "oximeter-1", PASSKEYS["oximeter-1"])
        bench.start_wearable("beacon", "beacon-1", PASSKEYS["beacon-1"])
        yield bench
    finally:
        bench.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def ward(air: BleBench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ward]:
    """A driver on it."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
    made = Ward(air)
    try:
        yield made
    finally:
        await made.end()


async def test_an_oximeter_proves_itself_with_a_key_of_this_gateway_only(ward: Ward) -> None:
    references = await ward.serve("oximeter-1")
    assert (await ward.up()).bond is Bond.MITM
    evidence = await ward.attest("oximeter-1", b"\x11" * 32)
    result = appraise(evidence, references)
    assert (result.tier, result.evidence_class, result.fresh) == (Tier.AFFIRMING, EvidenceClass.SYMMETRIC, True)
    assert evidence.channel == Channel(ChannelKind.BONDED_MITM, OXIMETER)
    other = await ward.references("oximeter-1", "another-gateway")
    assert not appraise(evidence, other).authenticated

    ward.context.grant("oximeter-1").set(TrustLevel.STANDARD, profile("oximeter-1").rules)
    outbox = ward.context.outbox
    await until(
        lambda: {o.quantity for o in outbox.observations} >= {"MDC_PULS_OXIM_SAT_O2", "MDC_PULS_OXIM_PULS_RATE"}, "readings"
    )
    saturations = [o for o in outbox.observations if o.quantity == "MDC_PULS_OXIM_SAT_O2"]
    assert all((o.value is not None and 90 < o.value < 100) or o.absent == "not-a-number" for o in saturations)
    await until(lambda: any(o.quantity == "MDC_PULS_OXIM_PERF_REL" for o in outbox.observations), "a spot check", 15)

    await ward.ask("oximeter-1", "tamper")
    assert appraise(await ward.attest("oximeter-1", b"\x22" * 32), references).veto
    await ward.ask("oximeter-1", "restore")

    await ward.end()  # a restart: the inventory knows the bond, and nobody pairs again
    again = Ward(ward.bench)
    try:
        await again.serve("oximeter-1", Bond.MITM)
        await again.up()
        assert appraise(await again.attest("oximeter-1", b"\x33" * 32), references).tier is Tier.AFFIRMING
        assert (await again.ask("oximeter-1"))["pairings"] == 1
    finally:
        await again.end()


async def test_a_beacon_follows_the_epochs_and_is_never_connected_to_again(ward: Ward) -> None:
    references = await ward.serve("beacon-1")
    grant, outbox = ward.context.grant("beacon-1"), ward.context.outbox
    assert (await ward.up()).bond is Bond.MITM
    assert ward.context.of(PartChanged, 0)[-1].up
    grant.set(TrustLevel.STANDARD, profile("beacon-1").rules, seconds=60)
    connections = (await ward.ask("beacon-1"))["connections"]
    seen = set()
    for _ in range(4):  # some five seconds: more than two epochs
        nonce = ward.epoch()
        evidence = await ward.attest("beacon-1", nonce)
        result = appraise(evidence, references)
        assert (result.tier, result.evidence_class, result.fresh, result.countersigned) == (
            Tier.AFFIRMING,
            EvidenceClass.BEACON,
            True,
            True,
        )
        assert evidence.channel == Channel(ChannelKind.BONDED_MITM, TEMPERATURE)
        assert evidence.payload not in seen  # each beacon is evidence once
        seen.add(evidence.payload)
        await asyncio.sleep(1.2)
    assert len({p[:12] for p in seen}) >= 2
    await until(lambda: len(outbox.observations) >= 4, "temperatures")
    assert all(o.quantity == "MDC_TEMP_BODY" and o.value is not None and 35 <= o.value <= 38.5 for o in outbox.observations)
    assert outbox.observations[-1].level is TrustLevel.STANDARD
    assert (await ward.ask("beacon-1"))["connections"] == connections
    assert not ward.context.of(Behaviour)

    made_in = ward.epoch()
    await until(lambda: ward.epoch() != made_in, "another epoch")
    old = replace(evidence, nonce=ward.epoch())  # a recording answers no later epoch
    assert not appraise(old, references).fresh

    await ward.ask("beacon-1", "tamper")  # the measurement is in the MAC: a changed firmware looks like a forgery
    told = await ward.context.wait(Behaviour, timeout_s=10)
    assert (told.code, told.device_id) == (FORGED, "beacon-1")
    await ward.ask("beacon-1", "restore")
    await ward.attest("beacon-1", ward.epoch())


async def test_forged_and_replayed_beacons_are_counted_and_nothing_else(ward: Ward) -> None:
    references = await ward.serve("beacon-1", Bond.MITM)
    await ward.up()
    mark = len(ward.context.events)
    recorded = (await ward.attest("beacon-1", ward.epoch())).payload[12:]
    await asyncio.sleep(1.2)
    listener = ward.driver._listeners[TEMPERATURE]
    now = ward.context.clock.now()
    for n in range(50):
        forged = bytes([recorded[0]]) + (1000 + n).to_bytes(4, "big") + recorded[5:]
        listener.heard([forged], now)
    listener.heard([recorded], now)
    forgery = await ward.context.wait(Behaviour, lambda e: e.code == FORGED, mark, 5)
    stale = await ward.context.wait(Behaviour, lambda e: e.code == STALE, mark, 5)
    assert (forgery.count, stale.count) == (50, 1)
    assert appraise(await ward.attest("beacon-1", ward.epoch()), references).tier is Tier.AFFIRMING  # the window did not move
    assert not ward.context.of(LinkChanged, mark)


async def test_a_beacon_that_forgot_its_epoch_is_told_again_over_its_bond(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.ble.listener.SILENT_S", 3.0)
    await ward.serve("beacon-1", Bond.MITM)
    await ward.up()
    mark = len(ward.context.events)
    before = (await ward.ask("beacon-1"))["pairings"]
    ward.bench.processes["beacon-1"].stop()
    ward.bench.start_wearable("beacon", "beacon-1", PASSKEYS["beacon-1"])
    await ward.context.wait(LinkChanged, lambda e: not e.up, mark, 15)
    await ward.up(mark + 1)
    assert before <= 1 and (await ward.ask("beacon-1"))["pairings"] == 0


async def test_announcing_ends_with_the_bus_and_begins_again(ward: Ward) -> None:
    await ward.serve("beacon-1", Bond.MITM)
    await ward.up()
    mark = len(ward.context.events)
    ward.bench.kill("dbus")
    with pytest.raises(UnavailableError):
        assert ward._task is not None
        await asyncio.wait_for(asyncio.shield(ward._task), 10)
    down = ward.context.of(PartChanged, mark)[-1]
    assert (down.part, down.up) == ("bluetooth", False)
    ward.bench.processes["bluez"].stop()
    ward.bench.start_bus()
    ward.bench.start_bluez()
    mark = len(ward.context.events)
    ward._task = asyncio.create_task(ward.driver.run())  # as the supervisor does
    await ward.up(mark)
    await ward.attest("beacon-1", ward.epoch())
