"""A real Mosquitto with its CA, an outbox on disk, and a sender between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from gateway.clock import Clock
from gateway.config import Uplink
from gateway.machine_clock import MachineClock
from gateway.model.certificate import CertificateId
from gateway.model.event import PartChanged
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.outbox import Outbox
from gateway.uplink.sender import Sender
from hil.broker import Broker, issue
from hil.ca import Ca
from hil.subscriber import Receiver, client_context

GATEWAY = "gw-test"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


async def until(holds: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.01)


async def until_async(holds: Callable[[], Awaitable[object]], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not await holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.02)


def reading(clock: Clock, device: str = "patch-1", value: float = 72.0) -> Observation:
    now = clock.now()
    certificate = CertificateId(7, bytes(range(32)))
    return Observation(device, "MDC_ECG_HEART_RATE", "/min", now, now, TrustLevel.FULL, value, certificate=certificate)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uplink-ca")
    Ca(directory, [])
    for name in (GATEWAY, "receiver"):
        issue(directory, directory, name)
    return directory


@pytest.fixture
def broker(tmp_path: Path, ca: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker", ca, port=free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    database = Database(tmp_path / "w.sqlite")
    await database.open()
    outbox = Outbox(database, MachineClock())
    yield outbox
    await outbox.close()
    await database.close()


def settings_for(ca: Path, port: int, **more: object) -> Uplink:
    files = {"ca": ca / "ca.pem", "cert": ca / f"{GATEWAY}.pem", "key": ca / f"{GATEWAY}.key"}
    values: dict[str, object] = {"host": "127.0.0.1", "port": port, "retry_s": 0.5, **files, **more}
    return Uplink(**values)  # type: ignore[arg-type]


class Running:
    """A sender that runs, with what it told and whom it vouched for."""

    def __init__(self, settings: Uplink, outbox: Outbox) -> None:
        self.told: list[PartChanged] = []
        self.vouched: list[bytes] = []
        self.sender = Sender(settings, GATEWAY, outbox, MachineClock(), told=self.told.append, vouch=self.vouched.append)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        task = asyncio.create_task(self.sender.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def listening(ca: Path, port: int, *, acknowledge: bool = False) -> AsyncIterator[Receiver]:
    """A receiver at the broker."""
    receiver, ready = Receiver(acknowledge=acknowledge), asyncio.Event()
    context = client_context(ca / "ca.pem", ca / "receiver.pem", ca / "receiver.key")
    task = asyncio.create_task(receiver.run("127.0.0.1", port, context, "wardgate", ready))
    try:
        await asyncio.wait_for(ready.wait(), 10)
        yield receiver
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def audit(tmp_path: Path) -> AsyncIterator[AuditLog]:
    """A record in a file of its own, with ``database`` beside it."""
    database = Database(tmp_path / "w.sqlite")
    await database.open()
    made = AuditLog(database)
    made.database = database  # type: ignore[attr-defined]
    yield made
    await made.close()
    await database.close()
