"""One remote device of the bench's ``org.bluez``: found, connected, paired, encrypted again from its stored key.

What happens without an agent is what was seen of bluetoothd 5.66: Pair fails, and an operation that needs a bond never
returns. A bond whose key the peer no longer has ends the link. Knows no D-Bus dispatch.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bumble import core, hci
from bumble.core import AdvertisingData
from bumble.device import Advertisement, Connection, Device, Peer
from bumble.pairing import PairingConfig
from dbus_fast import Variant

from hil.bluez.agent import Agents, Asking
from hil.bluez.gatt import Gatt, spawn, uuid_text
from hil.bluez.tree import DEVICE, BluezError, Tree

CONNECT_S = 20.0  # the kernel's own patience
_AD = AdvertisingData.Type
_UUID_LISTS = (
    _AD.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
    _AD.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
    _AD.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
    _AD.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
)


class RemoteDevice:
    """A device by its address. ``one_at_a_time`` serialises connection attempts, as the controller does."""

    def __init__(
        self, tree: Tree, adapter_path: str, host: Device, agents: Agents, address: hci.Address, one_at_a_time: asyncio.Lock
    ) -> None:
        self.address = address
        self.path = f"{adapter_path}/dev_{address.to_string(False).replace(':', '_')}"
        self._tree, self._host, self._agents, self._lock = tree, host, agents, one_at_a_time
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._pairing: tuple[str | None, bool] = (None, False)
        self._pairing_lock = asyncio.Lock()
        self.gatt = Gatt(tree, self.path, self._raise_security)
        text = address.to_string(False)
        about = {
            "Address": text,
            "AddressType": "public" if address.is_public else "random",
            "Alias": text.replace(":", "-"),
            "Adapter": adapter_path,
            "UUIDs": [],
        }
        flags = dict.fromkeys(("Paired", "Bonded", "Trusted", "Blocked", "LegacyPairing", "Connected", "ServicesResolved"), False)
        self._about: dict[str, Any] = about | flags

    def publish(self, **values: Any) -> None:
        """Appear on the bus."""
        self._tree.add(self.path, {DEVICE: self._about | values})

    @property
    def kept(self) -> bool:
        """Whether BlueZ keeps the object when discovery ends."""
        return bool(self._tree.get(self.path, DEVICE, "Paired") or self._tree.get(self.path, DEVICE, "Connected"))

    def owns(self, connection: Connection) -> bool:
        """Whether ``connection`` is this device's."""
        return self._connection is connection

    async def forget(self) -> None:
        """RemoveDevice: bond, link and objects go."""
        await self._delete_bond()
        if self._connection is not None:
            await self._connection.disconnect()
        self.gatt.clear()
        self._tree.remove(self.path)

    async def _delete_bond(self) -> None:
        assert self._host.keystore is not None
        if await self._host.keystore.get(str(self.address)) is not None:
            await self._host.keystore.delete(str(self.address))

    # --- link ---

    async def connect(self) -> None:
        """Connect; returns when the link is up (services are resolved after)."""
        if self._connection is not None:
            return
        if self._connecting is not None:
            raise BluezError("InProgress", "Operation already in progress")
        self._connecting = asyncio.get_running_loop().create_task(self._establish())
        try:
            connection = await self._connecting
        except (asyncio.CancelledError, core.BaseBumbleError, TimeoutError):
            raise BluezError("Failed", "le-connection-abort-by-local") from None
        finally:
            self._connecting = None
        self._connection = connection
        connection.on(Connection.EVENT_DISCONNECTION, self._disconnected)
        connection.on(Connection.EVENT_SECURITY_REQUEST, lambda *_: spawn(self._asked_to_pair()))
        self._tree.set(self.path, DEVICE, Connected=True)
        spawn(self._resolve(connection))

    async def _establish(self) -> Connection:
        async with self._lock:
            pending = asyncio.get_running_loop().create_task(self._host.connect_le(self.address, timeout=CONNECT_S))
            try:
                return await asyncio.shield(pending)
            except asyncio.CancelledError:
                await self._host.cancel_connection()
                await asyncio.wait({pending}, timeout=1.0)
                if not pending.done():
                    pending.cancel()
                elif not pending.cancelled() and pending.exception() is None:
                    await pending.result().disconnect()
                raise

    async def disconnect(self) -> None:
        """Hang up, or give up connecting."""
        if self._connecting is not None:
            self._connecting.cancel()
        elif self._connection is not None:
            await self._connection.disconnect()
        else:
            raise BluezError("NotConnected", "Not Connected")

    def _disconnected(self, _reason: int) -> None:
        self._connection = None
        self.gatt.disconnected()
        if not self._tree.get(self.path, DEVICE, "Paired"):
            self.gatt.clear()
        self._tree.set(self.path, DEVICE, Connected=False, ServicesResolved=False)

    async def _resolve(self, connection: Connection) -> None:
        assert self._host.keystore is not None
        try:
            if await self._host.keystore.get(str(self.address)) is not None:
                await connection.encrypt()
            uuids = await self.gatt.resolve(Peer(connection))
        except (core.BaseBumbleError, hci.HCI_Error, asyncio.CancelledError, asyncio.InvalidStateError):
            if self._connection is connection:
                await connection.disconnect()
            return
        known = self._tree.get(self.path, DEVICE, "UUIDs", [])
        self._tree.set(self.path, DEVICE, UUIDs=sorted({*uuids, *known}), ServicesResolved=True)

    # --- bond ---

    async def pair(self, owner: str | None) -> None:
        """Pair, on behalf of ``owner`` (None: the peer asked, or an operation needs it)."""
        if self._tree.get(self.path, DEVICE, "Paired"):
            raise BluezError("AlreadyExists", "Already Exists")
        await self.connect()
        if self._agents.choose(owner) is None or self._connection is None:
            raise BluezError("AuthenticationFailed", "Authentication Failed")
        if self._pairing_lock.locked():
            raise BluezError("InProgress", "Operation already in progress")
        async with self._pairing_lock:
            self._pairing = (owner, owner is not None)
            try:
                await self._connection.pair()
            except (core.BaseBumbleError, asyncio.CancelledError) as e:
                raise BluezError("AuthenticationFailed", "Authentication Failed") from e
        self._tree.set(self.path, DEVICE, Paired=True, Bonded=True)

    def pairing_config(self) -> PairingConfig:
        """How the host pairs with this device: with the agent of whoever asked for it."""
        owner, ours = self._pairing
        agent = self._agents.choose(owner)
        if agent is None:
            return PairingConfig(sc=True, mitm=False, bonding=True)
        return PairingConfig(sc=True, mitm=True, bonding=True, delegate=Asking(agent, self.path, ours))

    async def _raise_security(self) -> None:
        if self._agents.choose(None) is None:
            await asyncio.get_running_loop().create_future()  # never answered: the client must bound its patience
        await self.pair(None)

    async def _asked_to_pair(self) -> None:
        if not self._tree.get(self.path, DEVICE, "Paired") and not self._pairing_lock.locked():
            await self.pair(None)


def advertised(advertisement: Advertisement) -> dict[str, Any]:
    """The Device1 properties that an advertisement sets."""
    data = advertisement.data
    values: dict[str, Any] = {"RSSI": advertisement.rssi}
    uuids = sorted({uuid_text(u) for kind in _UUID_LISTS for found in data.get_all(kind) for u in found})
    names = data.get_all(_AD.COMPLETE_LOCAL_NAME) or data.get_all(_AD.SHORTENED_LOCAL_NAME)
    maker = {company: Variant("ay", bytes(body)) for company, body in data.get_all(_AD.MANUFACTURER_SPECIFIC_DATA)}
    service = {uuid_text(u): Variant("ay", bytes(body)) for u, body in data.get_all(_AD.SERVICE_DATA_16_BIT_UUID)}
    if names:
        values |= {"Name": names[0], "Alias": names[0]}
    optional = {"UUIDs": uuids, "ManufacturerData": maker, "ServiceData": service}
    return values | {k: v for k, v in optional.items() if v}
