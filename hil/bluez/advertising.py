"""LEAdvertisingManager1: a client's advertisement (org.bluez.LEAdvertisement1) goes on the air, and follows its changes.

One advertisement at a time, of type broadcast: what the gateway needs. As in BlueZ, it ends with its client, and
PropertiesChanged of the client's object replaces its data.
"""

from __future__ import annotations

from typing import Any

from bumble import data_types
from bumble.core import UUID, AdvertisingData
from bumble.device import AdvertisingType, Device
from dbus_fast import Message, MessageType, unpack_variants
from dbus_fast.aio import MessageBus

from hil.bluez.tree import ADVERTISEMENT, PROPERTIES, BluezError

MAX_BYTES = 31
INTERVAL_MS = 200.0
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class Advertising:
    """At most one advertisement: ``(owner, path)``."""

    def __init__(self, bus: MessageBus, host: Device) -> None:
        self._bus, self._host = bus, host
        self._client: tuple[str, str] | None = None

    @property
    def active(self) -> int:
        """How many advertisements there are."""
        return int(self._client is not None)

    async def register(self, owner: str, path: str) -> None:
        """RegisterAdvertisement: returns when it is on the air."""
        if self._client == (owner, path):
            raise BluezError("AlreadyExists", "Already Exists")
        if self._client is not None:
            raise BluezError("NotPermitted", "Maximum advertisements reached")
        await self._show(owner, path)
        self._client = (owner, path)
        await self._match("AddMatch", owner, path)

    async def unregister(self, owner: str, path: str) -> None:
        """UnregisterAdvertisement."""
        if self._client != (owner, path):
            raise BluezError("DoesNotExist", "Does Not Exist")
        await self._end()

    async def owner_left(self, owner: str) -> None:
        """A client left the bus."""
        if self._client is not None and self._client[0] == owner:
            await self._end()

    async def changed(self, message: Message) -> None:
        """A PropertiesChanged signal of anybody."""
        if self._client == (message.sender, message.path) and message.body[0] == ADVERTISEMENT:
            await self._show(*self._client)

    async def _end(self) -> None:
        assert self._client is not None
        owner, path = self._client
        self._client = None
        await self._match("RemoveMatch", owner, path)
        await self._host.stop_advertising()

    async def _match(self, member: str, owner: str, path: str) -> None:
        rule = f"type='signal',sender='{owner}',path='{path}',interface='{PROPERTIES}',member='PropertiesChanged'"
        await self._bus.call(Message(*_BUS, member, signature="s", body=[rule]))

    async def _show(self, owner: str, path: str) -> None:
        call = Message(owner, path, PROPERTIES, "GetAll", signature="s", body=[ADVERTISEMENT])
        reply = await self._bus.call(call)
        if reply is None or reply.message_type is MessageType.ERROR:
            raise BluezError("Failed", "Failed to parse advertisement.")
        await self._host.start_advertising(
            advertising_type=AdvertisingType.UNDIRECTED,
            advertising_data=_encoded(unpack_variants(reply.body[0])),
            advertising_interval_min=INTERVAL_MS,
            advertising_interval_max=INTERVAL_MS,
        )


def _encoded(properties: dict[str, Any]) -> bytes:
    if properties.get("Type") != "broadcast":
        raise BluezError("InvalidArguments", "Invalid Arguments")
    shown = AdvertisingData(
        [data_types.ServiceData128BitUUID(UUID(u), bytes(v)) for u, v in properties.get("ServiceData", {}).items()]
    )
    data = bytes(shown)
    if len(data) > MAX_BYTES:
        raise BluezError("InvalidLength", "Advertising data too long")
    return data
