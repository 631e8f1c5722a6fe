"""What the drivers of wired equipment share: who is served, where redirected connections arrive, which channel that is.

Refuses to know what is spoken on a connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from drivers.redirect import SocketLike
from gateway.driver import Assignment
from gateway.errors import InputErrors, UnavailableError
from gateway.model.evidence import Channel, ChannelKind

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_BACKLOG = 256

Destination = Callable[[SocketLike], tuple[str, int]]
Hosts = Sequence[str]
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - the static rules let only redirected connections in


class Served(Protocol):
    """A link to a device that is served."""

    assignment: Assignment


L = TypeVar("L", bound=Served)


class Roster(Generic[L]):
    """The devices that are served and the link of each, while it is open.

    ``take_on`` makes the link of a device, its tasks in the group; ``stays`` tells one of its device's new assignment, ``let_go``
    ends one: a device whose place or profile is another is let go and taken on anew.
    """

    def __init__(
        self,
        take_on: Callable[[Assignment, asyncio.TaskGroup], L],
        stays: Callable[[L, Assignment], None],
        let_go: Callable[[L], None],
    ) -> None:
        self._take_on, self._stays, self._let_go = take_on, stays, let_go
        self._wanted: dict[str, Assignment] = {}
        self._group: asyncio.TaskGroup | None = None
        self.links: dict[str, L] = {}

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Serve these from now on (or from ``open`` on)."""
        self._wanted = {a.device.id: a for a in assignments}
        if self._group is not None:
            self._serve(self._group)

    def open(self, group: asyncio.TaskGroup) -> None:
        """Begin to serve."""
        self._group = group
        self._serve(group)

    def close(self) -> None:
        """Let everyone go; who is assigned is served again from the next ``open`` on."""
        self._group = None
        for device_id in list(self.links):
            self._let_go(self.links.pop(device_id))

    def _serve(self, group: asyncio.TaskGroup) -> None:
        for device_id, link in list(self.links.items()):
            wanted = self._wanted.get(device_id)
            if wanted is not None and _place(wanted) == _place(link.assignment):
                self._stays(link, wanted)
            else:
                self._let_go(self.links.pop(device_id))
        for device_id, assignment in self._wanted.items():
            if device_id not in self.links:
                self.links[device_id] = self._take_on(assignment, group)


def _place(assignment: Assignment) -> tuple[object, ...]:
    return assignment.device.address, assignment.device.binding, assignment.profile


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], hosts: Hosts, port: int, log: logging.Logger, what: str
) -> tuple[list[asyncio.Server], int]:
    """Listen on every host; returns the servers and the port. Without IPv6 on this machine only IPv4 is served, and told.

    Raises UnavailableError when a port cannot be had.
    """
    servers: list[asyncio.Server] = []
    for host in hosts:
        try:
            server = await asyncio.get_running_loop().create_server(factory, host, port, backlog=_BACKLOG)
        except OSError as e:
            if ":" in host and e.errno in _NO_IPV6 and servers:
                log.info("no IPv6 here: %s over IPv4 only", what)
                continue
            for started in servers:
                started.close()
            raise UnavailableError(f"port {port} of {host} cannot be had: {e.strerror}", "see what holds it: ss -ltnp") from e
        servers.append(server)
    return servers, int(servers[0].sockets[0].getsockname()[1])


def channel_of(assignment: Assignment) -> Channel:
    """The device's own port of the ward's bridge; *open* for a device bound to none."""
    binding = assignment.device.binding
    return Channel(ChannelKind.PORT, f"{binding.port}/{binding.mac}") if binding else Channel(ChannelKind.OPEN)


class Reading:
    """A driver's settings being read: ``take`` each one, then ``done``, which raises InputErrors with every mistake."""

    def __init__(self, where: str, settings: Mapping[str, object]) -> None:
        self._where, self._left = where, dict(settings)
        self._problems: list[tuple[str, str]] = []

    def take(self, key: str, default: Any, right: Callable[[Any], bool], expected: str) -> Any:
        """A setting, or its default."""
        value = self._left.pop(key, default)
        if not right(value):
            self._problems.append((key, f"expected {expected}, got {str(value)[:40]!r}"))
            return default
        return value

    def port(self, default: int) -> int:
        """``listen_port``."""
        return int(self.take("listen_port", default, is_port, "a port"))

    def hosts(self) -> tuple[str, ...]:
        """``listen``."""
        return tuple(self.take("listen", list(EVERYWHERE), _is_hosts, "a list of addresses"))

    def seconds(self, defaults: Mapping[str, float]) -> dict[str, float]:
        """Durations by name."""
        return {k: float(self.take(k, d, _is_seconds, "seconds, more than 0")) for k, d in defaults.items()}

    def upstream(self) -> dict[str, tuple[str, int]]:
        """``upstream``: address -> (host, port)."""
        taken = self.take("upstream", {}, _is_upstream, "addresses with [host, port]")
        return {a: (str(h), int(p)) for a, (h, p) in taken.items()}

    def wrong(self, key: str, what: str) -> None:
        """Something else is wrong with a setting."""
        self._problems.append((key, what))

    def done(self, driver: str) -> None:
        """Nothing may be left."""
        self._problems += [(key, f"is no setting of the {driver} driver") for key in self._left]
        if self._problems:
            raise InputErrors(self._where, tuple(self._problems))


def is_port(value: object) -> bool:
    """Whether it is a port, 0 included."""
    return type(value) is int and 0 <= value <= 65535


def _is_hosts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, str) for v in value)


def _is_seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < 3600  # type: ignore[operator]


def _is_upstream(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, list | tuple) and len(v) == 2 and is_port(v[1]) for v in value.values())
