"""PURE. What the ward's network should be, and the ``ip`` lines that bring the kernel there from where it is.

Declarative: the same configuration and policy give no line at all the second time, and nothing that is as it should be is touched,
so running it again cuts nobody. What it adds is marked as its own (``PROTOCOL``; addresses by a record), and only that is removed.
It refuses to run anything.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.config import Network
from gateway.wiring import Place

PROTOCOL = 77  # in rtnetlink's range for administrators; routes and proxy entries with it are this program's
VLAN_PORT = "ward"  # the port of VLAN 101 is `ward.101`
_LENGTH = {4: 32, 6: 128}
_SUBNET = {4: 24, 6: 64}  # what `subnets` says otherwise
_IN_NAME = re.compile(r"(?P<parent>[A-Za-z0-9_.-]+)\.(?P<id>[1-9][0-9]{0,3})")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """What the kernel has: ``ip -j`` of links (``-d``), addresses, our own routes and our own proxy entries.

    ``recorded``: (interface, address/length) that an earlier run added.
    """

    links: Sequence[Row] = ()
    addresses: Sequence[Row] = ()
    routes: Sequence[Row] = ()
    proxies: Sequence[Row] = ()
    recorded: frozenset[tuple[str, str]] = frozenset()


@dataclass
class Steps:
    """Lines for ``ip -batch``; what is not there yet (a cable, a card: no fault of this run); what cannot be done."""

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ends:
    """Addresses, routes and proxy entries: what should be."""

    addresses: frozenset[tuple[str, str]]
    routes: frozenset[tuple[str, str, str]]  # destination, interface, router ("" = on the link)
    proxies: frozenset[tuple[str, str]]  # address, interface


def link_steps(network: Network, places: Sequence[Place], state: State, *, take: bool = False) -> Steps:
    """The bridge, its ports and everybody's names. ``take``: an interface that is in use is taken down and renamed too."""
    steps = Steps()
    links = {str(row["ifname"]): row for row in state.links}
    for name, source in sorted(network.nics.items(), key=lambda item: _IN_NAME.fullmatch(item[1]) is not None):
        if name not in links and name != source:
            _claim(steps, network, links, name, source, state, take)
    for vlan in network.vlans:
        _vlan_port(steps, network, links, f"{VLAN_PORT}.{vlan}", vlan)
    for place in places:
        own = _IN_NAME.fullmatch(place.port)
        if network.trunk and own and own["parent"] == VLAN_PORT:
            _vlan_port(steps, network, links, place.port, int(own["id"]))
    _bridge(steps, network, links)
    for port in ports(network, places):
        _port(steps, network, links, port, state)
    for name in (network.uplink, network.management, network.trunk):
        if name in links and "UP" not in links[name].get("flags", ()):
            steps.lines.append(f"link set {name} up")
    return steps


def ports(network: Network, places: Sequence[Place]) -> tuple[str, ...]:
    """Every name that is, or should become, a port of the ward."""
    others = {network.ward, network.uplink, network.management, network.trunk, "lo", ""}
    named = {*network.nics, *(f"{VLAN_PORT}.{v}" for v in network.vlans), *(p.port for p in places)}
    return tuple(sorted(named - others))


def _claim(steps: Steps, network: Network, links: dict[str, Row], name: str, source: str, state: State, take: bool) -> None:
    """Give ``name`` to the interface that ``source`` says. ``links`` is kept as if the lines had been run."""
    found = next((n for n, row in links.items() if source in (n, row.get("address")) and _plain(row)), "")
    vlan = _IN_NAME.fullmatch(source)
    if source == network.uplink and source in links:
        mac = stable_mac(name, str(links[source].get("address", "")))
        steps.lines.append(f"link add link {source} name {name} address {mac} type macvlan mode private")
        links[name] = {"ifname": name, "flags": []}
    elif not found and vlan and vlan["parent"] in links:
        steps.lines.append(f"link add link {vlan['parent']} name {name} type vlan id {vlan['id']}")
        links[name] = {"ifname": name, "flags": []}
    elif not found:
        steps.missing.append(f"there is no interface {source} for {name}")
    elif (used := _used(found, links, state)) and not take:
        steps.problems.append(
            f"{source} is in use ({used}); restart the machine to hand it over as {name}, or run wardgate-network apply --take"
        )
    else:
        steps.lines += [f"link set {found} down", f"link set {found} name {name}"]
        steps.lines += [f"addr flush dev {name} scope global"] if used else []
        links[name] = {**links.pop(found), "ifname": name, "flags": []}


def _plain(row: Row) -> bool:
    """A card (or a virtual cable), not something that was made on top of one."""
    return row.get("link_type") == "ether" and row.get("linkinfo", {}).get("info_kind") in (None, "veth")


