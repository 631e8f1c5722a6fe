"""A ward with one wearable: the bench's radio, bus, org.bluez and patch as processes, and a supervised driver here."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message
from dbus_fast.aio import MessageBus

from drivers.ble.driver import BleDriver
from gateway.driver import Assignment
from gateway.errors import UnavailableError
from gateway.model.device import Bond, Bus, Device
from gateway.model.event import EvidenceArrived, EvidenceFailed
from gateway.model.evidence import Evidence, EvidenceClass, MediaType
from gateway.model.level import TrustLevel
from gateway.model.profile import Function, GattRule, OnLoss, Profile, Target
from hil.ble import PASSKEY, PATCH_ADDRESS, BleBench
from hil.control import ask
from tests.fakes.context import FakeContext

NOTIFY = GattRule("2A37", "notify", TrustLevel.STANDARD)
PROFILE = Profile(
    "heart-rate-patch",
    "Heart-rate patch",
    Bus.BLE,
    "monitoring",
    (Function("readings", TrustLevel.STANDARD, OnLoss.CUT, rules=(NOTIFY,)),),
    (Target("firmware", MediaType.PSA, EvidenceClass.ASYMMETRIC),),
)


class Ward:
    """The bench, the driver and what it was given."""

    def __init__(self, bench: BleBench) -> None:
        self.bench = bench
        self.context = FakeContext("ble")
        self.driver = self._new()
        self.failures: list[UnavailableError] = []
        self._task: asyncio.Task[None] | None = None

    def _new(self) -> BleDriver:
        return BleDriver(self.context, {"bus": self.bench.bus_address})

    def assign(self, passkey: int | None = PASSKEY, bond: Bond = Bond.NONE) -> None:
        """Serve the patch."""
        device = Device("patch-1", "Patch", Bus.BLE, PROFILE.id, PATCH_ADDRESS, bond=bond)
        self.driver.assign([Assignment(device, PROFILE, passkey)])

    def begin(self) -> None:
        """Run the driver as the supervisor does."""
        self._task = asyncio.create_task(self._supervise())

    async def _supervise(self) -> None:
        while True:
            try:
                await self.driver.run()
            except UnavailableError as e:
                self.failures.append(e)
                await asyncio.sleep(0.2)

    async def end(self) -> None:
        """A clean end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=10)
            assert self._task.done(), "the driver did not end"
            if not self._task.cancelled() and (e := self._task.exception()) is not None:
                raise e

    async def restart(self) -> None:
        """The gateway restarts; its memory is the inventory only."""
        await self.end()
        self.driver = self._new()

    async def patch(self, do: str = "state") -> dict[str, Any]:
        """Ask the patch."""
        return await asyncio.to_thread(ask, self.bench.patch_ctl, do)

    async def until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait until the patch's state is as wanted."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not holds(state := await self.patch()):
            assert asyncio.get_running_loop().time() < deadline, f"the patch stays {state}"
            await asyncio.sleep(0.05)
        return state

    async def attest(self, nonce: bytes) -> Evidence | EvidenceFailed:
        """Challenge the patch."""
        since = len(self.context.events)
        await self.driver.attest("patch-1", MediaType.PSA, nonce)
        got = self.context.of(EvidenceArrived, since) + self.context.of(EvidenceFailed, since)
        assert len(got) == 1
        return got[0].evidence if isinstance(got[0], EvidenceArrived) else got[0]


@pytest.fixture(scope="module")
def bench() -> Iterator[BleBench]:
    """One bench for a module; ``reset`` makes it as new before every test."""
    directory = Path(tempfile.mkdtemp(prefix="wgble"))
    made = BleBench(directory, advertising_ms=100.0)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def reset(bench: BleBench, passkey: int | None) -> None:
    """Everything runs, nobody knows anybody, the patch is honest and at rest."""
    for process in bench.processes.values():
        process.signal(signal.SIGCONT) if process.running else None
    stranger = bench.processes.pop("stranger", None)
    if stranger is not None:
        stranger.stop()
    if not bench.processes["dbus"].running:
        bench.processes["bluez"].stop()
        bench.start_bus()
    if not bench.processes["bluez"].running:
        bench.start_bluez()
    if not bench.processes["patch"].running:
        bench.start_patch()
    ask(bench.patch_ctl, "reset", passkey=passkey)
    bus = await MessageBus(bus_address=bench.bus_address).connect()
    try:
        objects = await bus.call(Message("org.bluez", "/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"))
        for path, interfaces in objects.body[0].items():
            if "org.bluez.Device1" in interfaces:
                adapter = ("org.bluez", "/org/bluez/hci0", "org.bluez.Adapter1", "RemoveDevice")
                await bus.call(Message(*adapter, signature="o", body=[path]))
    finally:
        bus.disconnect()


async def _ward(bench: BleBench, passkey: int | None) -> AsyncIterator[Ward]:
    await reset(bench, passkey)
    ward = Ward(bench)
    try:
        yield ward
    finally:
        await ward.end()


@pytest.fixture
async def ward(bench: BleBench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ward]:
    """A ward whose patch has a passkey on its label."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
    async for w in _ward(bench, PASSKEY):
        yield w


@pytest.fixture
async def unprotected(bench: BleBench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ward]:
    """A ward whose patch bonds just-works."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
    async for w in _ward(bench, None):
        yield w
