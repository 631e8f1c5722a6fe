"""The clock's Protocol. Only ``app`` owns a real one; tests own fakes. Pure code takes an ``Instant`` as an argument."""

from __future__ import annotations

from typing import Protocol

from gateway.model.instant import Instant


class Clock(Protocol):
    """Where "now" comes from."""

    def now(self) -> Instant:
        """The present: boot time for ages, leases and nonces; wall time with its quality for display and certificates."""
        ...
