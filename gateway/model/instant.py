"""A moment, as every event and decision carries it. Knows no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

NS_PER_S = 1_000_000_000


class TimeQuality(IntEnum):
    """How far wall time can be believed; boot time is always good."""

    UNKNOWN = 0
    FLOOR = 1  # at least this late: build date, last checkpoint
    RTC = 2
    NETWORK = 3  # plain NTP
    AUTHENTICATED = 4


@dataclass(frozen=True, slots=True)
class Instant:
    """Boot time (CLOCK_BOOTTIME, ns) for ages, leases, nonces; wall time (UTC, ns since 1970) with its quality for display."""

    boot_id: str
    mono_ns: int
    utc_ns: int
    quality: TimeQuality = TimeQuality.UNKNOWN

    def seconds_since(self, earlier: Instant) -> float:
        """Age in seconds on boot time; raises ValueError across a reboot, where boot time says nothing."""
        if earlier.boot_id != self.boot_id:
            raise ValueError("ages are not defined across a reboot")
        return (self.mono_ns - earlier.mono_ns) / NS_PER_S

    def age_s(self, now: Instant) -> float:
        """Its age in seconds at ``now``: on boot time; across a reboot on wall time, if nobody doubts it, else 0."""
        if self.boot_id == now.boot_id:
            return now.seconds_since(self)
        believed = min(self.quality, now.quality) >= TimeQuality.RTC
        return (now.utc_ns - self.utc_ns) / NS_PER_S if believed else 0.0

    def plus(self, seconds: float) -> Instant:
        """This instant, ``seconds`` later on both clocks."""
        step = round(seconds * NS_PER_S)
        return Instant(self.boot_id, self.mono_ns + step, self.utc_ns + step, self.quality)

    def utc(self) -> datetime:
        """Wall time as an aware datetime (edges only)."""
        return datetime.fromtimestamp(self.utc_ns / NS_PER_S, tz=UTC)
