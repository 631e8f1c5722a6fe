"""The HL7 driver: a relay for every assigned device's messages, and evidence from what the device says of itself in them.

Reports; refuses to judge. The kernel redirects a device's own connections here (and those toward it); each is checked,
judged by the lease in force and passed on, end to end or from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from drivers.hl7.device import DeviceLink
from drivers.hl7.fingerprint import encode_fingerprint
from drivers.hl7.forward import Forwarder
from drivers.hl7.observed import ObservedLink
from drivers.hl7.proxy import ClientLink, Services
from drivers.hl7.route import Route, Routes
from drivers.hl7.settings import Settings
from drivers.redirect import SocketLike, original_destination
from drivers.report import Reporter
from gateway.driver import Assignment, Context
from gateway.errors import UnavailableError, WardgateError
from gateway.model.event import EvidenceArrived, EvidenceFailed, LinkChanged
from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType

_TICK_S = 0.1  # how exactly limits are kept
_DECISION_S = 0.25  # what the engine is given to judge an identity that is new, before messages go on
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_BACKLOG = 256

Destination = Callable[[SocketLike], tuple[str, int]]


class Hl7Driver:
    """``gateway.driver.Driver`` for HL7 over MLLP. ``destination`` says whom a connection was for."""

    def __init__(self, context: Context, settings: dict[str, object], destination: Destination = original_destination) -> None:
        self._context, self._settings, self._destination = context, Settings.parse(settings), destination
        self._reporter = Reporter(context.emit)
        self._assignments: dict[str, Assignment] = {}
        self._links: dict[str, DeviceLink] = {}
        self._routes = Routes()
        self._forwarders: dict[Route, Forwarder] = {}
        self._tasks: dict[Route, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._told: dict[str, tuple[bool, int]] = {}
        self._services = Services(self._settings, context.clock, context.journal, self._reporter.note, self._task, self._is_stored)
        self.port = self._settings.listen_port

    # --- gateway.driver.Driver ---

    async def run(self) -> None:
        """Serve until cancelled. Raises UnavailableError when the port cannot be had."""
        servers = await self._listen()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._reporter.run(), name="hl7-reporter")
                group.create_task(self._tell(), name="hl7-links")
                group.create_task(self._tick(), name="hl7-limits")
                self.assign(tuple(self._assignments.values()))
        finally:
            self._group = None
            for server in servers:
                server.close()
            for device_id in list(self._links):
                self._let_go(device_id)

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Serve these devices from now on. One that is still named keeps its connections unless its place or profile changed."""
        self._assignments = {a.device.id: a for a in assignments}
        if self._group is None:
            return
        for device_id, link in list(self._links.items()):
            wanted = self._assignments.get(device_id)
            if wanted is not None and _place(wanted) == _place(link.assignment):
                observed, link.assignment = link.observed, wanted
                if observed is not link.observed:
                    link.close()  # they pass in another way from now on; a device dials again
            else:
                self._let_go(device_id)
        for device_id, assignment in self._assignments.items():
            if device_id not in self._links:
                self._take_on(assignment, self._group)

    async def attest(self, device_id: str, media_type: str, nonce: bytes) -> None:
        """What the device says of itself in messages on its own connections, within ``attest_s``; tells when it said nothing."""
        link = self._links.get(device_id)
        try:
            if link is None:
                raise UnavailableError(f"{device_id} is not served by this driver", "assign it")
            if media_type != MediaType.HL7:
                raise UnavailableError(f"{media_type} does not come over HL7", "mend the profile")
            async with asyncio.timeout(self._settings.attest_s), link.attesting:
                await self._collect(link, nonce)
        except TimeoutError:
            await self._failed(device_id, media_type, f"it sent no message for {self._settings.attest_s:g} s")
        except WardgateError as e:
            await self._failed(device_id, media_type, str(e))

    # --- evidence ---

    async def _collect(self, link: DeviceLink, nonce: bytes) -> None:
        said, at = await link.identity()
        generation, is_new = link.generation, not link.is_known(said)
        decided = asyncio.ensure_future(self._context.grant(link.device_id).changed())
        await asyncio.sleep(0)  # it watches from now on
        try:
            payload = encode_fingerprint(nonce, said)
            channel = channel_of(link.assignment)
            await self._context.emit(EvidenceArrived(Evidence(link.device_id, MediaType.HL7, payload, nonce, channel, at, "hl7")))
            if is_new:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(decided), _DECISION_S)
        finally:
            decided.cancel()
        link.hand_in(said, generation)

    async def _failed(self, device_id: str, media_type: str, reason: str) -> None:
        await self._context.emit(EvidenceFailed(device_id, media_type, reason))

    async def _tell(self) -> None:
        """Tell the engine of links that came, went or began anew."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for device_id, link in list(self._links.items()):
                up, generation = self._told.get(device_id, (False, 0))
                now = (link.up, link.generation)
                self._told[device_id] = now
                if up and now != (up, generation):
                    await self._context.emit(LinkChanged(device_id, up=False, detail="evidence is needed anew" if link.up else ""))
                if link.up and (not up or link.generation != generation):
                    await self._context.emit(LinkChanged(device_id, up=True))

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            for link in self._links.values():
                for connection in list(link.connections):
                    connection.tick(now)

    # --- devices ---

    def _take_on(self, assignment: Assignment, group: asyncio.TaskGroup) -> None:
        link = DeviceLink(self._context, assignment, self._settings, self._changed.set)
        self._links[assignment.device.id] = link
        for route in self._routes.add(link, self._settings.upstream):
            forwarder = Forwarder(route, self._settings, self._context.clock, self._context.journal, self._reporter.note)
            self._forwarders[route] = forwarder
            self._tasks[route] = group.create_task(forwarder.run(), name=f"hl7-{route.name}")

    def _let_go(self, device_id: str) -> None:
        link = self._links.pop(device_id)
        self._told.pop(device_id, None)
        self._routes.remove([link])
        for route in [r for r in self._forwarders if r.link is link]:
            self._tasks.pop(route).cancel()
            del self._forwarders[route]
        link.close()

    def _task(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._group is not None:
            self._group.create_task(work(), name="hl7-connect")

    def _is_stored(self, route: Route) -> None:
        if route in self._forwarders:
            self._forwarders[route].wake()

    # --- connections ---

    def _find(self, sock: SocketLike) -> Route | None:
        try:
            return self._routes.find(sock.getpeername()[0], self._destination(sock))
        except OSError:
            return None  # it dialled the proxy itself, or is gone; nobody is served that way

    def _connected(self) -> asyncio.Protocol:
        return _Arriving(self._find, self._services)

    async def _listen(self) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        for host in self._settings.listen:
            try:
                server = await loop.create_server(self._connected, host, self._settings.listen_port, backlog=_BACKLOG)
            except OSError as e:
                if ":" in host and e.errno in _NO_IPV6 and servers:
                    self._context.log.info("no IPv6 here: HL7 is served over IPv4 only")
                    continue
                for started in servers:
                    started.close()
                raise UnavailableError(
                    f"port {self._settings.listen_port} of {host} cannot be had: {e.strerror}", "see what holds it: ss -ltnp"
                ) from e
            servers.append(server)
        self.port = servers[0].sockets[0].getsockname()[1]
        return servers


class _Arriving(asyncio.Protocol):
    """A connection until it is known whose it is: an observed device's is passed on as it is, any other is relayed."""

    def __init__(self, find: Callable[[SocketLike], Route | None], services: Services) -> None:
        self._find, self._services = find, services

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        route = self._find(transport.get_extra_info("socket"))
        if route is None:
            transport.abort()
            return
        chosen = ObservedLink if route.link.observed else ClientLink
        protocol = chosen(route, self._services)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def channel_of(assignment: Assignment) -> Channel:
    """The device's own port of the ward's bridge; *open* for a device bound to none."""
    binding = assignment.device.binding
    return Channel(ChannelKind.PORT, f"{binding.port}/{binding.mac}") if binding else Channel(ChannelKind.OPEN)


def _place(assignment: Assignment) -> tuple[object, ...]:
    return assignment.device.address, assignment.device.binding, assignment.profile