def _used(name: str, links: Mapping[str, Row], state: State) -> str:
    if master := links[name].get("master"):
        return f"a part of {master}"
    rows = [a for row in state.addresses if row.get("ifname") == name for a in row.get("addr_info", ())]
    return ", ".join(str(a["local"]) for a in rows if a.get("scope") == "global")


def _vlan_port(steps: Steps, network: Network, links: dict[str, Row], name: str, vlan: int) -> None:
    if name in links:
        return
    if network.trunk not in links:
        steps.missing.append(f"there is no interface {network.trunk}, the trunk that {name} is on")
        return
    steps.lines.append(f"link add link {network.trunk} name {name} type vlan id {vlan}")
    links[name] = {"ifname": name, "flags": []}


def _bridge(steps: Steps, network: Network, links: dict[str, Row]) -> None:
    """The bridge, with a MAC that does not change with its ports: a new one would cut every device until it asks again."""
    ward, row = network.ward, links.get(network.ward)
    if row is None:
        mac = stable_mac(ward, str(links.get(network.uplink, {}).get("address", "")))
        steps.lines += [
            f"link add {ward} address {mac} type bridge no_linklocal_learn 1 mcast_snooping 0 stp_state 0 forward_delay 0",
            f"link set {ward} addrgenmode eui64 up",
        ]
        links[ward] = {"ifname": ward, "flags": ["UP"], "linkinfo": {"info_kind": "bridge"}}
        return
    if row.get("linkinfo", {}).get("info_kind") != "bridge":
        steps.problems.append(f"{ward} is there and is no bridge; give that interface another name")
        return
    options = row["linkinfo"].get("info_data", {})
    for option, value in (("no_linklocal_learn", 1), ("mcast_snooping", 0), ("stp_state", 0)):
        if options.get(option, value) != value:
            steps.lines.append(f"link set {ward} type bridge {option} {value}")
    if "UP" not in row.get("flags", ()):
        steps.lines.append(f"link set {ward} up")


def _port(steps: Steps, network: Network, links: Mapping[str, Row], port: str, state: State) -> None:
    """A port is isolated before it is up. One that belongs to somebody else is left alone, and said."""
    row = links.get(port)
    if row is None:
        note = f"there is no interface {port}"
        if not any(port in m for m in steps.missing):
            steps.missing.append(note)
        return
    if row.get("master") not in (None, network.ward):
        steps.problems.append(f"{port} is a part of {row['master']}; take it out there")
        return
    if row.get("master") is None:
        if port not in network.nics and (used := _used(port, links, state)):
            steps.problems.append(f"{port} is in use ({used}); take its addresses away, or bind the device to the right port")
            return
        steps.lines.append(f"link set {port} master {network.ward}")
    if row.get("linkinfo", {}).get("info_slave_data", {}).get("isolated") is not True:
        steps.lines.append(f"link set {port} type bridge_slave isolated on")
    if "UP" not in row.get("flags", ()):
        steps.lines.append(f"link set {port} up")


def stable_mac(name: str, seed: str) -> str:
    """A locally administered MAC that is the same at every boot of this machine."""
    digest = hashlib.sha256(f"wardgate {name} {seed}".encode()).digest()
    return ":".join(f"{b:02x}" for b in (digest[0] & 0xFC | 0x02, *digest[1:6]))


def ends(network: Network, places: Sequence[Place], hospital: Iterable[str]) -> Ends:
    """What should be. ``hospital``: hosts of the hospital that devices may look for by IPv6 (IPv4 answers for all of them).

    On the ward's side the gateway has its own addresses once more: what a redirected connection ends at is an address of the
    interface that it came in by.
    """
    devices = {a for place in places for a in place.addresses if not a.startswith("fe80:")}
    own = [ipaddress.ip_address(a) for a in network.addresses]
    addresses = {(network.uplink, f"{a}/{_prefix(network, a)}") for a in own}
    addresses |= {(network.ward, f"{a}/{_LENGTH[a.version]}") for a in own}
    addresses |= {(network.management, str(ipaddress.ip_interface(a))) for a in network.management_addresses}
    routes = {(_host(a), network.ward, "") for a in devices}
    routes |= {("default6" if ":" in r else "default", network.uplink, str(ipaddress.ip_address(r))) for r in network.routers}
    proxies = {(a, network.uplink) for a in devices}
    local = [ipaddress.ip_network(f"{a}/{_prefix(network, a)}", strict=False) for a in own]
    asked = {str(ipaddress.ip_address(a)) for a in (*hospital, *network.routers)}
    proxies |= {(a, network.ward) for a in asked - devices - set(map(str, own)) if any(ipaddress.ip_address(a) in n for n in local)}
    return Ends(frozenset(addresses), frozenset(routes), frozenset(proxies))


