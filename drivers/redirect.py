"""Connections that the kernel redirected to a proxy of ours: whom they were for, and how a vanished peer is noticed.

Refuses to know what is spoken on them.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any, Protocol

_KEEPALIVE_S = (30, 10, 3)  # idle, interval, probes: a peer that vanished is let go within a minute

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST in netfilter_ipv6/ip6_tables.h is the same number
_SOCKADDR_IN, _SOCKADDR_IN6 = struct.Struct("!2xH4s8x"), struct.Struct("!2xH4x16s4x")


class SocketLike(Protocol):
    """What of a socket is needed here (asyncio's TransportSocket has it)."""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        ...

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """As in ``socket``."""
        ...

    def getsockname(self) -> Any:
        """As in ``socket``."""
        ...

    def getpeername(self) -> Any:
        """As in ``socket``."""
        ...


def original_destination(sock: SocketLike) -> tuple[str, int]:
    """Whom a redirected connection was for. Raises OSError when the kernel knows nothing of it (it was not redirected)."""
    if sock.family == socket.AF_INET6:
        raw = sock.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
        port, address = _SOCKADDR_IN6.unpack(raw)
    else:
        raw = sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size)
        port, address = _SOCKADDR_IN.unpack(raw)
    return str(ipaddress.ip_address(address)), port


def bound(sock: socket.socket, send_buffer: int) -> None:
    """Bound what the kernel holds for a peer that does not read, and how long one that vanished stays."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    idle_s, interval_s, probes = _KEEPALIVE_S
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
