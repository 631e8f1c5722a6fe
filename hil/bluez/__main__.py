"""``python -m hil.bluez --bus ADDRESS --hci PATH --keys FILE``: the service itself, its adapter ``hci0``, its dispatch."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bumble import hci
from bumble.device import Advertisement, Connection, Device
from bumble.pairing import PairingConfig
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from hil.bluez.advertising import Advertising
from hil.bluez.agent import Agents
from hil.bluez.device import RemoteDevice, advertised
from hil.bluez.gatt import spawn
from hil.bluez.tree import (
    ADAPTER,
    ADVERTISING,
    AGENTS,
    CHARACTERISTIC,
    DESCRIPTOR,
    DEVICE,
    OBJECTS,
    PROPERTIES,
    UNKNOWN_METHOD,
    UNKNOWN_OBJECT,
    BluezError,
    Tree,
)
from hil.wearable import open_host

HCI0 = "/org/bluez/hci0"
TEMPORARY_S = 30.0  # BlueZ's TemporaryTimeout: an unpaired device is forgotten this long after discovery
Reply = tuple[str, list[Any]] | Message


class Service:
    """The ``org.bluez`` name on a bus, over one bumble host."""

    def __init__(self, bus: MessageBus, host: Device) -> None:
        self._bus, self._host = bus, host
        self._tree, self._agents, self._advertising = Tree(bus), Agents(bus), Advertising(bus, host)
        self._devices: dict[str, RemoteDevice] = {}
        self._scanning_for: set[str] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._one_at_a_time = asyncio.Lock()
        host.pairing_config_factory = self._pairing_config
        host.on(Device.EVENT_ADVERTISEMENT, self._seen)

    async def start(self) -> None:
        """Publish the adapter and the bonded devices, then take the name."""
        self._bus.add_message_handler(self._on_message)
        self._tree.add("/org/bluez", {AGENTS: {}})
        about = {
            "Address": self._host.static_address.to_string(False),
            "AddressType": "random",
            "Name": "gateway",
            "Alias": "gateway",
            "UUIDs": [],
            "Roles": ["central", "peripheral"],
        }
        switches = {"Powered": True, "Discovering": False, "Discoverable": False, "Pairable": True}
        self._tree.add(HCI0, {ADAPTER: about | switches, ADVERTISING: {"ActiveInstances": 0, "SupportedInstances": 1}})
        assert self._host.keystore is not None
        for address, _ in await self._host.keystore.get_all():
            self._device(hci.Address(address)).publish(Paired=True, Bonded=True)
        rule = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged'"
        await self._bus.call(
            Message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", signature="s", body=[rule])
        )
        await self._bus.request_name("org.bluez")

    def stop(self) -> None:
        """End in order: agents are released."""
        self._agents.release()

    def _device(self, address: hci.Address) -> RemoteDevice:
        device = RemoteDevice(self._tree, HCI0, self._host, self._agents, address, self._one_at_a_time)
        return self._devices.setdefault(device.path, device)

    def _pairing_config(self, connection: Connection) -> PairingConfig:
        for device in self._devices.values():
            if device.owns(connection):
                return device.pairing_config()
        return PairingConfig(sc=True, mitm=False, bonding=False)

    # --- dispatch ---

    def _on_message(self, message: Message) -> bool | None:
        if message.message_type is MessageType.SIGNAL and message.member == "NameOwnerChanged" and not message.body[2]:
            self._owner_left(message.body[0])
        if message.message_type is MessageType.SIGNAL and message.member == "PropertiesChanged":
            spawn(self._advertising.changed(message))
        if message.message_type is not MessageType.METHOD_CALL or message.interface == "org.freedesktop.DBus.Peer":
            return None
        spawn(self._answer(message))
        return True

    async def _answer(self, message: Message) -> None:
        try:
            reply = await self._call(message)
        except BluezError as e:
            self._bus.send(Message.new_error(message, e.name, e.text))
            return
        if not isinstance(reply, Message):
            reply = Message.new_method_return(message, *reply)
        await self._bus.send(reply)
        for fd in reply.unix_fds:  # the client has its own copy now
            os.close(fd)

    async def _call(self, m: Message) -> Reply:
        if m.interface == OBJECTS and m.member == "GetManagedObjects":
            return "a{oa{sa{sv}}}", [self._tree.managed()]
        if (m.path or "") not in self._tree:
            raise BluezError(UNKNOWN_OBJECT, f"Method {m.member!r} on an object that does not exist")
        if m.interface == PROPERTIES:
            return self._tree.on_properties(m)
        method = self._methods(m).get((m.interface or "", m.member or ""))
        if method is None or not self._tree.has(m.path or "", m.interface or ""):
            raise BluezError(UNKNOWN_METHOD, f"Method {m.member!r} does not exist")
        reply = await method()
        return reply if reply is not None else ("", [])

    def _methods(self, m: Message) -> dict[tuple[str, str], Callable[[], Awaitable[Reply | None]]]:
        path, sender, body = m.path or "", m.sender or "", m.body
        device = self._devices.get("/".join(path.split("/")[:5]))
        methods: dict[tuple[str, str], Callable[[], Awaitable[Reply | None]]] = {
            (ADAPTER, "SetDiscoveryFilter"): _nothing,
            (ADAPTER, "StartDiscovery"): lambda: self._start_discovery(sender),
            (ADAPTER, "StopDiscovery"): lambda: self._stop_discovery(sender),
            (ADAPTER, "RemoveDevice"): lambda: self._remove_device(body[0]),
            (ADVERTISING, "RegisterAdvertisement"): lambda: self._advertising.register(sender, body[0]),
            (ADVERTISING, "UnregisterAdvertisement"): lambda: self._advertising.unregister(sender, body[0]),
            (AGENTS, "RegisterAgent"): lambda: _later(self._agents.register, sender, *body),
            (AGENTS, "UnregisterAgent"): lambda: _later(self._agents.unregister, sender, *body),
            (AGENTS, "RequestDefaultAgent"): lambda: _later(self._agents.make_default, sender, *body),
        }
        if device is not None:
            gatt = device.gatt
            methods |= {
                (DEVICE, "Connect"): device.connect,
                (DEVICE, "Disconnect"): device.disconnect,
                (DEVICE, "Pair"): lambda: device.pair(sender),
                (CHARACTERISTIC, "ReadValue"): lambda: _read(device, path),
                (DESCRIPTOR, "ReadValue"): lambda: _read(device, path),
                (CHARACTERISTIC, "WriteValue"): lambda: gatt.write(path, bytes(body[0]), _with_response(body[1])),
                (DESCRIPTOR, "WriteValue"): lambda: gatt.write(path, bytes(body[0]), True),
                (CHARACTERISTIC, "StartNotify"): lambda: gatt.start_notify(path, sender),
                (CHARACTERISTIC, "StopNotify"): lambda: gatt.stop_notify(path, sender),
                (CHARACTERISTIC, "AcquireNotify"): lambda: gatt.acquire_notify(path, m),
            }
        return methods

    def _owner_left(self, owner: str) -> None:
        self._agents.forget(owner)
        spawn(self._advertising.owner_left(owner))
        if owner in self._scanning_for:
            spawn(self._stop_discovery(owner))
        for device in self._devices.values():
            device.gatt.owner_left(owner)

    # --- adapter ---

    async def _start_discovery(self, sender: str) -> None:
        if sender in self._scanning_for:
            raise BluezError("InProgress", "Operation already in progress")
        self._scanning_for.add(sender)
        if self._expiry is not None:
            self._expiry.cancel()
        if not self._host.is_scanning:
            await self._host.start_scanning(filter_duplicates=False)
        self._tree.set(HCI0, ADAPTER, Discovering=True)

    async def _stop_discovery(self, sender: str) -> None:
        if sender not in self._scanning_for:
            raise BluezError("Failed", "No discovery started")
        self._scanning_for.discard(sender)
        if self._scanning_for:
            return
        await self._host.stop_scanning()
        self._tree.set(HCI0, ADAPTER, Discovering=False)
        for path in self._devices:
            self._tree.set(path, DEVICE, ("RSSI", "TxPower"))
        self._expiry = asyncio.get_running_loop().call_later(TEMPORARY_S, self._expire)

    def _expire(self) -> None:
        for path, device in list(self._devices.items()):
            if not device.kept:
                spawn(self._remove_device(path))

    async def _remove_device(self, path: str) -> None:
        device = self._devices.pop(path, None)
        if device is None:
            raise BluezError("DoesNotExist", "Does Not Exist")
        await device.forget()

    def _seen(self, advertisement: Advertisement) -> None:
        values = advertised(advertisement)
        device = self._device(advertisement.address)
        if device.path not in self._tree:
            device.publish(**values)
        else:
            self._tree.set(device.path, DEVICE, **values)


async def _nothing() -> None:
    return None


async def _later(function: Callable[..., None], *arguments: Any) -> None:
    function(*arguments)


async def _read(device: RemoteDevice, path: str) -> Reply:
    return "ay", [await device.gatt.read(path)]


def _with_response(options: dict[str, Any]) -> bool:
    kind = options.get("type")
    return kind is None or kind.value != "command"


async def run(a: argparse.Namespace) -> None:
    """Serve until SIGTERM, or until the bus or the radio is gone."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(s, stop.set)
    host, transport = await open_host(a.hci, "gateway", a.address, a.keys)
    transport.source.terminated.add_done_callback(lambda _: stop.set())
    bus = await MessageBus(bus_address=a.bus, negotiate_unix_fd=True).connect()
    service = Service(bus, host)
    await service.start()
    print("ready", flush=True)
    lost = loop.create_task(bus.wait_for_disconnect())
    await asyncio.wait({lost, loop.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if not lost.done():
        service.stop()
        for connection in list(host.connections.values()):
            await asyncio.wait({loop.create_task(connection.disconnect())}, timeout=0.5)
        bus.disconnect()
    else:
        lost.exception()  # a bus that broke is an end, not a fault
    await transport.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bus", required=True, help="D-Bus address")
    parser.add_argument("--hci", type=Path, required=True, help="the radio's socket")
    parser.add_argument("--keys", type=Path, required=True, help="where bonds are kept")
    parser.add_argument("--address", default="C0:FF:EE:00:00:01", help="the adapter's static address")
    a = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(run(a))


if __name__ == "__main__":
    main()
