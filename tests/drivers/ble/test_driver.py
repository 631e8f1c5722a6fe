"""The driver against real processes: bleak's own BlueZ backend, a private D-Bus, a radio, a patch with a secure element."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from gateway.codec import parse_sign1
from gateway.errors import MalformedError
from gateway.model.device import Bond
from gateway.model.event import DeviceSeen, EvidenceFailed, LinkChanged, PartChanged
from gateway.model.evidence import Channel, ChannelKind, Evidence
from gateway.model.level import TrustLevel
from hil.ble import PATCH_ADDRESS
from hil.wearable import GARBAGE_BYTES
from tests.drivers.ble.conftest import NOTIFY, PROFILE, Ward
from tests.fakes.context import until

pytestmark = pytest.mark.rig
MITM = Channel(ChannelKind.BONDED_MITM, PATCH_ADDRESS)


def claims(evidence: Evidence | EvidenceFailed, reference: dict[str, Any]) -> dict[int, Any]:
    """The claims of a token whose signature verifies with the patch's key."""
    assert isinstance(evidence, Evidence), evidence
    key = load_der_public_key(bytes.fromhex(reference["spki"]))
    payload: dict[int, Any] = cbor2.loads(parse_sign1(evidence.payload).verify(key))  # type: ignore[arg-type]
    return payload


def firmware(token: dict[int, Any]) -> str:
    """The measurement of the component FW."""
    return next(c[2].hex() for c in token[2399] if c[1] == "FW")


async def up(ward: Ward, since: int = 0) -> LinkChanged:
    """Wait for the link."""
    return await ward.context.wait(LinkChanged, lambda e: e.up, since, timeout_s=15)


async def test_attested_over_its_passkey_bond(ward: Ward) -> None:
    ward.assign()
    ward.begin()
    assert (await up(ward)).bond is Bond.MITM
    reference = (await ward.patch())["reference"]

    evidence = await ward.attest(b"\x11" * 32)
    token = claims(evidence, reference)
    assert isinstance(evidence, Evidence)
    assert evidence.channel == MITM
    assert (token[10], token[256].hex()) == (b"\x11" * 32, reference["ueid"])
    assert firmware(token) == reference["components"]["FW"]

    await ward.patch("tamper")
    assert firmware(claims(await ward.attest(b"\x22" * 32), reference)) != reference["components"]["FW"]
    await ward.patch("restore")
    assert firmware(claims(await ward.attest(b"\x33" * 32), reference)) == reference["components"]["FW"]

    await ward.patch("replay")
    assert claims(await ward.attest(b"\x44" * 32), reference)[10] == b"\x33" * 32  # signed, and for another nonce
    await ward.patch("garbage")
    garbage = await ward.attest(b"\x55" * 32)
    assert isinstance(garbage, Evidence)
    assert len(garbage.payload) == GARBAGE_BYTES  # in three windows
    with pytest.raises(MalformedError):
        parse_sign1(garbage.payload)
    assert (await ward.patch())["pairings"] == 1


async def test_readings_follow_the_lease(ward: Ward) -> None:
    ward.assign()
    ward.begin()
    await up(ward)
    grant, outbox = ward.context.grant("patch-1"), ward.context.outbox
    await asyncio.sleep(1.2)
    state = await ward.patch()
    assert (state["connected"], state["subscribed"], state["notifications"]) == (True, False, 0)  # level 0

    await ward.attest(b"\x11" * 32)
    grant.set(TrustLevel.LIMITED, PROFILE.rules)
    await asyncio.sleep(1.2)
    assert (await ward.patch())["notifications"] == 0  # below the required level

    grant.set(TrustLevel.STANDARD, PROFILE.rules)
    await ward.until(lambda s: s["notifications"] >= 2)
    await until(lambda: len(outbox.observations) >= 3, "readings")
    assert {o.level for o in outbox.observations} == {TrustLevel.STANDARD}
    rates = [o for o in outbox.observations if o.quantity == "MDC_ECG_HEART_RATE"]
    assert rates
    assert all(o.unit == "/min" and o.value is not None and 40 < o.value < 120 for o in rates)
    assert any(o.quantity == "MDC_ECG_TIME_PD_RR_GL" for o in outbox.observations)

    grant.revoke()
    began = time.monotonic()
    sent = (await ward.until(lambda s: not s["subscribed"]))["notifications"]
    assert time.monotonic() - began < 1.0
    await asyncio.sleep(1.2)
    assert (await ward.patch())["notifications"] == sent
    assert isinstance(await ward.attest(b"\x66" * 32), Evidence)  # the attestation service stays


