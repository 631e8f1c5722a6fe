"""The system bus and org.bluez on it: who owns the name, what it says of devices, pairing, and our agent.

bleak speaks to org.bluez on its own connections and does not notice when the daemon dies while the bus lives (its clients
stay "connected", its cache stays); this module does, and makes bleak forget. The only place that translates D-Bus errors.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from bleak.backends.bluezdbus import manager as bleak_manager
from dbus_fast import BusType, DBusError, Message, MessageType, Variant, unpack_variants
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, InvalidAddressError

from drivers.ble.agent import CAPABILITY, PATH, PairingAgent
from drivers.ble.announce import PATH as ANNOUNCEMENT_PATH
from drivers.ble.announce import Announcement
from drivers.ble.radio import why_no_radio
from gateway.errors import DeviceError, UnavailableError

CALL_S = 5.0  # any method of bluetoothd but Pair and Connect answers at once or never
PAIR_S = 30.0  # SMP's own timeout (Core, Vol 3, Part H, 3.4)
_BUS, _BLUEZ = "org.freedesktop.DBus", "org.bluez"
_DEVICE, _ADAPTER = "org.bluez.Device1", "org.bluez.Adapter1"
_ALREADY = "org.bluez.Error.AlreadyExists"
_NO_BUS = "check that dbus.service runs; Wardgate connects again by itself"
_GONE = (ConnectionError, EOFError, OSError, RuntimeError)


class Bluez:
    """One connection to the bus. ``up`` and ``down`` follow the owner of org.bluez; ``lost`` is set when the bus itself dies."""

    def __init__(self, log: logging.Logger, address: str | None) -> None:
        self._log, self._address = log, address
        self._bus: MessageBus | None = None
        self._watch: asyncio.Task[None] | None = None
        self.agent = PairingAgent(log)
        self.up, self.down, self.lost = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def open(self) -> None:
        """Connect and begin to watch org.bluez. Raises UnavailableError when there is no bus."""
        if self._address:
            # bleak takes the bus from the environment and from nowhere else
            os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = self._address
        bus = MessageBus(bus_type=BusType.SYSTEM)
        try:
            async with asyncio.timeout(CALL_S):
                await bus.connect()
        except (*_GONE, AuthError, InvalidAddressError, TimeoutError) as e:
            bus.disconnect()
            raise UnavailableError(f"the D-Bus system bus does not answer ({type(e).__name__})", _NO_BUS) from e
        self._bus = bus
        bus.add_message_handler(self._on_message)
        bus.export(PATH, self.agent)
        self._watch = asyncio.get_running_loop().create_task(self._watch_bus(bus), name="ble-bus")
        rule = f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{_BLUEZ}'"
        await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", [rule])
        present = await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "NameHasOwner", "s", [_BLUEZ])
        self._set(bool(present[0]))

    async def close(self) -> None:
        """Leave the bus and make bleak leave it too."""
        await forget_bleak()
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None
        if self._watch is not None:
            await asyncio.wait({self._watch}, timeout=CALL_S)

    async def _watch_bus(self, bus: MessageBus) -> None:
        try:
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except Exception as e:  # noqa: BLE001 - however the bus ends, it has ended
            self._log.debug("the bus ended: %r", e)
        self._set(False)
        self.lost.set()

    def _on_message(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "NameOwnerChanged" and message.sender == _BUS:
            name, old, new = message.body
            if name == _BLUEZ:
                if old and new:
                    self._set(False)
                self._set(bool(new))

    def _set(self, present: bool) -> None:
        (self.up if present else self.down).set()
        (self.down if present else self.up).clear()

    # --- calls ---

    async def _call(
        self,
        to: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        patience_s: float | None = None,
    ) -> list[Any]:
        """Call a method. Raises DBusError as the peer sent it, UnavailableError when nobody answers."""
        if self._bus is None or not self._bus.connected:
            raise UnavailableError("the D-Bus system bus is gone", _NO_BUS)
        message = Message(to, path, interface, member, signature=signature, body=body or [])
        try:
            async with asyncio.timeout(patience_s or CALL_S):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise UnavailableError(f"{member} of {to} did not answer", "restart bluetooth.service") from None
        except _GONE as e:
            raise UnavailableError("the D-Bus system bus is gone", _NO_BUS) from e
        if reply.message_type is MessageType.ERROR:
            raise DBusError(reply.error_name or "org.freedesktop.DBus.Error.Failed", str((reply.body or [""])[0]))
        return list(reply.body)

    async def register_agent(self) -> None:
        """Make our agent the default one. Raises UnavailableError."""
        for member, signature, body in (("RegisterAgent", "os", [PATH, CAPABILITY]), ("RequestDefaultAgent", "o", [PATH])):
            try:
                await self._call(_BLUEZ, "/org/bluez", "org.bluez.AgentManager1", member, signature, body)
            except DBusError as e:
                if e.type != _ALREADY:  # registered before: this daemon only hung
                    remedy = "restart bluetooth.service"
                    raise UnavailableError(f"bluetoothd refused the pairing agent ({e.type})", remedy) from e

    async def advertise(self, adapter: str, announcement: Announcement) -> None:
        """Put our advertisement on the air, or leave it there. Raises UnavailableError when the adapter cannot."""
        if self._bus is not None:
            self._bus.export(ANNOUNCEMENT_PATH, announcement)
        to = (_BLUEZ, f"/org/bluez/{adapter}", "org.bluez.LEAdvertisingManager1")
        try:
            await self._call(*to, "RegisterAdvertisement", "oa{sv}", [ANNOUNCEMENT_PATH, {}])
        except DBusError as e:
            if e.type != _ALREADY:
                remedy = "use an adapter that can advertise; until then beacons need a connection each few epochs"
                raise UnavailableError(f"the Bluetooth adapter cannot announce epochs ({e.type})", remedy) from e

    async def silence(self, adapter: str, announcement: Announcement) -> None:
        """Take our advertisement off the air; no error when it was not there."""
        to = (_BLUEZ, f"/org/bluez/{adapter}", "org.bluez.LEAdvertisingManager1")
        try:
            await self._call(*to, "UnregisterAdvertisement", "o", [ANNOUNCEMENT_PATH])
        except (DBusError, UnavailableError) as e:
            self._log.debug("taking the advertisement away: %s", e)
        if self._bus is not None:
            self._bus.unexport(ANNOUNCEMENT_PATH, announcement)

    async def power(self, adapter: str) -> None:
        """Switch the adapter on. Raises UnavailableError naming what is wrong with it."""
        path = f"/org/bluez/{adapter}"
        try:
            powered = await self._property(path, _ADAPTER, "Powered")
            if not powered:
                await self._call(
                    _BLUEZ, path, "org.freedesktop.DBus.Properties", "Set", "ssv", [_ADAPTER, "Powered", Variant("b", True)]
                )
        except DBusError as e:
            if self._address is None and (why := why_no_radio()) is not None:  # another bus than the system's is not this radio
                raise UnavailableError(*why) from e
            remedy = "see `rfkill list bluetooth`, and `btmgmt info` for the adapters there are"
            raise UnavailableError(f"the Bluetooth adapter {adapter} cannot be used ({e.type})", remedy) from e

    async def _property(self, path: str, interface: str, name: str) -> Any:
        value = await self._call(_BLUEZ, path, "org.freedesktop.DBus.Properties", "Get", "ss", [interface, name])
        return unpack_variants(value[0])

    async def known(self, path: str) -> bool:
        """Whether org.bluez has an object for the device: it was seen lately, or is bonded."""
        try:
            await self._property(path, _DEVICE, "Address")
        except DBusError:
            return False
        return True

    async def paired(self, path: str) -> bool:
        """Whether org.bluez holds a bond with the device."""
        try:
            return bool(await self._property(path, _DEVICE, "Paired"))
        except DBusError:
            return False

    async def pair(self, path: str) -> None:
        """Connect and pair, with our agent answering. Raises DeviceError; the link is down then."""
        try:
            await self._call(_BLUEZ, path, _DEVICE, "Pair", patience_s=PAIR_S)
        except DBusError as e:
            await self.hang_up(path)
            raise DeviceError(f"pairing failed ({e.type.rpartition('.')[2]})", "check the passkey on the device's label") from e
        except BaseException:
            await asyncio.shield(self.hang_up(path))
            raise

    async def hang_up(self, path: str) -> None:
        """Disconnect the device, or give up connecting to it; no error when there is nothing to do."""
        try:
            await self._call(_BLUEZ, path, _DEVICE, "Disconnect")
        except (DBusError, UnavailableError) as e:
            self._log.debug("disconnecting %s: %s", path, e)

    async def remove(self, adapter: str, path: str) -> None:
        """Delete the device's bond with everything org.bluez knows of it; no error when there is none."""
        try:
            await self._call(_BLUEZ, f"/org/bluez/{adapter}", _ADAPTER, "RemoveDevice", "o", [path])
        except DBusError as e:
            self._log.debug("removing %s: %s", path, e)


async def forget_bleak() -> None:
    """Drop bleak's connection and cache: every client of it is told that it is disconnected, the next use connects again."""
    manager = bleak_manager._global_instances.get(asyncio.get_running_loop())
    if manager is None or manager._bus is None:
        return
    manager._bus.disconnect()
    if manager._bus_watcher_task is not None:
        await asyncio.wait({manager._bus_watcher_task}, timeout=CALL_S)
