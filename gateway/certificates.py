"""Verdicts become certificates: an EAR at once, and at the end of each epoch one TPM quote that completes all bundles.

Composes the issuer, the Merkle batch, the TPM and the store. While the TPM is gone EARs go on and bundles wait: nothing
here changes what a device may do. Refuses to judge.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gateway.certify import Batch, ClosedBatch, complete
from gateway.console import Counters
from gateway.errors import InputError, UnavailableError
from gateway.issuer.bundle import Freshness
from gateway.issuer.ear import ear_of
from gateway.issuer.leaves import SALT_SIZE, Platform
from gateway.issuer.tokens import cwt_statement, jwt_statement, seal
from gateway.model.certificate import CertificateId, QuotedState, Verdict
from gateway.model.event import PartChanged
from gateway.model.instant import Instant
from gateway.ports import AttesterPort
from gateway.store.cache import BatchHead, CertificateCache

_FIRST_ROOT = bytes(32)
_REMEMBERED = 8  # certificates a device whose time is known: readings come in seconds after they were taken


class _Issued(NamedTuple):
    name: CertificateId
    at: Instant
    expires_utc_ns: int


class Certificates:
    """``gateway.conductor.Certifier``. ``newest_quote`` is the last batch quoted, for those who export it."""

    def __init__(
        self,
        attester: AttesterPort,
        cache: CertificateCache,
        counters: Counters,
        *,
        build: str,
        platform: Platform,
        certified: Callable[[str, int], None],
        part: Callable[[PartChanged], None],
    ) -> None:
        self._attester, self._cache, self._counters = attester, cache, counters
        self._build, self._platform, self._certified, self._part = build, platform, certified, part
        self._pending: dict[str, tuple[Verdict, bytes]] = {}
        self._unsaved: dict[str, tuple[str, int, bytes, str, int]] = {}  # EARs are saved an epoch at a time: one sync
        self._issued: dict[str, deque[_Issued]] = {}
        self._head: BatchHead | None = None
        self._sealing, self._told = False, (False, "")
        self.newest_quote: tuple[QuotedState, ClosedBatch] | None = None

    async def open(self) -> None:
        """Continue the chain of batches where it ended."""
        self._head = await self._cache.batch_head()
        self._counters.sequence = self._head.sequence if self._head else 0

    async def issue(self, verdict: Verdict) -> None:
        """Sign and keep the EAR of a verdict; its bundle completes with the next quote."""
        ear, spki = ear_of(verdict, self._build), self._attester.issuing_spki()
        cwt, jwt = cwt_statement(ear, spki), jwt_statement(ear, spki)
        token = seal(cwt, self._attester.sign(cwt.to_sign))
        text = seal(jwt, self._attester.sign(jwt.to_sign)).decode()
        self._pending[verdict.device_id] = (verdict, token)
        self._unsaved[verdict.device_id] = (verdict.device_id, self._counters.sequence, token, text, verdict.expires_utc_ns)
        self._counters.certificates += 1
        name = CertificateId(self._counters.sequence, hashlib.sha256(token).digest())
        kept = self._issued.setdefault(verdict.device_id, deque(maxlen=_REMEMBERED))
        kept.append(_Issued(name, verdict.issued_at, verdict.expires_utc_ns))

    def at(self, device_id: str, at: Instant) -> CertificateId | None:
        """The certificate of a device that was in force at a moment of this boot; None: none was."""
        for issued in reversed(self._issued.get(device_id, ())):
            if issued.at.boot_id == at.boot_id and issued.at.mono_ns <= at.mono_ns:
                return issued.name if at.utc_ns < issued.expires_utc_ns else None
        return None

    async def seal(self, sequence: int, now: Instant) -> None:
        """One quote over every verdict since the last. An epoch without verdicts, or one while the last still runs, is skipped."""
        if not self._pending or self._sealing:
            return
        self._sealing = True
        try:
            await self._seal(now)
        except UnavailableError as e:
            self._tpm(False, str(e))
        finally:
            self._sealing = False

    def _tpm(self, up: bool, detail: str) -> None:
        if (up, detail) != self._told:
            self._told = (up, detail)
            self._part(PartChanged("tpm", up=up, detail=detail))

    async def _seal(self, now: Instant) -> None:
        rows, self._unsaved = list(self._unsaved.values()), {}
        await self._cache.save_ears(rows)
        chain, taken = self._attester.ak_chain(), dict(self._pending)
        batch = Batch(
            self._attester.software_keys(), self._attester.issuing_spki(), self._platform, chain, secrets.token_bytes(SALT_SIZE)
        )
        for verdict, token in taken.values():
            batch.add(verdict, token, secrets.token_bytes(SALT_SIZE))
        number = (self._head.sequence if self._head else 0) + 1
        previous = self._head.root if self._head else _FIRST_ROOT
        counter = await self._attester.nv_counter()
        closed = batch.close(Freshness.epoch(number, now.boot_id), number, previous, counter)
        quoted = await self._attester.quote(closed.qualifying)
        bundles = complete(closed, quoted)
        for device_id, pair in taken.items():
            if self._pending.get(device_id) is pair:
                del self._pending[device_id]
        head = BatchHead(number, closed.root, counter)
        await self._cache.save_batch(head, [(d, b, taken[d][0].expires_utc_ns) for d, b in bundles.items()])
        self._head, self.newest_quote = head, (quoted, closed)
        self._counters.sequence, self._counters.quotes = number, self._counters.quotes + 1
        self._counters.quoted_at = now
        self._tpm(True, "quotes every epoch" if chain else "not enrolled, so nobody can check: run `wardgate enrol`")
        for device_id in bundles:
            self._certified(device_id, number)

    async def bundle(self, device_id: str) -> bytes:
        """The newest complete bundle. Raises InputError with what to do when there is none."""
        if not self._attester.ak_chain():
            raise InputError("this gateway is not enrolled, so nobody could check its certificates", "run `wardgate enrol`")
        return await self._cache.bundle(device_id)
