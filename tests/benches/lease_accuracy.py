"""When a lease that nobody renews really ends: the last packet at the receiver against the end that was granted.

Positive: the traffic went on for so long after the lease's end; the absolute deviation is the figure. The floor is the
spacing of the packets, below which nothing can be seen.
"""

from __future__ import annotations

import gzip
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from hil.stream import Stream
from tests.benches.figure import Figure, figure
from tests.enforcer.ward import HOSP4, MAINTENANCE, PUMP4, Bench, bench

_LEASES_MS = (1_000, 1_000, 2_000, 1_000, 2_000)


def run() -> Iterable[Figure]:
    """The deviation of leases of one and two seconds."""
    with (
        bench() as rig,
        Stream(rig.ward.hospital, rig.ward.namespace(rig.ward.positions[0]), HOSP4, PUMP4, MAINTENANCE) as stream,
    ):
        deviations = [_deviation(rig, stream, ms) for ms in _LEASES_MS]
        spacing_ms = _spacing(rig, stream)
    signed = ", ".join(f"{d:+.2f}" for d in deviations)
    note = f"CONFIG_HZ={_hz()}; signed: {signed} ms"
    yield figure("lease-accuracy", 1, [abs(d) for d in deviations], "ms", [spacing_ms], note)
    yield figure("lease-accuracy.worst", 1, [max(abs(d) for d in deviations)], "ms", [spacing_ms], note)


def _deviation(rig: Bench, stream: Stream, ms: int) -> float:
    before = time.time_ns()
    rig.grant(3, ms)
    granted = (before + time.time_ns()) / 2  # the kernel's clock started in between, within a fraction of a millisecond
    time.sleep(ms / 1000 - 0.2)
    stream.flows(0.15)
    if not stream.settled(0.1, 1.0):
        raise RuntimeError("packets go on arriving after the lease's end")
    return (stream.last_ns - granted) / 1e6 - ms


def _spacing(rig: Bench, stream: Stream) -> float:
    rig.grant(3)
    stream.flows()
    began, count = time.monotonic(), stream.count
    time.sleep(0.5)
    return (time.monotonic() - began) * 1000 / (stream.count - count)


def _hz() -> str:
    """The kernel's timer frequency, on which the resolution of a lease depends."""
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{os.uname().release}")):
        if path.exists():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            if found := re.search(rb"^CONFIG_HZ=(\d+)", data, re.MULTILINE):
                return found[1].decode()
    return "unknown"
