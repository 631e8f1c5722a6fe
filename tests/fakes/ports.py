"""Adapters that behave: an audit log that can be full, an enforcer that can be away, a keeper and a certifier that remember."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from gateway.errors import RefusedError, UnavailableError
from gateway.model.certificate import Verdict
from gateway.model.decision import Lease
from gateway.model.device import Bond, DeviceState
from gateway.model.effect import Record
from gateway.model.event import ServiceWindow
from gateway.model.instant import Instant
from gateway.model.profile import References
from gateway.model.view import EventView
from gateway.ports import Recorded


class FakeAudit:
    """Keeps records in order; ``full`` makes it refuse; ``slow_s`` makes each write take that long."""

    def __init__(self, journal: list[str]) -> None:
        self.rows: list[tuple[Instant, Record]] = []
        self.full, self.slow_s, self.journal = False, 0.0, journal

    async def append(self, records: Sequence[tuple[Instant, Record]]) -> Sequence[Recorded]:
        """Write, or say that the disk is full."""
        await asyncio.sleep(self.slow_s)
        if self.full:
            raise UnavailableError("the disk is full", "free space")
        self.rows += records
        self.journal += [f"record {r.kind} {r.device_id}" for _, r in records]
        return [Recorded(i, b"", r, at) for i, (at, r) in enumerate(records)]

    async def tail(self, limit: int = 50, before: int | None = None) -> Sequence[EventView]:
        """Nothing to show."""
        return []


class FakeEnforcer:
    """Holds levels by address; ``away`` makes it unreachable; refuses levels above ``cap``."""

    def __init__(self, journal: list[str]) -> None:
        self.levels: dict[str, int] = {}
        self.away, self.cap, self.journal = False, 3, journal

    async def grant(self, leases: Sequence[Lease]) -> None:
        """Put levels."""
        if self.away:
            raise UnavailableError("the enforcer does not answer", "start it")
        for lease in leases:
            if lease.level > self.cap:
                raise RefusedError("above the cap", "confirm another policy")
            self.journal.append(f"grant {lease.device_id} {int(lease.level)}")
            self.levels |= dict.fromkeys(lease.addresses, int(lease.level))

    async def drop(self, addresses: Sequence[str]) -> None:
        """Take levels."""
        self.drop_now(addresses)

    def drop_now(self, addresses: Sequence[str]) -> None:
        """Take levels at once."""
        if self.away:
            raise UnavailableError("the enforcer does not answer", "start it")
        self.journal.append(f"drop {','.join(addresses)}")
        for a in addresses:
            self.levels.pop(a, None)

    async def dump(self) -> dict[str, object]:
        """The levels."""
        return dict(self.levels)

    async def watch(self) -> AsyncIterator[dict[str, object]]:
        """Nothing happens."""
        await asyncio.Event().wait()
        yield {}


class FakeKeeper:
    """Remembers what it was told to keep."""

    def __init__(self) -> None:
        self.references: dict[str, References] = {}
        self.vetoes: set[tuple[str, str]] = set()
        self.states: dict[str, DeviceState] = {}
        self.bonds: dict[str, Bond] = {}

    async def adopt(self, device_id: str, references: References) -> None:
        """Keep references."""
        self.references[device_id] = references

    async def keep_veto(self, device_id: str, media_type: str, text: str, raised: bool) -> None:
        """Keep or forget a veto."""
        (self.vetoes.add if raised else self.vetoes.discard)((device_id, media_type))

    async def keep_state(self, device_id: str, state: DeviceState, service: ServiceWindow | None) -> None:
        """Keep a state."""
        self.states[device_id] = state

    async def keep_bond(self, device_id: str, bond: Bond) -> None:
        """Keep a bond."""
        self.bonds[device_id] = bond


class FakeCertifier:
    """Counts verdicts."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.sealed = 0

    async def issue(self, verdict: Verdict) -> None:
        """Keep a verdict."""
        self.verdicts.append(verdict)

    async def seal(self, sequence: int, now: Instant) -> None:
        """Count an epoch."""
        self.sealed += 1
