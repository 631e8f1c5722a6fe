"""The leases that drivers see, in this process: current, watchable, and lapsing by themselves like the kernel's.

Refuses to know why a lease was given.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.model.decision import Lease
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel

_NEVER = Instant("", 0, 0)


class Grant:
    """One device's lease (``gateway.driver.GrantView``)."""

    def __init__(self, device_id: str) -> None:
        self._lease = Lease(device_id, (), TrustLevel.NONE, _NEVER)
        self._changed: asyncio.Event = asyncio.Event()
        self._lapse: asyncio.TimerHandle | None = None

    def current(self, now: Instant) -> Lease:
        """The lease at ``now``; after its end the same lease at level 0."""
        if self._lease.level is not TrustLevel.NONE and now.mono_ns >= self._lease.until.mono_ns:
            return replace(self._lease, level=TrustLevel.NONE)
        return self._lease

    async def changed(self) -> Lease:
        """Wait for the next change of level or rules, a lapse included."""
        await self._changed.wait()
        return self._lease

    def put(self, lease: Lease, now: Instant) -> None:
        """Replace the lease; wakes the watchers when more than its end changes."""
        old = self.current(now)
        self._lease = lease
        if self._lapse:
            self._lapse.cancel()
            self._lapse = None
        if lease.level is not TrustLevel.NONE:
            wait_s = max(0.0, lease.until.seconds_since(now))
            self._lapse = asyncio.get_running_loop().call_later(wait_s, self._lapsed, lease)
        if (old.level, old.rules) != (lease.level, lease.rules):
            self._wake()

    def _lapsed(self, lease: Lease) -> None:
        if self._lease is lease:
            self._lease = replace(lease, level=TrustLevel.NONE)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Grants:
    """All devices' leases by id."""

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}

    def levels(self, now: Instant) -> list[int]:
        """The level of every lease in force."""
        held = (int(g.current(now).level) for g in self._grants.values())
        return [level for level in held if level]

    def of(self, device_id: str) -> Grant:
        """The device's lease; level 0 for a device nobody granted anything."""
        return self._grants.setdefault(device_id, Grant(device_id))
