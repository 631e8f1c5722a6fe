"""The HL7 driver: a relay for every assigned device's messages, and evidence from what the device says of itself in them.

Reports; refuses to judge. The kernel redirects a device's own connections here (and those toward it); each is checked,
judged by the lease in force and passed on, end to end or from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from drivers.equipment import Destination, Roster, channel_of, listen
from drivers.hl7.arriving import Arriving
from drivers.hl7.device import DeviceLink
from drivers.hl7.fingerprint import encode_fingerprint
from drivers.hl7.forward import Forwarder
from drivers.hl7.proxy import Services
from drivers.hl7.readings import WARD_BURST, WARD_PER_S, Budget
from drivers.hl7.route import Route, Routes
from drivers.hl7.settings import Settings
from drivers.hl7.turn import Turn
from drivers.redirect import SocketLike, original_destination
from drivers.report import Reporter
from gateway.driver import Assignment, Context
from gateway.errors import UnavailableError, WardgateError
from gateway.model.event import EvidenceArrived, EvidenceFailed, LinkChanged, RouteChanged
from gateway.model.evidence import Evidence, MediaType

_TICK_S = 0.1  # how exactly limits are kept
_GRANT_S = 0.25  # what a grant is given to reach us (it is recorded first), before the messages that earned it go on


class Hl7Driver:
    """``gateway.driver.Driver`` for HL7 over MLLP. ``destination`` says whom a connection was for."""

    def __init__(self, context: Context, settings: dict[str, object], destination: Destination = original_destination) -> None:
        self._context, self._settings, self._destination = context, Settings.parse(settings), destination
        self._reporter = Reporter(context.emit)
        self._roster: Roster[DeviceLink] = Roster(self._take_on, self._stays, self._let_go)
        self._changed = asyncio.Event()
        self._routes = Routes(self._changed.set)
        self._ward = Budget(WARD_PER_S, WARD_BURST)
        self._forwarders: dict[Route, Forwarder] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._told: dict[str, tuple[bool, int]] = {}
        self._told_wrong: dict[Route, str] = {}
        self._services = Services(
            self._settings, context.clock, context.journal, context.tls, self._reporter.note, self._task, self._is_stored, Turn()
        )
        self.port = self._settings.listen_port

    # --- gateway.driver.Driver ---

    async def run(self) -> None:
        """Serve until cancelled. Raises UnavailableError when the port cannot be had."""
        s = self._settings
        servers, self.port = await listen(self._arriving, s.listen, s.listen_port, self._context.log, "HL7 is served")
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._reporter.run(), name="hl7-reporter")
                group.create_task(self._tell(), name="hl7-links")
                group.create_task(self._tick(), name="hl7-limits")
                self._roster.open(group)
        finally:
            self._group = None
            for server in servers:
                server.close()
            self._roster.close()

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Serve these devices from now on. One that is still named keeps its connections unless its place or profile changed."""
        self._roster.assign(assignments)

    async def attest(self, device_id: str, media_type: str, nonce: bytes) -> None:
        """What the device says of itself in messages on its own connections, within ``attest_s``; tells when it said nothing."""
        link = self._roster.links.get(device_id)
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
            await self._context.decided()  # what it took away counts before anything else goes on
            if is_new:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GRANT_S):
                        await asyncio.shield(decided)
        finally:
            decided.cancel()
        link.hand_in(said, generation)

    async def _failed(self, device_id: str, media_type: str, reason: str) -> None:
        await self._context.emit(EvidenceFailed(device_id, media_type, reason))

    async def _tell(self) -> None:
        """Tell the engine of links that came, went or began anew, and of routes whose other end is not there."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for device_id in self._told.keys() - self._roster.links.keys():
                if self._told.pop(device_id)[0]:
                    await self._context.emit(LinkChanged(device_id, up=False, detail="it is not served any more"))
            for device_id, link in list(self._roster.links.items()):
                if self._roster.links.get(device_id) is not link:
                    continue  # let go while another was told
                up, generation = self._told.get(device_id, (False, 0))
                self._told[device_id] = (link.up, link.generation)
                if link.up and (not up or link.generation != generation):
                    await self._context.emit(LinkChanged(device_id, up=True, anew=up))
                elif up and not link.up:
                    await self._context.emit(LinkChanged(device_id, up=False))
            for route in self._routes.all():
                wrong = route.health.wrong
                if bool(wrong) is not bool(self._told_wrong.get(route)):
                    self._told_wrong[route] = wrong
                    await self._context.emit(RouteChanged(route.link.device_id, route.function.name, not wrong, wrong))

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            for link in self._roster.links.values():
                for connection in link.everyone():
                    connection.tick(now)
            for route in self._routes.all():
                route.health.tick(now)

    # --- devices ---

    def _take_on(self, assignment: Assignment, group: asyncio.TaskGroup) -> DeviceLink:
        device_id = assignment.device.id
        link = DeviceLink(self._context, assignment, self._settings, self._changed.set, self._ward)
        tasks = [group.create_task(work(), name=f"hl7-{device_id}") for work in (link.readings.read, link.readings.deliver)]
        for route in self._routes.add(link, self._settings):
            if route.stored:
                self._forwarders[route] = Forwarder(route, self._services)
                tasks.append(group.create_task(self._forwarders[route].run(), name=f"hl7-{route.name}"))
        self._tasks[device_id] = tasks
        if self._told.get(device_id, (False, 0))[0]:
            link.expect()
        return link

    def _stays(self, link: DeviceLink, wanted: Assignment) -> None:
        observed, link.assignment = link.observed, wanted
        if observed is not link.observed:
            link.hang_up()  # they pass in another way from now on; a device dials again

    def _let_go(self, link: DeviceLink) -> None:
        if link.device_id in self._told:  # what the engine was told stands until it is told something else
            self._told[link.device_id] = self._told[link.device_id][0], 0
        self._changed.set()
        self._routes.remove(link)
        for task in self._tasks.pop(link.device_id):
            task.cancel()
        self._forwarders = {r: f for r, f in self._forwarders.items() if r.link is not link}
        self._told_wrong = {r: w for r, w in self._told_wrong.items() if r.link is not link}
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

    def _arriving(self) -> asyncio.Protocol:
        return Arriving(self._find, self._services)
