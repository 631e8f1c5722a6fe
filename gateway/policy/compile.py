"""PURE. Devices and their profiles become the policy document: the exact elements of every set the kernel holds.

Static rules, moving membership: this document is all of the membership that only a confirmed policy may change. What cannot be
enforced is refused here, loudly, with all reasons at once. Refuses to know nftables and how a document reaches the kernel.

Who gets what: *enforced* and *service* devices get their flows at their levels, proxied where the profile says so. An *observing*
device gets the same flows, so that the kernel can tell what its level would not allow, but it is ``seen`` (all of it passes) and
nothing of it goes through a proxy; HL7 does, where the proxy passes an observed device's bytes untouched and reads what it says
of itself. *Proposed*, *suspended* and *retired* devices are not there at all.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gateway.errors import InputErrors
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.level import TrustLevel
from gateway.model.profile import Flow, Function, OnLoss, Profile
from gateway.policy.targets import ceiling_of

VERSION = 1
PROXY_PORTS: Mapping[Bus, int] = MappingProxyType({Bus.MODBUS: 15502, Bus.HL7: 15575})
_BASES = ("port", "bind", "vital", "seen", "via", "uplink")
_ASKS = ("dhcp_port", "dhcp_bind")
_SETS = (*_ASKS, *(f"{b}{v}" for b in _BASES for v in (4, 6)), *(f"rtl{k}_{v}" for k in range(4) for v in (4, 6)))
_ENFORCED = (DeviceState.ENFORCED, DeviceState.SERVICE)
_PRESENT = (*_ENFORCED, DeviceState.OBSERVING)

Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Serves:
    """What the gateway itself offers its bound devices: (protocol, port, level from which on); and whether it gives addresses."""

    flows: tuple[tuple[str, int, int], ...] = ()
    dhcp: bool = False


def compile_document(
    devices: Sequence[Device],
    profiles: Mapping[str, Profile],
    gateway_addresses: Sequence[str],
    ward_interface: str = "ward0",
    proxy_ports: Mapping[Bus, int] = PROXY_PORTS,
    serves: Serves = Serves(),
) -> dict[str, Any]:
    """The policy document of ``devices``. ``profiles`` by id; ``gateway_addresses``: where the gateway attests devices from, and
    where it offers what it ``serves``.

    Raises InputErrors when something in it could not be enforced.
    """
    draft = _Draft((), ward_interface, dict(proxy_ports), serves)
    draft.gateway = _gateway(draft, gateway_addresses)
    present = [d for d in devices if d.state in _PRESENT]
    _check_devices(draft, devices, present)
    for device in present:
        profile = profiles.get(device.profile)
        if profile is None:
            draft.wrong(device, f"its profile {device.profile!r} is not loaded")
        elif profile.bus is not device.bus:
            draft.wrong(device, f"its profile {profile.id} is for {profile.bus}, the device is on {device.bus}")
        else:
            _add(draft, device, profile)
    _check_flows(draft, present)
    if draft.problems:
        raise InputErrors("policy", tuple(draft.problems))
    return draft.document()


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one byte form of a document: JSON in UTF-8, sorted keys, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def document_id(document: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical bytes, in hex."""
    return hashlib.sha256(canonical(document)).hexdigest()


def ceiling(profile: Profile) -> TrustLevel:
    """The highest level the profile's best evidence can reach; level 0 without targets."""
    return max(map(ceiling_of, profile.targets), default=TrustLevel.NONE)


@dataclass
class _Draft:
    gateway: tuple[str, ...]
    ward: str
    proxy_ports: dict[Bus, int]
    serves: Serves
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: dict[str, set[tuple[str | int, ...]]] = field(default_factory=lambda: {name: set() for name in _SETS})
    levels: dict[Key, int] = field(default_factory=dict)
    proxied: dict[tuple[str, str, int], bool] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def wrong(self, device: Device, what: str, function: str = "") -> None:
        path = f"devices.{device.id}" + (f".{function}" if function else "")
        self.problems.append((path, what))

    def level(self, key: Key, level: int) -> None:
        """A flow passes from the lowest level on at which any function lets it."""
        self.levels[key] = min(level, self.levels.get(key, level))

    def document(self) -> dict[str, Any]:
        for name in _ASKS:
            if not self.sets[name]:
                del self.sets[name]  # a gateway that gives no addresses has the document it always had
        for key, level in self.levels.items():
            self.sets[f"rtl{level}_{_family(key[0])}"].add(key)
        return {
            "version": VERSION,
            "devices": self.devices,
            "functions": self.functions,
            "sets": {name: [list(e) for e in sorted(elements, key=_order)] for name, elements in self.sets.items()},
        }


