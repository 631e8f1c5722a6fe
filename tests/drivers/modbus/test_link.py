"""The link against devices that are slow, wrong or hostile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from drivers.modbus import mbap
from drivers.modbus.mbap import Frame
from gateway.model.event import Behaviour, EvidenceFailed, LinkChanged
from gateway.model.evidence import MediaType
from tests.drivers.modbus.bench import (
    FINGERPRINT,
    NONCE,
    READ,
    START,
    STOP,
    TOKEN,
    Bench,
    ScriptedDevice,
    assignment,
    honest,
    running,
)
from tests.drivers.modbus.bench import (
    Behaviour as Script,
)
from tests.fakes.context import until


@contextlib.asynccontextmanager
async def between(script: Script, *targets: object, **settings: object) -> AsyncIterator[tuple[Bench, ScriptedDevice]]:
    """A driver at level 2 before a scripted device; no evidence is owed unless ``targets`` say so."""
    async with (
        ScriptedDevice(script) as device,
        running(device.address, assignment(*targets), settings) as bench,  # type: ignore[arg-type]
    ):
        bench.grant(2)
        await bench.context.wait(LinkChanged, lambda e: e.up)
        yield bench, device


WRONG = {
    "another transaction": lambda f: mbap.encode(f.transaction ^ 1, f.unit, honest(f)[7:]),
    "another unit": lambda f: mbap.encode(f.transaction, f.unit ^ 1, honest(f)[7:]),
    "another function": lambda f: mbap.encode(f.transaction, f.unit, bytes.fromhex("04020000")),
    "too few registers": lambda f: mbap.encode(f.transaction, f.unit, bytes.fromhex("0300")),
    "too many registers": lambda f: mbap.encode(f.transaction, f.unit, bytes.fromhex("030400000000")),
    "a byte count that lies": lambda f: mbap.encode(f.transaction, f.unit, bytes.fromhex("03040000")),
    "another protocol": lambda f: b"\0\1\0\1\0\3\1\3\2",
    "garbage": lambda f: b"\xff" * 40,
    "two answers": lambda f: honest(f) * 2,
    "an exception of another function": lambda f: mbap.encode(f.transaction, f.unit, bytes.fromhex("8402")),
}


@pytest.mark.parametrize("name", WRONG)
async def test_an_answer_that_does_not_fit_poisons_the_connection(name: str) -> None:
    wrong = True

    async def script(frame: Frame) -> Sequence[bytes]:
        return [WRONG[name](frame)] if wrong else [honest(frame)]

    async with between(script) as (bench, device):
        wire = await bench.connect()
        assert (await wire.ask(READ)).hex() == "830b"
        assert (await bench.context.wait(Behaviour)).code == "device-out-of-step"
        wrong = False
        await until(lambda: device.connections == 2, "a new connection")
        assert (await wire.ask(READ)).hex() == "03020000"
        assert [e.up for e in bench.context.of(LinkChanged)] == [True, False, True]
        assert all(e.anew for e in bench.context.of(LinkChanged) if e.up), "also for who holds it for connected: a profile changed"


async def test_bytes_that_nobody_asked_for_poison_it_too() -> None:
    async def script(frame: Frame) -> Sequence[bytes]:
        return [honest(frame), honest(frame)[:3]]

    async with between(script) as (bench, device):
        wire = await bench.connect()
        await wire.ask(READ)
        await until(lambda: device.connections == 2, "a new connection")


async def test_a_late_answer_is_never_anybody_elses() -> None:
    async def script(frame: Frame) -> Sequence[bytes]:
        if frame.pdu == READ:
            await asyncio.sleep(0.5)
        return [honest(frame)]

    async with between(script, request_s=0.2, wait_s=2.0) as (bench, device):
        slow, next_ = await bench.connect(), await bench.connect()
        first = asyncio.create_task(slow.ask(READ))
        await asyncio.sleep(0.05)
        assert (await next_.ask(START)) == START
        assert (await first).hex() == "830b"
        assert device.connections == 2
        assert "no answer" in bench.context.of(LinkChanged)[1].detail


async def test_a_device_that_closes_is_dialled_again_without_flooding_it() -> None:
    async def script(frame: Frame) -> None:
        return None

    async with between(script) as (bench, device):
        wire = await bench.connect()
        assert (await wire.ask(READ)).hex() == "830b"
        await bench.context.wait(LinkChanged, lambda e: e.up, since=2)
        assert device.connections == 2


async def test_one_request_at_a_time_with_transactions_of_our_own() -> None:
    running_, most = 0, 0

    async def script(frame: Frame) -> Sequence[bytes]:
        nonlocal running_, most
        running_ += 1
        most = max(most, running_)
        await asyncio.sleep(0.002)
        running_ -= 1
        return [honest(frame)]

    async with between(script) as (bench, device):
        wires = [await bench.connect() for _ in range(4)]
        for wire in wires:
            wire.writer.write(b"".join(mbap.encode(7, 1, bytes([3, 0, n, 0, 1])) for n in range(12)))
        for wire in wires:
            assert [(await wire.next()).transaction for _ in range(12)] == [7] * 12
        assert most == 1
        assert device.connections == 1
        transactions = [f.transaction for f in device.seen]
        assert transactions == list(range(transactions[0], transactions[0] + 48))
        assert min(f.pdu[2] for f in device.seen[-8:]) >= 8  # nobody was far behind


async def test_clients_take_turns() -> None:
    async def script(frame: Frame) -> Sequence[bytes]:
        await asyncio.sleep(0.01)
        return [honest(frame)]

    async with between(script) as (bench, device):
        greedy, modest = await bench.connect(), await bench.connect()
        greedy.writer.write(b"".join(mbap.encode(n, 1, READ) for n in range(40)))
        await until(lambda: len(device.seen) >= 2, "the greedy one is served")
        before = len(device.seen)
        await modest.ask(bytes.fromhex("0300050001"))
        mine = next(i for i, f in enumerate(device.seen) if f.pdu[2] == 5)
        assert mine <= before + 2


async def test_a_stop_goes_first() -> None:
    async def script(frame: Frame) -> Sequence[bytes]:
        await asyncio.sleep(0.02)
        return [honest(frame)]

    async with between(script) as (bench, device):
        crowd = [await bench.connect() for _ in range(8)]
        nurse = await bench.connect()
        for wire in crowd:
            wire.writer.write(b"".join(mbap.encode(n, 1, READ) for n in range(8)))
        await until(lambda: len(device.seen) >= 3, "the crowd is being served")
        before = len(device.seen)
        assert (await nurse.ask(STOP)) == STOP
        assert [f.pdu for f in device.seen].index(STOP) <= before + 1


async def test_who_floods_with_stops_starves_neither_clients_nor_evidence() -> None:
    async def script(frame: Frame) -> Sequence[bytes]:
        await asyncio.sleep(0.005)
        if frame.pdu[0] == 43:
            return [mbap.encode(frame.transaction, frame.unit, bytes.fromhex("2b0e018300000100") + b"\x01a")]
        return [honest(frame)]

    async with between(script, FINGERPRINT) as (bench, device):
        flood, client = await bench.connect(), await bench.connect()
        flood.writer.write(b"".join(mbap.encode(n, 1, STOP) for n in range(400)))
        await until(lambda: len(device.seen) >= 4, "stops are served")
        before = len(device.seen)
        await bench.attest()
        assert (await client.ask(READ))[0] == 3
        assert len(device.seen) - before <= 12  # two for the fingerprint, one read, as many stops, and a few on their way
        assert STOP in [f.pdu for f in device.seen[-4:]]


async def test_a_lapse_counts_for_what_waits() -> None:
    gate = asyncio.Event()

    async def script(frame: Frame) -> Sequence[bytes]:
        await gate.wait()
        return [honest(frame)]

    async with between(script) as (bench, device):
        wire, other = await bench.connect(), await bench.connect()
        first = asyncio.create_task(wire.ask(READ))
        await until(lambda: device.seen, "the first is on its way")
        second = asyncio.create_task(other.ask(START))
        await asyncio.sleep(0.05)
        bench.context.grant("pump-1").revoke()
        gate.set()
        assert (await first)[0] == 3
        assert (await second).hex() == "8602"
        assert START not in [f.pdu for f in device.seen]


async def test_what_waits_for_a_client_that_left_is_never_sent() -> None:
    gate = asyncio.Event()

    async def script(frame: Frame) -> Sequence[bytes]:
        await gate.wait()
        return [honest(frame)]

    async with between(script) as (bench, device):
        wire, other = await bench.connect(), await bench.connect()
        first = asyncio.create_task(wire.ask(READ))
        await until(lambda: device.seen, "the first is on its way")
        other.writer.write(mbap.encode(1, 1, START))
        await asyncio.sleep(0.05)
        other.writer.close()
        await asyncio.sleep(0.05)
        gate.set()
        await first
        assert (await wire.ask(READ))[0] == 3
        assert START not in [f.pdu for f in device.seen]


async def test_the_wait_for_a_turn_is_bounded() -> None:
    async def script(frame: Frame) -> Sequence[bytes]:
        await asyncio.sleep(0.4)
        return [honest(frame)]

    async with between(script, wait_s=0.3) as (bench, _):
        wires = [await bench.connect() for _ in range(4)]
        answers = await asyncio.gather(*(w.ask(READ) for w in wires))
        assert [a.hex() for a in answers].count("8306") >= 1
        assert [a.hex() for a in answers].count("03020000") >= 1


async def test_a_client_that_reads_nothing_is_not_fed() -> None:
    """Answers do not pile up here, and none is lost when it does read."""

    async def script(frame: Frame) -> Sequence[bytes]:
        return [honest(frame)]

    async with between(script) as (bench, device):
        wire, sent, stuck = await bench.connect(receive_buffer=16 * 1024), 4000, -1
        wire.writer.write(b"".join(mbap.encode(n, 1, bytes.fromhex("0300000078")) for n in range(sent)))
        while stuck != len(device.seen):
            stuck = len(device.seen)
            await asyncio.sleep(0.4)
        assert 0 < stuck < sent / 2
        assert [(await wire.next()).transaction for _ in range(sent)] == list(range(sent))


async def test_too_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.modbus.proxy.MAX_CLIENTS", 3)

    async def script(frame: Frame) -> Sequence[bytes]:
        return [honest(frame)]

    async with between(script) as (bench, _):
        wires = [await bench.connect() for _ in range(3)]
        for wire in wires:
            assert (await wire.ask(READ))[0] == 3
        assert await (await bench.connect()).is_closed()
        assert (await bench.context.wait(Behaviour)).code == "too-many-clients"
        wires[0].writer.close()
        await asyncio.sleep(0.05)
        assert (await (await bench.connect()).ask(READ))[0] == 3


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("exception", MediaType.MODBUS),
        ("silence", MediaType.MODBUS),
        ("endless", MediaType.MODBUS),
        ("huge", MediaType.PSA),
        ("never", MediaType.PSA),
    ],
)
async def test_evidence_that_cannot_be_had_is_said_so_in_time(name: str, media_type: MediaType) -> None:
    async def script(frame: Frame) -> Sequence[bytes]:
        pdu, answer = frame.pdu, honest(frame)
        if name == "exception" and pdu[0] == 3:
            answer = mbap.encode(frame.transaction, frame.unit, bytes.fromhex("8302"))
        if name == "silence":
            return []
        if pdu[0] == 43:
            more = "ff01" if name == "endless" else "0000"
            answer = mbap.encode(frame.transaction, frame.unit, bytes.fromhex(f"2b0e0183{more}01000161"))
        if name == "huge" and pdu[0] == 3:
            answer = mbap.encode(frame.transaction, frame.unit, bytes.fromhex("0302ffff"))
        return [answer]

    async with between(script, FINGERPRINT, TOKEN, attest_s=0.5, request_s=0.8, wait_s=0.2) as (bench, device):
        async with asyncio.timeout(2):
            await bench.driver.attest("pump-1", media_type, NONCE)
        failed = await bench.context.wait(EvidenceFailed)
        assert (failed.device_id, failed.media_type) == ("pump-1", media_type)
        wire = await bench.connect()
        await wire.ask(STOP)
        assert STOP in [f.pdu for f in device.seen]  # a stop is sent all the same, if need be on a new connection


async def test_evidence_of_an_earlier_connection_opens_nothing() -> None:
    broken = True

    async def script(frame: Frame) -> Sequence[bytes] | None:
        if frame.pdu[0] == 43:
            return [mbap.encode(frame.transaction, frame.unit, bytes.fromhex("2b0e018300000100") + b"\x01a")]
        return None if broken else [honest(frame)]

    async with between(script, FINGERPRINT, wait_s=0.4) as (bench, device):
        await bench.driver.attest("pump-1", MediaType.MODBUS, NONCE)
        await bench.context.wait(EvidenceFailed)
        broken = False
        await until(lambda: device.connections == 2, "a new connection")
        wire = await bench.connect()
        assert (await wire.ask(READ)).hex() in ("8306", "830b")
        assert [f.pdu for f in device.seen].count(READ) == 0
        await bench.attest()
        assert (await wire.ask(READ))[0] == 3
