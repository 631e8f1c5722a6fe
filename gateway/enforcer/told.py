"""What the kernel tells without being asked: packets that a rule logged, and transactions that somebody committed.

Two netlink sockets and their parsers. Bytes of a packet are hostile: only fixed headers are read, at fixed offsets. It
draws no conclusion from what it reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from gateway.enforcer.netlink import NETLINK_NETFILTER, SUBSYS_NFTABLES, attribute, message

LOG_GROUP = 77  # as in image/wardgate.nft
_SUBSYS_ULOG = 4
_ULOG_PACKET, _ULOG_CONFIG = (_SUBSYS_ULOG << 8) | 0, (_SUBSYS_ULOG << 8) | 1
_NEWGEN = (SUBSYS_NFTABLES << 8) | 15
_GROUP_NFTABLES = 7
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_ATTACH_FILTER = 26
_RECEIVE = 1 << 20
# The prefixes of the rules in image/wardgate.nft, in words.
_REASONS = {
    "unbound": "the port, MAC and address do not belong together",
    "lateral": "one device to another",
    "server": "a device acted as DHCP server or router",
    "level": "the device's level is too low for this flow",
    "flow": "no function of a profile has this flow",
    "closed": "the gateway offers nothing there",
    "outgoing": "the gateway itself may not go there",
    "seen": "passed because the device is being observed; its level would not allow it",
}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


class Told(NamedTuple):
    """One logged packet: the rule's prefix, the port it came in by, and what its headers say ("" and 0 where unknown).

    ``opens``: it is the first packet of a TCP connection, so its sender is who opens it.
    """

    reason: str
    link: str
    saddr: str
    daddr: str
    protocol: str
    sport: int
    dport: int
    opens: bool = False


def sentence(told: Told) -> str:
    """What happened, for a person."""
    flow = f"{told.saddr or 'somebody'} → {told.daddr or 'somewhere'} {told.protocol}{f' {told.dport}' if told.dport else ''}"
    return f"{flow}: {_REASONS.get(told.reason, told.reason)}"


class PacketLog:
    """NFLOG group 77 of this network namespace. Non-blocking; ``fileno`` for a selector."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.bind((0, 0))
        self._configure(attribute(1, struct.pack("=B3x", 1)[:1]))  # NFULA_CFG_CMD: bind to the group
        self._configure(attribute(2, struct.pack(">IBx", 96, 2)))  # NFULA_CFG_MODE: copy the first 96 bytes
        self._configure(attribute(4, struct.pack(">I", 10)))  # NFULA_CFG_TIMEOUT: hold packets back for 0.1 s at most
        self.socket.setblocking(False)
        self._names: dict[int, str] = {}

    def _configure(self, body: bytes) -> None:
        self.socket.settimeout(2.0)
        self.socket.send(message(_ULOG_CONFIG, 0x1 | 0x4, 1, 0, LOG_GROUP, body))
        (code,) = struct.unpack_from("=i", self.socket.recv(4096), 16)
        if code:
            raise OSError(-code, "NFLOG")

    def read(self) -> Iterator[Told]:
        """What is there now. Packets lost in between (ENOBUFS) are passed over: counters know how many they were."""
        while True:
            try:
                datagram = self.socket.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                continue
            for kind, body in _messages(datagram):
                if kind == _ULOG_PACKET:
                    yield self._packet(dict(_attributes(body[4:])))

    def _packet(self, parts: dict[int, bytes]) -> Told:
        reason = parts.get(10, b"").rstrip(b"\0").decode("ascii", "replace")
        link = next((self._link(parts[kind]) for kind in (6, 4) if kind in parts), "")  # the bridge port, else the interface
        ether = struct.unpack(">H", parts[1][:2])[0] if len(parts.get(1, b"")) >= 2 else 0
        packet = parts.get(9, b"")
        return Told(reason, link, *parse_headers(ether, packet), opens(packet))

    def _link(self, index: bytes) -> str:
        (number,) = struct.unpack(">I", index[:4])
        if number not in self._names:
            with contextlib.suppress(OSError):
                self._names[number] = socket.if_indextoname(number)
        return self._names.get(number, str(number))


def parse_headers(ether: int, packet: bytes) -> tuple[str, str, str, int, int]:
    """(saddr, daddr, protocol, sport, dport) of a network-layer packet cut at any length. Never raises."""
    if ether == 0x0806 and len(packet) >= 28:
        return str(ipaddress.IPv4Address(packet[14:18])), str(ipaddress.IPv4Address(packet[24:28])), "arp", 0, 0
    if ether == 0x86DD or (not ether and packet[:1] and packet[0] >> 4 == 6):
        if len(packet) < 40:
            return "", "", "ipv6", 0, 0
        ends = str(ipaddress.IPv6Address(packet[8:24])), str(ipaddress.IPv6Address(packet[24:40]))
        protocol, rest = packet[6], packet[40:]
    else:
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return "", "", f"ether-{ether:04x}", 0, 0
        ends = str(ipaddress.IPv4Address(packet[12:16])), str(ipaddress.IPv4Address(packet[16:20]))
        protocol, rest = packet[9], packet[(packet[0] & 15) * 4 :]
    name = _PROTOCOLS.get(protocol, str(protocol))
    if name in ("tcp", "udp") and len(rest) >= 4:
        return *ends, name, *struct.unpack(">HH", rest[:4])
    return *ends, name, 0, 0


def opens(packet: bytes) -> bool:
    """Whether a network-layer packet, cut at any length, is TCP with SYN and without ACK. Never raises."""
    if packet[:1] and packet[0] >> 4 == 6:
        protocol, start = packet[6:7], 40
    else:
        protocol, start = packet[9:10], (packet[0] & 15) * 4 if packet else 0
    flags = packet[start + 13 : start + 14]
    return protocol == b"\x06" and bool(flags) and flags[0] & 0x12 == 0x02


class CommitWatch:
    """Who committed an nftables transaction in this network namespace. Non-blocking; one number a transaction.

    A filter in the kernel lets only NEWGEN through: a renewal of thousands of leases would flood us with its own echo.
    """

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.bind((0, 0))
        self._filter()
        self.socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        self.socket.setblocking(False)

    def _filter(self) -> None:
        """BPF: load the message's type (the load is big-endian, the field is the host's), accept NEWGEN, refuse the rest."""
        wanted = struct.unpack(">H", struct.pack("=H", _NEWGEN))[0]
        code = [(0x28, 0, 0, 4), (0x15, 0, 1, wanted), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))
        address = ctypes.addressof(program)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code), address))

    def read(self) -> list[int]:
        """Process ids of the committers since the last call; 0 stands for commits that were missed."""
        committers: list[int] = []
        while True:
            try:
                datagram = self.socket.recv(_RECEIVE)
            except BlockingIOError:
                return committers
            except OSError:
                committers.append(0)
                continue
            for kind, body in _messages(datagram):
                if kind == _NEWGEN:
                    pid = dict(_attributes(body[4:])).get(2, b"")
                    committers.append(struct.unpack(">I", pid)[0] if len(pid) == 4 else 0)


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 16 <= len(datagram):
        length, kind = struct.unpack_from("=IH", datagram, offset)
        if length < 20 or offset + length > len(datagram):
            return
        yield kind, datagram[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
