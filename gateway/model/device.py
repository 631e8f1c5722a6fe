"""Who is behind the gateway, and the table of states a device goes through."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

DEVICE_ID = re.compile(r"[a-z0-9-]{1,63}")
_BLE_ADDRESS = re.compile(r"(?:[0-9A-F]{2}:){5}[0-9A-F]{2}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


class Bus(StrEnum):
    """How a device is reached."""

    BLE = "ble"
    MODBUS = "modbus"
    HL7 = "hl7"


class DeviceState(StrEnum):
    """Where a device is in its life behind the gateway."""

    PROPOSED = "proposed"  # seen, not accepted: it gets nothing
    OBSERVING = "observing"  # its flows pass, are counted and logged
    ENFORCED = "enforced"  # it gets what its level earns
    SERVICE = "service"  # a legitimate repair: monitoring stays, a difference is accepted by a second person
    SUSPENDED = "suspended"  # an operator took it out: it gets nothing
    RETIRED = "retired"  # gone; the record stays


class Bond(StrEnum):
    """How a BLE device is bonded with this gateway's adapter."""

    NONE = "none"
    JUST_WORKS = "justworks"
    MITM = "mitm"


# (state, verb) -> next state. A pair that is not here is illegal; ``next_state`` raises on it.
TRANSITIONS: dict[tuple[DeviceState, str], DeviceState] = {
    (DeviceState.PROPOSED, "accept"): DeviceState.OBSERVING,
    (DeviceState.PROPOSED, "remove"): DeviceState.RETIRED,
    (DeviceState.OBSERVING, "enforce"): DeviceState.ENFORCED,
    (DeviceState.OBSERVING, "suspend"): DeviceState.SUSPENDED,
    (DeviceState.OBSERVING, "remove"): DeviceState.RETIRED,
    (DeviceState.ENFORCED, "observe"): DeviceState.OBSERVING,
    (DeviceState.ENFORCED, "service"): DeviceState.SERVICE,
    (DeviceState.ENFORCED, "suspend"): DeviceState.SUSPENDED,
    (DeviceState.ENFORCED, "remove"): DeviceState.RETIRED,
    (DeviceState.SERVICE, "accept"): DeviceState.ENFORCED,
    (DeviceState.SERVICE, "undo"): DeviceState.ENFORCED,
    (DeviceState.SERVICE, "service-ended"): DeviceState.ENFORCED,
    (DeviceState.SERVICE, "suspend"): DeviceState.SUSPENDED,
    (DeviceState.SUSPENDED, "observe"): DeviceState.OBSERVING,
    (DeviceState.SUSPENDED, "enforce"): DeviceState.ENFORCED,
    (DeviceState.SUSPENDED, "remove"): DeviceState.RETIRED,
}


def next_state(state: DeviceState, verb: str) -> DeviceState:
    """The state after ``verb``; raises ValueError naming the verbs that are legal from here."""
    try:
        return TRANSITIONS[state, verb]
    except KeyError:
        legal = sorted(v for s, v in TRANSITIONS if s is state)
        raise ValueError(f"cannot {verb} a device that is {state}; possible: {', '.join(legal) or 'nothing'}") from None


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a wired device may speak from: port (a bridge port's name), MAC (lower case, colons) and its addresses."""

    port: str
    mac: str
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.port) <= 15 or not self.port.isprintable() or set(self.port) & set(' "\\/'):
            raise ValueError(f"{self.port!r} is no interface name")
        if not _MAC.fullmatch(self.mac):
            raise ValueError(f"{self.mac!r} is no MAC address of the form 02:00:00:00:00:0a")
        if not self.addresses:
            raise ValueError("a wired device needs at least one IP address")
        for a in self.addresses:
            if str(ipaddress.ip_address(a)) != a:
                raise ValueError(f"{a!r} is not in canonical form")


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the inventory holds it. ``address`` is a claim: a BLE address (upper case), or an IP address."""

    id: str
    name: str
    bus: Bus
    profile: str
    address: str
    state: DeviceState = DeviceState.PROPOSED
    binding: Binding | None = None
    bond: Bond = Bond.NONE

    def __post_init__(self) -> None:
        if not DEVICE_ID.fullmatch(self.id):
            raise ValueError(f"a device id is [a-z0-9-]{{1,63}}, got {self.id!r}")
        if not 1 <= len(self.name) <= 80 or not self.name.isprintable():
            raise ValueError("a device name is 1 to 80 printable characters")
        if self.bus is Bus.BLE:
            if not _BLE_ADDRESS.fullmatch(self.address):
                raise ValueError(f"{self.address!r} is no BLE address of the form C0:00:00:00:00:01")
        else:
            ipaddress.ip_address(self.address)

    @property
    def ip_addresses(self) -> tuple[str, ...]:
        """Every IP address a lease must cover; empty for a wireless device."""
        return self.binding.addresses if self.binding else ()
