"""PURE. Which wiring is there, what it controls and what not, and the mistakes people make with cables.

``describe`` takes what the kernel lists (``ip -j -d link``, ``bridge -j fdb``, ``ip -j neigh``, the pairs that the bridge table
refused) and what the confirmed policy binds, and returns one document for ``wardgate check`` and for the Network page. It refuses
to know how these were read (``gateway.wiring_reader``), and it judges no trust: a wrong cable is told, never punished.
A little over 400 lines: every mistake is here, with the sentence and the remedy that people read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_NOBODY = ("0.0.0.0", "::")  # noqa: S104 - who has no address yet
_SHOWN = 8  # MACs named in a sentence or listed at a port; a flood of forged ones stays readable


class Kind(StrEnum):
    """The wirings of a gateway. The value is what people read."""

    IN_LINE = "in line"
    VLAN = "VLAN per device"
    WIRELESS = "wireless only"
    SHARED = "shared switch"


class Severity(StrEnum):
    """``wrong``: somebody has to act. ``note``: good to know, and allowed."""

    WRONG = "wrong"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the confirmed policy says that a wired device is."""

    device: str
    port: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """The interfaces that the configuration names; addresses of the hospital's side, and this gateway's own."""

    ward: str = "ward0"
    uplink: str = "hosp0"
    management: str = "mgmt0"
    hospital: frozenset[str] = frozenset()
    gateway: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Kernel:
    """What was read, as iproute2 prints it in JSON. ``refused``: (port, MAC, address) that the bridge table did not admit.

    ``managers``: interface -> the other program that configures it. ``None`` for ``refused``: it could not be read.
    """

    links: Sequence[Mapping[str, Any]]
    fdb: Sequence[Mapping[str, Any]] = ()
    neighbours: Sequence[Mapping[str, Any]] = ()
    refused: Sequence[tuple[str, str, str]] | None = ()
    managers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Port:
    """One port of the ward. ``device``: bound there, empty when nobody is. ``macs``: who was heard behind it."""

    name: str
    device: str
    carrier: bool
    isolated: bool
    vlan: int | None
    present: bool
    macs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know: a stable code, the port or device it is about, what was seen, and what to do."""

    code: str
    severity: Severity
    subject: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """The document. ``controls`` and ``leaves``: what this wiring does and does not control, a sentence each."""

    kind: Kind
    summary: str
    controls: tuple[str, ...]
    leaves: tuple[str, ...]
    ward: str
    uplink: str
    uplink_carrier: bool
    ports: tuple[Port, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nobody has to act."""
        return not any(f.severity is Severity.WRONG for f in self.findings)

    def as_document(self) -> dict[str, Any]:
        """As JSON has it: ``kind`` and ``severity`` are their words."""
        return {**asdict(self), "ok": self.ok}


_CONTROLS = {
    Kind.IN_LINE: (
        "every packet between a device and the hospital",
        "devices from each other: each has a port of its own, and ports are isolated",
    ),
    Kind.VLAN: (
        "every packet between a device and the hospital",
        "devices from each other, as long as the switch keeps each one in its own VLAN",
    ),
    Kind.WIRELESS: ("readings of wearables: their level, their label and where they go",),
    Kind.SHARED: ("every packet between a bound device and the hospital",),
}
_LEAVES = {
    Kind.IN_LINE: ("a device that is plugged in somewhere else",),
    Kind.VLAN: (
        "the switch itself: who can configure it can join two VLANs",
        "a device that is plugged into a switch port outside its VLAN",
    ),
    Kind.WIRELESS: ("any wired device: none passes through this gateway",),
    Kind.SHARED: ("devices behind the same port from each other: their packets never come here",),
}


def describe(kernel: Kernel, places: Sequence[Place], names: Names) -> Wiring:
    """The wiring and its mistakes. Never raises for what the kernel or a device said."""
    look = _Look(kernel, places, names)
    ports, up = look.ports(), _carrier(look.link.get(names.uplink))
    kind = _kind(ports, look)
    findings = tuple(sorted(look.findings(ports), key=lambda f: (f.severity is Severity.NOTE, f.code, f.subject)))
    text = _summary(kind, ports, look)
    return Wiring(kind, text, _CONTROLS[kind], _LEAVES[kind], names.ward, names.uplink, up, ports, findings)


