"""The Protocols by which adapters reach each other, injected by ``app``. Adapters never import one another.

A little over 400 lines: the whole list of seams, and nothing but signatures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.model.certificate import QuotedState, SoftwareKey
from gateway.model.decision import Lease
from gateway.model.effect import Record
from gateway.model.event import OperatorCommand
from gateway.model.inquiry import EventPage, EventQuery, RecordCheck
from gateway.model.instant import Instant
from gateway.model.landscape import Landscape
from gateway.model.metric import Family
from gateway.model.outbox import Letter, OutboxView, Waiting
from gateway.model.premises import Deadline, Identity
from gateway.model.profile import Profile
from gateway.model.sheet import Examination, Found, LevelChange, LevelHistory, Refusal, Sheet
from gateway.model.view import EventView, Outcome, TokenView, User, WardView


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record on disk: its place in the hash chain."""

    sequence: int
    digest: bytes
    record: Record
    at: Instant


class AuditPort(Protocol):
    """The hash-chained audit log."""

    async def append(self, records: Sequence[tuple[Instant, Record]]) -> Sequence[Recorded]:
        """Write and fsync; returns when durable. Raises UnavailableError (disk full, read-only)."""
        ...

    async def tail(self, limit: int = 50, before: int | None = None) -> Sequence[EventView]:
        """The newest ``limit`` lines meant for people, newest first."""
        ...


class AttesterPort(Protocol):
    """The gateway's TPM, for those who need a quote or a signature. Raises UnavailableError while the TPM is gone."""

    async def quote(self, qualifying: bytes) -> QuotedState:
        """One TPM2_Quote by the AK over the configured PCRs; ``qualifying`` is exactly 32 bytes."""
        ...

    async def nv_counter(self, increment: bool = False) -> int:
        """The rollback counter's value, incremented first if asked."""
        ...

    def sign(self, message: bytes) -> bytes:
        """ECDSA P-256/SHA-256 by the per-boot issuing key; raw r || s, 64 bytes."""
        ...

    def software_keys(self) -> Sequence[SoftwareKey]:
        """What leaf 0 names: the issuing key and the TLS key of this boot."""
        ...

    def issuing_spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the issuing key."""
        ...

    def ak_chain(self) -> Sequence[bytes]:
        """DER certificates, AK first, anchor not included; empty before enrolment."""
        ...

    def ak_spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the AK."""
        ...


class EnforcerPort(Protocol):
    """The kernel, by way of wardgate-enforcer."""

    async def grant(self, leases: Sequence[Lease]) -> None:
        """Put leases into the kernel, one batch, one transaction. Raises RefusedError (above the cap) or UnavailableError."""
        ...

    async def drop(self, addresses: Sequence[str]) -> None:
        """Take these addresses' levels away; returns when the kernel has done so."""
        ...

    def drop_now(self, addresses: Sequence[str]) -> None:
        """Send the drop this instant, without waiting for the answer. Raises UnavailableError when it cannot be sent."""
        ...

    async def dump(self) -> dict[str, object]:
        """The kernel's elements and the digest of the static text, as the enforcer sees them."""
        ...

    def watch(self) -> AsyncIterator[dict[str, object]]:
        """Denials, lapses, tampering, as they happen."""
        ...


class OutgoingPort(Protocol):
    """What still has to leave, for those who carry it. Every method raises UnavailableError while the disk refuses."""

    arrived: asyncio.Event
    """Set whenever something new can be taken; who waits clears it."""

    async def stream(self) -> str:
        """Which numbering the ids belong to."""
        ...

    async def lanes(self) -> tuple[Sequence[str], Sequence[tuple[str, int]]]:
        """Devices with waiting readings, and (topic, priority) of waiting messages."""
        ...

    async def take(self, limit: int = 500, after: int = 0, device_id: str | None = None) -> Sequence[Waiting]:
        """A device's oldest readings after an id; they stay until acknowledged."""
        ...

    async def take_letters(self, topic: str, after: int = 0, limit: int = 50) -> Sequence[Letter]:
        """The oldest messages on a topic after an id; they stay until acknowledged."""
        ...

    async def put_letters(self, batch: Sequence[Letter]) -> None:
        """Store messages; returns when durable."""
        ...

    async def acknowledge(self, ids: Sequence[int], letter_ids: Sequence[int] = ()) -> int:
        """Delete what the other side has; returns how many were still there."""
        ...

    async def bury(self, topic: str, body: str, reason: str, *, ids: Sequence[int] = (), letter: Letter | None = None) -> None:
        """Set aside what is refused for good, with the reason."""
        ...


