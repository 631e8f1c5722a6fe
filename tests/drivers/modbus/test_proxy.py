"""Clients, the proxy and the bench's pump: what is refused never reaches the pump, by the pump's own account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pymodbus.client import AsyncModbusTcpClient

from drivers.modbus import mbap
from gateway.model.device import DeviceState
from gateway.model.event import Behaviour, EvidenceArrived, EvidenceFailed, LinkChanged
from gateway.model.evidence import ChannelKind, MediaType
from tests.drivers.modbus.bench import (
    FINGERPRINT,
    NONCE,
    READ,
    START,
    STOP,
    TOKEN,
    Bench,
    PumpProcess,
    assignment,
    pump_process,
    running,
)


@pytest.fixture(scope="module")
def process() -> Iterator[PumpProcess]:
    with pump_process() as started:
        yield started


@pytest.fixture
def pump(process: PumpProcess) -> PumpProcess:
    process.ask("plug")
    process.ask("restore")
    return process


@pytest.fixture
async def bench(pump: PumpProcess) -> AsyncIterator[Bench]:
    """Connected, at level 2, fingerprinted."""
    async with running(("127.0.0.1", pump.port), assignment(FINGERPRINT)) as started:
        await started.context.wait(LinkChanged, lambda e: e.up)
        started.grant(2)
        await started.attest()
        yield started


async def test_reads_and_allowed_writes_arrive(bench: Bench, pump: PumpProcess) -> None:
    wire = await bench.connect()
    before = len(pump.writes())
    assert (await wire.ask(bytes.fromhex("06001401f4"))).hex() == "06001401f4"
    assert (await wire.ask(START)) == START
    assert (await wire.ask(bytes.fromhex("0300140001"))).hex() == "030201f4"
    assert (await wire.ask(bytes.fromhex("0400000002"))).hex() == "040401f40078"
    assert b"Corvita" in await wire.ask(bytes.fromhex("2b0e0100"))
    assert (await wire.ask(bytes.fromhex("100014000102012c"))).hex() == "1000140001"
    assert pump.writes()[before:] == ["06001401f4", "06000a0001", "100014000102012c"]
    assert pump.ask("state")["rate"] == 300
    assert pump.ask("state")["running"]


async def test_an_unmodified_client_works(bench: Bench) -> None:
    client = AsyncModbusTcpClient("127.0.0.1", port=bench.driver.port, timeout=3, retries=0)
    assert await client.connect()
    try:
        assert (await client.read_holding_registers(100, count=3, device_id=1)).registers == [1000, 250, 9999]
        assert not (await client.write_register(20, 100, device_id=1)).isError()
        assert (await client.write_register(21, 100, device_id=1)).exception_code == 2
        assert (await client.read_coils(0, count=1, device_id=1)).exception_code == 1
    finally:
        client.close()


@pytest.mark.parametrize(
    ("hexed", "code", "kind"),
    [
        ("0600640001", 2, "forbidden-write"),  # a configuration register
        ("06000a0002", 2, "forbidden-write"),  # a value that is not allowed
        ("10006400020400010002", 2, "forbidden-write"),
        ("1000130002040001" + "0002", 2, "forbidden-write"),  # one register before the allowed one
        ("0300000078" + "", None, ""),
        ("0300000079", 2, "forbidden-read"),
        ("0390000010", 2, "forbidden-read"),  # the mailbox
        ("0500010000", 1, "unknown-function"),
        ("17000000010064000102ffff", 2, "forbidden-write"),  # function 23 whose write span is not allowed
        ("16000a00ff0001", 1, "unknown-function"),
        ("0800010000", 1, "unknown-function"),
        ("0800040000", 1, "unknown-function"),
        ("140706000100000001", 1, "unknown-function"),
        ("5a00000001", 1, "unknown-function"),
        ("2b0d0100", 1, "unknown-function"),
        ("0300000000", 3, "malformed"),
    ],
)
async def test_refused_here_and_never_there(bench: Bench, pump: PumpProcess, hexed: str, code: int | None, kind: str) -> None:
    wire, since = await bench.connect(), len(bench.context.events)
    before = pump.ask("state")
    answer = await wire.ask(bytes.fromhex(hexed))
    if code is None:
        assert answer[0] == int(hexed[:2], 16)
        return
    assert answer == bytes([int(hexed[:2], 16) | 0x80, code])
    after = pump.ask("state")
    assert (after["requests"], after["writes"]) == (before["requests"], before["writes"])
    event = await bench.context.wait(Behaviour, since=since)
    assert (event.device_id, event.code, event.count) == ("pump-1", kind, 1)
    assert (await wire.ask(READ))[0] == 3  # the connection goes on


OK = mbap.encode(99, 1, READ)
MALFORMED = {
    "protocol id 1": "000700010006010300000001",
    "length 0": "000700000000010300000001",
    "length 1": "000700000001010300000001",
    "length 65535": "00070000ffff010300000001",
    "8 bytes of garbage": "ff" * 8,
    "300 bytes of garbage": "ff" * 300,
    "100 kB of zeros": "00" * 100_000,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n".hex(),
    "a response as a request": "00070000000301" + "8302",
    "function 3 with a byte too many": "00070000000701" + "0300000001ff",
    "length 2 and a frame's rest": "000700000002010300000001",
    "function 16 cut short": "00070000000901" + "100000000a140001",
    "function 16, byte count wrong": "00070000000d01" + "10001400010600010002" + "0003",
    "function 15, padding set": "00070000000801" + "0f0000000301ff",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_frames_close_their_connection_and_hurt_nobody(bench: Bench, pump: PumpProcess, name: str) -> None:
    other, wire = await bench.connect(), await bench.connect()
    assert (await other.ask(READ))[0] == 3
    before, since = pump.ask("state"), len(bench.context.events)
    wire.writer.write(bytes.fromhex(MALFORMED[name]))
    wire.writer.write(OK)  # whoever comes after an unclear frame is not heard
    assert await wire.is_closed()
    after = pump.ask("state")
    assert (after["requests"], after["writes"]) == (before["requests"], before["writes"])
    assert (await bench.context.wait(Behaviour, since=since)).code == "malformed"
    assert (await other.ask(READ))[0] == 3


async def test_a_truncated_header_is_waited_for_and_then_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.modbus.proxy._PARTIAL_S", 0.2)
    slow, stuck = await bench.connect(), await bench.connect()
    stuck.writer.write(b"\0\1\0\0")
    for i in range(len(OK)):  # a frame in single bytes is a frame
        slow.writer.write(OK[i : i + 1])
        await asyncio.sleep(0.002)
    assert (await slow.next()).pdu[0] == 3
    assert await stuck.is_closed(1.0)
    assert (await slow.ask(READ))[0] == 3


async def test_a_valid_frame_before_a_broken_one_counts(bench: Bench) -> None:
    wire = await bench.connect()
    wire.writer.write(mbap.encode(1, 1, READ))
    assert (await wire.next()).pdu[0] == 3
    wire.writer.write(bytes.fromhex("ff" * 8))
    assert await wire.is_closed()


async def test_pipelined_requests_are_all_answered(bench: Bench) -> None:
    """The pump's server drops the second of two requests in one segment; through the proxy none is lost."""
    wire = await bench.connect()
    wire.writer.write(b"".join(mbap.encode(t, 1, bytes([3, 0, 100 + t % 20, 0, 1])) for t in range(100)))
    frames = [await wire.next() for _ in range(100)]
    assert [f.transaction for f in frames] == list(range(100))
    assert len({f.pdu for f in frames}) > 10
    assert frames[0].pdu == frames[20].pdu == bytes.fromhex("030203e8")


