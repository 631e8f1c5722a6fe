"""The machine's clock, made by the composition roots (``app``, ``bootstrap``) only; all else takes ``now`` as an argument."""

from __future__ import annotations

import time
from pathlib import Path

from gateway.model.instant import Instant, TimeQuality

BUILD_UTC_NS = 1_795_478_400_000_000_000  # 2026-11-24: a clock that says less is wrong


class MachineClock:
    """Boot time from CLOCK_BOOTTIME; wall time never before this build. Quality is the RTC's until something better is known."""

    def __init__(self) -> None:
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def now(self) -> Instant:
        """The present."""
        utc = time.time_ns()
        quality = TimeQuality.RTC if utc >= BUILD_UTC_NS else TimeQuality.FLOOR
        return Instant(self._boot_id, time.clock_gettime_ns(time.CLOCK_BOOTTIME), max(utc, BUILD_UTC_NS), quality)