def _prefix(network: Network, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    lengths = [n.prefixlen for n in map(ipaddress.ip_network, network.subnets) if address in n]
    return max(lengths, default=_SUBNET[address.version])


def _host(address: str) -> str:
    return f"{address}/{_LENGTH[ipaddress.ip_address(address).version]}"


def end_steps(network: Network, wanted: Ends, state: State, present: Iterable[str]) -> Steps:
    """Lines from ``state`` to ``wanted``: everything new first, then what of our own is not wanted any more.

    An interface that is not ``present`` gets nothing; its name is in ``missing``.
    """
    steps, there = Steps(), set(present)
    have_addresses = {
        (str(row["ifname"]), f"{a['local']}/{a['prefixlen']}") for row in state.addresses for a in row.get("addr_info", ())
    }
    have_routes = {_route(row) for row in state.routes}
    have_proxies = {(str(row["dst"]), str(row["dev"])) for row in state.proxies}
    steps.missing += [f"there is no interface {i}" for i in sorted({e[0] for e in wanted.addresses} - there)]
    for interface, address in sorted(wanted.addresses - have_addresses):
        if interface in there:
            # The ward's copy is this gateway's own address on the uplink too: looking for a second one would find ourselves.
            quiet = " nodad" if interface == network.ward and ":" in address else ""
            steps.lines.append(f"addr add {address} dev {interface}{quiet}")
    for route in sorted(wanted.routes - have_routes):
        if route[1] in there:
            steps.lines.append(f"{_family(route[0])}route replace {_words(route)} proto {PROTOCOL}")
    for address, interface in sorted(wanted.proxies - have_proxies):
        if interface in there:
            steps.lines.append(f"neigh add proxy {address} dev {interface} protocol {PROTOCOL}")
    for route in sorted(have_routes - wanted.routes):
        steps.lines.append(f"{_family(route[0])}route del {_words(route)} proto {PROTOCOL}")
    for address, interface in sorted(have_proxies - wanted.proxies):
        steps.lines.append(f"neigh del proxy {address} dev {interface}")
    for interface, address in sorted((state.recorded & have_addresses) - wanted.addresses):
        steps.lines.append(f"addr del {address} dev {interface}")
    return steps


def _route(row: Row) -> tuple[str, str, str]:
    destination, router = str(row["dst"]), str(row.get("gateway", ""))
    if destination == "default":
        return ("default6" if ":" in router else "default", str(row["dev"]), router)
    return (destination if "/" in destination else _host(destination), str(row["dev"]), router)


def _family(destination: str) -> str:
    return "-6 " if destination == "default6" else ""


def _words(route: tuple[str, str, str]) -> str:
    destination = "default" if route[0] == "default6" else route[0]
    return f"{destination}{f' via {route[2]}' if route[2] else ''} dev {route[1]}"


def sysctls(network: Network, ports_there: Iterable[str], *, forward: bool) -> dict[str, str]:
    """Settings below /proc/sys, in order: switching forwarding on resets others, so it comes first."""
    sides: tuple[str, ...] = (network.ward, network.uplink)
    values: dict[str, str] = {}
    # The two servers hold no capability, so the ports from DNS's on are anybody's: a server with one could do far more.
    values |= {"net/ipv4/ip_unprivileged_port_start": "53"}
    if forward:
        values |= {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
    for interface in (*sides, network.management):
        values |= {f"net/ipv4/conf/{interface}/{n}": "0" for n in ("send_redirects", "accept_redirects", "accept_source_route")}
        values |= {f"net/ipv6/conf/{interface}/{n}": "0" for n in ("accept_ra", "autoconf", "accept_redirects")}
    for interface in sides:
        values |= {f"net/{family}/neigh/{interface}/proxy_delay": "0" for family in ("ipv4", "ipv6")}
        values |= {f"net/ipv6/conf/{interface}/proxy_ndp": "1"}
    # Loose toward the hospital: a device's address that is heard there has to be noticed; the tables drop what it sends.
    values |= {f"net/ipv4/conf/{network.ward}/rp_filter": "1", f"net/ipv4/conf/{network.uplink}/rp_filter": "2"}
    # On the hospital's side the gateway answers for its devices only, by entries; on the ward's for whatever lies behind.
    values |= {f"net/ipv4/conf/{network.ward}/proxy_arp": "1", f"net/ipv4/conf/{network.uplink}/proxy_arp": "0"}
    values |= {f"net/ipv4/conf/{interface}/arp_ignore": "1" for interface in (network.uplink, network.management)}
    values |= {f"net/ipv6/conf/{port}/disable_ipv6": "1" for port in ports_there}
    return values
