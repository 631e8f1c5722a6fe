"""What is counted and measured while the gateway runs, as figures: decisions, evidence, denials, delays, memory.

Labels come from closed lists of our own words: no device, no person, nothing a stranger chooses. Refuses to know how
figures are shown and to decide anything.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gateway.model.event import Event, EvidenceArrived
from gateway.model.instant import NS_PER_S
from gateway.model.metric import Family, Kind, Sample, one

APPRAISAL_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
LAG_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_LOOK_S = 0.5  # how often the loop's delay is measured
DENIED = (
    "unbound",
    "lateral",
    "server",
    "level",
    "flow",
    "closed",
    "outgoing",
    "other",
)  # the rules that log, see image/wardgate.nft
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


class Spread:
    """A histogram over fixed bounds, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """One reading."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> tuple[Sample, ...]:
        """Cumulative buckets, then sum and count."""
        found, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            text = "+Inf" if bound == float("inf") else repr(float(bound))
            found.append(Sample(total, (("le", text),), "_bucket"))
        return (*found, Sample(self._sum, (), "_sum"), Sample(total, (), "_count"))


class Meters:
    """Counters that others tell, and ``run`` which measures the loop's delay."""

    def __init__(self) -> None:
        self.appraisal, self.lag = Spread(APPRAISAL_S), Spread(LAG_S)
        self.denied: Counter[str] = Counter()
        self.passed_while_observed = 0

    def decided(self, event: Event | None, took_ns: int) -> None:
        """An event was decided in this time."""
        if isinstance(event, EvidenceArrived):
            self.appraisal.add(took_ns / NS_PER_S)

    def packets(self, event: Mapping[str, object]) -> None:
        """The enforcer told of packets that a rule logged."""
        reason, count = str(event.get("reason", "")), event.get("count")
        number = count if isinstance(count, int) else 1
        if reason == "seen":
            self.passed_while_observed += number
        else:
            self.denied[reason if reason in DENIED else "other"] += number

    async def run(self) -> None:
        """Measure how late the loop comes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self.lag.add(max(0.0, loop.time() - due))

    def families(self) -> Iterable[Family]:
        """Everything counted here, and the process itself."""
        yield Family("wardgate_appraisal_seconds", Kind.HISTOGRAM, "Time from evidence to decision.", self.appraisal.samples())
        yield Family("wardgate_loop_lag_seconds", Kind.HISTOGRAM, "How late the event loop came.", self.lag.samples())
        yield Family(
            "wardgate_denied_packets", Kind.COUNTER, "Denied packets that a rule logged (the log is rate limited), by rule.",
            tuple(Sample(self.denied[r], (("set", r),)) for r in DENIED),
        )  # fmt: skip
        yield one(
            "wardgate_observed_packets", Kind.COUNTER, "Logged packets that passed only because their device is observed.",
            self.passed_while_observed,
        )  # fmt: skip
        yield from process()


def process() -> Iterable[Family]:
    """The daemon itself, under the names that Prometheus's own libraries use."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield one("process_resident_memory_bytes", Kind.GAUGE, "Resident memory.", int(fields[1]) * _PAGE)
    yield one("process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory.", int(fields[0]) * _PAGE)
    yield one("process_cpu_seconds", Kind.COUNTER, "User and system time.", used.ru_utime + used.ru_stime)
    yield one("process_open_fds", Kind.GAUGE, "Open file descriptors.", len(os.listdir("/proc/self/fd")))
    yield one("process_start_time_seconds", Kind.GAUGE, "When the daemon began, since 1970.", boot_s + int(stat[19]) / _TICK)
