"""A driver's Context with behaviour: events in a list that can be waited for, grants that lapse, an outbox that can be full.

Leases lapse by themselves as in the product, so a test that forgets to renew sees level 0. Knows no engine.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from gateway.driver import Epochs, Kept
from gateway.epochs import EpochChain
from gateway.errors import RefusedError, UnavailableError
from gateway.model.decision import Lease
from gateway.model.event import Event
from gateway.model.instant import Instant, TimeQuality
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.model.profile import Rule

E = TypeVar("E")


class FakeClock:
    """Real monotonic time plus whatever ``advance`` added. Boot id is fixed."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def now(self) -> Instant:
        """The present."""
        return Instant("boot-test", time.monotonic_ns() + self._ahead_ns, time.time_ns() + self._ahead_ns, TimeQuality.RTC)

    def advance(self, seconds: float) -> None:
        """Jump ahead (waiters notice at their next look)."""
        self._ahead_ns += round(seconds * 1e9)


class FakeGrant:
    """One device's lease. ``set`` grants; without another ``set`` it lapses after ``seconds``."""

    POLL_S = 0.02  # how soon a waiter notices a lapse

    def __init__(self, device_id: str, clock: FakeClock) -> None:
        self._clock = clock
        self._lease = Lease(device_id, (), TrustLevel.NONE, clock.now())

    def set(self, level: TrustLevel, rules: Sequence[Rule] = (), seconds: float = 30.0, addresses: Sequence[str] = ()) -> None:
        """Grant ``level`` for ``seconds`` from now."""
        self._lease = Lease(self._lease.device_id, tuple(addresses), level, self._clock.now().plus(seconds), tuple(rules))

    def revoke(self) -> None:
        """Level 0 at once."""
        self._lease = replace(self._lease, level=TrustLevel.NONE)

    def current(self, now: Instant) -> Lease:
        """The lease in force; after its end the same lease at level 0."""
        if now.mono_ns >= self._lease.until.mono_ns:
            return replace(self._lease, level=TrustLevel.NONE)
        return self._lease

    async def changed(self) -> Lease:
        """Wait until level or rules differ from what they are at the call."""
        before = self.current(self._clock.now())
        while True:
            await asyncio.sleep(self.POLL_S)
            now = self.current(self._clock.now())
            if (now.level, now.rules, now.addresses) != (before.level, before.rules, before.addresses):
                return now


class FakeOutbox:
    """Observations in the order they came. ``full`` makes every ``put`` fail as a full disk does."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.batches = 0
        self.full = False

    async def put(self, batch: Sequence[Observation]) -> None:
        """Keep a batch."""
        if self.full:
            raise UnavailableError("the disk is full", "make room")
        self.batches += 1
        self.observations.extend(batch)


class FakeJournal:
    """Messages kept in memory, in order, the same key of a route once, one name (its first half) for one content.

    ``full`` refuses promises as a full disk does.

    ``held`` keeps a promise from being fulfilled until a test lets it: what is not durable must not be acknowledged.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.full = self.held = False
        self.waiting: list[Callable[[], None]] = []

    def keep(self, route: str, key: bytes, body: bytes, answer: bytes, received: Instant) -> asyncio.Future[bytes]:
        """Store a message."""
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def write() -> None:
            if done.cancelled():
                return
            if self.full:
                done.set_exception(UnavailableError("the disk is full", "make room"))
                return
            known = next((r for r in self.rows if (r["route"], r["key"][:8]) == (route, key[:8])), None)
            if known is not None and known["key"] != key:
                done.set_exception(RefusedError("its control id is another message's", "give each one its own"))
                return
            if known is None:
                known = {"id": len(self.rows) + 1, "route": route, "key": key, "body": body, "answer": answer, "at": received}
                self.rows.append(known | {"state": "waiting"})
            done.set_result(known["answer"])

        if self.held:
            self.waiting.append(write)
        else:
            asyncio.get_running_loop().call_soon(write)
        return done

    def release(self) -> None:
        """Fulfil what was held."""
        self.held = False
        for write in self.waiting:
            write()
        self.waiting.clear()

    async def take(self, route: str, after: int, limit: int) -> Sequence[Kept]:
        """The oldest that wait."""
        found = [r for r in self.rows if r["route"] == route and r["state"] == "waiting" and r["id"] > after]
        return [Kept(r["id"], r["body"], r["at"]) for r in found[:limit]]

    def settle(self, message_id: int, refused: str = "") -> None:
        """Delivered, or kept aside."""
        self.rows[message_id - 1]["state"] = refused or "delivered"


class FakeContext:
    """What a driver is given in a test: ``events`` in order, ``grants`` by device, ``outbox``, ``clock``."""

    def __init__(self, name: str = "driver") -> None:
        self.clock = FakeClock()
        self.log = logging.getLogger(f"test.{name}")
        self.outbox = FakeOutbox()
        self.journal = FakeJournal()
        self.gateway_id = "gw-test"
        self.epochs: Epochs = EpochChain(2.0, secrets.token_bytes, 64)
        self.events: list[Event] = []
        self.grants: dict[str, FakeGrant] = {}
        self.tls_contexts: dict[str, ssl.SSLContext] = {}
        self._arrived = asyncio.Event()
        self.engine_decides = asyncio.Event()
        self.engine_decides.set()

    async def decided(self) -> None:
        """At once, unless a test holds the engine up (``engine_decides.clear()``)."""
        await self.engine_decides.wait()

    async def emit(self, event: Event) -> None:
        """Keep an event and wake waiters."""
        self.events.append(event)
        self._arrived.set()

    def grant(self, device_id: str) -> FakeGrant:
        """The device's grant; level 0 until a test sets it."""
        return self.grants.setdefault(device_id, FakeGrant(device_id, self.clock))

    def tls(self, purpose: str) -> ssl.SSLContext:
        """The context a test put under ``purpose``."""
        return self.tls_contexts[purpose]

    def of(self, kind: type[E], since: int = 0) -> list[E]:
        """All events of a kind from index ``since`` on."""
        return [e for e in self.events[since:] if isinstance(e, kind)]

    async def wait(
        self, kind: type[E], matching: Callable[[E], bool] = lambda _: True, since: int = 0, timeout_s: float = 10.0
    ) -> E:
        """The first event of a kind (from index ``since``) that matches; fails the test with what did come."""
        deadline = time.monotonic() + timeout_s
        while True:
            for event in self.of(kind, since):
                if matching(event):
                    return event
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {kind.__name__} in {timeout_s} s; events: {self.events[since:]}")
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                continue


async def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Wait until ``condition()`` holds; fails the test naming ``what`` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)
