"""The Modbus driver: a link to every assigned device, a proxy for their clients, and evidence over the clients' own channel.

Reports; refuses to judge. Evidence is a fingerprint (identification objects and holding registers) or a token that the
device's secure element shows in a register mailbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from drivers.equipment import Destination, Roster, channel_of, listen
from drivers.modbus import collect
from drivers.modbus.link import DeviceLink
from drivers.modbus.proxy import ClientLink
from drivers.modbus.settings import Settings
from drivers.redirect import SocketLike, original_destination
from drivers.report import Reporter
from gateway.driver import Assignment, Context
from gateway.errors import DeviceError, UnavailableError, WardgateError
from gateway.model.event import EvidenceArrived, EvidenceFailed
from gateway.model.evidence import Evidence, MediaType

_DEFAULT_PORT = 502


class ModbusDriver:
    """``gateway.driver.Driver`` for Modbus TCP. ``destination`` says whom a client dialled."""

    def __init__(self, context: Context, settings: dict[str, object], destination: Destination = original_destination) -> None:
        self._context, self._settings, self._destination = context, Settings.parse(settings), destination
        self._reporter = Reporter(context.emit)
        self._roster: Roster[DeviceLink] = Roster(self._take_on, DeviceLink.reassign, self._let_go)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._by_destination: dict[tuple[str, int], DeviceLink] = {}
        self.port = self._settings.listen_port

    # --- gateway.driver.Driver ---

    async def run(self) -> None:
        """Serve until cancelled. Raises UnavailableError when the proxy's port cannot be had."""
        s = self._settings
        servers, self.port = await listen(
            lambda: ClientLink(self._find, self._reporter.note), s.listen, s.listen_port, self._context.log, "Modbus is served"
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reporter.run(), name="modbus-reporter")
                self._roster.open(group)
        finally:
            for server in servers:
                server.close()
            self._roster.close()

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Serve these devices from now on. One that is still named keeps its connection unless its place or profile changed."""
        self._roster.assign(assignments)

    async def attest(self, device_id: str, media_type: str, nonce: bytes) -> None:
        """Collect evidence over the connection that carries the clients' traffic, within ``attest_s``; says so when it cannot."""
        link = self._roster.links.get(device_id)
        try:
            if link is None:
                raise UnavailableError(f"{device_id} is not served by this driver", "assign it")
            async with asyncio.timeout(self._settings.attest_s), link.attesting:
                connection = link.connection
                payload = await collect.collect(link, link.assignment.target(media_type), nonce)
                if link.connection != connection:
                    raise DeviceError("the connection changed meanwhile", "it is asked again")
        except KeyError:
            await self._failed(device_id, media_type, f"its profile has no target of type {media_type}")
        except TimeoutError:
            await self._failed(device_id, media_type, f"not done in {self._settings.attest_s:g} s")
        except WardgateError as e:
            await self._failed(device_id, media_type, str(e))
        except ValueError as e:
            await self._failed(device_id, media_type, f"it cannot be asked: {e}")
        else:
            evidence = Evidence(
                device_id, MediaType(media_type), payload, nonce, channel_of(link.assignment), self._context.clock.now(), "modbus"
            )
            await self._context.emit(EvidenceArrived(evidence))
            await self._context.decided()  # no client's request goes out on what may be a changed device
            link.attested(media_type, connection)

    # --- devices ---

    async def _failed(self, device_id: str, media_type: str, reason: str) -> None:
        await self._context.emit(EvidenceFailed(device_id, media_type, reason))

    def _take_on(self, assignment: Assignment, group: asyncio.TaskGroup) -> DeviceLink:
        device_id, port = assignment.device.id, port_of(assignment)
        addresses = dict.fromkeys((assignment.device.address, *assignment.device.ip_addresses))
        endpoints = [self._settings.upstream.get(a, (a, port)) for a in addresses]
        link = DeviceLink(self._context, assignment, endpoints, self._settings.limits, self._reporter.note, self._unit(assignment))
        self._by_destination |= {(a, port): link for a in addresses}
        self._tasks[device_id] = group.create_task(link.run(), name=f"modbus-{device_id}")
        return link

    def _let_go(self, link: DeviceLink) -> None:
        self._tasks.pop(link.assignment.device.id).cancel()
        self._by_destination = {d: known for d, known in self._by_destination.items() if known is not link}
        for client in list(link.clients):
            cast(ClientLink, client).close()

    def _unit(self, assignment: Assignment) -> int:
        return self._settings.units.get(assignment.device.id, self._settings.unit)

    # --- clients ---

    def _find(self, sock: SocketLike) -> DeviceLink | None:
        try:
            return self._by_destination.get(self._destination(sock))
        except OSError:
            return None  # it dialled the proxy itself; nobody is served that way


def port_of(assignment: Assignment) -> int:
    """The device's Modbus port: where its profile's proxied flows go."""
    ports = [f.port for function in assignment.profile.functions for f in function.flows if f.via]
    return ports[0] if ports else _DEFAULT_PORT
