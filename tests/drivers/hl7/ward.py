"""A monitor's messages, a receiver with behaviour, and a driver between them on loopback, for the tests of this directory.

Devices are addresses of 127.0.1.0/24, the receiver is 127.0.9.1; what the kernel would redirect, ``destination`` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from drivers.hl7 import mllp
from drivers.hl7.ack import Verdict, acknowledge
from drivers.hl7.driver import Hl7Driver
from drivers.hl7.message import parse
from gateway.driver import Assignment
from gateway.errors import MalformedError
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.event import EvidenceArrived, LinkChanged
from gateway.model.evidence import EvidenceClass, MediaType
from gateway.model.level import TrustLevel
from gateway.model.profile import Acknowledge, Flow, Function, Hl7Rule, OnLoss, Profile, Protocol, Target
from tests.fakes.context import FakeContext, until

RECEIVER, HOSPITAL = "127.0.9.1", "127.0.8.1"
LIVE, RESULTS, SETTINGS, ORDERS = 2575, 2576, 2577, 2578  # the last two toward the device, end to end and stored
ADDRESS = "127.0.1.1"
NONCE = bytes(range(32))
EUI = b"^^0257470000000012^EUI-64"


def oru(
    control_id: bytes = b"M1", *, observations: int = 2, serial: bytes = EUI, version: bytes = b"4.1", msh: bytes = b""
) -> bytes:
    """An ORU^R01 as the bench's monitor sends it; ``msh`` replaces what follows MSH-12."""
    head = b"MSH|^~\\&|BEDMON^0257470000000012^EUI-64|WARD3|CENTRAL|HOSP|20261124053000+0000||ORU^R01^ORU_R01|"
    lines = [head + control_id + b"|P|2.6" + (msh or b"||||||UNICODE UTF-8"), b"SFT|Corvita|" + version + b"|BM-7|b1027"]
    lines += [b"PID|1||100012^^^HOSP^MR||DOE^JANE", b"OBR|1|||182777000^monitoring of patient^SCT|||20261124053000"]
    for i in range(1, observations + 1):
        value = b"|1.7.4.%d|%d|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R|||20261124053000||||" % (i, 70 + i)
        lines.append(b"OBX|%d|NM|147842^MDC_ECG_HEART_RATE^MDC" % i + value + serial)
    return b"\r".join(lines) + b"\r"


def profile(*, application: str = "BEDMON") -> Profile:
    """Live vitals end to end, results stored; the messages that the bench's monitor sends."""
    rules = (
        Hl7Rule(application, "WARD3", "ORU^R01", TrustLevel.STANDARD),
        Hl7Rule(application, "WARD3", "ADT^A01", TrustLevel.FULL),
    )
    live = Flow(RECEIVER, Protocol.TCP, LIVE, from_device=True, via=True)
    results = Flow(RECEIVER, Protocol.TCP, RESULTS, from_device=True, via=True)
    orders = (Hl7Rule("HIS", "HOSP", "ORM^O01", TrustLevel.STANDARD),)
    settings, stored = (Flow(HOSPITAL, Protocol.TCP, port, from_device=False, via=True) for port in (SETTINGS, ORDERS))
    functions = (
        Function("settings", TrustLevel.STANDARD, OnLoss.CUT, (settings,), orders, (), Acknowledge.END_TO_END),
        Function("orders", TrustLevel.STANDARD, OnLoss.CUT, (stored,), orders, (), Acknowledge.STORED, 60.0),
        Function("live", TrustLevel.STANDARD, OnLoss.CUT, (live,), rules, (), Acknowledge.END_TO_END),
        Function("results", TrustLevel.STANDARD, OnLoss.CUT, (results,), rules, (), Acknowledge.STORED, 60.0),
    )
    target = Target("identity", MediaType.HL7.value, EvidenceClass.FINGERPRINT)
    return Profile("monitor", "Monitor", Bus.HL7, "IIb", functions, (target,))


def order(control_id: bytes = b"O1") -> bytes:
    """What a hospital system tells a device to do."""
    head = b"MSH|^~\\&|HIS|HOSP|BEDMON|WARD3|20261124053000+0000||ORM^O01^ORM_O01|" + control_id + b"|P|2.6"
    return head + b"\rPID|1||100012^^^HOSP^MR||DOE^JANE\rORC|NW|1\rOBR|1|1||settings\r"


def device(number: int = 1, state: DeviceState = DeviceState.ENFORCED) -> Device:
    """Monitor ``number``, at 127.0.1.number."""
    address = f"127.0.1.{number}"
    binding = Binding(f"p-mon-{number}", f"02:57:47:00:01:{number:02x}", (address,))
    return Device(f"monitor-{number}", "Monitor", Bus.HL7, "monitor", address, state, binding)


class Receiver:
    """A receiving system. ``answer`` makes what is sent for a message (None: silence); default: AA."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.answers: list[bytes] = []
        self.connections = 0
        self.answer: Callable[[bytes], bytes | None] = self.accept
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def accept(self, raw: bytes, verdict: Verdict = Verdict.ACCEPT) -> bytes | None:
        """The usual answer."""
        return acknowledge(parse(raw), verdict, b"", b"20261124053001", b"R%d" % len(self.messages))

    async def start(self) -> None:
        """Listen; on the same port again after ``stop``."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away: connections break, nothing listens."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        decoder = mllp.Decoder()
        with contextlib.suppress(ConnectionError, MalformedError):
            while data := await reader.read(65536):
                for raw in decoder.feed(data):
                    self.messages.append(raw)
                    if (answer := self.answer(raw)) is not None:
                        self.answers.append(answer)
                        writer.write(answer if answer.startswith(mllp.VT) else mllp.encode(answer))
        self._writers.discard(writer)
        writer.close()


