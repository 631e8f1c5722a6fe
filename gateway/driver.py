"""What a driver must provide, and all that it is given. A driver reports; it never judges trust and never decides.

A driver imports ``gateway.driver``, ``gateway.model`` and ``gateway.errors`` only. Everything it does on behalf of the
product goes through its ``Context``.
"""

from __future__ import annotations

import logging
import ssl
from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.clock import Clock
from gateway.model.decision import Lease
from gateway.model.device import Device
from gateway.model.epoch import Epoch
from gateway.model.event import Event
from gateway.model.instant import Instant
from gateway.model.observation import Observation
from gateway.model.profile import Profile, Target

__all__ = ["Assignment", "Clock", "Context", "Driver", "Epoch", "Epochs", "GrantView", "JournalPort", "Kept", "OutboxPort"]


class GrantView(Protocol):
    """A device's current lease, watchable. A lapsed lease reads as level 0: silence from the engine means less access."""

    def current(self, now: Instant) -> Lease:
        """The lease in force at ``now``; after its end the same lease at level 0."""
        ...

    async def changed(self) -> Lease:
        """Wait for the next lease (a renewal that changes nothing does not count; a lapse does) and return it."""
        ...


class OutboxPort(Protocol):
    """Where readings go."""

    async def put(self, batch: Sequence[Observation]) -> None:
        """Store a batch; returns when it is durable. Raises UnavailableError on a full disk (keep or count the batch)."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A message that waits in the journal. A later id came later."""

    id: int
    body: bytes
    received: Instant


class JournalPort(Protocol):
    """Messages that a driver promises to deliver: on disk before it promises, in order, the same message once.

    A route's name begins with its device's id and a slash. Each route has room of its own: one receiver that is gone takes
    none from another.
    """

    def keep(self, route: str, key: bytes, body: bytes, answer: bytes, received: Instant) -> Future[bytes]:
        """Store a message; done when it is durable, with the answer to give: ``answer`` itself, or what was given to the same
        message before. ``key``: 16 bytes, 8 for the name that its sender gave it and 8 for its content.

        Raises RefusedError when its name is that of another message that waits or came a short time ago (a receiver would take it
        for that one again), UnavailableError (disk full, too much waits): nothing was promised."""
        ...

    async def take(self, route: str, after: int, limit: int) -> Sequence[Kept]:
        """The oldest messages of a route that wait, after id ``after``. Raises UnavailableError."""
        ...

    def settle(self, message_id: int, refused: str = "") -> None:
        """It was delivered; or, with a reason, it is kept aside for a person. Written soon: a power cut delivers it twice."""
        ...


class Epochs(Protocol):
    """The epoch ids: a reverse hash chain of this boot, so whoever holds one id recognises every later one."""

    def current(self, now: Instant) -> Epoch:
        """The epoch at ``now``."""
        ...


class Context(Protocol):
    """What a driver is given. ``gateway_id``: what this gateway calls itself toward devices that keep a key for each gateway."""

    clock: Clock
    log: logging.Logger
    outbox: OutboxPort
    journal: JournalPort
    gateway_id: str
    epochs: Epochs

    async def emit(self, event: Event) -> None:
        """Hand an event to the engine. Waits while the queue is full; evidence, alarms and commands are never dropped."""
        ...

    async def decided(self) -> None:
        """Return when all that was emitted before is decided, and ``grant`` shows what was taken away because of it."""
        ...

    def grant(self, device_id: str) -> GrantView:
        """The device's lease."""
        ...

    def tls(self, purpose: str) -> ssl.SSLContext:
        """The TLS context that the configuration calls ``purpose``, keys included, read anew. Raises InputError."""
        ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """A device that this driver serves, with its profile; ``passkey`` is a secret of its bus.

    ``screen`` (unsolicited evidence: a beacon with its epoch id) raises EvidenceError unless the device made it. It keeps a flood
    of forgeries out of the record; what passes is appraised all the same. None: nothing unsolicited counts.
    """

    device: Device
    profile: Profile
    passkey: int | None = None
    screen: Callable[[bytes], None] | None = None

    def target(self, media_type: str) -> Target:
        """The profile's target for ``media_type``; raises KeyError."""
        for t in self.profile.targets:
            if t.media_type == media_type:
                return t
        raise KeyError(media_type)


class Driver(Protocol):
    """A bus driver. ``run`` owns all its tasks and ends only when cancelled or when the bus is beyond hope (raises)."""

    def __init__(self, context: Context, settings: dict[str, object]) -> None: ...

    async def run(self) -> None:
        """Serve until cancelled. Raises UnavailableError when the bus is gone: the supervisor starts it again with backoff."""
        ...

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """The devices to serve from now on; devices no longer named are let go."""
        ...

    async def attest(self, device_id: str, media_type: str, nonce: bytes) -> None:
        """Collect evidence for ``nonce`` over the device's own channel; emit EvidenceArrived or EvidenceFailed. Bounded in time."""
        ...
