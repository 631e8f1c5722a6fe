"""The daemon's side of the enforcer's socket: ``EnforcerPort`` over asyncio.

Grants and drops share one connection, so that a drop can never be overtaken by an older grant, and a drop leaves the
process in the very call that asks for it. A grant that is still waiting its turn loses the devices that were dropped
meanwhile. After doubt (a timeout, an answer out of step) the connection is closed, not reused. What was under way on one that
the enforcer closed (it was started again, it refused the request before) is asked once more on a new one. It decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.enforcer.wire import ANSWER_MAX, Framer, ViolationError, frame, parse_json
from gateway.errors import RefusedError, UnavailableError
from gateway.model.decision import Lease

_log = logging.getLogger(__name__)
_ANSWER_S = 5.0  # the kernel answers in a millisecond; another commit may hold its lock for half a second
_DUMP_S = 35.0
_CONNECT_S = 1.0
_BATCH = 100  # leases a frame: a drop waits behind at most one such frame, half a millisecond
_DROP_BATCH = 1000

Answer = dict[str, Any]


def _boottime_ns() -> int:
    """Leases end on boot time, as the engine's instants do."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class EnforcerClient:
    """Implements ``gateway.ports.EnforcerPort``. ``open`` connects beforehand, so that the first drop pays nothing."""

    def __init__(self, path: Path, boottime_ns: Callable[[], int] = _boottime_ns) -> None:
        self._path, self._boottime_ns = path, boottime_ns
        self._link: _Link | None = None
        self._opening = asyncio.Lock()
        self._granting = asyncio.Lock()
        self._drops = 0
        self._dropped: dict[str, int] = {}  # address -> the number of the drop that took it; only while grants wait
        self._waiting = 0

    async def open(self) -> None:
        """Connect. Raises UnavailableError."""
        await self._connected()

    async def close(self) -> None:
        """Close the connection; leases stay in the kernel until they lapse."""
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def grant(self, leases: Sequence[Lease]) -> None:
        """Put leases into the kernel, in transactions of 100 leases. A lease at level 0 or past its end is a drop.

        Raises RefusedError (above the cap, unknown address, over 30 s) or UnavailableError; the leases of that
        transaction are then not applied, those of earlier ones are.
        """
        ending = [a for lease in leases if not self._grants(lease) for a in lease.addresses]
        if ending:
            await self.drop(ending)
        before = self._drops
        self._waiting += 1
        try:
            async with self._granting:
                wanted = [lease for lease in leases if self._grants(lease)]
                for at in range(0, len(wanted), _BATCH):
                    await self._grant(wanted[at : at + _BATCH], before)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._dropped.clear()

    async def _grant(self, batch: Sequence[Lease], before: int) -> None:
        """One transaction, of what was not dropped since ``before``."""
        for again in (True, False):
            link = await self._connected()
            now = [b for b in batch if self._grants(b) and not any(self._dropped.get(a, 0) > before for a in b.addresses)]
            if not now:
                return
            try:
                await link.answer(link.ask({"do": "grant", "leases": [self._shown(lease) for lease in now]}), _ANSWER_S)
            except _LostError:
                if not again:
                    raise
            else:
                return

    def drop_now(self, addresses: Sequence[str]) -> None:
        """Send the drop in this call, without a turn of the loop or a wait. Raises UnavailableError without a connection."""
        self._send_drop(addresses)

    async def drop(self, addresses: Sequence[str]) -> None:
        """Take these addresses' levels away now; returns when the kernel has done it. Raises UnavailableError."""
        if not addresses:
            return
        for again in (True, False):
            try:
                link, answers = self._send_drop(addresses)
            except UnavailableError:
                await self._connected()
                link, answers = self._send_drop(addresses)
            try:
                for answer in answers:
                    await link.answer(answer, _ANSWER_S)
            except _LostError:
                if not again:
                    raise
            else:
                return

    def _send_drop(self, addresses: Sequence[str]) -> tuple[_Link, Sequence[asyncio.Future[Answer]]]:
        wanted = list(dict.fromkeys(addresses))
        self._drops += 1
        if self._waiting:
            self._dropped.update(dict.fromkeys(wanted, self._drops))
        if self._link is None or self._link.closed:
            raise UnavailableError("the enforcer is not connected", "its leases lapse by themselves; look at wardgate-enforcer")
        batches = [wanted[i : i + _DROP_BATCH] for i in range(0, len(wanted), _DROP_BATCH)]
        return self._link, [self._link.ask({"do": "drop", "addresses": batch}) for batch in batches]

    async def dump(self) -> dict[str, object]:
        """What the kernel holds and how it differs from the confirmed policy (a second of work at 10,000 devices)."""
        link = await _Link.connect(self._path)
        try:
            return dict(await link.answer(link.ask({"do": "dump"}), _DUMP_S))
        finally:
            await link.close()

    async def watch(self) -> AsyncIterator[dict[str, object]]:
        """Events as they happen; the first is ``watching`` with what rings now. Raises UnavailableError when the enforcer goes.

        Also keeps the connection for grants and drops open, so that the next drop pays for no connecting.
        """
        link = await _Link.connect(self._path)
        try:
            first = await link.answer(link.ask({"do": "watch"}), _ANSWER_S)
            await self._connected()
            yield {"event": "watching", "ringing": first.get("ringing", {}), "lapses": first.get("lapses")}
            while True:
                yield await link.event()
        finally:
            await link.close()

    async def _connected(self) -> _Link:
        async with self._opening:
            if self._link is None or self._link.closed:
                self._link = await _Link.connect(self._path)
            return self._link

    def _ms(self, lease: Lease) -> int:
        """Milliseconds left, rounded down: the kernel's lease never outlives the engine's."""
        return (lease.until.mono_ns - self._boottime_ns()) // 1_000_000

    def _grants(self, lease: Lease) -> bool:
        return lease.level > 0 and bool(lease.addresses) and self._ms(lease) > 0

    def _shown(self, lease: Lease) -> Answer:
        return {"addresses": list(lease.addresses), "level": int(lease.level), "ms": max(1, self._ms(lease))}