class TokensPort(Protocol):
    """API tokens: machines with a role and an end."""

    async def add(self, actor: User, name: str, role: str, days: int) -> str:
        """A new token, shown once. Raises RefusedError or InputError."""
        ...

    async def all(self) -> Sequence[TokenView]:
        """Every token, by name; never the secret."""
        ...

    async def revoke(self, actor: User, name: str) -> None:
        """End a token now."""
        ...

    async def find(self, secret: str, source: str) -> User:
        """Whose token this is; the name begins with ``TOKEN_ACTOR``. Raises RefusedError, TooOftenError."""
        ...

    async def used(self, who: User, what: str, source: str) -> None:
        """Write down that a token changes something, before it does. Raises UnavailableError."""
        ...


class AccountsPort(Protocol):
    """Named users, their roles, the claim code."""

    @property
    def tokens(self) -> TokensPort:
        """The API tokens."""
        ...

    async def claim(self, code: str, user: str, password: str) -> User:
        """First login with the claim code: creates the first admin. Raises RefusedError (wrong, expired, too many tries)."""
        ...

    async def login(self, user: str, password: str, source: str, doing: str = "logged in") -> User:
        """Check a password (Argon2id, one hash at a time, rate-limited per user and source). Raises RefusedError.

        ``doing`` goes into the record.
        """
        ...

    async def start_session(self, user: User) -> str:
        """A new session token (opaque, 256 bits; only its hash is stored)."""
        ...

    async def session(self, token: str) -> User | None:
        """Who this session is; None when unknown or expired."""
        ...

    async def end_session(self, token: str) -> None:
        """Log out."""
        ...

    async def claimed(self) -> bool:
        """Whether the first admin exists."""
        ...

    async def add_user(self, actor: User, name: str, password: str, role: str) -> User:
        """Create a user (admin only). Raises RefusedError or InputError."""
        ...


class HousePort(Protocol):
    """What people ask of the gateway beside its devices. Methods raise UnavailableError while a part they need is gone."""

    async def find(self, query: EventQuery, limit: int = 100, before: int | None = None) -> EventPage:
        """Lines of the record with a sequence below ``before``, newest first, at most 500."""
        ...

    def each(self, query: EventQuery) -> AsyncIterator[EventView]:
        """All such lines, newest first, up to a bound: for an export."""
        ...

    def record(self) -> RecordCheck:
        """How far the chain of the record was checked since the start."""
        ...

    async def network(self) -> Landscape:
        """Who may talk to whom now, and what was refused lately."""
        ...

    async def identity(self) -> Identity:
        """Who this gateway is, and what its quotes are worth."""
        ...

    async def offline(self) -> Sequence[Deadline]:
        """What ends, and when, if nothing arrives from outside any more."""
        ...

    async def retry(self, actor: User, letter_id: int) -> str:
        """Send a message that was kept aside again; returns a sentence. Raises RefusedError or InputError."""
        ...

    async def discard(self, actor: User, letter_id: int) -> str:
        """Forget a message that was kept aside; returns a sentence. Raises RefusedError or InputError."""
        ...


class HistoryPort(Protocol):
    """What the record says of one device over time. Every method raises UnavailableError while the disk refuses."""

    async def levels(self, device_id: str, since_utc_ns: int, limit: int = 400) -> tuple[Sequence[LevelChange], bool]:
        """(changes oldest first, whether all of them are there)."""
        ...

    async def refused(self, device_id: str, now: Instant, limit: int = 20) -> Sequence[Refusal]:
        """What was refused of a device, newest first."""
        ...


class DossierPort(Protocol):
    """One device in full, and devices that were found. Raises InputError for an unknown device."""

    async def sheet(self, device_id: str) -> Sheet:
        """Everything about a device now."""
        ...

    async def levels(self, device_id: str, hours: int) -> LevelHistory:
        """The levels of the last ``hours``, 1 to 168."""
        ...

    async def verify(self, device_id: str, anchor: bytes = b"") -> Examination:
        """The newest certificate, examined against ``anchor`` (PEM), or against the one kept here."""
        ...

    async def attested(self, device_id: str, since: Instant) -> Outcome:
        """Wait a moment for evidence newer than ``since``, and tell what it was."""
        ...

    def found(self) -> Sequence[Found]:
        """What was seen and not added."""
        ...

    def profiles(self) -> Sequence[Profile]:
        """Every profile that is loaded."""
        ...


