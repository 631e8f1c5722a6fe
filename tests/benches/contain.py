"""How long a drop takes: handed to the enforcer's client -> the last packet at the receiver, thousands of packets a second.

The floor is the same element deleted in this process by raw netlink, in the same run: the kernel and the network alone.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.enforcer.client import EnforcerClient
from gateway.enforcer.netlink import MAX_CHANGES, Change, TrustMap
from gateway.model.decision import Lease
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from hil.network import inside
from hil.stream import Stream
from tests.benches.figure import Figure, figure
from tests.enforcer.ward import HOSP4, MAINTENANCE, PUMP4, PUMP6, Bench, bench, document

_BATCHES, _READINGS = 3, 25


def large(devices: int) -> dict[str, Any]:
    """The pump's policy with ``devices - 1`` neighbours of three flows each."""
    policy = document()
    sets = policy["sets"]
    for number in range(devices - 1):
        high, low = divmod(number, 250)
        address, address6, mac = f"10.80.{high}.{low + 1}", f"fd80::{number + 1:x}", f"02:00:00:00:{high:02x}:{low:02x}"
        policy["devices"][f"device-{number}"] = {"cap": 3, "addresses": [address, address6]}
        sets["port4"].append([f"p{number}", mac, address])
        sets["bind4"].append(["ward0", mac, address])
        for level in (1, 2, 3):
            sets.setdefault(f"rtl{level}_4", []).append([address, HOSP4, "tcp", 2000 + level])
    return policy


def neighbours(devices: int) -> list[str]:
    """The neighbours' addresses."""
    return [f"10.80.{n // 250}.{n % 250 + 1}" for n in range(devices - 1)]


def lease(addresses: tuple[str, ...], seconds: float = 29.0, level: int = 3) -> Lease:
    """A lease from now."""
    now = Instant("", time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())
    return Lease("", addresses, TrustLevel(level), now.plus(seconds))


def _cut(stream: Stream, drop: Callable[[], None], grant: Callable[[], None]) -> float:
    """One reading in ms: from before ``drop`` to the last packet; 0 when none arrived after it."""
    grant()
    stream.flows()
    began = time.time_ns()
    drop()
    if not stream.settled():
        raise RuntimeError("packets go on arriving after a drop")
    return max(0.0, (stream.last_ns - began) / 1e6)


def _floor(rig: Bench, stream: Stream, devices: int) -> list[float]:
    """Raw netlink in this process, before the enforcer starts (it would look into foreign commits)."""
    with inside(rig.ward.gateway):
        trust = TrustMap()
    everybody = [Change(address, 3, 30_000) for address in neighbours(devices)]
    for index in range(0, len(everybody), MAX_CHANGES):
        trust.apply(everybody[index : index + MAX_CHANGES])
    try:
        return [
            _cut(stream, lambda: trust.apply([Change(PUMP4, 0)]), lambda: trust.apply([Change(PUMP4, 3, 30_000)]))
            for _ in range(_READINGS)
        ]
    finally:
        trust.close()


async def _through_client(rig: Bench, stream: Stream, devices: int) -> list[list[float]]:
    client = EnforcerClient(rig.socket)
    await client.open()
    gc.freeze()  # the policy that this bench made is not the daemon's garbage
    batches: list[list[float]] = []
    try:
        for _ in range(_BATCHES):
            await client.grant([lease((address,)) for address in neighbours(devices)])
            batch = []
            for _ in range(_READINGS):
                await client.grant([lease((PUMP4, PUMP6))])
                stream.flows()
                began = time.time_ns()
                await client.drop([PUMP4, PUMP6])
                if not stream.settled():
                    raise RuntimeError("packets go on arriving after a drop")
                batch.append(max(0.0, (stream.last_ns - began) / 1e6))
            batches.append(batch)
    finally:
        await client.close()
    return batches


def _quantile(readings: Sequence[float], q: float) -> float:
    return sorted(readings)[min(len(readings) - 1, int(q * len(readings)))]


def run() -> Iterable[Figure]:
    """p50, p99 and max, at 1,000 and at 10,000 devices."""
    for devices in (1_000, 10_000):
        with bench(large(devices)) as rig:
            assert rig.enforcer is not None
            rig.enforcer.stop()
            with Stream(rig.ward.hospital, rig.ward.namespace(rig.ward.positions[0]), HOSP4, PUMP4, MAINTENANCE) as stream:
                floors = _floor(rig, stream, devices)
                rig.start()
                batches = asyncio.run(_through_client(rig, stream, devices))
                asyncio.run(_grant_once(rig))
                stream.flows()
                seen = stream.count
                time.sleep(0.5)
                note = f"{(stream.count - seen) / 0.5:.0f} packets/s; {sum(map(len, batches))} drops"
            for name, q in (("contain.p50", 0.5), ("contain.p99", 0.99), ("contain.max", 1.0)):
                yield figure(name, devices, [_quantile(b, q) for b in batches], "ms", [_quantile(floors, q)], note)


async def _grant_once(rig: Bench) -> None:
    client = EnforcerClient(rig.socket)
    await client.grant([lease((PUMP4, PUMP6))])
    await client.close()
