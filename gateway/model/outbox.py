"""What still has to leave: waiting readings, waiting messages, what is refused, and the counts of it all.

Refuses to know where it is stored and how it travels.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.instant import Instant
from gateway.model.observation import Observation


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stored reading and the id that acknowledges it."""

    id: int
    observation: Observation


@dataclass(frozen=True, slots=True)
class Letter:
    """A stored message: ``topic`` below the gateway's own, ``body`` JSON text. Priority 0 leaves first.

    ``readings``: how many readings of ``device_id`` are in it (a dead letter that is sent again), else 0.
    """

    id: int
    priority: int
    topic: str
    body: str
    at: Instant
    device_id: str = ""
    readings: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What was refused too often, kept for a person: the message as it was sent, and the broker's reason."""

    id: int
    topic: str
    reason: str
    at: Instant
    body: str
    device_id: str = ""
    readings: int = 0


@dataclass(frozen=True, slots=True)
class DeviceCounts:
    """What went through the outbox for one device since the file was made; accepted = waiting + acknowledged + dropped + dead.

    ``dropped`` were lost to a bound. ``dead`` were refused by the broker and are kept.
    """

    device_id: str
    waiting: int
    bytes: int
    accepted: int
    acknowledged: int
    dropped: int
    dead: int = 0


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """The same for messages of one priority."""

    priority: int
    waiting: int
    bytes: int
    accepted: int
    acknowledged: int
    dropped: int


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """One route of promised messages. What waits takes ``bytes`` of its ``room``; when that is full its sender is refused.

    ``aside``: kept for a person after a receiver refused them, or too old. ``forgotten``: of those, no longer kept, for want of
    room (since the file was made). ``refused``: promises that were not given for want of room, since the start.
    """

    route: str
    device_id: str
    waiting: int
    bytes: int
    room: int
    oldest_s: float | None
    aside: int
    forgotten: int
    refused: int


@dataclass(frozen=True, slots=True)
class AsideMessage:
    """A promised message that is kept aside, without its content: which route, why, when it came, its size in bytes."""

    id: int
    route: str
    device_id: str
    reason: str
    received: Instant
    bytes: int


@dataclass(frozen=True, slots=True)
class CopyView:
    """The copy of the record at a syslog server: ``state`` is one sentence about the way there.

    ``lines`` wait, or were sent and nothing has confirmed them yet; more than 100,000 are not counted. ``oldest_s`` is the age of
    the oldest of them (None: there is none).
    """

    state: str
    up: bool
    lines: int
    oldest_s: float | None


@dataclass(frozen=True, slots=True)
class OutboxView:
    """What people see: ``state`` is one sentence about the way out; ``oldest_s`` the age of the oldest that waits (None: nothing).

    ``accepted`` and ``delivered`` count readings; ``dropped`` counts readings and messages lost to a bound; ``dead`` readings.
    ``syslog`` None: no server is configured.
    """

    state: str
    up: bool
    readings: int
    messages: int
    bytes: int
    oldest_s: float | None
    accepted: int
    delivered: int
    dropped: int
    dead: int
    devices: tuple[DeviceCounts, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    routes: tuple[RouteCounts, ...] = ()
    kept_aside: tuple[AsideMessage, ...] = ()
    syslog: CopyView | None = None