async def test_many_clients_each_get_their_own_answers(bench: Bench) -> None:
    async def one(i: int) -> None:
        wire = await bench.connect()
        for _ in range(10):
            assert await wire.ask(bytes([3, 0, 100 + i, 0, 1])) == bytes([3, 2]) + values[i].to_bytes(2, "big")

    wire = await bench.connect()
    block = await wire.ask(bytes.fromhex("0300640014"))
    values = [int.from_bytes(block[i : i + 2], "big") for i in range(2, len(block), 2)]
    await asyncio.gather(*(one(i) for i in range(20)))


async def test_a_level_counts_from_the_next_request_on(bench: Bench, pump: PumpProcess) -> None:
    wire = await bench.connect()
    assert (await wire.ask(START)) == START
    bench.context.grant("pump-1").revoke()
    before = len(pump.writes())
    assert (await wire.ask(START)).hex() == "8602"
    assert (await wire.ask(READ)).hex() == "8302"
    assert pump.writes()[before:] == []
    assert (await bench.context.wait(Behaviour)).code == "write-below-level"
    assert (await wire.ask(STOP)) == STOP  # stopping is never blocked
    assert pump.writes()[before:] == [STOP.hex()]
    assert not pump.ask("state")["running"]
    bench.grant(2)
    assert (await wire.ask(START)) == START