class Sender:
    """A device's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder, self._got = mllp.Decoder(), list[bytes]()

    def send(self, *messages: bytes) -> None:
        """Frame and send."""
        for m in messages:
            self.writer.write(mllp.encode(m))

    async def heard(self, timeout_s: float = 5.0) -> bytes:
        """The next answer. Raises ConnectionError at the end, TimeoutError in silence."""
        async with asyncio.timeout(timeout_s):
            while not self._got:
                data = await self.reader.read(65536)
                if not data:
                    raise ConnectionError("closed")
                self._got += self._decoder.feed(data)
        return self._got.pop(0)

    async def ask(self, message: bytes, timeout_s: float = 5.0) -> bytes:
        """Send one message and return its answer."""
        self.send(message)
        return await self.heard(timeout_s)

    async def closed(self, timeout_s: float = 5.0) -> bool:
        """Whether the other end closes, saying nothing."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.reader.read() == b""
        except ConnectionError:
            return True


class Bench:
    """A driver under test, its receiver and its context."""

    def __init__(self, **settings: Any) -> None:
        self.context, self.receiver, self.toward = FakeContext("hl7"), Receiver(), Receiver()  # the last one: the device itself
        self.profile = profile()
        self._settings = {"answer_s": 1.0, "hold_s": 1.0, "linger_s": 0.2, "attest_s": 2.0, "again_s": 0.05, "tries": 5} | settings
        self._route: dict[tuple[str, int], tuple[str, int]] = {}
        self.driver: Hl7Driver
        self.attests = True
        self._writers: list[asyncio.StreamWriter] = []

    def _destination(self, sock: Any) -> tuple[str, int]:
        return self._route[sock.getpeername()[:2]]

    def assign(self, *devices: Device) -> None:
        """Serve these."""
        self.driver.assign([Assignment(d, self.profile) for d in devices])

    def grant(self, level: int, number: int = 1, seconds: float = 60.0) -> None:
        """Give a monitor a level."""
        self.context.grant(f"monitor-{number}").set(TrustLevel(level), self.profile.rules, seconds)

    async def dial(self, port: int = LIVE, number: int = 1, tls: ssl.SSLContext | None = None) -> Sender:
        """A connection of monitor ``number`` toward the receiver's ``port``, or of the hospital toward the monitor's."""
        mine = f"127.0.1.{number}"
        source, target = (HOSPITAL, mine) if port in (SETTINGS, ORDERS) else (mine, RECEIVER)
        s = socket.socket()
        s.bind((source, 0))
        s.setblocking(False)
        self._route[s.getsockname()[:2]] = target, port
        await asyncio.get_running_loop().sock_connect(s, ("127.0.0.1", self.driver.port))
        reader, writer = await asyncio.open_connection(sock=s, ssl=tls, server_hostname="wardgate" if tls else None)
        self._writers.append(writer)
        return Sender(reader, writer)

    async def attest(self, number: int = 1) -> bytes:
        """Ask for evidence as the engine does; returns the payload."""
        since = len(self.context.events)
        await self.driver.attest(f"monitor-{number}", MediaType.HL7, NONCE)
        return (await self.context.wait(EvidenceArrived, since=since)).evidence.payload

    async def _attest_when_asked(self) -> None:
        """The engine's part: a link that comes up is asked for evidence at once."""
        seen = 0
        async with asyncio.TaskGroup() as group:
            while True:
                for event in self.context.events[seen:]:
                    if isinstance(event, LinkChanged) and event.up and self.attests:
                        group.create_task(self.driver.attest(event.device_id, MediaType.HL7, NONCE))
                seen = len(self.context.events)
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self, *devices: Device) -> AsyncIterator[Bench]:
        """Receiver and driver, serving ``devices`` (monitor-1 if none are named)."""
        await self.receiver.start()
        await self.toward.start()
        upstream = {RECEIVER: ["127.0.0.1", self.receiver.port], ADDRESS: ["127.0.0.1", self.toward.port]}
        settings = {"listen_port": 0, "listen": ["0.0.0.0"], "upstream": upstream, **self._settings}
        self.driver = Hl7Driver(self.context, settings, self._destination)
        self.assign(*(devices or (device(),)))
        tasks = [asyncio.create_task(self.driver.run()), asyncio.create_task(self._attest_when_asked())]
        await until(lambda: self.driver.port, "the driver listens")
        try:
            yield self
        finally:
            for writer in self._writers:
                writer.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.receiver.stop()
            await self.toward.stop()


@contextmanager
def nothing_relayed(bench: Bench) -> Iterator[None]:
    """No byte may reach the receiver meanwhile."""
    before = len(bench.receiver.messages), len(bench.toward.messages)
    yield
    assert (bench.receiver.messages[before[0] :], bench.toward.messages[before[1] :]) == ([], [])
