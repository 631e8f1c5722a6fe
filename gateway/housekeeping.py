"""What the daemon does to its own state now and then: packs and trims the record, and leaves checkpoints against rollback.

A checkpoint ties the record's head to the TPM's counter: a disk from before it is noticed at the next start. It is left every
hour, and soon after a veto, so that no older disk lifts one unseen; seldom, because the chip's memory wears out. Once state
is found to be older than the TPM remembers, no checkpoint covers that up until a person accepts it. Refuses to know what
is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from gateway.clock import Clock
from gateway.errors import EvidenceError, UnavailableError
from gateway.model.effect import Record, Severity
from gateway.model.event import PartChanged
from gateway.model.instant import Instant
from gateway.ports import AttesterPort
from gateway.store.audit import AuditLog, Head, Keeping
from gateway.store.cache import CertificateCache, Checkpoint

ROUND_S = 60.0
CHECKPOINT_S = 3600.0  # 9,000 increments a year; a chip's memory is good for some hundred thousand
_SOON_S = 60.0
_FILLED, _REST_S = 10, 0.5  # segments of an older version filled in each round, and the rest after each: a week's in hours
_FRESH = 1  # what the counter of a gateway says that never left a checkpoint
log = logging.getLogger("wardgate.housekeeping")


class Housekeeping:
    """One task, ``run``. ``soon`` asks for a checkpoint within a minute."""

    def __init__(
        self,
        audit: AuditLog,
        cache: CertificateCache,
        attester: AttesterPort,
        clock: Clock,
        keeping: Keeping,
        told: Callable[[PartChanged], Awaitable[None]],
    ) -> None:
        self._audit, self._cache, self._attester, self._clock = audit, cache, attester, clock
        self._keeping, self._told = keeping, told
        self._wanted = asyncio.Event()
        self._last: Instant | None = None
        self._known: bool | None = None  # whether the state is the TPM's newest; None: not compared yet

    def soon(self) -> None:
        """Something was decided that no older disk may undo."""
        self._wanted.set()

    async def run(self) -> None:
        """For ever; a disk or a TPM that is away is tried again."""
        while True:
            for errand in (self._compare, self._leave_checkpoint, self._tidy):
                try:
                    await errand()
                except UnavailableError as e:
                    log.debug("%s", e)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._wanted.wait()
                    await asyncio.sleep(_SOON_S / 30)  # what was decided is on disk by then

    async def _tidy(self) -> None:
        while await self._audit.close_segment(self._keeping, self._clock.now()):
            pass
        if gone := await self._audit.trim(self._keeping, self._clock.now()):
            log.info("%d lines of the record were trimmed", gone)
        for _ in range(_FILLED):
            if not await self._audit.fill_told():
                break
            await asyncio.sleep(_REST_S)

    async def _compare(self) -> None:
        if self._known:
            return
        try:
            await compare(self._audit, self._cache, self._attester)
        except EvidenceError as e:
            if self._known is None:
                await self._told(PartChanged("state", up=False, detail=str(e)))
            self._known = False
            return
        await self._told(PartChanged("state", up=True, detail="the newest that the TPM remembers"))
        self._known = True

    async def _leave_checkpoint(self) -> None:
        now = self._clock.now()
        due = CHECKPOINT_S if not self._wanted.is_set() else _SOON_S
        if not self._known or (self._last is not None and now.seconds_since(self._last) < due):
            return
        self._wanted.clear()
        await leave_checkpoint(self._audit, self._cache, self._attester, now)
        self._last = now


async def compare(audit: AuditLog, cache: CertificateCache, attester: AttesterPort) -> None:
    """That the stored state is not older than the TPM remembers. Raises EvidenceError, or UnavailableError (no TPM, no disk)."""
    kept, counter = await cache.checkpoint(), await attester.nv_counter()
    if kept is None:
        if counter > _FRESH:
            raise EvidenceError(
                "the TPM remembers checkpoints that the stored state does not have",
                "if you replaced or restored the disk: wardgate audit accept --reason TEXT",
            )
        return
    kept.verify(counter)
    await audit.verify_holds(Head(kept.audit_sequence, kept.audit_hash))


async def leave_checkpoint(audit: AuditLog, cache: CertificateCache, attester: AttesterPort, now: Instant) -> Checkpoint:
    """Increment the TPM's counter, then keep where the record ends: so a crash leaves the TPM one ahead at most."""
    head = await audit.head()
    kept, counter = await cache.checkpoint(), await attester.nv_counter()
    if kept is None or counter != kept.nv_counter + 1:  # else the last one was interrupted: the counter has moved already
        counter = await attester.nv_counter(increment=True)
    made = Checkpoint(head.sequence, head.hash, now.utc_ns, counter)
    await cache.save_checkpoint(made)
    return made


async def accept_state(audit: AuditLog, cache: CertificateCache, attester: AttesterPort, now: Instant, why: str) -> str:
    """A person takes the state on disk for the one to go on with, whatever the TPM remembers; returns what was wrong with it."""
    try:
        await compare(audit, cache, attester)
    except EvidenceError as e:
        found = e.what
    else:
        return ""
    body = (("reason", why), ("found", found), ("severity", Severity.ALARM.value))
    await audit.append([(now, Record("state-accepted", "", f"root goes on with this state: {why} ({found})", body))])
    await leave_checkpoint(audit, cache, attester, now)
    return found
