"""PURE. Who may talk to whom now: the confirmed policy's flows, each opened or shut by the level its device has at this moment.

It reads the document that the kernel was loaded with, not the profiles: what is drawn is what is enforced. Refuses to know where
the document comes from and how it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from gateway.model.landscape import Host, Landscape, Lane, Passing, Refused, Spot
from gateway.model.view import DeviceView, FunctionView, WardView

_WORDS = {
    Passing.ALWAYS: "always on: it is vital",
    Passing.OPEN: "open",
    Passing.WATCHED: "open: only observed",
    Passing.SHUT: "shut",
    Passing.GLASS: "open by break-glass",
}
_READINGS = "readings and alarms"

# An element of the kernel's sets glass4 and glass6 (a flow), or of bypass4 and bypass6 (address, protocol, port: past the proxy)
# -> boot time in ms at which the kernel takes it away.
Glass = Mapping[tuple[Any, ...], int]
_NONE: Glass = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Ground:
    """What does not change by itself: interfaces, the gateway's own addresses, hosts by name, where the broker is."""

    ward: str
    uplink: str
    management: str
    addresses: tuple[str, ...]
    peers: Mapping[str, tuple[str, ...]]
    broker: tuple[tuple[str, str, int], ...]


def landscape(
    view: WardView, document: Mapping[str, Any], ground: Ground, refused: Sequence[Refused], glass: Glass = _NONE
) -> Landscape:
    """The picture of a ward. A document that is not one gives no lanes. ``glass``: what is open by break-glass."""
    sets = _Sets(document, glass)
    hosts = _hosts(ground, sets)
    ids = {a: h.id for h in hosts for a in h.addresses}
    counts: dict[str, int] = {}
    for r in refused:
        counts[r.device_id] = counts.get(r.device_id, 0) + r.count
    spots = tuple(replace(_spot(d, sets, ids), refused=counts.get(d.id, 0)) for d in view.devices)
    up = any(p.name == "uplink" and p.ok for p in view.gateway.parts)
    own = tuple(_broker_lane(flow, ids, up) for flow in ground.broker)
    return Landscape(
        ground.ward, ground.uplink, ground.management, ground.addresses, spots, hosts, own, tuple(refused), view.now_ms
    )  # fmt: skip


class _Sets:
    """The document's sets, indexed. Whatever is not of the expected form counts as not there."""

    def __init__(self, document: Mapping[str, Any], glass: Glass = _NONE) -> None:
        self.glass = glass
        sets = document.get("sets")
        self._sets: Mapping[str, Any] = sets if isinstance(sets, Mapping) else {}
        functions, devices = document.get("functions"), document.get("devices")
        self.functions: Mapping[str, Any] = functions if isinstance(functions, Mapping) else {}
        self.devices: Mapping[str, Any] = devices if isinstance(devices, Mapping) else {}
        self.vital = {tuple(e) for v in "46" for e in self.of(f"vital{v}")}
        self.seen = {str(e[0]) for v in "46" for e in self.of(f"seen{v}")}
        self.via = {tuple(e[:3]) for v in "46" for e in self.of(f"via{v}")}
        self.level = {tuple(e): k for k in (3, 2, 1, 0) for v in "46" for e in self.of(f"rtl{k}_{v}")}
        self.ports = {str(e[2]): str(e[0]) for v in "46" for e in self.of(f"port{v}")}

    def of(self, name: str) -> list[list[Any]]:
        found = self._sets.get(name)
        return [e for e in found if isinstance(e, list) and e] if isinstance(found, list) else []

    def addresses(self, device_id: str) -> tuple[str, ...]:
        entry = self.devices.get(device_id)
        return tuple(map(str, entry.get("addresses", ()))) if isinstance(entry, Mapping) else ()


def _spot(d: DeviceView, sets: _Sets, hosts: Mapping[str, str]) -> Spot:
    if d.bus == "ble":
        lanes = tuple(_radio_lane(d, f) for f in d.functions)
        return Spot(d.id, d.name, d.bus, d.address, (), d.level, d.state, lanes)
    addresses = sets.addresses(d.id) or (d.address,)
    place = next((sets.ports[a] for a in addresses if a in sets.ports), "")
    return Spot(d.id, d.name, d.bus, place, addresses, d.level, d.state, tuple(_wired_lanes(d, addresses, sets, hosts)))


def _radio_lane(d: DeviceView, f: FunctionView) -> Lane:
    passing = Passing.OPEN if f.allowed else Passing.SHUT
    if passing is Passing.OPEN and d.state == "observing":
        passing = Passing.WATCHED
    return Lane(d.id, f.name, "", "radio", 0, True, True, f.required, passing, _word(passing, f.required), ("Bluetooth",))


