"""PURE. What dnsmasq and chronyd read: addresses by reservation, the gateway's own names, and the time.

IPv4 addresses are reservations of the confirmed policy, MAC by MAC; IPv6 addresses are set on the devices, and neither router
advertisements nor DHCPv6 are served. Nothing from a device or a file gets into these texts unless it is an address, a MAC or a
host's name. It refuses to know where the files lie and who runs the servers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

from gateway.config import Network
from gateway.wiring import Place

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DHCP_CONF, NAMES, RESERVATIONS, NTP_CONF = "dnsmasq.conf", "names", "reservations", "chrony.conf"
FILES = (DHCP_CONF, NAMES, RESERVATIONS, NTP_CONF)
_HEAD = "# Written by wardgate-network from wardgate.toml and the confirmed policy; changes here are lost."


def texts(network: Network, places: Sequence[Place], peers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """File -> content; a service that is switched off has no file."""
    services, files = network.services, {}
    if services.dhcp or services.dns:
        files[DHCP_CONF] = dnsmasq(network)
        files[NAMES] = names(network, peers)
        files[RESERVATIONS] = reservations(places)
    if services.ntp:
        files[NTP_CONF] = chrony(network, places)
    return files


def dnsmasq(network: Network) -> str:
    """dnsmasq's configuration. Replies are broadcast: a server that may write neighbour entries could write firewall rules."""
    services, domain = network.services, network.services.domain
    lines = [
        _HEAD,
        "keep-in-foreground", "log-facility=-", "user=", "group=", "pid-file=",
        f"interface={network.ward}", "except-interface=lo", "bind-interfaces",
        "no-hosts", "no-resolv", "no-poll", "port=53" if services.dns else "port=0",
        f"domain={domain}", f"local=/{domain}/", "domain-needed", "bogus-priv", "stop-dns-rebind", "local-ttl=60",
        f"addn-hosts={network.run / NAMES}",
        *(f"server={ipaddress.ip_address(a)}" for a in services.resolvers),
    ]  # fmt: skip
    if services.dhcp:
        lines += _dhcp(network)
    return "\n".join(lines) + "\n"


def _dhcp(network: Network) -> list[str]:
    services, lines = network.services, []
    for own, subnet in _subnets4(network):
        lines += [
            f"dhcp-range=set:{_tag(subnet)},{subnet.network_address},static,{subnet.netmask},{services.lease_s}",
            f"dhcp-option=tag:{_tag(subnet)},option:router,{own}",
        ]
        lines += [f"dhcp-option=tag:{_tag(subnet)},option:dns-server,{own}"] if services.dns else []
        lines += [f"dhcp-option=tag:{_tag(subnet)},option:ntp-server,{own}"] if services.ntp else []
    lines += ["dhcp-ignore=tag:!known", "dhcp-broadcast", "dhcp-authoritative", "no-ping", "dhcp-ignore-names"]
    lines += [f"dhcp-hostsfile={network.run / RESERVATIONS}", "dhcp-lease-max=4096"]
    return lines


def _subnets4(network: Network) -> list[tuple[str, ipaddress.IPv4Network]]:
    """(this gateway's address, the network it lies in), IPv4 only, one entry a network."""
    found: dict[ipaddress.IPv4Network, str] = {}
    for text in network.addresses:
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv4Address):
            named = [n for n in map(ipaddress.ip_network, network.subnets) if isinstance(n, ipaddress.IPv4Network) and address in n]
            subnet = max(named, key=lambda n: n.prefixlen, default=ipaddress.IPv4Network(f"{address}/24", strict=False))
            found.setdefault(subnet, text)
    return [(own, subnet) for subnet, own in found.items()]


def _tag(subnet: ipaddress.IPv4Network) -> str:
    return f"net{int(subnet.network_address):08x}"


def reservations(places: Sequence[Place]) -> str:
    """One line a device: its MAC and its first IPv4 address. Names of devices are nobody's business on the ward."""
    lines = [_HEAD]
    for place in sorted(places, key=lambda p: p.mac):
        first = next((a for a in place.addresses if ":" not in a), None)
        lines += [f"{place.mac},{ipaddress.IPv4Address(first)}"] if first else []
    return "\n".join(lines) + "\n"


def names(network: Network, peers: Mapping[str, Sequence[str]]) -> str:
    """The gateway's own name and those of the hosts that the configuration names; others are left out."""
    domain, lines = network.services.domain, [_HEAD]
    for name, addresses in (("gateway", network.addresses), *sorted(peers.items())):
        if _NAME.fullmatch(name):
            lines += [f"{ipaddress.ip_address(a)} {name}.{domain} {name}" for a in addresses]
    return "\n".join(lines) + "\n"


def chrony(network: Network, places: Sequence[Place]) -> str:
    """chronyd's configuration: it serves the ward's devices on the ward's interface, and says honestly what its time is worth."""
    services = network.services
    own = {version: next((a for a in network.addresses if (":" in a) == (version == 6)), None) for version in (4, 6)}
    lines = [_HEAD, *(f"server {ipaddress.ip_address(a)} iburst" for a in services.time_servers)]
    lines += [f"bindaddress {a}" for a in own.values() if a]
    lines += [
        f"binddevice {network.ward}",
        "cmdport 0",
        "makestep 1.0 3",
        "rtcsync" if services.set_clock else "# the clock is not ours",
    ]
    lines += [f"local stratum {services.local_stratum}"] if services.local_stratum else []
    lines += [f"allow {a}" for a in sorted({a for place in places for a in place.addresses if not a.startswith("fe80:")})]
    lines += ["ratelimit interval 1 burst 16 leak 2"]
    return "\n".join(lines) + "\n"
