"""Our pairing agent (org.bluez.Agent1). It enters the passkeys it was given and refuses everything else.

A passkey is given only while this driver itself is pairing that very device, so a peer that asks to be paired, or a
pairing that somebody else starts, gets nothing. Knows how a bond was made: with the man-in-the-middle protection of a
passkey, or without. No ``from __future__ import annotations`` here: dbus-fast reads the annotations at run time.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dbus_fast import DBusError
from dbus_fast.annotations import DBusObjectPath, DBusStr, DBusUInt16, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method

CAPABILITY = "KeyboardDisplay"
PATH = "/wardgate/agent"
_DEVICE_PATH = re.compile(r"/org/bluez/[a-z0-9]{1,16}/dev_((?:[0-9A-F]{2}_){5}[0-9A-F]{2})")


@dataclass
class Pairing:
    """One pairing that this driver started. ``entered`` is set once its passkey was asked for and given."""

    passkey: int | None
    entered: bool = False
    refused: list[str] = field(default_factory=list)


def address_of(path: str) -> str | None:
    """The Bluetooth address in a device's object path; None for anything else."""
    match = _DEVICE_PATH.fullmatch(path)
    return match.group(1).replace("_", ":") if match else None


class PairingAgent(ServiceInterface):
    """Answers BlueZ on behalf of the pairings under way."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__("org.bluez.Agent1")
        self._log = log
        self._pairings: dict[str, Pairing] = {}

    @contextmanager
    def pairing(self, address: str, passkey: int | None) -> Iterator[Pairing]:
        """While the block runs, ``passkey`` (0 to 999999) may be entered for ``address``."""
        under_way = self._pairings[address] = Pairing(passkey)
        try:
            yield under_way
        finally:
            self._pairings.pop(address, None)

    def _refuse(self, device: str, what: str) -> DBusError:
        address = address_of(device)
        if address in self._pairings:
            self._pairings[address].refused.append(what)
        self._log.warning("refused %s for %s: nobody here asked for it", what, address or "an unknown path")
        return DBusError("org.bluez.Error.Rejected", "not asked for")

    @dbus_method()
    def RequestPasskey(self, device: DBusObjectPath) -> DBusUInt32:
        """The device shows a passkey (or has it on its label): enter it."""
        under_way = self._pairings.get(address_of(device) or "")
        if under_way is None or under_way.passkey is None:
            raise self._refuse(device, "a passkey")
        under_way.entered = True
        return under_way.passkey

    @dbus_method()
    def RequestPinCode(self, device: DBusObjectPath) -> DBusStr:
        """BR/EDR legacy pairing: never."""
        raise self._refuse(device, "a PIN code")

    @dbus_method()
    def DisplayPinCode(self, device: DBusObjectPath, pincode: DBusStr) -> None:
        """BR/EDR legacy pairing: never."""
        raise self._refuse(device, "showing a PIN code")

    @dbus_method()
    def DisplayPasskey(self, device: DBusObjectPath, passkey: DBusUInt32, entered: DBusUInt16) -> None:
        """The device wants its user to type: nobody stands here."""
        raise self._refuse(device, "showing a passkey")

    @dbus_method()
    def RequestConfirmation(self, device: DBusObjectPath, passkey: DBusUInt32) -> None:
        """Numeric comparison: nobody stands here to compare."""
        raise self._refuse(device, "a numeric comparison")

    @dbus_method()
    def RequestAuthorization(self, device: DBusObjectPath) -> None:
        """A peer asks to be paired without protection: it was not asked."""
        raise self._refuse(device, "a pairing that the device asked for")

    @dbus_method()
    def AuthorizeService(self, device: DBusObjectPath, uuid: DBusStr) -> None:
        """A peer wants a service of this gateway: there is none."""
        raise self._refuse(device, "a service")

    @dbus_method()
    def Cancel(self) -> None:
        """BlueZ gave a question up; the pairing itself reports how it ended."""

    @dbus_method()
    def Release(self) -> None:
        """BlueZ lets the agent go; it is registered again when org.bluez comes back."""
