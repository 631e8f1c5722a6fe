"""A reading in common form. Readings never pass through the decision path; they carry the level they were taken at."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.certificate import CertificateId
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel


@dataclass(frozen=True, slots=True)
class Observation:
    """One reading: ``quantity`` an MDC code (ISO/IEEE 11073-10101), ``unit`` UCUM; exactly one of ``value`` and ``absent``.

    ``level`` is the device's level when it was taken; None: unknown (taken before the last good evidence after a gap).
    ``certificate`` is the one that was in force then; a driver leaves it empty.
    """

    device_id: str
    quantity: str
    unit: str
    taken_at: Instant
    received_at: Instant
    level: TrustLevel | None
    value: float | None = None
    absent: str | None = None
    certificate: CertificateId | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.absent is None):
            raise ValueError("an observation has either a value or a reason for its absence")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a live view shows of an observation: the latest value a device sent, when (boot time), and its level then.

    ``level`` None: unknown, as in ``Observation``.
    """

    quantity: str
    unit: str
    value: float | None
    absent: str | None
    taken_at: Instant
    level: int | None = None
