"""One line of the audit log, and where a chain of them stands. Refuses to know where lines are kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gateway import codec
from gateway.model.instant import Instant

_DOMAIN = "wardgate-audit-v1"
INPUTS = ("event", "wake")  # kinds of lines that are inputs of the engine: for a replay, not for people


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends: what a checkpoint remembers. Sequence 0: nothing has been recorded."""

    sequence: int = 0
    hash: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class Line:
    """One line as stored. ``body`` is the JSON text that the hash covers."""

    sequence: int
    at: Instant
    kind: str
    severity: str
    device_id: str
    text: str
    body: str
    prev: bytes
    hash: bytes

    def digest(self) -> bytes:
        """What ``hash`` must be."""
        at = (self.at.boot_id, self.at.mono_ns, self.at.utc_ns, int(self.at.quality))
        fields = [_DOMAIN, self.sequence, *at, self.kind, self.severity, self.device_id, self.text, self.body, self.prev]
        return hashlib.sha256(codec.encode(fields)).digest()

    @property
    def for_people(self) -> bool:
        """Whether it is shown to people."""
        return bool(self.text) and self.kind not in INPUTS
