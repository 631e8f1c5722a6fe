"""Carries events to the engine and its effects to the adapters, in the order that safety needs.

A revocation is applied the moment it is decided. Everything else waits until the record of why is on disk: records are
written in order and in groups, then the grants they explain are applied. Inputs that decided nothing wait for others, a
second at most: what follows from them is never before them on disk. While the disk refuses, no new grant is given, renewals
go on, and no revocation is delayed. Refuses to decide anything.
A little over 400 lines: one order of steps, which two files would hide.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway import codec
from gateway.clock import Clock
from gateway.engine import Engine
from gateway.errors import RefusedError, UnavailableError, WardgateError
from gateway.grants import Grants
from gateway.model.certificate import Verdict
from gateway.model.decision import Lease
from gateway.model.device import Bond, DeviceState
from gateway.model.effect import (
    Adopt,
    Alarm,
    Challenge,
    Effect,
    Grant,
    Issue,
    KeepBond,
    KeepState,
    KeepVeto,
    Record,
    SealEpoch,
    Send,
    Severity,
)
from gateway.model.event import (
    Behaviour,
    ChallengeIssued,
    Configured,
    Event,
    EvidenceArrived,
    LeasesLapsed,
    PartChanged,
    ServiceWindow,
)
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import References
from gateway.ports import AuditPort, EnforcerPort

QUEUE = 1024  # events; a ward of 10,000 devices at one evidence in 10 s leaves a second of room
_WITHHELD = 5_000  # decisions kept while the disk refuses; the oldest are then dropped, and counted
_RETRY_S = 1.0
QUIET_S = 1.0  # inputs that decided nothing share a commit: fifty devices would ask the disk for forty syncs a second
_QUIET_MOST = 500
_AWAKE_S = 1.0  # who decided within this time has not overslept
_LOWER_EVERY_S = 0.2
_LOWER_TRIES = 150  # 30 s: the longest a lease lasts
log = logging.getLogger("wardgate.conductor")


class Keeper(Protocol):
    """What must outlive this process."""

    async def adopt(self, device_id: str, references: References) -> None: ...
    async def keep_veto(self, device_id: str, media_type: str, text: str, raised: bool) -> None: ...
    async def keep_state(self, device_id: str, state: DeviceState, service: ServiceWindow | None) -> None: ...
    async def keep_bond(self, device_id: str, bond: Bond) -> None: ...


class Certifier(Protocol):
    """Who turns verdicts into certificates."""

    async def issue(self, verdict: Verdict) -> None: ...
    async def seal(self, sequence: int, now: Instant) -> None: ...


@dataclass(frozen=True, slots=True)
class _Decided:
    """What one decision left to do, and for each device it grants to, how many revocations there had been by then."""

    at: Instant
    effects: Sequence[Effect]
    generations: Mapping[str, int]

    @property
    def quiet(self) -> bool:
        """Whether nothing but renewals and certificates follows, which need no record: only the input itself is to be kept."""
        return all(isinstance(e, (Issue, SealEpoch)) or (isinstance(e, Grant) and e.renewal) or _is_trace(e) for e in self.effects)

    def rows(self) -> list[tuple[Instant, Record | Alarm]]:
        """What of it is recorded."""
        return [(self.at, e) for e in self.effects if isinstance(e, (Record, Alarm))]


class Conductor:
    """One engine, one bounded queue, two tasks: ``decide`` and ``carry``."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        audit: AuditPort,
        enforcer: EnforcerPort,
        grants: Grants,
        keeper: Keeper,
        certifier: Certifier,
        attest: Callable[[str, str, bytes], Awaitable[None]],
        announce: Callable[[Send, Instant], None] = lambda effect, at: None,
        draw_nonce: Callable[[str], bytes],
        measure: Callable[[Event | None, int], None] = lambda event, took_ns: None,
    ) -> None:
        """``measure(event, took_ns)`` hears how long each decision took."""
        self.engine, self._clock = engine, clock
        self._audit, self._enforcer, self._grants = audit, enforcer, grants
        self._keeper, self._certifier = keeper, certifier
        self._attest, self._draw_nonce, self._announce, self._measure = attest, draw_nonce, announce, measure
        self._queue: asyncio.Queue[Event | asyncio.Future[None]] = asyncio.Queue(QUEUE)
        self._out: deque[_Decided] = deque()
        self._out_ready = asyncio.Event()
        self._generation: dict[str, int] = {}
        self._applied: dict[str, TrustLevel] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[], None]] = []
        self._carrying = False
        self._quiet: list[tuple[Instant, Record | Alarm]] = []  # rows that nothing waits for
        self._quiet_until: float | None = None  # on the loop's clock; None: no such rows
        self._awake: Instant | None = None  # when something was decided last
        self.witness: Callable[[Behaviour], None] = lambda event: None  # who counts what the data path saw
        self.alarms: dict[tuple[str, str], Alarm] = {}
        self.disk_ok = True
        self.lost_records = 0

    # --- events in ---

    async def emit(self, event: Event) -> None:
        """Queue an event; waits while the queue is full."""
        if isinstance(event, Behaviour):
            self.witness(event)
        await self._queue.put(event)

    async def decided(self) -> None:
        """Return when all that was emitted before is decided; what it took away has reached the drivers by then."""
        mark = asyncio.get_running_loop().create_future()
        await self._queue.put(mark)
        await mark

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after every decision; returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def waiting(self) -> tuple[int, int]:
        """Events not decided yet, and decisions not carried out yet."""
        return self._queue.qsize(), len(self._out)

    async def drained(self, patience_s: float = 5.0) -> None:
        """Wait until all that was emitted is decided, and all decisions are recorded and carried out; bounded: UnavailableError."""
        try:
            async with asyncio.timeout(patience_s):
                while not self._queue.empty() or self._out or self._carrying:  # noqa: ASYNC110 - three conditions, bounded above
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise UnavailableError(
                "the record is not being written, so nothing can be changed now", "free space on the disk"
            ) from None

    async def decide(self) -> None:
        """The decision loop. Never waits for a disk."""
        while True:
            event = await self._next()
            if isinstance(event, asyncio.Future):
                if not event.done():  # whoever waited may be gone
                    event.set_result(None)
                continue
            now = self._clock.now()
            if (overslept := self._overslept(now)) is not None:
                self.take(overslept, self.engine.receive(overslept, now), now)
            effects = self.engine.receive(event, now) if event is not None else self.engine.wake(now)
            self._measure(event, self._clock.now().mono_ns - now.mono_ns)
            self.take(event, effects, now)

    def _overslept(self, now: Instant) -> LeasesLapsed | None:
        """What ended since the last decision because nobody was awake to renew it: a stopped process, a blocked loop, a sleep."""
        since, self._awake = self._awake or now, now
        if now.seconds_since(since) < _AWAKE_S:
            return None
        held = [(s, s.lease_until) for s in self.engine.standings.values() if s.lease_until is not None]
        ended = tuple((s.id, u) for s, u in held if now.seconds_since(u) > (_AWAKE_S if s.lease_falls else 0))
        return LeasesLapsed(since, ended) if ended else None

    async def _next(self) -> Event | asyncio.Future[None] | None:
        due = self.engine.next_wake()
        wait_s = None if due is None else (due - self._clock.now().mono_ns) / NS_PER_S
        if wait_s is not None and wait_s <= 0:
            return self._queue.get_nowait() if not self._queue.empty() else None
        try:
            async with asyncio.timeout(wait_s):
                return await self._queue.get()
        except TimeoutError:
            return None

    def take(self, event: Event | None, effects: Sequence[Effect], now: Instant) -> None:
        """Apply revocations now; leave the rest, with the event itself, to ``carry``."""
        revoked = [e for e in effects if isinstance(e, Grant) and e.revocation]
        for grant in revoked:
            self._revoke(grant.lease, now)
        for effect in effects:
            if isinstance(effect, Challenge):
                self._errand(self._ask(effect))
        trail: list[Effect] = []
        if event is not None or any(isinstance(e, (Record, Alarm)) for e in effects):
            trail.append(trace(event))
        rest = [*trail, *(e for e in effects if e not in revoked and not isinstance(e, Challenge))]
        granted = {e.lease.device_id for e in rest if isinstance(e, Grant)}
        self._out.append(_Decided(now, rest, {d: self._generation.get(d, 0) for d in granted}))
        self._out_ready.set()
        for listener in self._listeners:
            listener()

    def _revoke(self, lease: Lease, now: Instant) -> None:
        self._generation[lease.device_id] = self._generation.get(lease.device_id, 0) + 1
        self._grants.of(lease.device_id).put(lease, now)
        self._applied[lease.device_id] = lease.level
        if not lease.addresses:
            return
        if lease.level is TrustLevel.NONE:
            try:
                self._enforcer.drop_now(lease.addresses)
            except WardgateError as e:
                log.error(
                    "revocation of %s did not reach the enforcer: %s; it is tried again, and the lease lapses by itself",
                    lease.device_id,
                    e,
                )
        self._errand(self._lower(lease, self._generation[lease.device_id]))

    async def _lower(self, lease: Lease, generation: int) -> None:
        """See that less reaches the kernel: try until it did, something newer was decided, or the lease has lapsed anyway."""
        for _ in range(_LOWER_TRIES):
            if generation != self._generation[lease.device_id]:
                return
            try:
                if lease.level is TrustLevel.NONE:
                    await self._enforcer.drop(lease.addresses)
                else:
                    await self._enforcer.grant([lease])
            except UnavailableError as e:
                if self.engine.parts.get("enforcer", (True, ""))[0]:
                    await self.emit(PartChanged("enforcer", up=False, detail=str(e)))
                await asyncio.sleep(_LOWER_EVERY_S)
            else:
                return

    # --- effects out ---

    async def carry(self) -> None:
        """Record, then grant, in order; ends only when cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._quiet_until):
                    await self._out_ready.wait()
            self._out_ready.clear()
            self._carrying = True
            try:
                while self._out:
                    await self._carry_group([self._out.popleft() for _ in range(min(len(self._out), 256))])
                if self._quiet_until is not None and (loop.time() >= self._quiet_until or len(self._quiet) >= _QUIET_MOST):
                    await self._flush()
            finally:
                self._carrying = False

    async def _carry_group(self, group: Sequence[_Decided]) -> None:
        rows = [row for d in group for row in d.rows()]
        if all(d.quiet for d in group):
            self._quiet += rows
            if rows and self._quiet_until is None:
                self._quiet_until = asyncio.get_running_loop().time() + QUIET_S
        else:
            await self._flush(rows)
        for decided in group:
            await self._carry_out(decided)

    async def _flush(self, more: Sequence[tuple[Instant, Record | Alarm]] = ()) -> None:
        rows, self._quiet, self._quiet_until = [*self._quiet, *more], [], None
        await self._record(rows)

    async def close(self) -> None:
        """Write what still waits for others, in one try. UnavailableError: inputs of the last second are not on disk."""
        rows, self._quiet, self._quiet_until = self._quiet, [], None
        await self._audit.append([(at, e if isinstance(e, Record) else self._alarm(e)) for at, e in rows])

    async def _record(self, rows: Sequence[tuple[Instant, Record | Alarm]]) -> None:
        records = [(at, e if isinstance(e, Record) else self._alarm(e)) for at, e in rows]
        while records:
            try:
                await self._audit.append(records)
            except UnavailableError as e:
                await self._disk(False, str(e))
                await asyncio.sleep(_RETRY_S)
                while len(self._out) > _WITHHELD:
                    self._out.popleft()
                    self.lost_records += 1
                await self._renew_meanwhile()
                continue
            await self._disk(True, "")
            return

    async def _disk(self, ok: bool, detail: str) -> None:
        if ok is not self.disk_ok:
            self.disk_ok = ok
            log.log(logging.INFO if ok else logging.ERROR, "audit log: %s", detail or "writing again; grants that waited are given")
            self._errand(self.emit(PartChanged("disk", up=ok, detail=detail)))

    async def _renew_meanwhile(self) -> None:
        """While the disk refuses: renewals under an unchanged decision need no record and are still given."""
        waiting = list(self._out)
        self._out.clear()
        self._out.extend(replace(d, effects=[e for e in d.effects if not (isinstance(e, Grant) and e.renewal)]) for d in waiting)
        for d in waiting:
            for e in d.effects:
                if isinstance(e, Grant) and e.renewal and self._applied.get(e.lease.device_id) is e.lease.level:
                    await self._grant(e, d.generations[e.lease.device_id])

    async def _carry_out(self, decided: _Decided) -> None:
        at = decided.at
        for effect in decided.effects:
            match effect:
                case Grant():
                    await self._grant(effect, decided.generations[effect.lease.device_id])
                case Issue():
                    await self._guard(self._certifier.issue(effect.verdict))
                case SealEpoch():
                    self._errand(self._guard(self._certifier.seal(effect.sequence, at)))
                case Adopt():
                    await self._guard(self._keeper.adopt(effect.device_id, effect.references))
                case KeepVeto():
                    await self._guard(self._keeper.keep_veto(effect.device_id, effect.media_type, effect.text, effect.raised))
                case KeepState():
                    await self._guard(self._keeper.keep_state(effect.device_id, effect.state, effect.service))
                case KeepBond():
                    await self._guard(self._keeper.keep_bond(effect.device_id, effect.bond))
                case Send():
                    self._announce(effect, at)
                case Record() | Alarm() | Challenge():
                    pass

    async def _grant(self, grant: Grant, generation: int) -> None:
        """Apply a lease unless something was revoked since it was decided, even while it is on its way to the kernel."""
        lease = grant.lease
        if self._outdated(lease, generation):
            return
        try:
            if lease.addresses:
                await self._enforcer.grant([lease])
        except RefusedError as e:
            log.error("the enforcer refuses %s level %d: %s", lease.device_id, lease.level, e)
            return
        except UnavailableError as e:
            if self.engine.parts.get("enforcer", (True, ""))[0]:
                await self.emit(PartChanged("enforcer", up=False, detail=str(e)))
            return
        if not self._outdated(lease, generation):
            self._applied[lease.device_id] = lease.level
            self._grants.of(lease.device_id).put(lease, self._clock.now())

    def _outdated(self, lease: Lease, generation: int) -> bool:
        ended = lease.until.mono_ns <= self._clock.now().mono_ns
        return ended or generation != self._generation.get(lease.device_id, 0)

    async def _ask(self, challenge: Challenge) -> None:
        nonce = self._draw_nonce(challenge.media_type)
        await self.emit(ChallengeIssued(challenge.device_id, challenge.media_type, nonce))
        await self._attest(challenge.device_id, challenge.media_type, nonce)

    async def _guard(self, errand: Awaitable[None]) -> None:
        try:
            await errand
        except WardgateError as e:
            log.warning("%s", e)

    def _errand(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (e := task.exception()) is not None:
            log.error("an errand failed: %s: %s", type(e).__name__, e)

    def _alarm(self, alarm: Alarm) -> Record:
        key = (alarm.device_id, alarm.code)
        if alarm.raised:
            self.alarms[key] = alarm
        else:
            self.alarms.pop(key, None)
        text = alarm.text if alarm.raised else f"over: {alarm.text}"
        severity = alarm.severity if alarm.raised else Severity.INFORMATION
        return Record(
            "alarm", alarm.device_id, text, (("code", alarm.code), ("severity", severity.value), ("raised", alarm.raised))
        )


def _is_trace(effect: Effect) -> bool:
    return isinstance(effect, Record) and effect.kind in ("event", "wake")


def trace(event: Event | None) -> Record:
    """The input itself, so that the log can be replayed: an event, or a wake that decided something."""
    device_id = getattr(event, "device_id", "") or (event.evidence.device_id if isinstance(event, EvidenceArrived) else "")
    kind = "wake" if event is None else "event"
    name = "wake" if event is None else type(event).__name__
    if isinstance(event, Configured):
        device_id = ""
    return Record(kind, device_id, name, (("event", None if event is None else codec.to_plain(event)),))
