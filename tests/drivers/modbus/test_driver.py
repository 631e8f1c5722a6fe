from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest

from drivers.equipment import channel_of
from drivers.modbus.driver import ModbusDriver
from drivers.modbus.mbap import Frame
from drivers.redirect import original_destination
from drivers.report import Reporter
from gateway.errors import InputErrors, UnavailableError
from gateway.model.device import DeviceState
from gateway.model.event import Behaviour, EvidenceFailed, LinkChanged
from gateway.model.evidence import ChannelKind, MediaType
from tests.drivers.modbus.bench import ADDRESS, FINGERPRINT, NONCE, READ, ScriptedDevice, Wire, assignment, honest, running
from tests.fakes.context import FakeContext


async def answering(frame: Frame) -> Sequence[bytes]:
    return [honest(frame)]


def test_every_wrong_setting_is_told_at_once() -> None:
    with pytest.raises(InputErrors) as e:
        ModbusDriver(FakeContext(), {"listen_port": 70_000, "unit": 256, "upstream": {"a": 1}, "lisen": ["::"], "wait_s": 0})
    assert [path for path, _ in e.value.problems] == ["listen_port", "unit", "upstream", "wait_s", "lisen"]


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        driver = ModbusDriver(FakeContext(), {"listen_port": port, "listen": ["127.0.0.1"]})
        with pytest.raises(UnavailableError, match=str(port)):
            await driver.run()


async def test_whoever_dials_the_proxy_itself_or_somebody_unknown_gets_nothing() -> None:
    async with ScriptedDevice(answering) as device:
        for destination in (original_destination, lambda _: ("10.77.0.99", 502), lambda _: (ADDRESS, 503)):
            context = FakeContext()
            driver = ModbusDriver(
                context, {"listen_port": 0, "listen": ["127.0.0.1"], "upstream": {ADDRESS: list(device.address)}}, destination
            )
            driver.assign([assignment()])
            task = asyncio.create_task(driver.run())
            await context.wait(LinkChanged, lambda e: e.up)
            context.grant("pump-1").set(3, assignment().profile.rules)  # type: ignore[arg-type]
            wire = Wire(*await asyncio.open_connection("127.0.0.1", driver.port))
            with pytest.raises(ConnectionError):
                await wire.ask(READ)
            wire.writer.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert device.seen == []


async def test_assignments_come_and_go() -> None:
    async with ScriptedDevice(answering) as device, running(device.address, assignment()) as bench:
        await bench.context.wait(LinkChanged, lambda e: e.up)
        bench.grant(2)
        wire = await bench.connect()
        assert (await wire.ask(READ))[0] == 3
        bench.driver.assign([assignment(state=DeviceState.SERVICE)])  # the same device in another state keeps its connections
        assert (await wire.ask(READ))[0] == 3
        assert device.connections == 1
        bench.driver.assign([])
        assert await wire.is_closed()
        assert await (await bench.connect()).is_closed()
        await bench.driver.attest("pump-1", MediaType.MODBUS, NONCE)
        assert "not served" in (await bench.context.wait(EvidenceFailed)).reason
        bench.driver.assign([assignment()])
        await bench.context.wait(LinkChanged, lambda e: e.up, since=len(bench.context.events))
        assert (await (await bench.connect()).ask(READ))[0] == 3


async def test_a_second_address_is_tried() -> None:
    async with ScriptedDevice(answering) as device:
        nobody = socket.create_server(("127.0.0.1", 0))
        dead = nobody.getsockname()
        nobody.close()
        settings: dict[str, object] = {"upstream": {ADDRESS: list(dead), "fd77::11": list(device.address)}}
        async with running(device.address, assignment(), settings) as bench:
            await bench.context.wait(LinkChanged, lambda e: e.up)


async def test_an_absent_device_is_told_once_and_dialled_again() -> None:
    nobody = socket.create_server(("127.0.0.1", 0))
    dead = nobody.getsockname()
    nobody.close()
    async with running(dead, assignment()) as bench:
        down = await bench.context.wait(LinkChanged)
        assert not down.up
        await asyncio.sleep(0.6)
        assert len(bench.context.of(LinkChanged)) == 1


def test_a_device_bound_to_no_port_is_on_an_open_channel() -> None:
    bound = assignment(FINGERPRINT)
    assert channel_of(bound).kind is ChannelKind.PORT
    assert channel_of(replace(bound, device=replace(bound.device, binding=None))).kind is ChannelKind.OPEN


async def test_events_are_told_once_and_then_counted() -> None:
    context = FakeContext()
    reporter = Reporter(context.emit, interval_s=0.2)
    task = asyncio.create_task(reporter.run())
    for i in range(500):
        reporter.note("pump-1", "forbidden-write", f"number {i} " + "x" * 500)
        reporter.note("pump-2", "malformed", "m")
        if i == 0:
            await context.wait(Behaviour, lambda e: e.device_id == "pump-2")
    await context.wait(Behaviour, lambda e: e.device_id == "pump-1" and e.count > 1)
    await asyncio.sleep(0.25)
    events = [e for e in context.of(Behaviour) if e.device_id == "pump-1"]
    assert [e.count for e in events] == [1, 499]
    assert events[1].text.startswith("number 499")
    assert len(events[1].text) <= 200
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