class _LostError(UnavailableError):
    """The enforcer closed the connection before it answered."""


class _Link:
    """One connection: answers come in the order of the requests, events in between after ``watch``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._pending: deque[asyncio.Future[Answer]] = deque()
        self._events: asyncio.Queue[Answer | None] = asyncio.Queue(maxsize=4096)
        self._task = asyncio.create_task(self._read(), name="enforcer-link")

    @classmethod
    async def connect(cls, path: Path) -> _Link:
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
        except (OSError, TimeoutError) as e:
            raise UnavailableError(f"the enforcer does not answer at {path}", "systemctl status wardgate-enforcer") from e
        return cls(reader, writer)

    @property
    def closed(self) -> bool:
        return self._task.done() or self._writer.is_closing()

    def ask(self, request: Answer) -> asyncio.Future[Answer]:
        """Send at once (the transport writes to the socket in this call) and return the answer's future."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending.append(future)
        self._writer.write(frame(request))
        return future

    async def answer(self, future: asyncio.Future[Answer], timeout_s: float) -> Answer:
        """Wait for an answer. Raises RefusedError when it says no, UnavailableError when it does not come in time."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await asyncio.shield(future)
        except TimeoutError as e:
            await self.close()
            raise UnavailableError("the enforcer does not answer in time", "systemctl status wardgate-enforcer") from e
        if answer.get("ok") is True:
            return answer
        what, remedy = str(answer.get("error", "the enforcer refused")), str(answer.get("remedy", "see its log"))
        raise RefusedError(what, remedy)

    async def event(self) -> Answer:
        """The next event. Raises UnavailableError when the connection is gone."""
        event = await self._events.get()
        if event is None:
            raise UnavailableError("the enforcer has closed the connection", "systemctl status wardgate-enforcer")
        return event

    async def close(self) -> None:
        self._writer.close()
        self._task.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await self._task
        self._lost()

    async def _read(self) -> None:
        framer = Framer(ANSWER_MAX)
        try:
            while data := await self._reader.read(1 << 16):
                for body in framer.feed(data):
                    self._take(parse_json(body))
        except (OSError, ViolationError) as e:
            _log.warning("the enforcer's connection broke: %s", e)
        finally:
            self._writer.close()
            self._lost()

    def _take(self, value: Answer) -> None:
        if "event" in value:
            if self._events.full():
                self._events.get_nowait()  # the oldest goes: a reader this slow needs the newest
            self._events.put_nowait(value)
        elif self._pending:
            future = self._pending.popleft()
            if not future.done():
                future.set_result(value)
        else:
            raise ViolationError("an answer that nobody asked for")

    def _lost(self) -> None:
        while self._pending:
            future = self._pending.popleft()
            if not future.done():
                future.set_exception(_LostError("the enforcer has closed the connection", "systemctl status wardgate-enforcer"))
                future.exception()  # an answer that nobody awaits is no fault
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(None)