async def test_a_lease_lapses_by_itself(bench: Bench) -> None:
    wire = await bench.connect()
    bench.grant(2, seconds=0.3)
    assert (await wire.ask(READ))[0] == 3
    await asyncio.sleep(0.35)
    assert (await wire.ask(READ)).hex() == "8302"
    assert (await wire.ask(STOP)) == STOP


async def test_no_client_before_this_connections_fingerprint(pump: PumpProcess) -> None:
    async with running(("127.0.0.1", pump.port), assignment(FINGERPRINT, TOKEN)) as bench:
        bench.grant(3)
        await bench.context.wait(LinkChanged, lambda e: e.up)
        before = pump.ask("state")["requests"]
        wire, hasty = await bench.connect(), await bench.connect()
        assert (await hasty.ask(STOP)) == STOP
        asked = asyncio.create_task(wire.ask(READ))
        await asyncio.sleep(0.2)
        assert not asked.done()
        assert pump.ask("state")["requests"] == before + 1  # only the stop
        await bench.attest(MediaType.MODBUS)
        await asyncio.sleep(0.1)
        assert not asked.done()  # the token is still owed
        await bench.attest(MediaType.PSA)
        assert (await asked)[0] == 3
        events = bench.context.of(EvidenceArrived)
        assert [e.evidence.media_type for e in events] == [MediaType.MODBUS, MediaType.PSA]


async def test_no_client_before_this_connections_evidence_was_decided_on(pump: PumpProcess) -> None:
    """A device that was changed while its cable was out: what it said is collected, and its lease is from before."""
    async with running(("127.0.0.1", pump.port), assignment(FINGERPRINT)) as bench:
        bench.grant(3)
        await bench.context.wait(LinkChanged, lambda e: e.up)
        bench.context.engine_decides.clear()
        wire = await bench.connect()
        asked, attested = asyncio.create_task(wire.ask(START)), asyncio.create_task(bench.attest())
        await bench.context.wait(EvidenceArrived)
        before = pump.ask("state")["requests"]
        await asyncio.sleep(0.1)
        assert not asked.done() and not attested.done()
        bench.grant(0)  # the decision
        bench.context.engine_decides.set()
        assert (await asked).hex() == "8602"
        await attested
        assert pump.ask("state")["requests"] == before


async def test_waiting_for_a_fingerprint_is_bounded(pump: PumpProcess) -> None:
    async with running(("127.0.0.1", pump.port), assignment(FINGERPRINT), {"wait_s": 0.3}) as bench:
        bench.grant(2)
        await bench.context.wait(LinkChanged, lambda e: e.up)
        wire = await bench.connect()
        assert (await wire.ask(READ)).hex() == "8306"
        assert (await wire.ask(bytes.fromhex("0600640001"))).hex() == "8602"  # what is forbidden is said at once
        wire.writer.write(mbap.encode(71, 1, READ) + mbap.encode(72, 1, STOP))
        assert (await wire.next()) == (71, 1, bytes.fromhex("8306"))  # what waits before a stop makes room for it
        assert (await wire.next()) == (72, 1, STOP)


