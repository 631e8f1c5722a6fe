"""Frames that a host would have to forge: Ethernet, ARP, IPv4, IPv6, UDP, TCP, ICMP and ND, with right checksums.

Bytes only; each layer takes the one above as ``payload``. Sources: RFC 826, 791, 8200, 768, 9293, 792, 4443, 4861.
Refuses to know who sends them and why.
"""

from __future__ import annotations

import socket
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, IPV6, VLAN, LLDP, LOCAL = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88CC, 0x88B5
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
SYN, SYN_ACK = 0x02, 0x12


def mac(text: str) -> bytes:
    """The 6 octets of a MAC address written with colons."""
    return bytes.fromhex(text.replace(":", ""))


def ethernet(source: str, target: str, kind: int, payload: bytes) -> bytes:
    """An Ethernet II frame, padded to the least size of 60 octets."""
    return (mac(target) + mac(source) + struct.pack(">H", kind) + payload).ljust(60, b"\0")


def tagged(vlan: int, kind: int, payload: bytes) -> bytes:
    """What follows an 802.1Q type field: the tag, the inner type and its payload."""
    return struct.pack(">HH", vlan, kind) + payload


def arp(operation: int, sender_mac: str, sender: str, target_mac: str, target: str) -> bytes:
    """An ARP packet; ``operation`` 1 asks, 2 answers."""
    head = struct.pack(">HHBBH", 1, IPV4, 6, 4, operation)
    return head + mac(sender_mac) + socket.inet_aton(sender) + mac(target_mac) + socket.inet_aton(target)


def ip(source: str, target: str, protocol: int, payload: bytes, *, options: bytes = b"") -> bytes:
    """An IPv4 or IPv6 packet, by the form of the addresses. ``options`` (IPv4 only): a multiple of four octets."""
    if ":" in target:
        head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 255)
        return head + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target) + payload
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, 4 * words + len(payload), 1, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target) + options
    return head[:10] + struct.pack(">H", _sum(head)) + head[12:] + payload


def loose_route(through: str) -> bytes:
    """The IPv4 option that asks routers to go through ``through`` next (RFC 791 section 3.1), padded."""
    return struct.pack(">BBB", 131, 7, 4) + socket.inet_aton(through) + b"\0"


def udp(source: str, target: str, sport: int, dport: int, data: bytes) -> bytes:
    """A UDP datagram in its IP packet."""
    body = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
    return ip(source, target, UDP, _checked(source, target, UDP, body, 6))


def tcp(source: str, target: str, sport: int, dport: int, sequence: int, flags: int = SYN) -> bytes:
    """A TCP segment without data in its IP packet."""
    body = struct.pack(">HHIIBBHHH", sport, dport, sequence, 0, 5 << 4, flags, 64240, 0, 0)
    return ip(source, target, TCP, _checked(source, target, TCP, body, 16))


def echo(source: str, target: str, data: bytes) -> bytes:
    """An ICMP or ICMPv6 echo request in its IP packet."""
    six = ":" in target
    body = struct.pack(">BBHHH", 128 if six else 8, 0, 0, 0x5747, 1) + data
    if six:
        return ip(source, target, ICMPV6, _checked(source, target, ICMPV6, body, 2))
    return ip(source, target, ICMP, body[:2] + struct.pack(">H", _sum(body)) + body[4:])


def neighbour(advertise: bool, source: str, target: str, about: str, link: str) -> bytes:
    """A neighbour solicitation or (override, unsolicited) advertisement about an address, with its link-layer option."""
    kind, flags, option = (136, 0x20000000, 2) if advertise else (135, 0, 1)
    body = struct.pack(">BBHI", kind, 0, 0, flags) + socket.inet_pton(socket.AF_INET6, about)
    return ip(source, target, ICMPV6, _checked(source, target, ICMPV6, body + bytes((option, 1)) + mac(link), 2))


def _checked(source: str, target: str, protocol: int, body: bytes, at: int) -> bytes:
    """``body`` with its checksum over the pseudo header, at offset ``at``."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    pseudo = socket.inet_pton(family, source) + socket.inet_pton(family, target) + struct.pack(">II", len(body), protocol)
    return body[:at] + struct.pack(">H", _sum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def _sum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
