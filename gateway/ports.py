"""The Protocols by which adapters reach each other, injected by ``app``. Adapters never import one another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.model.certificate import QuotedState, SoftwareKey
from gateway.model.decision import Lease
from gateway.model.effect import Record
from gateway.model.event import OperatorCommand
from gateway.model.instant import Instant
from gateway.model.outbox import Letter, OutboxView, Waiting
from gateway.model.view import EventView, Outcome, User, WardView


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


class AccountsPort(Protocol):
    """Named users, their roles, the claim code."""

    async def claim(self, code: str, user: str, password: str) -> User:
        """First login with the claim code: creates the first admin. Raises RefusedError (wrong, expired, too many tries)."""
        ...

    async def login(self, user: str, password: str, source: str) -> User:
        """Check a password (Argon2id, one hash at a time, rate-limited per user and source). Raises RefusedError."""
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


class PolicyPort(Protocol):
    """A change of policy: shown, tried for some minutes, confirmed, undone. Raises RefusedError or InputError with a remedy."""

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

    async def support_file(self) -> bytes:
        """The support file, a gzipped tar."""
        ...

    async def status(self) -> dict[str, object]:
        """How far the record reaches, its bytes and their bound, the newest checkpoint, room on the disk, quality of time."""
        ...


class ConsolePort(Protocol):
    """What the page, the JSON API and the CLI may see and ask of the running gateway."""

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

    async def bundle(self, device_id: str) -> bytes:
        """The newest complete conformity certificate bundle. Raises InputError when there is none."""
        ...

    async def explain(self, device_id: str, function: str | None) -> dict[str, object]:
        """How the level came about: inputs, steps, numbers, policy id."""
        ...