async def test_readings_before_new_evidence_are_of_unknown_level(ward: Ward) -> None:
    ward.context.grant("patch-1").set(TrustLevel.FULL, (NOTIFY,))
    ward.assign()
    ward.begin()
    await up(ward)
    outbox = ward.context.outbox
    await until(lambda: outbox.observations, "readings")
    assert {o.level for o in outbox.observations} == {None}
    assert isinstance(await ward.attest(b"\x11" * 32), Evidence)
    await until(lambda: outbox.observations[-1].level is TrustLevel.FULL, "a labelled reading")


async def test_a_wrong_passkey_is_told_and_the_right_one_taken(ward: Ward) -> None:
    ward.assign(passkey=314159)
    ward.begin()
    failed = await ward.context.wait(LinkChanged, lambda e: not e.up and "pairing failed" in e.detail)
    assert "passkey on the device's label" in failed.detail
    assert (await ward.patch())["pairings"] == 0
    assert isinstance(await ward.attest(b"\x11" * 32), EvidenceFailed)
    ward.assign()
    assert (await up(ward)).bond is Bond.MITM


async def test_bluez_dies_and_comes_back(ward: Ward) -> None:
    ward.assign()
    ward.begin()
    await up(ward)
    assert ward.context.of(LinkChanged) == [LinkChanged("patch-1", True, "", Bond.MITM)]  # a quiet start
    await ward.context.wait(PartChanged, lambda e: e.up)
    since = len(ward.context.events)
    ward.bench.kill("bluez")
    down = await ward.context.wait(PartChanged, lambda e: not e.up, since, timeout_s=3)
    assert "start bluetooth.service" in down.detail
    await ward.context.wait(LinkChanged, lambda e: not e.up, since, timeout_s=3)
    assert isinstance(await ward.attest(b"\x11" * 32), EvidenceFailed)
    await asyncio.to_thread(ward.bench.start_bluez)
    await ward.context.wait(PartChanged, lambda e: e.up, since)
    assert (await up(ward, since)).bond is Bond.MITM
    assert isinstance(await ward.attest(b"\x22" * 32), Evidence)
    state = await ward.patch()
    assert (state["pairings"], state["encrypted"]) == (1, True)
    assert ward.failures == []


async def test_the_bus_dies_and_comes_back(ward: Ward) -> None:
    ward.assign()
    ward.begin()
    await up(ward)
    since = len(ward.context.events)
    ward.bench.kill("dbus")
    down = await ward.context.wait(PartChanged, lambda e: not e.up, since, timeout_s=3)
    assert "D-Bus" in down.detail
    assert isinstance(await ward.attest(b"\x11" * 32), EvidenceFailed)
    await until(lambda: ward.failures, "UnavailableError")
    ward.bench.processes["bluez"].stop()
    await asyncio.to_thread(ward.bench.start_bus)
    await asyncio.to_thread(ward.bench.start_bluez)
    assert (await up(ward, since)).bond is Bond.MITM
    assert isinstance(await ward.attest(b"\x22" * 32), Evidence)
    assert (await ward.patch())["pairings"] == 1


async def test_a_wearable_that_comes_and_goes_leaks_nothing(ward: Ward) -> None:
    ward.assign()
    ward.begin()
    await up(ward)
    before = await connections(ward)
    for away_s in (0.3, 2.5):  # shorter and longer than the driver's notion of having been away
        since = len(ward.context.events)
        await ward.patch("vanish")
        await ward.context.wait(LinkChanged, lambda e: not e.up, since)
        await asyncio.sleep(away_s)
        await ward.patch("appear")
        await up(ward, since)
    assert isinstance(await ward.attest(b"\x22" * 32), Evidence)
    assert await connections(ward) == before
    assert (await ward.patch())["pairings"] == 1


async def connections(ward: Ward) -> int:
    """How many connections the bus has."""
    bus = await MessageBus(bus_address=ward.bench.bus_address).connect()
    try:
        name = "org.freedesktop.DBus"
        reply = await bus.call(Message(name, "/org/freedesktop/DBus", name, "ListNames"))
        return sum(n.startswith(":") for n in reply.body[0])
    finally:
        bus.disconnect()


async def test_a_stranger_at_its_address_gets_nothing(ward: Ward) -> None:
    ward.context.grant("patch-1").set(TrustLevel.FULL, (NOTIFY,))
    ward.assign()
    ward.begin()
    await up(ward)
    await ward.attest(b"\x11" * 32)
    since = len(ward.context.events)
    await asyncio.to_thread(ward.bench.processes["patch"].stop)
    await ward.context.wait(LinkChanged, lambda e: not e.up, since)
    taken = len(ward.context.outbox.observations)
    await asyncio.to_thread(ward.bench.start_patch, "stranger")
    await ward.until(lambda s: s["connections"] >= 2)
    assert isinstance(await ward.attest(b"\x22" * 32), EvidenceFailed)
    state = await ward.patch()
    assert (state["pairings"], state["challenges"], state["notifications"]) == (0, 0, 0)
    assert not [e for e in ward.context.of(LinkChanged, since) if e.up]
    assert len(ward.context.outbox.observations) <= taken + 3  # what was on its way when the patch went


