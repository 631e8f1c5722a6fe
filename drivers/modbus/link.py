"""The one connection to a device: clients' requests and our own go over it one at a time, so evidence and traffic share a channel.

Requests are checked against the lease at the moment they are sent, so a lapse counts at once, for queued ones too. After a
reconnect only what level 0 allows passes until this connection's evidence has been handed in. An answer that does not fit
its request, or comes too late, poisons the connection: it is closed and opened anew. Refuses to know TCP clients and CBOR.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from drivers.modbus import mbap
from drivers.modbus.pdu import BUSY, NO_RESPONSE, Request, Rules
from drivers.modbus.permit import Permit
from drivers.modbus.response import ResponseError, check_response
from drivers.modbus.waiting import Limits, Origin, Own, Waiting
from gateway.driver import Assignment, Context
from gateway.errors import DeviceError, MalformedError, UnavailableError
from gateway.model.event import LinkChanged

_TICK_S = 0.1  # how exactly the limits below are kept
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 5.0  # a pump that was switched on again is back within five seconds


class DeviceLink(asyncio.BufferedProtocol):
    """See the module. ``run`` keeps it connected; all else happens in callbacks, without tasks."""

    def __init__(
        self,
        context: Context,
        assignment: Assignment,
        endpoints: Sequence[tuple[str, int]],
        limits: Limits,
        note: Callable[[str, str, str], None],
        unit: int = 1,
    ) -> None:
        self.assignment, self.endpoints, self.unit = assignment, tuple(endpoints), unit
        self.clients: set[Origin] = set()
        self.connection = 0  # counts connections: evidence of an earlier one opens nothing
        self.attesting = asyncio.Lock()
        self._context, self._limits, self._note = context, limits, note
        self._permit = Permit(context, assignment)
        self._loop = asyncio.get_running_loop()
        self._own = Own()
        self._turns: deque[Origin] = deque()
        self._urgent: deque[Origin] = deque()
        self._transport: asyncio.Transport | None = None
        self._framer, self._room = mbap.Framer(), memoryview(bytearray(mbap.READ_BYTES))
        self._transaction, self._sent_at = 0, 0.0
        self._after_stop = False
        self._out: Waiting | None = None
        self._owed: set[str] = set()
        self._lost = asyncio.Event()
        self._why_lost = ""
        self._tick: asyncio.TimerHandle | None = None

    def reassign(self, assignment: Assignment) -> None:
        """The same device and profile in another state."""
        self.assignment = assignment
        self._permit.reassign(assignment)

    @property
    def device_id(self) -> str:
        """Whose link this is."""
        return self.assignment.device.id

    @property
    def up(self) -> bool:
        """Whether it is connected."""
        return self._transport is not None

    # --- requests ---

    def submit(self, waiting: Waiting) -> None:
        """Take a request in. Its origin's ``answer`` is called exactly once, unless ``leave`` comes first."""
        if self._out is None and self._transport is not None and not (self._urgent or self._turns or self._owed):
            self._send_now(waiting)
            return
        origin = waiting.origin
        waiting.since = self._loop.time()
        if waiting.request.changes and self._permit.stops.check(waiting.request, waiting.unit) is None:
            waiting.urgent = True
            if not self.up or self._owed:
                self._make_way(origin)
        origin.queue.append(waiting)
        line = self._urgent if waiting.urgent else self._turns
        if origin.turn is None:
            origin.turn = line
            line.append(origin)
        elif waiting.urgent and origin.turn is self._turns:
            self._turns.remove(origin)
            origin.turn = line
            line.append(origin)
        if self._tick is None:
            self._tick = self._loop.call_later(_TICK_S, self._on_tick)
        if self._out is None:
            self._pump()

    def _send_now(self, waiting: Waiting) -> None:
        """What ``submit`` comes to when nobody is before it: no line to stand in."""
        code = None if waiting.origin is self._own else self._permit.now().check(waiting.request, waiting.unit)
        if code is not None:
            self._refuse(waiting, code)
            return
        self._send(waiting)
        if self._tick is None:
            self._tick = self._loop.call_later(_TICK_S, self._on_tick)

    def leave(self, origin: Origin) -> None:
        """An origin is gone: its requests that were not sent yet never will be."""
        origin.queue.clear()
        if origin.turn is not None:
            origin.turn.remove(origin)
            origin.turn = None
        self.clients.discard(origin)

    async def transact(self, request: Request) -> bytes:
        """One request of ours; returns the checked answer's PDU. Raises UnavailableError without a connection, DeviceError."""
        if not self.up:
            raise UnavailableError(f"{self.device_id} is not connected", "check its cable and address")
        waiting, future = self._own.ask(self.unit, request)
        self.submit(waiting)
        answer = await future
        if len(answer) < 2:  # ours, not the device's: see _fail
            raise DeviceError(f"{self.device_id} did not answer function {request.function_code}", "check the device")
        return answer

    def attested(self, media_type: str, connection: int) -> None:
        """Evidence of a kind was collected on this connection and decided on; the last kind lets clients through."""
        if connection == self.connection:
            self._owed.discard(media_type)
            self._pump()

    # --- sending, one at a time ---

    def _pump(self) -> None:
        while self._out is None and (waiting := self._take()) is not None:
            self._send(waiting)

    def _send(self, waiting: Waiting) -> None:
        self._transaction = self._transaction + 1 & 0xFFFF
        self._out, self._sent_at = waiting, self._loop.time()
        cast(asyncio.Transport, self._transport).write(mbap.encode(self._transaction, waiting.unit, waiting.request.encode()))

    def _take(self) -> Waiting | None:
        """The next request that may be sent now. Those that may not be sent at all are answered on the way."""
        if not self._urgent and not self._turns:
            return None
        rules = self._permit.now()
        if self._transport is None or self._owed:
            return self._take_unattested(rules)
        while line := self._next_line():
            origin = line.popleft()
            waiting = origin.queue.popleft()
            self._stand_again(origin, line)
            if origin is self._own:
                return waiting
            code = rules.check(waiting.request, waiting.unit)
            if code is None:
                return waiting
            self._refuse(waiting, code)
        return None

    def _next_line(self) -> deque[Origin]:
        """Stops first, but never two in a row before all else: who floods with stops starves neither clients nor evidence."""
        line = self._turns if not self._urgent or (self._after_stop and self._turns) else self._urgent
        self._after_stop = line is self._urgent
        return line

    def _stand_again(self, origin: Origin, line: deque[Origin]) -> None:
        if not origin.queue:
            origin.turn = None
        elif line is self._urgent and any(w.urgent for w in origin.queue):
            line.appendleft(origin)
        else:
            origin.turn = self._turns
            self._turns.append(origin)

    def _take_unattested(self, rules: Rules) -> Waiting | None:
        """As ``_take``, on a connection that has not been attested: our own requests and what level 0 allows."""
        first = self._next_line()
        for origin in (*first, *(self._turns if first is self._urgent else self._urgent)):
            while origin.queue:
                head = origin.queue[0]
                code = None if origin is self._own else rules.check(head.request, head.unit)
                sendable = origin is self._own or self._permit.free.check(head.request, head.unit) is None
                if code is None and not (sendable and self.up):
                    break
                origin.queue.popleft()
                line = self._urgent if origin.turn is self._urgent else self._turns
                line.remove(origin)
                self._stand_again(origin, line)
                if code is None:
                    return head
                self._refuse(head, code)
        return None

    def _refuse(self, waiting: Waiting, code: int) -> None:
        if (told := self._permit.refusal(waiting.request, waiting.unit, code)) is not None:
            self._note(self.device_id, *told)
        self._fail(waiting, code)

    def _fail(self, waiting: Waiting, code: int) -> None:
        if waiting.origin is self._own:
            waiting.origin.answer(waiting, b"")
        else:
            waiting.origin.answer(waiting, bytes((waiting.request.function_code | 0x80, code)))

    def _make_way(self, origin: Origin) -> None:
        """What waits before a stop on its own connection, and could not be sent now, would hold it up."""
        held_up = [w for w in origin.queue if not w.urgent]
        for waiting in held_up:
            origin.queue.remove(waiting)
            self._fail(waiting, BUSY)

    def _give_up(self, origin: Origin, code: int) -> None:
        while origin.queue:
            self._fail(origin.queue.popleft(), code)
        if origin.turn is not None:
            origin.turn.remove(origin)
            origin.turn = None

    def _on_tick(self) -> None:
        """Limits are looked at ten times a second while there is anything to look at, not by a timer a request."""
        self._tick, now = None, self._loop.time()
        if self._out is not None and now - self._sent_at > self._limits.request_s:
            self._poison(f"no answer in {self._limits.request_s:g} s")
        code = BUSY if self.up else NO_RESPONSE
        for origin in (*self._urgent, *self._turns):
            while origin.queue and now - origin.queue[0].since > self._patience(origin.queue[0]):
                self._fail(origin.queue.popleft(), code)
            if not origin.queue and origin.turn is not None:
                origin.turn.remove(origin)
                origin.turn = None
        if self._out is not None or self._urgent or self._turns:
            self._tick = self._loop.call_later(_TICK_S, self._on_tick)

    def _patience(self, waiting: Waiting) -> float:
        return self._limits.stop_s if waiting.urgent else self._limits.wait_s

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connection += 1
        self._transport, self._framer = cast(asyncio.Transport, transport), mbap.Framer()
        self._lost.clear()
        self._why_lost = "the device closed the connection"
        self._owed = {t.media_type for t in self.assignment.profile.targets if t.objects or t.registers or t.mailbox}
        self._pump()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._framer.feed(bytes(self._room[:nbytes]))
        waiting = self._out
        try:
            frame = self._framer.next()
            if frame is None and waiting is not None:
                return
            if frame is None or waiting is None or self._framer.waiting:
                raise ResponseError("bytes that nobody asked for")  # noqa: TRY301 - one place closes
            if frame.transaction != self._transaction or frame.unit != waiting.unit:
                raise ResponseError("an answer with another transaction or unit id")  # noqa: TRY301
            check_response(waiting.request, frame.pdu)
        except (MalformedError, ResponseError) as e:
            self._note(self.device_id, "device-out-of-step", f"the device answered out of step: {e.what}")
            self._poison(e.what)
            return
        self._out = None
        waiting.origin.answer(waiting, frame.pdu)
        if self._urgent or self._turns:
            self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is not None:
            self._why_lost = f"the connection broke: {exc}"
        if self._out is not None:
            waiting, self._out = self._out, None
            self._fail(waiting, NO_RESPONSE)
        self._give_up(self._own, NO_RESPONSE)
        self._lost.set()

    def _poison(self, why: str) -> None:
        """A connection out of step is never used again."""
        transport, self._transport = self._transport, None
        if self._out is not None:
            waiting, self._out = self._out, None
            self._fail(waiting, NO_RESPONSE)
        if transport is not None:
            transport.abort()
            self._why_lost = why

    async def run(self) -> None:
        """Keep connected, and tell the engine of every change; ends only when cancelled."""
        retry_s, told = _FIRST_RETRY_S, True
        try:
            while True:
                why = await self._connect()
                if not why:
                    self._context.log.info("%s: connected", self.device_id)
                    await self._context.emit(LinkChanged(self.device_id, up=True, detail="Modbus connected", anew=True))
                    await self._lost.wait()
                    retry_s, told, why = _FIRST_RETRY_S, True, self._why_lost
                if told:
                    self._context.log.warning("%s: no connection: %s", self.device_id, why)
                    await self._context.emit(LinkChanged(self.device_id, up=False, detail=why))
                    told = False
                await asyncio.sleep(random.uniform(retry_s / 2, retry_s))  # noqa: S311 - jitter, not a secret
                retry_s = min(retry_s * 2, _LONGEST_RETRY_S)
        finally:
            self._close()

    async def _connect(self) -> str:
        """Try every endpoint once; returns what went wrong with the last, or nothing."""
        why = "it has no address"
        for host, port in self.endpoints:
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    await self._loop.create_connection(lambda: self, host, port)
            except (OSError, TimeoutError) as e:
                why = f"{host} port {port}: {e.strerror if isinstance(e, OSError) and e.strerror else 'no answer'}"
            else:
                return ""
        return why

    def _close(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._poison("let go")
        for origin in (*self._urgent, *self._turns):
            self._give_up(origin, NO_RESPONSE)
