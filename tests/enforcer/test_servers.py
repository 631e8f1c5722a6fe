"""A device that acts as DHCP server or as router reaches nobody, however it dresses its packets, and each one is counted."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from hil import frames as f
from hil.network import ATTACKER, GATEWAY4, PUMP, inside, run
from tests.enforcer.ward import Bench, bench, document

pytestmark = pytest.mark.rig

MARK = b"wardgate-forged-lease"
SELF6, ALL6 = PUMP.ipv6, "ff02::1"


def _dhcp(sport: int, dport: int, target: str) -> bytes:
    """A DHCPOFFER (RFC 2131): opcode 2, the magic cookie, option 53 = 2."""
    body = struct.pack(">BBBBIHHIIII", 2, 1, 6, 0, 1, 0, 0x8000, 0, int.from_bytes(socket.inet_aton("10.77.0.66")), 0, 0)
    data = body + bytes(16 + 192) + bytes.fromhex("63825363") + b"\x35\x01\x02\xff" + MARK
    return f.udp(PUMP.ipv4, target, sport, dport, data)


def _advertisement(kind: int = 134) -> bytes:
    """A router advertisement (RFC 4861) or, with 137, a redirect, as an ICMPv6 message with its checksum."""
    rest = struct.pack(">BBHII", 64, 0, 1800, 0, 0) if kind == 134 else bytes(4) + socket.inet_pton(socket.AF_INET6, ALL6) * 2
    option = bytes((25, 3, 0, 0)) + struct.pack(">I", 60) + MARK[:16]
    return f._checked(SELF6, ALL6, f.ICMPV6, struct.pack(">BBH", kind, 0, 0) + rest + option, 2)


def _six(protocol: int, payload: bytes, target: str = ALL6) -> bytes:
    return f.ip(SELF6, target, protocol, payload)


def _options(following: int) -> bytes:
    """A hop-by-hop or destination options header with padding (RFC 8200): eight octets."""
    return bytes((following, 0, 1, 4, 0, 0, 0, 0))


def _fragment(following: int, offset: int, more: bool) -> bytes:
    return struct.pack(">BBHI", following, 0, offset << 3 | more, 0x57470001)


RA = _advertisement()
HOP, DESTINATION, FRAGMENT = 0, 60, 44
FORGED: dict[str, list[bytes]] = {
    "offer to all": [_dhcp(67, 68, "255.255.255.255")],
    "offer to one": [_dhcp(67, 68, ATTACKER.ipv4)],
    "offer from an odd port": [_dhcp(1067, 68, "255.255.255.255")],
    "answer to a server's port": [_dhcp(67, 67, "255.255.255.255")],
    "dhcpv6 advertise": [f.udp(SELF6, ALL6, 547, 546, MARK)],
    "dhcpv6 from an odd port": [f.udp(SELF6, ALL6, 1547, 546, MARK)],
    "advertisement": [_six(f.ICMPV6, RA)],
    "advertisement to one": [f.ip(SELF6, ATTACKER.ipv6, f.ICMPV6, RA)],
    "redirect": [_six(f.ICMPV6, _advertisement(137))],
    "behind hop-by-hop options": [_six(HOP, _options(f.ICMPV6) + RA)],
    "behind two headers": [_six(HOP, _options(DESTINATION) + _options(f.ICMPV6) + RA)],
    "behind destination options": [_six(DESTINATION, _options(f.ICMPV6) + RA)],
    "an atomic fragment": [_six(FRAGMENT, _fragment(f.ICMPV6, 0, False) + RA)],
    "in two fragments": [
        _six(FRAGMENT, _fragment(f.ICMPV6, 0, True) + RA[:16]),
        _six(FRAGMENT, _fragment(f.ICMPV6, 2, False) + RA[16:]),
    ],
    "its type in the second fragment": [
        _six(FRAGMENT, _fragment(DESTINATION, 0, True) + _options(f.ICMPV6)),
        _six(FRAGMENT, _fragment(DESTINATION, 1, False) + RA),
    ],
    "the same to a link-local address": [
        _six(FRAGMENT, _fragment(DESTINATION, 0, True) + _options(f.ICMPV6), "fe80::1"),
        _six(FRAGMENT, _fragment(DESTINATION, 1, False) + RA, "fe80::1"),
    ],
}


@pytest.fixture(scope="module")
def rig() -> Iterator[Bench]:
    """Both devices bound and trusted, and their ports not isolated: the rules alone must hold."""
    both = document()
    both["devices"]["other"] = {"cap": 3, "addresses": [ATTACKER.ipv4, ATTACKER.ipv6]}
    for family, address in ((4, ATTACKER.ipv4), (6, ATTACKER.ipv6)):
        both["sets"][f"port{family}"].append([ATTACKER.port, ATTACKER.mac, address])
        both["sets"][f"bind{family}"].append(["ward0", ATTACKER.mac, address])
    with bench(both) as made:
        for port in (PUMP.port, ATTACKER.port):
            run("ip", "-n", made.ward.gateway, "link", "set", port, "type", "bridge_slave", "isolated", "off")
        made.grant(3)
        yield made


def _listen(namespace: str, link: str = "eth0") -> socket.socket:
    with inside(namespace):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind((link, 0))
    s.setblocking(False)
    return s


def _all(s: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(s.recv(2048))
        except BlockingIOError:
            return found


def _heard(s: socket.socket) -> list[bytes]:
    """Frames of the pump, and whatever carries its message."""
    return [frame for frame in _all(s) if MARK[:16] in frame or frame[6:12] == f.mac(PUMP.mac)]


@pytest.mark.parametrize("how", FORGED)
def test_it_reaches_nobody_and_is_counted(rig: Bench, how: str) -> None:
    before = rig.ward.counters()["server_l2"]
    gate = run("ip", "netns", "exec", rig.ward.gateway, "cat", "/sys/class/net/ward0/address").strip()
    frames = FORGED[how]
    targets = [f.BROADCAST, ATTACKER.mac, gate] if frames[0][0] >> 4 == 4 else ["33:33:00:00:00:01", ATTACKER.mac, gate]
    with (
        closing(_listen(rig.attacker)) as other,
        closing(_listen(rig.ward.hospital)) as hospital,
        closing(_listen(rig.pump)) as out,
    ):
        for target in targets:
            for packet in frames:
                out.send(f.ethernet(PUMP.mac, target, f.IPV6 if packet[0] >> 4 == 6 else f.IPV4, packet))
        time.sleep(0.1)
        assert (_heard(other), _heard(hospital)) == ([], [])
    assert rig.ward.counters()["server_l2"] == before + len(targets) * len(frames)
    assert run("ip", "-n", rig.ward.gateway, "-6", "route", "show", "proto", "ra") == ""


@pytest.mark.parametrize("kind", [f.IPV4, f.IPV6])
def test_in_a_vlan_tag_it_is_no_packet_of_the_ward(rig: Bench, kind: int) -> None:
    before = rig.ward.counters()["unbound_l2"]
    inner = _dhcp(67, 68, "255.255.255.255") if kind == f.IPV4 else _six(f.ICMPV6, RA)
    with closing(_listen(rig.attacker)) as other, closing(_listen(rig.pump)) as out:
        for vlan in (0, 1, 5):
            out.send(f.ethernet(PUMP.mac, f.BROADCAST, f.VLAN, f.tagged(vlan, kind, inner)))
        time.sleep(0.1)
        assert _heard(other) == []
    counters = rig.ward.counters()
    assert counters["unbound_l2"] + counters["server_l2"] >= before + 3


def test_the_gateway_takes_no_route_and_no_address_from_an_advertisement(rig: Bench) -> None:
    routes = run("ip", "-n", rig.ward.gateway, "-6", "route")
    with closing(_listen(rig.pump)) as out:
        for _ in range(5):
            out.send(f.ethernet(PUMP.mac, "33:33:00:00:00:01", f.IPV6, _six(f.ICMPV6, RA)))
    time.sleep(0.1)
    assert run("ip", "-n", rig.ward.gateway, "-6", "route") == routes


def test_the_hospitals_own_advertisement_moves_the_gateway_neither(rig: Bench) -> None:
    """What the hospital's routers say stays there: the gateway's routes are what it was configured with."""
    routes = run("ip", "-n", rig.ward.gateway, "-6", "route")
    own = run("ip", "netns", "exec", rig.ward.hospital, "cat", "/sys/class/net/eth0/address").strip()
    ra = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    packet = f.ip("fe80::99", ALL6, f.ICMPV6, f._checked("fe80::99", ALL6, f.ICMPV6, ra, 2))
    with closing(_listen(rig.ward.hospital)) as out, closing(_listen(rig.pump)) as ward:
        out.send(f.ethernet(own, "33:33:00:00:00:01", f.IPV6, packet))
        time.sleep(0.1)
        assert packet not in b"".join(_all(ward))
    assert run("ip", "-n", rig.ward.gateway, "-6", "route") == routes


def test_a_device_that_is_a_client_is_no_server(rig: Bench) -> None:
    """Its question to the gateway is not counted as an act of a server, with and without leave to ask."""
    before = rig.ward.counters()["server_l2"]
    with closing(_listen(rig.pump)) as out:
        question = f.udp("0.0.0.0", "255.255.255.255", 68, 67, bytes(240))
        out.send(f.ethernet(PUMP.mac, f.BROADCAST, f.IPV4, question))
        out.send(f.ethernet(PUMP.mac, f.BROADCAST, f.IPV4, f.udp(PUMP.ipv4, GATEWAY4, 68, 67, bytes(240))))
    time.sleep(0.1)
    assert rig.ward.counters()["server_l2"] == before
