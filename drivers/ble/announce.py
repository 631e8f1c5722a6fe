"""The gateway's own advertisement (org.bluez.LEAdvertisement1): which epoch it is, for wearables that only listen.

A broadcast nobody can connect to or ask: 13 bytes of service data under our own UUID. Knows no chain and no wearable. No ``from
__future__ import annotations`` here: dbus-fast reads the annotations at run time.
"""

from dbus_fast import PropertyAccess, Variant
from dbus_fast.annotations import DBusDict, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

from drivers.ble.attestation import ANNOUNCEMENT_UUID

PATH = "/wardgate/epoch"


class Announcement(ServiceInterface):
    """What BlueZ puts on the air for us; ``show`` replaces it."""

    def __init__(self, data: bytes) -> None:
        super().__init__("org.bluez.LEAdvertisement1")
        self._data = data

    def show(self, data: bytes) -> None:
        """Advertise ``data`` from now on."""
        self._data = data
        self.emit_properties_changed({"ServiceData": self._shown()})

    def _shown(self) -> dict[str, Variant]:
        return {ANNOUNCEMENT_UUID: Variant("ay", self._data)}

    @dbus_property(access=PropertyAccess.READ)
    def Type(self) -> DBusStr:
        """Nobody connects to it."""
        return "broadcast"

    @dbus_property(access=PropertyAccess.READ)
    def ServiceData(self) -> DBusDict:
        """UUID to bytes."""
        return self._shown()

    @dbus_method()
    def Release(self) -> None:
        """BlueZ lets the advertisement go; it is registered again when org.bluez comes back."""
