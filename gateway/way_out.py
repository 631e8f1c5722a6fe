"""The way out: readings labelled and stored, alarms and decisions announced, all of it carried to the broker when there is one.

Composes the outbox and the uplink. Refuses to know where readings come from and what a level means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from gateway.clock import Clock
from gateway.config import Config
from gateway.model.certificate import CertificateId
from gateway.model.effect import Send
from gateway.model.event import PartChanged
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.model.outbox import CopyView, OutboxView
from gateway.store.journal import Journal
from gateway.store.outbox import Outbox
from gateway.supervisor import Supervisor
from gateway.uplink.announcer import Announcer
from gateway.uplink.sender import Sender


class WayOut:
    """``gateway.driver.OutboxPort`` for drivers; ``announce`` for the conductor; ``look`` and ``retry`` for people."""

    def __init__(
        self,
        config: Config,
        outbox: Outbox,
        journal: Journal,
        clock: Clock,
        *,
        certificate: Callable[[str, Instant], CertificateId | None],
        told: Callable[[PartChanged], None],
        vouch: Callable[[bytes], None],
        subject: Callable[[str, Instant], str] = lambda _, at: "",
    ) -> None:
        """``certificate(device_id, at)``: which one was in force; ``vouch`` gets the SPKI of the client's key."""
        self._outbox, self._journal, self._clock, self._certificate = outbox, journal, clock, certificate
        self._announcer = Announcer(outbox)
        self._sender: Sender | None = None
        if config.uplink.host:
            self._sender = Sender(config.uplink, config.gateway.id, outbox, clock, told=told, vouch=vouch, subject=subject)
        self.copied: Callable[[], Awaitable[CopyView]] | None = None  # how far the record's copy has come
        self.watch: Callable[[Sequence[Observation]], None] = lambda batch: None

    async def put(self, batch: Sequence[Observation]) -> None:
        """Label a batch with its certificates, show it, store it; returns when it is durable."""
        labelled = [self._label(o) for o in batch]
        self.watch(labelled)
        await self._outbox.put(labelled)

    def _label(self, o: Observation) -> Observation:
        """Data that is not trusted has no certificate, even while an older one has not expired."""
        if o.level is None or o.level is TrustLevel.NONE:
            return o
        found = self._certificate(o.device_id, o.taken_at)
        return replace(o, certificate=found) if found else o

    def announce(self, effect: Send, at: Instant) -> None:
        """Put an alarm or a decision on its way; returns at once."""
        self._announcer.send(effect, at)

    def start(self, supervisor: Supervisor) -> None:
        """Run what carries."""
        supervisor.keep("announce", self._announcer.run)
        if self._sender is not None:
            supervisor.keep("uplink", self._sender.run)

    def cable(self, trouble: str) -> None:
        """The hospital's cable is out, or (empty) in again."""
        if self._sender is not None:
            self._sender.cable(trouble)

    async def look(self) -> OutboxView:
        """All of it for people."""
        up, state = False, "no broker is configured ([uplink] in wardgate.toml); everything waits"
        if self._sender is not None:
            up, state = self._sender.state
        seen = await self._outbox.look(up=up, state=state)
        routes, aside = await self._journal.look(self._clock.now())
        copied = await self.copied() if self.copied else None
        return replace(seen, routes=routes, kept_aside=aside, syslog=copied)

    async def waiting(self) -> int:
        """Readings that have not left."""
        return await self._outbox.pending()

    async def retry(self, only: int | None = None) -> int:
        """Send dead letters (or the one with this id) again; returns how many."""
        return await self._outbox.revive(only)

    async def discard(self, letter_id: int) -> int:
        """Forget a dead letter; returns whether there was one (0 or 1)."""
        return await self._outbox.discard(letter_id)

    async def kept_aside(self, message_id: int) -> str:
        """The route of a message that is kept aside. Raises InputError."""
        return await self._journal.route_of(message_id)

    async def settle(self, message_id: int, discard: str) -> str:
        """A message that is kept aside is sent again or, with a reason, let go; returns its route. Raises InputError."""
        return await (self._journal.discard(message_id, discard) if discard else self._journal.retry(message_id))

    async def close(self) -> None:
        """Store what is still in hand and take no more."""
        try:
            await self._announcer.close()
        finally:
            await self._outbox.close()