async def test_just_works_is_said_to_be_just_works(unprotected: Ward) -> None:
    ward = unprotected
    ward.assign(passkey=None)
    ward.begin()
    assert (await up(ward)).bond is Bond.JUST_WORKS
    evidence = await ward.attest(b"\x11" * 32)
    assert isinstance(evidence, Evidence)
    assert evidence.channel == Channel(ChannelKind.BONDED_JUST_WORKS, PATCH_ADDRESS)


async def test_a_device_with_a_passkey_never_bonds_without_it(unprotected: Ward) -> None:
    ward = unprotected
    ward.assign()
    ward.begin()
    refused = await ward.context.wait(LinkChanged, lambda e: not e.up and "without asking for its passkey" in e.detail)
    assert "another device may use this one's address" in refused.detail
    assert not [e for e in ward.context.of(LinkChanged) if e.up]
    assert isinstance(await ward.attest(b"\x11" * 32), EvidenceFailed)


@pytest.mark.parametrize(("bond", "pairings"), [(Bond.MITM, 1), (Bond.NONE, 2)])
async def test_after_a_restart_a_bond_is_worth_what_the_inventory_says(ward: Ward, bond: Bond, pairings: int) -> None:
    ward.assign()
    ward.begin()
    await up(ward)
    await ward.restart()
    since = len(ward.context.events)
    ward.assign(bond=bond)
    ward.begin()
    assert (await up(ward, since)).bond is Bond.MITM
    assert (await ward.patch())["pairings"] == pairings


async def test_unknown_devices_are_proposed_once_and_never_bonded(ward: Ward) -> None:
    ward.begin()
    seen = await ward.context.wait(DeviceSeen)
    assert (seen.address, seen.name, seen.hint) == (PATCH_ADDRESS, "Patch CV2-000117", "heart-rate")
    bus = await MessageBus(bus_address=ward.bench.bus_address).connect()
    try:  # somebody else on this machine starts a pairing: our agent is the default one, and refuses
        path = "/org/bluez/hci0/dev_" + PATCH_ADDRESS.replace(":", "_")
        reply = await asyncio.wait_for(bus.call(Message("org.bluez", path, "org.bluez.Device1", "Pair")), 10)
    finally:
        bus.disconnect()
    assert reply.message_type is MessageType.ERROR
    assert reply.error_name == "org.bluez.Error.AuthenticationFailed"
    assert (await ward.patch())["pairings"] == 0
    assert len(ward.context.of(DeviceSeen)) == 1


async def test_without_a_bus_the_driver_says_so(ward: Ward) -> None:
    ward.bench.kill("dbus")
    ward.assign()
    ward.begin()
    down = await ward.context.wait(PartChanged)
    assert not down.up
    assert "check that dbus.service runs" in down.detail
    await until(lambda: len(ward.failures) >= 2, "another try")


async def test_a_wearable_that_was_reset_is_told_and_bonds_when_added_again(ward: Ward) -> None:
    ward.assign()
    ward.begin()
    await up(ward)
    since = len(ward.context.events)
    await ward.patch("vanish")
    await ward.patch("forget")
    await ward.patch("appear")
    told = await ward.context.wait(LinkChanged, lambda e: "ended the link at its bond" in e.detail, since)
    assert "remove the device and add it again" in told.detail
    ward.driver.assign([])
    ward.assign()
    await up(ward, since)
    assert (await ward.patch())["pairings"] == 2


async def test_a_bluez_that_hangs_is_told_and_recovers(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("bluez.CALL_S", 0.6),
        ("driver.CALL_S", 0.6),
        ("driver.WATCH_S", 0.5),
        ("driver.AGAIN_S", 0.2),
        ("link.GATT_S", 0.6),
    ):
        monkeypatch.setattr(f"drivers.ble.{name}", value)
    ward.assign()
    ward.begin()
    await up(ward)
    since = len(ward.context.events)
    ward.bench.processes["bluez"].signal(signal.SIGSTOP)
    try:
        down = await ward.context.wait(PartChanged, lambda e: not e.up, since)
        assert "did not answer" in down.detail
        assert isinstance(await ward.attest(b"\x11" * 32), EvidenceFailed)
    finally:
        ward.bench.processes["bluez"].signal(signal.SIGCONT)
    await ward.context.wait(PartChanged, lambda e: e.up, since)
    await up(ward, since)
    assert isinstance(await ward.attest(b"\x22" * 32), Evidence)
    assert (await ward.patch())["pairings"] == 1