async def test_observed_devices_lose_nothing(pump: PumpProcess) -> None:
    """Neither before any lease nor before a fingerprint; what no rule names is refused all the same."""
    async with running(("127.0.0.1", pump.port), assignment(FINGERPRINT, state=DeviceState.OBSERVING)) as bench:
        wire = await bench.connect()
        assert (await wire.ask(START)) == START
        assert (await wire.ask(READ))[0] == 3
        assert (await wire.ask(bytes.fromhex("0600640001"))).hex() == "8602"


async def test_unplugged_and_plugged_again(bench: Bench, pump: PumpProcess) -> None:
    wire, since = await bench.connect(), len(bench.context.events)
    assert (await wire.ask(READ))[0] == 3
    pump.ask("unplug")
    down = await bench.context.wait(LinkChanged, lambda e: not e.up, since=since)
    assert down.detail
    assert (await wire.ask(READ)).hex() == "830b"  # bounded: gateway target failed to respond
    await bench.driver.attest("pump-1", MediaType.MODBUS, NONCE)
    assert "not connected" in (await bench.context.wait(EvidenceFailed, since=since)).reason
    pump.ask("plug")
    await bench.context.wait(LinkChanged, lambda e: e.up, since=since)
    assert len(bench.context.of(LinkChanged, since)) == 2  # told once down, once up
    assert (await wire.ask(STOP)) == STOP
    waiting = asyncio.create_task(wire.ask(READ))
    await asyncio.sleep(0.1)
    assert not waiting.done()  # a new connection owes a fingerprint
    await bench.attest()
    assert (await waiting)[0] == 3


async def test_the_fingerprint_says_what_the_pump_is(bench: Bench, pump: PumpProcess) -> None:
    content = cbor2.loads(await bench.attest())
    assert content[1] == NONCE
    assert content[2] == {0: b"Corvita", 1: b"IP-4", 2: b"2.3.1"}
    reference = pump.ask("reference")["fingerprint"]
    assert {f"register:{r}": f"{v:04x}" for r, v in content[3].items()} == {k: v for k, v in reference.items() if "register" in k}
    pump.ask("tamper", register=105, value=77)
    assert cbor2.loads(await bench.attest())[3][105] == 77
    pump.ask("update")
    changed = cbor2.loads(await bench.attest())
    assert (changed[2][2], changed[3][101]) == (b"2.4.0", 300)
    evidence = bench.context.of(EvidenceArrived)[-1].evidence
    assert (evidence.channel.kind, evidence.channel.binding) == (ChannelKind.PORT, "p-pump-1/02:57:47:00:00:11")
    assert evidence.nonce == NONCE


async def test_the_token_is_the_secure_elements(bench: Bench, pump: PumpProcess) -> None:
    await bench.driver.attest("pump-1", MediaType.PSA, NONCE)
    assert "no target" in (await bench.context.wait(EvidenceFailed)).reason
    bench.driver.assign([assignment(FINGERPRINT, TOKEN)])  # another profile: a new connection
    await bench.context.wait(LinkChanged, lambda e: e.up, since=len(bench.context.events))
    reference = pump.ask("reference")["reference"]
    for nonce in (NONCE, bytes(32)):
        protected, _, payload, signature = cbor2.loads(await bench.attest(MediaType.PSA, nonce)).value
        key = load_der_public_key(bytes.fromhex(reference["spki"]))
        assert isinstance(key, ec.EllipticCurvePublicKey)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        assert cbor2.loads(payload)[10] == nonce


async def test_evidence_and_traffic_share_a_connection(bench: Bench, pump: PumpProcess) -> None:
    """Clients go on while evidence is collected, and nothing is mixed up."""
    wire = await bench.connect()

    async def poll() -> None:
        for _ in range(100):
            assert (await wire.ask(bytes.fromhex("0300640001"))).hex() == "030203e8"

    await asyncio.gather(poll(), *(bench.attest() for _ in range(5)))
    assert len(bench.context.of(EvidenceArrived)) >= 6