class PolicyPort(Protocol):
    """A change of policy: shown, tried for some minutes, confirmed, undone. Raises RefusedError or InputError with a remedy."""

    def waiting(self) -> tuple[str, int] | None:
        """Who applied what waits for a confirmation, and when it goes back by itself (boot time, ms); None: nothing waits."""
        ...

    async def state(self) -> Mapping[str, Any]:
        """The profiles, and what waits for a confirmation."""
        ...

    async def prepare(self, text: str) -> Mapping[str, Any]:
        """What applying a profile (its TOML text) would change."""
        ...

    async def apply(self, who: User, secret: str, text: str, minutes: float, cut_vital: Sequence[str]) -> Mapping[str, Any]:
        """Try a profile; it is undone by itself unless it is confirmed."""
        ...

    async def confirm(self, who: User, secret: str) -> Mapping[str, Any]:
        """Confirm what waits."""
        ...

    async def rollback(self, who: User, secret: str, cut_vital: Sequence[str]) -> Mapping[str, Any]:
        """Undo what waits, or go back to the policy before."""
        ...


class HoldingsPort(Protocol):
    """Endorsements and reference values, flows that were seen, files that prove themselves."""

    async def references(self) -> Mapping[str, Any]:
        """Each device's anchors and values, and the imports that can be taken back."""
        ...

    async def import_references(self, who: User, text: str, device_id: str) -> Mapping[str, Any]:
        """Take a maker's endorsement. Raises InputError or RefusedError."""
        ...

    async def rollback_references(self, who: User, device_id: str) -> Mapping[str, Any]:
        """Take the newest import back. Raises InputError when there is none."""
        ...

    async def learned(self, device_id: str) -> Mapping[str, Any]:
        """A profile's draft of what was seen while a device was observed."""
        ...

    async def assign(self, who: User, device_id: str, token: str) -> Mapping[str, Any]:
        """Label a device's readings with a patient's token from now on; "" ends it."""
        ...

    async def cached(self) -> Mapping[str, Any]:
        """What is cached, and until when it is good."""
        ...

    async def import_cached(self, who: User, data: bytes) -> Mapping[str, Any]:
        """Take a file that proves itself. Raises EvidenceError or InputError."""
        ...


class LifecyclePort(Protocol):
    """What the page and the command line may ask of a gateway's life: files to take away, and how full it is."""

    async def backup(self, passphrase: str) -> bytes:
        """A backup as the daemon can make it. Raises InputError for a passphrase that protects nothing."""
        ...

    async def left_out(self) -> Sequence[str]:
        """What such a backup lacks because only root may read it, in words; empty: nothing."""
        ...

    async def support_file(self) -> bytes:
        """The support file, a gzipped tar."""
        ...

    async def status(self) -> dict[str, object]:
        """How far the record reaches, its bytes and their bound, the newest checkpoint, room on the disk, quality of time."""
        ...


class ConsolePort(Protocol):
    """What the page, the JSON API and the CLI may see and ask of the running gateway."""

    @property
    def house(self) -> HousePort:
        """The record, the network, the gateway itself."""
        ...

    @property
    def dossiers(self) -> DossierPort:
        """One device in full."""
        ...

    policy: PolicyPort
    """Changes of policy."""

    holdings: HoldingsPort
    """What this gateway holds beside its policy."""

    def view(self) -> WardView:
        """The picture now."""
        ...

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` whenever the picture changes (coalesced); returns the function that ends it."""
        ...

    async def command(self, command: OperatorCommand) -> Outcome:
        """Carry out a command. Raises RefusedError or InputError with a remedy."""
        ...

    async def events(self, limit: int = 50, before: int | None = None) -> Sequence[EventView]:
        """The event feed, newest first."""
        ...

    async def outbox(self) -> OutboxView:
        """What still has to leave, what was delivered, lost or refused, and how the way out is."""
        ...

    async def retry_dead_letters(self) -> int:
        """Send what the broker refused again; returns how many messages."""
        ...

    async def metrics(self) -> Sequence[Family]:
        """Figures about the gateway and its ward; nothing about a patient."""
        ...

    async def bundle(self, device_id: str) -> bytes:
        """The newest complete conformity certificate bundle. Raises InputError when there is none."""
        ...

    async def explain(self, device_id: str, function: str | None) -> dict[str, object]:
        """How the level came about: inputs, steps, numbers, policy id."""
        ...