def _wired_lanes(d: DeviceView, addresses: Sequence[str], sets: _Sets, hosts: Mapping[str, str]) -> Iterable[Lane]:
    """One lane for each flow, both families of it together."""
    entry = sets.functions.get(d.id)
    views = {f.name: f for f in d.functions}
    for name, parts in sorted(entry.items()) if isinstance(entry, Mapping) else ():
        merged: dict[tuple[object, ...], Lane] = {}
        for family in (4, 6):
            for flow in parts.get(f"set{family}", ()) if isinstance(parts, Mapping) else ():
                lane = _lane(d, views.get(name), str(name), tuple(flow), addresses, sets, hosts, f"IPv{family}")
                key = (lane.peer, lane.protocol, lane.port, lane.from_device, lane.passing)
                other = merged.get(key)
                merged[key] = replace(lane, families=(*other.families, *lane.families)) if other else lane
        yield from merged.values()


def _lane(
    d: DeviceView, f: FunctionView | None, name: str, flow: tuple[Any, ...], addresses: Sequence[str], sets: _Sets,
    hosts: Mapping[str, str], family: str,
) -> Lane:  # fmt: skip
    source, target, protocol, port = str(flow[0]), str(flow[1]), str(flow[2]), int(flow[3])
    from_device = source in addresses
    own, peer = (source, target) if from_device else (target, source)
    proxied = (d.bus == "hl7" and flow not in sets.vital) or (own, protocol, port) in sets.via
    proxied = proxied and (own, protocol, port) not in sets.glass
    needs = sets.level.get(flow, 0)
    passing, word = _passing(d, f, flow, own, proxied, sets)
    required = 0 if passing is Passing.ALWAYS else max(needs, f.required if f else 0)
    until_ms = sets.glass[flow] if passing is Passing.GLASS else None
    return Lane(
        d.id, name, hosts.get(peer, peer), protocol, port, from_device, proxied, required, passing, word, (family,), until_ms
    )  # fmt: skip


def _passing(
    d: DeviceView, f: FunctionView | None, flow: tuple[Any, ...], own: str, proxied: bool, sets: _Sets
) -> tuple[Passing, str]:
    if flow in sets.vital:
        return Passing.ALWAYS, _WORDS[Passing.ALWAYS]
    if flow in sets.glass:
        return Passing.GLASS, _WORDS[Passing.GLASS]
    if own in sets.seen:
        return Passing.WATCHED, _WORDS[Passing.WATCHED]
    needs, held = sets.level.get(flow), d.level if d.lease_left_ms else 0  # without a lease the kernel has no level
    required = max(needs or 0, f.required if f else 0)
    if needs is None or held < needs:
        return Passing.SHUT, _word(Passing.SHUT, required)
    if not proxied or (f is not None and f.allowed):
        return Passing.OPEN, _WORDS[Passing.OPEN]
    if f is not None and f.on_loss == "read_only" and held >= 1:
        return Passing.HELD, f"reading only; more from level {required}"
    if d.bus == "hl7":
        return Passing.HELD, f"answered by the gateway, not relayed; open from level {required}"
    return Passing.HELD, f"only what is always allowed; open from level {required}"


def _word(passing: Passing, required: int) -> str:
    return f"shut; open from level {required}" if passing is Passing.SHUT and required else _WORDS[passing]


def _broker_lane(flow: tuple[str, str, int], hosts: Mapping[str, str], up: bool) -> Lane:
    address, protocol, port = flow
    passing, word = (Passing.OPEN, "open") if up else (Passing.SHUT, "not reached: everything waits in the outbox")
    return Lane("", _READINGS, hosts.get(address, address), protocol, port, True, False, 0, passing, word, ())


def _hosts(ground: Ground, sets: _Sets) -> tuple[Host, ...]:
    """Hosts by name; names that share an address are one host, an address that nobody named is one too."""
    named: list[tuple[set[str], set[str]]] = []

    def put(name: str, addresses: Iterable[str]) -> None:
        names, found = ({name} if name else set[str]()), set(addresses)
        for other in [n for n in named if n[1] & found]:
            named.remove(other)
            names |= other[0]
            found |= other[1]
        named.append((names, found))

    for name, addresses in ground.peers.items():
        put(name, addresses)
    for address, _, _ in ground.broker:
        put("broker", (address,))
    inside = {*ground.addresses, *(a for d in sets.devices for a in sets.addresses(str(d)))}
    for flow in (*sets.level, *sets.vital):
        for address in map(str, flow[:2]):
            if address not in inside and not any(address in n[1] for n in named):
                put("", (address,))
    shown = [(tuple(sorted(n, key=_broker_last)), tuple(sorted(a, key=_version_4_first))) for n, a in named if a]
    return tuple(Host(addresses[0], names, addresses) for names, addresses in sorted(shown))


def _broker_last(name: str) -> tuple[bool, str]:
    return name == "broker", name


def _version_4_first(address: str) -> tuple[bool, str]:
    return ":" in address, address
