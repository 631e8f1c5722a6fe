"""Bad input at both proxies, on the real drivers: refused, nothing of it relayed, and a good connection beside it never notices.

One table for both buses. The good connection goes round and round all the while; what reached the other end is its account.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from drivers.modbus import mbap
from hil.hl7 import malformed
from tests.drivers.hl7.ward import Bench as Hl7Bench
from tests.drivers.hl7.ward import device as monitor
from tests.drivers.hl7.ward import oru
from tests.drivers.modbus.bench import FINGERPRINT, READ, PumpProcess, assignment, pump_process, running
from tests.fakes.context import until

TIMES, PATIENCE_S = 3, 5.0


def modbus(pdu: str, *, transaction: int = 7, protocol: int = 0, length: int | None = None, unit: int = 1) -> bytes:
    """A packet, however wrong."""
    body = bytes.fromhex(pdu)
    return struct.pack(">HHHB", transaction, protocol, len(body) + 1 if length is None else length, unit) + body


# what it is -> bytes on the wire. The framing is broken: closed; otherwise closed, or exception 1 to 4.
BROKEN_MODBUS = {
    "protocol id that is not 0": modbus("0300000001", protocol=1),
    "length 0": modbus("", length=0),
    "length 1": modbus("03", length=1),
    "length 65535": modbus("0300000001", length=65535),
    "length of 255": modbus("03" + "00" * 253, length=255),
    "garbage": b"\xde\xad\xbe\xef" * 2,
    "HTTP": b"GET / HTTP/1.1\r\nHost: pump\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303") + bytes(32),
    "HL7": b"\x0bMSH|^~\\&|A|B|C|D|1||ORU^R01|1|P|2.6\r\x1c\r",
}
REFUSED_MODBUS = {
    "read with bytes after its end": modbus("0300000001ff"),
    "read cut short": modbus("030000"),
    "read of nothing": modbus("0300000000"),
    "read of too much": modbus("030000ffff"),
    "write whose byte count is wrong": modbus("100014000104012c0000"),
    "write whose bytes are missing": modbus("10001400010201"),
    "write of no register": modbus("100014000000"),
    "coil that is neither on nor off": modbus("0500011234"),
    "exception as a request": modbus("8302"),
    "function 0": modbus("0000000001"),
    "unknown function": modbus("5a00000001"),
    "unknown encapsulation": modbus("2b0d0100"),
    "unknown diagnostics": modbus("08ffff0000"),
    "restart communications": modbus("0800010000"),
    "mask write": modbus("16000a00ff0001"),
    "read and write whose write is not allowed": modbus("17000000010064000102ffff"),
    "file record": modbus("140706000100000001"),
    "forbidden register": modbus("0600640001"),
}


@dataclass
class Side:
    """A proxy between a good client and the other end."""

    attack: Callable[[bytes], Awaitable[bytes]]  # bytes on a connection of their own; what came back until it was quiet or closed
    round_trip: Callable[[], Awaitable[None]]  # of the good connection
    relayed: Callable[[], int]  # how much has reached the other end
    refused: Callable[[str, bytes], bool]  # whether an answer is a refusal


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: bytes, enough: Callable[[bytes], bool]
) -> bytes:
    """Send, and take what comes until it is an answer or the end; ``closed`` says that it is the end."""
    got = b""
    try:
        writer.write(wire)
        async with asyncio.timeout(PATIENCE_S):
            while not enough(got):
                data = await reader.read(65536)
                if not data:
                    got += b"closed"
                    break
                got += data
    except ConnectionError:
        got += b"closed"
    writer.close()
    return got


@pytest.fixture(scope="module")
def pump() -> Iterator[PumpProcess]:
    with pump_process() as started:
        yield started


@asynccontextmanager
async def modbus_side(pump: PumpProcess) -> AsyncIterator[Side]:
    async with running(("127.0.0.1", pump.port), assignment(FINGERPRINT)) as b:
        b.grant(2)
        await b.attest()
        good = await b.connect()

        async def attack(wire: bytes) -> bytes:
            bad = await b.connect()
            return await exchange(bad.reader, bad.writer, wire, lambda got: len(got) >= 9)

        async def round_trip() -> None:
            assert (await good.ask(READ))[:2] == b"\x03\x02"

        def refused(name: str, answer: bytes) -> bool:
            if name in BROKEN_MODBUS or answer == b"closed":
                return answer == b"closed"
            return len(answer) == 9 and bool(answer[7] & 0x80) and answer[8] in (1, 2, 3, 4)

        yield Side(attack, round_trip, lambda: int(pump.ask("state")["requests"]), refused)


@asynccontextmanager
async def hl7_side() -> AsyncIterator[Side]:
    async with Hl7Bench().running(monitor(1), monitor(2)) as b:
        b.grant(3, 1)
        b.grant(3, 2)
        good, number = await b.dial(2575, 2), 0

        async def attack(wire: bytes) -> bytes:
            bad = await b.dial(2575, 1)
            return await exchange(bad.reader, bad.writer, wire, lambda got: got.endswith(b"\x1c\r"))

        async def round_trip() -> None:
            nonlocal number
            number += 1
            assert b"|AA|G%d\r" % number in await good.ask(oru(b"G%d" % number, observations=1))

        def refused(name: str, answer: bytes) -> bool:
            return answer == b"closed" or b"\rMSA|AR|BAD1|" in answer

        yield Side(attack, round_trip, lambda: len(b.receiver.messages), refused)
        assert not [m for m in b.receiver.messages if b"BAD1" in m]


async def play(side: Side, wires: dict[str, bytes]) -> None:
    """Every bad input several times, while the good connection goes round and round; both are counted at the far end."""
    rounds, longest_s, done = 0, 0.0, asyncio.Event()
    loop = asyncio.get_running_loop()
    await side.round_trip()
    before = side.relayed()

    async def good() -> None:
        nonlocal rounds, longest_s
        while not done.is_set():
            began = loop.time()
            await side.round_trip()
            rounds, longest_s = rounds + 1, max(longest_s, loop.time() - began)
            await asyncio.sleep(0.002)

    going = asyncio.create_task(good())
    for name, wire in wires.items():
        at = rounds
        answers = await asyncio.gather(*(side.attack(wire) for _ in range(TIMES)))
        for answer in answers:
            assert side.refused(name, answer), (name, answer)
        await until(lambda at=at: going.done() or rounds > at + 1, f"the good connection goes on during {name}")  # type: ignore[misc]
        assert not going.done(), (name, going)
    done.set()
    await going
    assert longest_s < 2.0
    assert side.relayed() - before == rounds, "something else was relayed"


async def test_modbus(pump: PumpProcess) -> None:
    pump.ask("restore")
    async with modbus_side(pump) as side:
        await play(side, BROKEN_MODBUS | REFUSED_MODBUS)


async def test_modbus_a_header_that_never_ends_and_requests_in_one_go(pump: PumpProcess) -> None:
    """Half a header harms nobody; of two requests in one segment each is answered (a server of its own would lose the second)."""
    async with running(("127.0.0.1", pump.port), assignment(FINGERPRINT)) as b:
        b.grant(2)
        await b.attest()
        half, both = await b.connect(), await b.connect()
        half.writer.write(b"\0\1\0\0")
        both.writer.write(mbap.encode(1, 1, READ) + mbap.encode(2, 1, READ) + mbap.encode(3, 1, READ))
        assert [(await both.next()).transaction for _ in range(3)] == [1, 2, 3]
        half.writer.write(b"\0\6\1" + READ)
        assert (await half.next()).transaction == 1


async def test_hl7() -> None:
    async with hl7_side() as side:
        await play(side, dict(malformed(oru(b"BAD1"))))
