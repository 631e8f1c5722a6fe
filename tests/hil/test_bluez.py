"""The bench's org.bluez under bleak's own backend: what BlueZ does that a driver must live with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bleak import BleakClient, BleakScanner
from bleak.exc import BleakDBusError, BleakGATTProtocolError
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from drivers.ble import attestation
from drivers.ble.agent import PATH, PairingAgent
from drivers.ble.bluez import forget_bleak
from drivers.ble.heart_rate import MEASUREMENT_UUID, parse_heart_rate
from hil.ble import PASSKEY, PATCH_ADDRESS, BleBench
from hil.control import ask
from tests.drivers.ble.conftest import bench, reset
from tests.fakes.context import FakeContext, until

__all__ = ["bench"]
pytestmark = pytest.mark.rig
AGENTS = ("org.bluez", "/org/bluez", "org.bluez.AgentManager1")
PATCH = "/org/bluez/hci0/dev_" + PATCH_ADDRESS.replace(":", "_")


@pytest.fixture
async def bus(bench: BleBench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MessageBus]:
    """A connection to the bench's bus, with everything as new; bleak uses the same bus."""
    await reset(bench, PASSKEY)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bench.bus_address)
    connection = await MessageBus(bus_address=bench.bus_address).connect()
    yield connection
    await forget_bleak()
    connection.disconnect()


async def call(bus: MessageBus, to: tuple[str, str, str], member: str, signature: str = "", *body: Any) -> Message:
    """Call a method and return the reply, an error too."""
    return await asyncio.wait_for(bus.call(Message(*to, member, signature=signature, body=list(body))), 10)


async def found() -> Any:
    """The patch, as a scan finds it."""
    device = await BleakScanner.find_device_by_address(PATCH_ADDRESS, timeout=10)
    assert device is not None
    return device


async def test_both_ways_of_notifying_and_a_bond_made_by_touching(bench: BleBench, bus: MessageBus) -> None:
    agent = PairingAgent(FakeContext().log)
    bus.export(PATH, agent)
    await call(bus, AGENTS, "RegisterAgent", "os", PATH, "KeyboardDisplay")
    await call(bus, AGENTS, "RequestDefaultAgent", "o", PATH)
    async with BleakClient(await found(), timeout=10) as client:
        with agent.pairing(PATCH_ADDRESS, PASSKEY) as under_way:  # the write is refused, BlueZ pairs, and writes again
            await asyncio.wait_for(client.write_gatt_char(attestation.CHALLENGE_UUID, bytes(32), response=True), 10)
        assert under_way.entered
        with pytest.raises(BleakGATTProtocolError) as refused:
            await client.write_gatt_char(attestation.CHALLENGE_UUID, b"short", response=True)
        assert refused.value.code == attestation.ERROR_BAD_NONCE
        for start_notify in (True, False):
            got: asyncio.Queue[bytes] = asyncio.Queue()
            options = {"use_start_notify": start_notify}
            await client.start_notify(MEASUREMENT_UUID, lambda _, d, q=got: q.put_nowait(bytes(d)), bluez=options)  # type: ignore[misc,arg-type]
            assert parse_heart_rate(await asyncio.wait_for(got.get(), 5)).contact
            await client.stop_notify(MEASUREMENT_UUID)
            await until(lambda: not ask(bench.patch_ctl, "state")["subscribed"], "the end of the subscription", 2.0)


async def test_without_an_agent_pairing_fails_and_touching_never_returns(bus: MessageBus) -> None:
    async with BleakClient(await found(), timeout=10) as client:
        with pytest.raises(BleakDBusError, match="AuthenticationFailed"):
            await client.pair()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await client.write_gatt_char(attestation.CHALLENGE_UUID, bytes(32), response=True)


async def test_an_absent_device_leaves_the_radio_usable(bench: BleBench, bus: MessageBus) -> None:
    device = await found()
    ask(bench.patch_ctl, "vanish")
    with pytest.raises(TimeoutError):
        await BleakClient(device, timeout=0.5).connect()
    ask(bench.patch_ctl, "appear")
    async with BleakClient(await found(), timeout=5) as client:
        assert client.is_connected


async def test_errors_have_bluez_names(bench: BleBench, bus: MessageBus) -> None:
    adapter = ("org.bluez", "/org/bluez/hci0", "org.bluez.Adapter1")
    expected = {
        "org.bluez.Error.AlreadyExists": (AGENTS, "RegisterAgent", "os", PATH, "KeyboardDisplay"),
        "org.bluez.Error.InvalidArguments": (AGENTS, "RegisterAgent", "os", PATH, "Telepathy"),
        "org.bluez.Error.DoesNotExist": (adapter, "RemoveDevice", "o", "/org/bluez/hci0/dev_00_00_00_00_00_00"),
        "org.bluez.Error.Failed": (adapter, "StopDiscovery"),
        "org.freedesktop.DBus.Error.UnknownMethod": (adapter, "Levitate"),
        "org.freedesktop.DBus.Error.UnknownObject": (("org.bluez", PATCH + "/service0042", adapter[2]), "ReadValue"),
    }
    other = await MessageBus(bus_address=bench.bus_address).connect()
    try:
        assert (await call(bus, AGENTS, "RegisterAgent", "os", PATH, "KeyboardDisplay")).message_type is MessageType.METHOD_RETURN
        for name, (to, member, *rest) in expected.items():
            caller = other if name.endswith("InvalidArguments") else bus
            reply = await call(caller, to, member, *rest)
            assert (reply.message_type, reply.error_name) == (MessageType.ERROR, name)
    finally:
        other.disconnect()
