"""What waits, to a real Mosquitto on this machine: the product from its disk, against a bare aiomqtt client with the same bytes.

Both over TLS with client certificates, QoS 1, to the same broker with one listener; the floor has its messages ready in memory.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import aiomqtt

from gateway.config import Uplink
from gateway.machine_clock import MachineClock
from gateway.store.database import Database
from gateway.store.outbox import Outbox
from gateway.uplink.sender import Sender
from hil.broker import Broker, issue
from hil.ca import Ca
from hil.subscriber import Receiver, client_context
from tests.benches.figure import Figure, figure
from tests.benches.outbox import _DEVICES, _reading

_READINGS = 40_000
_ROUNDS = 3
_GATEWAY = "gw-bench"


def run() -> Iterable[Figure]:
    """``drain`` in readings/s until everything is at the listener and deleted here."""
    with tempfile.TemporaryDirectory(prefix="wardgate-bench-", dir="/var/tmp") as d:
        yield asyncio.run(_run(Path(d)))


async def _run(directory: Path) -> Figure:
    ca = directory / "ca"
    Ca(ca, [])
    for name in (_GATEWAY, "receiver"):
        issue(ca, ca, name)
    broker = Broker(directory / "broker", ca, port=_free_port())
    broker.start()
    try:
        receiver = Receiver(acknowledge=False)
        receiver.raw, ready = [], asyncio.Event()
        context = client_context(ca / "ca.pem", ca / "receiver.pem", ca / "receiver.key")
        listening = asyncio.create_task(receiver.run("127.0.0.1", broker.port, context, "wardgate", ready))
        await asyncio.wait_for(ready.wait(), 10)
        try:
            return await _rounds(directory, ca, broker, receiver)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    finally:
        broker.stop()


async def _rounds(directory: Path, ca: Path, broker: Broker, receiver: Receiver) -> Figure:
    assert receiver.raw is not None
    rates, floors = [], []
    for number in range(_ROUNDS):
        receiver.raw.clear()
        rates.append(_READINGS / await _drain(directory / f"{number}.sqlite", ca, broker, receiver))
        bodies = [m for m in receiver.raw if '"observations"' in m]
        floors.append(_READINGS / await _bare(ca, broker, receiver, bodies))
    note = f"{_READINGS:,} readings from the disk, {len(bodies)} messages, acknowledged, deleted; floor: the same bytes from memory"
    return figure("drain", _DEVICES, rates, "readings/s", floors, note)


async def _drain(store: Path, ca: Path, broker: Broker, receiver: Receiver) -> float:
    """Seconds from the start of the uplink until nothing waits here and everything is there."""
    database = Database(store)
    await database.open()
    outbox = Outbox(database, MachineClock())
    await asyncio.gather(*(outbox.put([_reading(i, float(k)) for k in range(_READINGS // _DEVICES)]) for i in range(_DEVICES)))
    before = len(receiver.readings)
    settings = Uplink(host="127.0.0.1", port=broker.port, ca=ca / "ca.pem", cert=ca / f"{_GATEWAY}.pem", key=ca / f"{_GATEWAY}.key")
    sender = Sender(settings, _GATEWAY, outbox, MachineClock(), told=lambda change: None, vouch=lambda spki: None)
    began = time.perf_counter()
    task = asyncio.create_task(sender.run())
    while len(receiver.readings) - before < _READINGS or await outbox.pending():
        if time.perf_counter() - began > 60:
            raise RuntimeError(f"only {len(receiver.readings) - before} of {_READINGS} arrived: {sender.sentence}")
        await asyncio.sleep(0.02)
    took = time.perf_counter() - began
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await outbox.close()
    await database.close()
    return took


async def _bare(ca: Path, broker: Broker, receiver: Receiver, bodies: list[str]) -> float:
    """The same messages by aiomqtt alone, as many at once as the broker takes, until they are at the listener."""
    context = client_context(ca / "ca.pem", ca / f"{_GATEWAY}.pem", ca / f"{_GATEWAY}.key")
    messages, slots = receiver.messages, asyncio.Semaphore(20)
    began = time.perf_counter()
    async with aiomqtt.Client(
        "127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5, tls_context=context,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    ) as client:  # fmt: skip
        client.pending_calls_threshold = 100

        async def send(body: str) -> None:
            async with slots:
                await client.publish(f"wardgate/{_GATEWAY}/readings/d-00", body, qos=1)

        await asyncio.gather(*(send(b) for b in bodies))
        while receiver.messages - messages < len(bodies):
            if time.perf_counter() - began > 60:
                raise RuntimeError("the floor's messages did not arrive")
            await asyncio.sleep(0.005)
        return time.perf_counter() - began


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
