"""One device: what it says of itself, which of that has been handed in as evidence, and what its lease lets through.

A message passes only after everything it says of its sender was handed in while the device was connected; one that says
something new is held, and the device's link is told anew, so that the engine asks for evidence at once. Refuses to know TCP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from drivers.hl7.message import Message
from drivers.hl7.readings import Budget, Readings
from drivers.hl7.rules import Filter
from drivers.hl7.settings import Settings
from gateway.driver import Assignment, Context
from gateway.model.device import DeviceState
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Function, Hl7Rule, Rule

MAX_CONNECTIONS = 16  # a device (and as many toward it): its routes, and a few that did not close
_RESTART_S = 1.0  # a device that says something else with each message has its link told anew this often at most
Identity = Mapping[str, bytes]


class Connection(Protocol):
    """A connection of the device, as far as this module cares."""

    def resume(self) -> None:
        """What it says may be known now: look again at the message that is held."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...

    def tick(self, now_s: float) -> None:
        """Look at the limits in time."""
        ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a message may pass now, at the device's ``level``; if not, whether it may never (no rule) or not yet, and why."""

    passes: bool
    level: TrustLevel
    never: bool = False
    code: str = ""
    text: str = ""


_PASSES = {level: Judgement(True, level) for level in TrustLevel}


class DeviceLink:
    """See the module. ``changed`` is called when the driver has something to tell of the link."""

    def __init__(
        self, context: Context, assignment: Assignment, settings: Settings, changed: Callable[[], None], ward: Budget
    ) -> None:
        self.assignment, self.connections = assignment, set[Connection]()
        self.toward = set[Connection]()  # of others, toward the device: they say nothing of whether it is there
        self.readings = Readings(context, assignment.device.id, ward)
        self.handshakes = 0  # connections whose TLS is not there yet
        self.attesting = asyncio.Lock()
        self.generation = 0  # 0: never connected; it grows whenever evidence must be given anew
        self.up = False
        self._context, self._settings, self._changed = context, settings, changed
        self._grant = context.grant(assignment.device.id)
        self._loop = asyncio.get_running_loop()
        self._known: Identity | None = None  # handed in as evidence since the link came up
        self.trusted_since: Instant | None = None  # when it was first handed in since then; None: nothing was
        self._last: Identity = {}
        self._last_at: Instant | None = None
        self._shown: dict[str, tuple[bytes, Instant]] = {}
        self._spoke = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._restarted_s = float("-inf")
        self._filters: dict[str, tuple[tuple[Rule, ...], Filter]] = {}

    @property
    def device_id(self) -> str:
        """Whose link this is."""
        return self.assignment.device.id

    @property
    def observed(self) -> bool:
        """Whether nothing may be cut: everything passes untouched, and is looked at."""
        return self.assignment.device.state is DeviceState.OBSERVING

    # --- connections ---

    def join(self, connection: Connection, *, from_device: bool) -> bool:
        """Take a connection in; False when there are too many. Only its own say that the device is there."""
        if not from_device:
            if len(self.toward) < MAX_CONNECTIONS:
                self.toward.add(connection)
            return connection in self.toward
        if len(self.connections) >= MAX_CONNECTIONS:
            return False
        self.connections.add(connection)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if not self.up:
            self.up = True
            self._begin()
        return True

    def leave(self, connection: Connection) -> None:
        """A connection is gone; the last one takes the link with it, some seconds later: many devices connect for each message."""
        self.toward.discard(connection)
        self.connections.discard(connection)
        if not self.connections and self.up and self._linger is None:
            self._linger = self._loop.call_later(self._settings.linger_s, self._down)

    def hang_up(self) -> None:
        """Let every connection go; a device that does not dial again is told as gone in its time."""
        for connection in self.everyone():
            connection.close()

    def close(self) -> None:
        """Let every connection go, for good."""
        self.hang_up()
        self._forget_timers()

    def expect(self) -> None:
        """It was connected a moment ago, under another profile: gone only if it does not dial again in its time."""
        self.up = True
        self._begin()
        self._linger = self._loop.call_later(self._settings.linger_s, self._down)

    def everyone(self) -> list[Connection]:
        """Every connection, of the device and toward it."""
        return [*self.connections, *self.toward]

    def _forget_timers(self) -> None:
        for timer in (self._linger, self._again):
            if timer is not None:
                timer.cancel()
        self._linger = self._again = None

    def _down(self) -> None:
        self._forget_timers()
        self.up, self._known, self.trusted_since = False, None, None
        self._shown.clear()
        self._last, self._last_at = {}, None
        self._changed()

    def _begin(self) -> None:
        """Evidence is needed, of what it says now."""
        self._forget_timers()
        self.generation += 1
        self._known, self.trusted_since, self._restarted_s = None, None, self._loop.time()
        self._changed()

    # --- what it says of itself ---

    def knows(self, said: Identity, now: Instant) -> bool:
        """Whether all of this was handed in as evidence. If not, evidence is asked for anew."""
        if said != self._last:
            self._keep_last()
            self._last = said
        self._last_at = now
        self._spoke.set()
        if self._known is None:
            return False
        if said == self._known or said.items() <= self._known.items():
            return True
        if self._again is None:
            wait_s = self._restarted_s + _RESTART_S - self._loop.time()
            self._again = self._loop.call_later(max(0.0, wait_s), self._begin)
        return False

    def _keep_last(self) -> None:
        if self._last_at is not None:
            self._shown |= {name: (value, self._last_at) for name, value in self._last.items()}

    async def identity(self) -> tuple[dict[str, bytes], Instant]:
        """What it said within ``recent_s``, and when it said the newest of it. Waits for a message if there was none."""
        while True:
            self._spoke.clear()
            self._keep_last()
            now = self._context.clock.now()
            fresh = {n: v for n, (v, at) in self._shown.items() if _age_s(at, now) <= self._settings.recent_s}
            if fresh and self.up and self._last_at is not None:
                return fresh, self._last_at
            await self._spoke.wait()

    def is_known(self, said: Identity) -> bool:
        """Whether exactly this was handed in last."""
        return self._known == said

    def hand_in(self, said: Identity, generation: int) -> None:
        """This was handed in as evidence; messages that say nothing else are let through."""
        if generation == self.generation:
            self._known = said
            self.trusted_since = self.trusted_since or self._context.clock.now()
            for connection in list(self.connections):
                connection.resume()

    # --- what may pass ---

    def level(self, now: Instant) -> TrustLevel:
        """Its level at the lease in force now."""
        return self._grant.current(now).level

    def judge(self, function: Function, message: Message, now: Instant) -> Judgement:
        """Whether a message of this function's route may pass at the lease in force now."""
        lease = self._grant.current(now)
        rules, chosen = self._filters.get(function.name, ((), None))
        if chosen is None or rules is not lease.rules:
            allowed = {_covers(r) for r in lease.rules or function.rules if isinstance(r, Hl7Rule)}
            chosen = Filter([r for r in function.rules if isinstance(r, Hl7Rule) and _covers(r) in allowed])
            self._filters[function.name] = (lease.rules, chosen)
        need = chosen.needs(message)
        if need is not None and lease.level is not TrustLevel.NONE and lease.level >= need:
            return _PASSES[lease.level]
        kind = "^".join(p.decode("ascii", "replace") for p in message.kind)[:20]
        if need is None:
            text = f"a message {kind} that no rule of {function.name} allows was refused"
            return Judgement(False, lease.level, True, "forbidden-message", text)
        text = f"a message {kind} was not relayed at level {int(lease.level)}, {function.name} needs {int(need)}"
        return Judgement(False, lease.level, False, "message-below-level", text)


def _covers(rule: Hl7Rule) -> tuple[str, str, str]:
    return rule.application, rule.facility, rule.message


def _age_s(at: Instant, now: Instant) -> float:
    return now.seconds_since(at) if at.boot_id == now.boot_id else float("inf")
