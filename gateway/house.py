"""What people ask of the gateway beside its devices: the record, the network as it is now, its own identity, what ends offline.

Implements ``gateway.ports.HousePort`` over the store, the confirmed policy and the attester. Refuses to know HTML and HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
import platform
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cryptography import x509

from gateway import INSTALLED, RELEASE, __version__
from gateway.clock import Clock
from gateway.config import Config
from gateway.errors import InputError, RefusedError, WardgateError
from gateway.landscape import Glass, Ground, landscape
from gateway.model.effect import Record
from gateway.model.event import Behaviour
from gateway.model.inquiry import EventPage, EventQuery, RecordCheck
from gateway.model.landscape import Landscape
from gateway.model.outbox import OutboxView
from gateway.model.premises import Deadline, Identity, KeyCertificate, Versions
from gateway.model.view import EventView, User, WardView
from gateway.ports import AttesterPort, AuditPort, EnforcerPort
from gateway.relying import proofs
from gateway.store.follow import Follower
from gateway.store.search import Search
from gateway.tally import Tally
from gateway.way_out import WayOut
from gateway.wiring_reader import look

log = logging.getLogger("wardgate.house")

_MS = 1_000_000
_LIBRARIES = ("aiohttp", "aiomqtt", "bleak", "cbor2", "cryptography", "pymodbus", "tpm2-pytss", "sqlite-utils")
_OUTBOX_S = 90 * 86_400.0  # gateway.store.outbox.Bounds.age_s
EXPORT_MAX = 200_000  # lines in one file: some 30 MB
OPERATORS = ("biomed", "admin")
_WIRING_S = 10.0  # a look at the cables costs four small processes; it is not repeated more often


class House:
    """One for the daemon."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        view: Callable[[], WardView],
        search: Search,
        follower: Follower,
        audit: AuditPort,
        attester: AttesterPort,
        way_out: WayOut,
        enforcer: EnforcerPort,
    ) -> None:
        self._config, self._clock, self._view = config, clock, view
        self._search, self._follower, self._audit = search, follower, audit
        self._attester, self._way_out, self._enforcer = attester, way_out, enforcer
        self._tally = Tally()
        self._document: tuple[tuple[int, int], dict[str, Any]] = ((0, 0), {})
        self._versions: Versions | None = None
        self._wiring: tuple[float, Mapping[str, object] | None, Glass | None] = (float("-inf"), None, None)
        self._looking = asyncio.Lock()

    def witness(self, event: Behaviour) -> None:
        """Count what the data path refused."""
        self._tally.add(event, self._clock.now().mono_ns // _MS)

    # --- the record ---

    async def find(self, query: EventQuery, limit: int = 100, before: int | None = None) -> EventPage:
        """Lines of the record, newest first."""
        return await self._search.find(query, limit, before)

    def each(self, query: EventQuery) -> AsyncIterator[EventView]:
        """The same for an export: at most ``EXPORT_MAX`` lines."""
        return self._search.each(query, EXPORT_MAX)

    def record(self) -> RecordCheck:
        """How far the chain was checked."""
        return self._follower.check

    # --- the network ---

    async def network(self) -> Landscape:
        """Who may talk to whom now."""
        view, (document, trouble) = self._view(), await asyncio.to_thread(self._confirmed)
        n, broker = self._config.network, self._config.uplink.flows
        ground = Ground(n.ward, n.uplink, n.management, n.addresses, self._config.peers, broker)
        wiring, glass = await self._cables()
        seen = landscape(view, document, ground, self._tally.lately(view.now_ms), _still_open(glass or {}, view.now_ms))
        return replace(seen, trouble=trouble, wiring=wiring, asked=glass is not None)

    async def _cables(self) -> tuple[Mapping[str, object] | None, Glass | None]:
        """The wiring and what is open by break-glass, as the kernel shows both; None for what cannot be read."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._wiring[0] > _WIRING_S:
                try:
                    dump = await self._enforcer.dump()
                    met, glass = dump.get("met"), glass_of(dump, self._clock.now().mono_ns // _MS)
                except WardgateError:
                    met, glass = None, None
                try:
                    refused = met if isinstance(met, list) else None
                    found = (await asyncio.to_thread(look, self._config, refused)).as_document()
                except WardgateError as e:
                    log.warning("the wiring cannot be read: %s", e)
                    found = None
                self._wiring = (now, found, glass)
            return self._wiring[1:]

    def _confirmed(self) -> tuple[dict[str, Any], str]:
        """The confirmed document, read again when the file changed; and why it could not be read."""
        path = self._config.policy.confirmed
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._document[0]:
                self._document = stamp, json.loads(path.read_bytes())
            return self._document[1], ""
        except FileNotFoundError:
            return {}, "no policy has been confirmed yet, so nothing passes"
        except (OSError, ValueError) as e:
            return {}, f"the confirmed policy cannot be read ({type(e).__name__}); look at {path}"

    # --- the gateway itself ---

    async def identity(self) -> Identity:
        """Who this gateway is, and what its quotes are worth."""
        g = self._config.gateway
        chain = self._attester.ak_chain()
        if self._versions is None:
            self._versions = await asyncio.to_thread(_versions)
        ak = self._view().gateway.ak_sha256
        certificate = self._certificate(chain[0]) if chain else None
        return Identity(g.id, g.name, ak, certificate, g.root_of_measurement, proofs(g.root_of_measurement), self._versions)

    def _certificate(self, der: bytes) -> KeyCertificate:
        c = x509.load_der_x509_certificate(der)
        return KeyCertificate(
            c.subject.rfc4514_string(), c.issuer.rfc4514_string(), f"{c.serial_number:x}", _iso(c.not_valid_before_utc),
            _iso(c.not_valid_after_utc), self._left(c.not_valid_after_utc),
        )  # fmt: skip

    def _left(self, at: datetime) -> float:
        return at.timestamp() - self._clock.now().utc().timestamp()

    async def offline(self) -> Sequence[Deadline]:
        """What ends, and when, if nothing arrives from outside any more: the soonest first, then what does not end."""
        outbox = await self._way_out.look()
        rows = [*self._certificates(), *await asyncio.to_thread(self._uplink), *_waiting(outbox)]
        for d in self._view().devices:
            if d.state in ("enforced", "service", "observing"):
                rows.append(Deadline(d.name, None, "It is attested, and its certificate renewed, by this gateway alone."))
        return sorted(rows, key=lambda r: (r.left_s is None, r.left_s or 0.0))

    def _certificates(self) -> list[Deadline]:
        chain = self._attester.ak_chain()
        if not chain:
            text = "Nobody can check this gateway’s conformity certificates. Run wardgate enrol."
            return [Deadline("Enrolment", 0.0, text, gone=True)]
        ends = min(x509.load_der_x509_certificate(c).not_valid_after_utc for c in chain)
        text = "Others refuse conformity certificates issued after that. What devices may do here does not change."
        return [self._deadline("Certificate of the attestation key", ends, text)]

    def _uplink(self) -> list[Deadline]:
        u = self._config.uplink
        if not u.host:
            return []
        lost = "The broker refuses this gateway: everything waits in the outbox."
        rows = []
        for what, path in (("Certificate for the broker", u.cert), ("The broker’s CA", u.ca)):
            try:
                ends = min(c.not_valid_after_utc for c in x509.load_pem_x509_certificates(path.read_bytes()))
                rows.append(self._deadline(what, ends, lost))
            except (OSError, ValueError):
                rows.append(Deadline(what, 0.0, f"{path} cannot be read. {lost}", gone=True))
        return rows

    def _deadline(self, what: str, ends: datetime, then: str) -> Deadline:
        left = self._left(ends)
        return Deadline(what, max(0.0, left), then, _iso(ends), left <= 0)

    # --- what is kept aside ---

    async def retry(self, actor: User, letter_id: int) -> str:
        """Send one message that was kept aside again. Raises RefusedError or InputError."""
        await self._aside(actor, letter_id, "sends again", lambda: self._way_out.retry(letter_id))
        return "The message is sent again, behind everything else that waits."

    async def discard(self, actor: User, letter_id: int) -> str:
        """Forget one message that was kept aside; its readings count as lost. Raises RefusedError or InputError."""
        await self._aside(actor, letter_id, "discards", lambda: self._way_out.discard(letter_id))
        return "The message is discarded; what was in it counts as lost."

    async def _aside(self, actor: User, letter_id: int, does: str, act: Callable[[], Any]) -> None:
        if actor.role not in OPERATORS:
            raise RefusedError(f"a {actor.role} may look, not act", "ask someone with the role biomed or admin")
        letter = next((x for x in (await self._way_out.look()).dead_letters if x.id == letter_id), None)
        if letter is None:
            raise InputError("there is no such message any more", "load the page again")
        text = f"{actor.name} {does} what the broker refused: {letter.topic}, {letter.readings} readings"
        record = Record("outbox", letter.device_id, text, (("actor", actor.name), ("reason", letter.reason)))
        await self._audit.append([(self._clock.now(), record)])
        if not await act():
            raise InputError("there is no such message any more", "load the page again")


def glass_of(dump: Mapping[str, object], now_ms: int) -> Glass | None:
    """The elements of the kernel's break-glass sets (the last of each: seconds left); None: the enforcer does not say."""
    sets = dump.get("glass")
    if not isinstance(sets, Mapping):
        return None
    found = [e for elements in sets.values() for e in elements if len(e) > 3]
    return {tuple(e[:-1]): now_ms + 1000 * int(e[-1]) for e in found}


def _still_open(glass: Glass, now_ms: int) -> Glass:
    return {element: until for element, until in glass.items() if until > now_ms}


def _waiting(outbox: OutboxView) -> list[Deadline]:
    """When the oldest that waits grows too old; nothing waits: when that would be."""
    left = _OUTBOX_S - (outbox.oldest_s or 0.0)
    then = "The oldest readings are dropped first, and counted."
    return [Deadline("The outbox" if outbox.oldest_s else "The outbox, from the day the broker goes", max(0.0, left), then)]


def _versions() -> Versions:
    installed = __version__ != RELEASE
    libraries = []
    for name in _LIBRARIES:
        try:
            libraries.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    previous = _named(INSTALLED / "previous") if installed else ""
    way = "installed" if installed else "checkout"
    return Versions(__version__, previous, way, platform.python_version(), platform.release(), tuple(libraries))


def _named(link: Path) -> str:
    try:
        return link.readlink().name
    except OSError:
        return ""


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
