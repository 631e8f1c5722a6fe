"""The trust level: what a kernel lease carries. One small number, so that a firewall can hold it."""

from __future__ import annotations

from enum import IntEnum


class TrustLevel(IntEnum):
    """What the latest evidence earns."""

    NONE = 0
    LIMITED = 1
    STANDARD = 2
    FULL = 3