def _order(element: tuple[str | int, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((p, "") if isinstance(p, int) else (0, p) for p in element)


def _family(address: str) -> int:
    return ipaddress.ip_address(address).version


def _check_devices(draft: _Draft, devices: Sequence[Device], present: Sequence[Device]) -> None:
    """One id, one address, one MAC, one device; nobody has the gateway's address."""
    seen: dict[str, str] = {}
    ids: set[str] = set()
    for device in devices:
        if device.id in ids:
            draft.wrong(device, "is configured twice")
        ids.add(device.id)
    for address in draft.gateway:
        seen[address] = "the gateway"
    for device in present:
        for claim in _claims(device):
            if claim in seen:
                draft.wrong(device, f"{claim} also belongs to {seen[claim]}")
            seen[claim] = device.id


def _check_flows(draft: _Draft, present: Sequence[Device]) -> None:
    """No flow both vital and earned, and none between two devices: their ports are isolated from each other."""
    owner = {a: d for d in present for a in d.ip_addresses}
    vital = {(str(e[0]), str(e[1]), str(e[2]), int(e[3])) for v in (4, 6) for e in draft.sets[f"vital{v}"]}
    for key in sorted(vital & set(draft.levels), key=str):
        device = owner[key[0]] if key[0] in owner else owner[key[1]]
        draft.wrong(device, f"{key[0]} to {key[1]}, {key[2]} port {key[3]}, is vital in one function and needs a level in another")
    for key in sorted(vital | set(draft.levels), key=str):
        if key[0] in owner and key[1] in owner:
            draft.wrong(owner[key[0]], f"{key[0]} to {key[1]} would be a flow between two devices behind this gateway")


def _gateway(draft: _Draft, addresses: Sequence[str]) -> tuple[str, ...]:
    good: list[str] = []
    for address in addresses:
        try:
            good.append(str(ipaddress.ip_address(address)))
        except ValueError:
            draft.problems.append(("gateway_addresses", f"{address!r} is no IP address"))
    return tuple(good)


def _claims(device: Device) -> tuple[str, ...]:
    """What no other device may have. A port is a claim as well: behind one port stands one device."""
    if device.binding is None:
        return (device.address,)
    return (device.binding.mac, f"port {device.binding.port}", *device.binding.addresses)


def _add(draft: _Draft, device: Device, profile: Profile) -> None:
    draft.devices[device.id] = {"cap": int(ceiling(profile)), "addresses": list(device.ip_addresses)}
    if device.bus is Bus.BLE:
        return
    if device.binding is None:
        draft.wrong(device, "a wired device needs its port, MAC and addresses")
        return
    _check_addresses(draft, device, device.binding)
    for address in device.binding.addresses:
        _bind(draft, device.binding, address)
        _serve(draft, address)
        if device.state is DeviceState.OBSERVING:
            draft.sets[f"seen{_family(address)}"].add((address,))
    for function in profile.functions:
        _add_function(draft, device, profile, function)


def _check_addresses(draft: _Draft, device: Device, binding: Binding) -> None:
    for text in binding.addresses:
        address = ipaddress.ip_address(text)
        if address.is_multicast or address.is_unspecified or address.is_loopback or text == "255.255.255.255":
            draft.wrong(device, f"{text} is no address of a single device")
    if device.address not in binding.addresses:
        draft.wrong(device, f"its address {device.address} is not among those bound to its port")
    if int(binding.mac[:2], 16) & 1:
        draft.wrong(device, f"{binding.mac} is a group address, not a device's MAC")


def _bind(draft: _Draft, binding: Binding, address: str) -> None:
    family = _family(address)
    draft.sets[f"port{family}"].add((binding.port, binding.mac, address))
    draft.sets[f"bind{family}"].add((draft.ward, binding.mac, address))
    if draft.serves.dhcp and family == 4:
        draft.sets["dhcp_port"].add((binding.port, binding.mac))
        draft.sets["dhcp_bind"].add((draft.ward, binding.mac))


def _serve(draft: _Draft, address: str) -> None:
    """The gateway's own services, for this address."""
    for gateway in (g for g in draft.gateway if _family(g) == _family(address)):
        for protocol, port, level in draft.serves.flows:
            draft.level((address, gateway, protocol, port), level)
        if draft.serves.dhcp and _family(address) == 4:
            draft.level((address, gateway, "udp", 67), 0)


def _add_function(draft: _Draft, device: Device, profile: Profile, function: Function) -> None:
    by_flow: dict[tuple[str, int, bool], int] = {}
    for flow in function.flows:
        kind = (flow.protocol, flow.port, flow.from_device)
        by_flow.setdefault(kind, 0)
        if flow.peer in device.ip_addresses:
            draft.wrong(device, f"its peer {flow.peer} is the device itself", function.name)
            continue
        for address in device.ip_addresses:
            if _family(address) == _family(flow.peer):
                by_flow[kind] += 1
                _add_flow(draft, device, function, flow, address)
    for (protocol, port, _), count in by_flow.items():
        if count == 0:
            draft.wrong(device, f"no peer of {protocol} {port} has an address of a family the device has", function.name)
    if any(f.via for f in function.flows) and profile.bus not in draft.proxy_ports:
        draft.wrong(device, f"there is no proxy for {profile.bus}", function.name)


def _add_flow(draft: _Draft, device: Device, function: Function, flow: Flow, address: str) -> None:
    family = _family(address)
    source, target = (address, flow.peer) if flow.from_device else (flow.peer, address)
    key: Key = (source, target, str(flow.protocol), flow.port)
    if flow.peer in draft.gateway:
        draft.wrong(device, f"its peer {flow.peer} is the gateway itself", function.name)
    if draft.proxied.setdefault((address, str(flow.protocol), flow.port), flow.via) != flow.via:
        draft.wrong(device, f"{flow.protocol} port {flow.port} is proxied in one function and direct in another", function.name)
    _note_function(draft, device, function, key, flow)
    if function.on_loss is OnLoss.VITAL:
        draft.sets[f"vital{family}"].add(key)
        return
    if flow.via and flow.from_device:
        draft.sets[f"uplink{family}"].add((flow.peer, str(flow.protocol), flow.port))
    elif flow.via:
        _add_attestation(draft, device, function, flow, address)
    if flow.via and _redirected(device):
        listen = draft.proxy_ports.get(device.bus, 0)
        draft.sets[f"via{family}"].add((address, str(flow.protocol), flow.port, listen))
    draft.level(key, _flow_level(function, flow))


def _flow_level(function: Function, flow: Flow) -> int:
    """A proxied flow is open from its lowest rule on: the proxy decides about the rest. An HL7 proxy answers at any level."""
    if not flow.via:
        return int(function.required)
    if function.acknowledge is not None:
        return 0
    return min(int(r.level) for r in (*function.rules, *function.always_allowed_writes))


def _redirected(device: Device) -> bool:
    """Whether its proxied flows go through the proxy now."""
    return device.state in _ENFORCED or device.bus is Bus.HL7


def _add_attestation(draft: _Draft, device: Device, function: Function, flow: Flow, address: str) -> None:
    """The gateway reaches the proxied port at any level, or a device at level 0 could never recover."""
    own = [g for g in draft.gateway if _family(g) == _family(address)]
    if not own:
        draft.wrong(device, f"the gateway has no IPv{_family(address)} address to reach {address} from", function.name)
    for gateway in own:
        draft.level((gateway, address, str(flow.protocol), flow.port), 0)


def _note_function(draft: _Draft, device: Device, function: Function, key: Key, flow: Flow) -> None:
    """What a break-glass of this function opens: flows of the profile, and past the proxy where there is one."""
    empty: dict[str, list[list[str | int]]] = {"set4": [], "set6": [], "via4": [], "via6": []}
    entry = draft.functions.setdefault(device.id, {}).setdefault(function.name, empty)
    family = _family(key[0])
    parts: list[tuple[str, list[str | int]]] = [(f"set{family}", list(key))]
    if flow.via and _redirected(device):
        parts.append((f"via{family}", [key[0] if flow.from_device else key[1], *key[2:]]))
    for part, element in parts:
        if element not in entry[part]:
            entry[part].append(element)