def places_of(document: Mapping[str, Any]) -> tuple[Place, ...]:
    """Where a (checked, decoded) policy document binds wired devices."""
    owner = {a: name for name, entry in document.get("devices", {}).items() for a in entry["addresses"]}
    bound: dict[tuple[str, str], list[str]] = {}
    for family in (4, 6):
        for port, mac, address in document.get("sets", {}).get(f"port{family}", ()):
            bound.setdefault((port, mac), []).append(address)
    named = {key: next((owner[a] for a in addresses if a in owner), "") for key, addresses in bound.items()}
    return tuple(Place(named[key], *key, tuple(addresses)) for key, addresses in sorted(bound.items()))


def hospital_of(document: Mapping[str, Any], peers: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Every address of the hospital's side that the configuration or a flow of the policy names."""
    devices = {a for entry in document.get("devices", {}).values() for a in entry["addresses"]}
    sets = document.get("sets", {})
    flows = [e for name in sets if name.startswith(("vital", "rtl")) for e in sets[name]]
    ends = {str(end) for element in flows for end in element[:2]} | {a for listed in peers.values() for a in listed}
    return frozenset(ends | {str(e[0]) for v in (4, 6) for e in sets.get(f"uplink{v}", ())}) - devices


class _Look:
    """One look at the kernel's lists, indexed."""

    def __init__(self, kernel: Kernel, places: Sequence[Place], names: Names) -> None:
        self.kernel, self.places, self.names = kernel, places, names
        self.link = {str(row["ifname"]): row for row in kernel.links if "ifname" in row}
        self.bound = {place.port: place for place in places}
        self.by_mac = {place.mac: place for place in places}
        self.by_address = {address: place for place in places for address in place.addresses}
        self.own = {str(row.get("address", "")) for row in kernel.links} - {"", "00:00:00:00:00:00"}
        members = [n for n, row in self.link.items() if row.get("master") == names.ward]
        self.members = sorted(members)
        self.refused = [t for t in (kernel.refused or ()) if _MAC.fullmatch(t[1])]
        self.heard = self._heard()

    def _heard(self) -> dict[str, set[str]]:
        """port -> MACs, from what the bridge learned and from what it refused."""
        heard: dict[str, set[str]] = {}
        for row in self.kernel.fdb:
            learned = row.get("state") not in ("permanent", "static") and "self" not in row.get("flags", ())
            if learned and row.get("master") == self.names.ward and _MAC.fullmatch(str(row.get("mac", ""))):
                heard.setdefault(str(row.get("ifname")), set()).add(str(row["mac"]))
        for port, mac, _ in self.refused:
            heard.setdefault(port, set()).add(mac)
        return heard

    def ports(self) -> tuple[Port, ...]:
        """Every port of the ward, and every port that a device is bound to."""
        ports = []
        for name in sorted({*self.members, *self.bound}):
            row = self.link.get(name, {})
            info = row.get("linkinfo", {})
            place = self.bound.get(name)
            ports.append(
                Port(
                    name,
                    place.device if place else "",
                    _carrier(row),
                    info.get("info_slave_data", {}).get("isolated") is True,
                    _vlan(row),
                    name in self.members,
                    tuple(sorted(self.heard.get(name, ())))[:_SHOWN],
                )
            )
        return tuple(ports)

    def findings(self, ports: Sequence[Port]) -> Iterable[Finding]:
        yield from _interfaces(self)
        for port in ports:
            yield from _port(self, port)
        yield from _claims(self)
        yield from _uplink(self)
        yield from _managers(self)
        if self.kernel.refused is None:
            yield _note("unseen", self.names.ward, "who was refused on the ports could not be read", "run it as root")


def _kind(ports: Sequence[Port], look: _Look) -> Kind:
    there = [p for p in ports if p.present]
    if not there:
        return Kind.WIRELESS
    if any(_shares(look, p) for p in there):
        return Kind.SHARED
    return Kind.VLAN if all(p.vlan is not None for p in there) else Kind.IN_LINE


def _shares(look: _Look, port: Port) -> bool:
    """Several hosts behind one port; with the hospital's own behind it, it is a wrong cable and no switch."""
    return len(_behind(look, port.name)) > 1 and not _hospital_behind(look, port.name)


def _behind(look: _Look, port: str) -> list[str]:
    """MACs heard on a port, but for our own and for devices that belong on another one: those are on the wrong port."""
    elsewhere = {mac for mac, place in look.by_mac.items() if place.port != port}
    return sorted(look.heard.get(port, set()) - look.own - elsewhere)


def _hospital_behind(look: _Look, port: str) -> list[str]:
    """Addresses of the hospital's side (or this gateway's own MAC) heard on a port of the ward."""
    found = {a for p, mac, a in look.refused if p == port and (a in look.names.hospital or mac in look.own)}
    return sorted(found)


def _summary(kind: Kind, ports: Sequence[Port], look: _Look) -> str:
    there = [p for p in ports if p.present]
    if kind is Kind.WIRELESS:
        card = f"one network interface, {look.names.uplink}" if look.names.uplink in look.link else "no network interface of ours"
        return f"{kind}: {card}; no wired side ({look.names.ward} has no port)"
    parents = {str(look.link[p.name].get("link", "")) for p in there if p.vlan is not None}
    one = parents & {look.names.uplink, str(look.link.get(look.names.uplink, {}).get("link", ""))} - {""}
    nics = "one network interface for both sides" if one else f"the hospital on {look.names.uplink}"
    trunk = f" on the trunk {', '.join(sorted(parents))}" if kind is Kind.VLAN else ""
    plural = "" if len(there) == 1 else "s"
    return f"{kind}: {len(there)} port{plural} of {look.names.ward}{trunk}, {nics}"


def _interfaces(look: _Look) -> Iterable[Finding]:
    ward, uplink = look.names.ward, look.names.uplink
    if uplink not in look.link and (look.members or look.places):
        yield _wrong("no-uplink", uplink, f"there is no interface {uplink}", "name the hospital's in [network.nics], then restart")
    elif uplink in look.link and not _carrier(look.link[uplink]):
        yield _wrong(
            "no-carrier", uplink, f"no cable or no link on {uplink}, the hospital's side", "look at the cable and the switch"
        )
    if ward not in look.link and look.places:
        yield _wrong("no-ward", ward, f"there is no bridge {ward}", "systemctl start wardgate-network")
    elif ward in look.link and look.link[ward].get("linkinfo", {}).get("info_kind") != "bridge":
        yield _wrong(
            "no-ward", ward, f"{ward} is no bridge", f"give that interface another name; {ward} is made by wardgate-network"
        )


def _port(look: _Look, port: Port) -> Iterable[Finding]:
    if not port.present:
        text = f"{port.device} is bound to {port.name}, and {look.names.ward} has no such port"
        yield _wrong("no-port", port.name, text, "name its interface in [network.nics], or bind the device to the port it is on")
        return
    if not port.isolated:
        remedy = "systemctl restart wardgate-network; if it comes back, another program changes the port"
        yield _wrong("not-isolated", port.name, f"{port.name} is not isolated: its device could reach others", remedy)
    if port.device and not port.carrier:
        yield _wrong(
            "no-carrier", port.name, f"no cable or no link on {port.name}, where {port.device} is", "plug it in, switch it on"
        )
    if hospital := _hospital_behind(look, port.name):
        text = f"the hospital's network is behind {port.name} ({_few(hospital)} heard there)"
        yield _wrong("swapped", port.name, text, f"swap the cables: the hospital's belongs into {look.names.uplink}")
    elif _shares(look, port):
        macs = _behind(look, port.name)
        text = f"{len(macs)} hosts are behind {port.name} ({_few(macs)}): what they send each other is not controlled"
        yield _note("shared-switch", port.name, text, "give each device a port of its own, or a VLAN on a managed switch")


def _claims(look: _Look) -> Iterable[Finding]:
    """Who was refused, and why: on another's port, with another's address, in another's place."""
    told: set[tuple[str, str]] = set()
    for port, mac, address in look.refused:
        place, owner = look.by_mac.get(mac), look.by_address.get(address)
        if address in look.names.gateway and mac not in look.own:
            key, finding = ("own-address", address), _own_address(address, place, mac, port)
        elif place is not None and place.port != port:
            key, finding = ("wrong-port", place.device), _wrong_port(place, port)
        elif owner is not None and owner.mac != mac and look.bound.get(port) is owner:
            key, finding = ("other-device", port), _other_device(owner, mac)
        elif owner is not None and owner.mac != mac:
            key, finding = ("address-twice", address), _twice(address, owner, mac, port)
        elif place is not None and owner is None and address not in _NOBODY and not address.startswith("fe80:"):
            # A link-local address is every IPv6 host's own and leads nowhere: to tell of it would be a false alarm.
            key, finding = ("other-address", place.device), _other_address(place, address)
        else:
            continue
        if key not in told:
            told.add(key)
            yield finding


def _own_address(address: str, place: Place | None, mac: str, port: str) -> Finding:
    who = f"{place.device} ({mac})" if place else mac
    text = f"{address} is this gateway's own address, and {who} on {port} uses it too, which is refused"
    return _wrong("own-address", address, text, "give that station another address, or unplug it")


def _wrong_port(place: Place, port: str) -> Finding:
    text = f"{place.device} is on {port}; it belongs on {place.port}, and gets nothing here"
    return _wrong("wrong-port", place.device, text, f"plug it into {place.port}, or bind it to {port}")


def _other_device(owner: Place, mac: str) -> Finding:
    text = f"on {owner.port} {mac} uses the address of {owner.device}, whose MAC is {owner.mac}"
    return _wrong("other-device", owner.port, text, f"put {owner.device} back, or remove it and add the other device as its own")


def _twice(address: str, owner: Place, mac: str, port: str) -> Finding:
    text = f"{address} is used twice: by {owner.device} on {owner.port} and by {mac} on {port}, which is refused"
    return _wrong("address-twice", address, text, "give one of them another address")


def _other_address(place: Place, address: str) -> Finding:
    text = f"{place.device} speaks as {address}, which is not bound to it"
    return _note("other-address", place.device, text, f"set {' or '.join(place.addresses)} on the device, or bind the new address")


def _uplink(look: _Look) -> Iterable[Finding]:
    """Devices of the ward among the neighbours on the hospital's side."""
    for row in look.kernel.neighbours:
        mac, address = str(row.get("lladdr", "")), str(row.get("dst", ""))
        if row.get("dev") != look.names.uplink or not mac or mac in look.own:
            continue
        if place := look.by_mac.get(mac):
            text = f"{place.device} was heard on {look.names.uplink}, the hospital's side: it passes this gateway by"
            yield _wrong("swapped", place.device, text, f"plug it into {place.port}; if all devices are there, swap the cables")
        elif (owner := look.by_address.get(address)) is not None:
            text = f"{address} is used twice: by {owner.device} on {owner.port} and by {mac} in the hospital"
            yield _wrong("address-twice", address, text, "give one of them another address")


def _managers(look: _Look) -> Iterable[Finding]:
    for interface, manager in sorted(look.kernel.managers.items()):
        text = f"{manager} configures {interface} too: it can take addresses and routes away"
        yield _wrong(
            "other-manager", interface, text, _HANDS_OFF.get(manager, f"take {interface} out of {manager}'s configuration")
        )


_HANDS_OFF = {
    "NetworkManager": "list it under unmanaged-devices in /etc/NetworkManager/conf.d, then restart NetworkManager",
    "systemd-networkd": "remove its .network file, or set Unmanaged=yes there, then restart systemd-networkd",
    "ifupdown": "remove its lines from /etc/network/interfaces; wardgate-network sets it up at boot",
    "dhcpcd": "add it to denyinterfaces in /etc/dhcpcd.conf, then restart dhcpcd",
}


def _wrong(code: str, subject: str, text: str, remedy: str) -> Finding:
    return Finding(code, Severity.WRONG, subject, text, remedy)


def _note(code: str, subject: str, text: str, remedy: str) -> Finding:
    return Finding(code, Severity.NOTE, subject, text, remedy)


def _few(names: Sequence[str]) -> str:
    left = len(names) - 3
    return ", ".join(names[:3]) + (f" and {left} more" if left > 0 else "")


def _carrier(row: Mapping[str, Any] | None) -> bool:
    return row is not None and "LOWER_UP" in row.get("flags", ())


def _vlan(row: Mapping[str, Any]) -> int | None:
    info = row.get("linkinfo", {})
    number = info.get("info_data", {}).get("id") if info.get("info_kind") == "vlan" else None
    return number if isinstance(number, int) else None
