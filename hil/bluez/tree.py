"""The object tree of ``org.bluez``: paths, interfaces, typed properties, and the signals that tell of their changes.

Knows D-Bus and the types of BlueZ's properties (doc/org.bluez.*.rst of BlueZ 5.66); knows no Bluetooth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

ADAPTER, DEVICE, AGENTS = "org.bluez.Adapter1", "org.bluez.Device1", "org.bluez.AgentManager1"
ADVERTISING, ADVERTISEMENT = "org.bluez.LEAdvertisingManager1", "org.bluez.LEAdvertisement1"
SERVICE, CHARACTERISTIC, DESCRIPTOR = (f"org.bluez.Gatt{k}1" for k in ("Service", "Characteristic", "Descriptor"))
PROPERTIES, OBJECTS = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"

_SIGNATURES = {
    "s": "Address AddressType Name Alias UUID Modalias",
    "b": "Paired Bonded Trusted Blocked Connected ServicesResolved LegacyPairing Powered Discovering Discoverable Pairable "
    "Primary Notifying NotifyAcquired WriteAcquired",
    "n": "RSSI TxPower",
    "u": "Class",
    "q": "MTU",
    "y": "ActiveInstances SupportedInstances",
    "o": "Adapter Device Service Characteristic",
    "as": "UUIDs Roles Flags",
    "ao": "Includes",
    "ay": "Value",
    "a{qv}": "ManufacturerData",
    "a{sv}": "ServiceData",
}
_SIGNATURE = {name: signature for signature, names in _SIGNATURES.items() for name in names.split()}
_WRITABLE = {
    (ADAPTER, "Powered"),
    (ADAPTER, "Alias"),
    (ADAPTER, "Pairable"),
    (DEVICE, "Trusted"),
    (DEVICE, "Alias"),
    (DEVICE, "Blocked"),
}


class BluezError(Exception):
    """An error as a client sees it: a name under ``org.bluez.Error`` and a text."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(name, text)
        self.name = name if "." in name else f"org.bluez.Error.{name}"
        self.text = text


UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"


class Tree:
    """Objects by path; each is a dict of interfaces, each a dict of properties."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._objects: dict[str, dict[str, dict[str, Any]]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._objects

    def get(self, path: str, interface: str, name: str, default: Any = None) -> Any:
        """A property's value, or ``default``."""
        return self._objects.get(path, {}).get(interface, {}).get(name, default)

    def has(self, path: str, interface: str, name: str | None = None) -> bool:
        """Whether an object has an interface, and perhaps a property."""
        properties = self._objects.get(path, {}).get(interface)
        return properties is not None and (name is None or name in properties)

    def add(self, path: str, interfaces: dict[str, dict[str, Any]]) -> None:
        """A new object, announced."""
        self._objects[path] = interfaces
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [path, {i: _variants(p) for i, p in interfaces.items()}])

    def remove(self, path: str) -> None:
        """Take an object away, announced."""
        interfaces = self._objects.pop(path, None)
        if interfaces is not None:
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, list(interfaces)])

    def set(self, path: str, interface: str, invalidated: Iterable[str] = (), always: bool = False, **values: Any) -> None:
        """Change properties; only what changed is announced, as BlueZ does. ``always``: announce equal values too."""
        properties = self._objects.get(path, {}).get(interface)
        if properties is None:
            return
        changed = {k: v for k, v in values.items() if always or k not in properties or properties[k] != v}
        gone = [k for k in invalidated if k in properties]
        properties.update(changed)
        for k in gone:
            del properties[k]
        if changed or gone:
            self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, _variants(changed), gone])

    def managed(self) -> dict[str, dict[str, dict[str, Variant]]]:
        """The whole tree, as GetManagedObjects returns it."""
        return {p: {i: _variants(v) for i, v in interfaces.items()} for p, interfaces in self._objects.items()}

    def on_properties(self, message: Message) -> tuple[str, list[Any]]:
        """Answer Get, GetAll or Set of org.freedesktop.DBus.Properties."""
        properties = self._objects.get(message.path or "", {}).get(message.body[0])
        if properties is None:
            raise BluezError("org.freedesktop.DBus.Error.InvalidArgs", "No such interface")
        if message.member == "GetAll":
            return "a{sv}", [_variants(properties)]
        name = message.body[1]
        if message.member == "Get":
            if name not in properties:
                raise BluezError("org.freedesktop.DBus.Error.InvalidArgs", "No such property")
            return "v", [Variant(_SIGNATURE[name], properties[name])]
        if (message.body[0], name) not in _WRITABLE:
            raise BluezError("org.freedesktop.DBus.Error.PropertyReadOnly", "Property is not writable")
        self.set(message.path or "", message.body[0], **{name: message.body[2].value})
        return "", []

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        if self._bus.connected:
            kind = MessageType.SIGNAL
            message = Message(message_type=kind, path=path, interface=interface, member=member, signature=signature, body=body)
            self._bus.send(message)


def _variants(properties: dict[str, Any]) -> dict[str, Variant]:
    return {k: Variant(_SIGNATURE[k], v) for k, v in properties.items()}
