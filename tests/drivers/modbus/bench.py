"""A driver between real clients and a device: the bench's pump in its own process, or a device that answers as scripted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivers.modbus import mbap
from drivers.modbus.driver import ModbusDriver
from drivers.modbus.mbap import Frame, Framer
from gateway.driver import Assignment
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.event import EvidenceArrived
from gateway.model.evidence import EvidenceClass, MediaType
from gateway.model.level import TrustLevel
from gateway.model.profile import Flow, Function, Mailbox, ModbusRule, OnLoss, Profile, Protocol, Target
from hil import control, process
from tests.fakes.context import FakeContext, until

ADDRESS, MAC = "10.77.0.11", "02:57:47:00:00:11"
NONCE = bytes(range(32))
FINGERPRINT = Target("configuration", MediaType.MODBUS, EvidenceClass.FINGERPRINT, 10.0, (0, 1, 2), ((100, 119),))
TOKEN = Target("firmware", MediaType.PSA, EvidenceClass.ASYMMETRIC, 10.0, mailbox=Mailbox(0x9000, 0x9100))
RULES = (
    ModbusRule(3, 0, 119, TrustLevel.STANDARD),
    ModbusRule(4, 0, 9, TrustLevel.STANDARD),
    ModbusRule(43, level=TrustLevel.STANDARD),
    *(ModbusRule(c, 10, 10, TrustLevel.STANDARD, (0, 1)) for c in (6, 16)),
    *(ModbusRule(c, 20, 20, TrustLevel.STANDARD) for c in (6, 16)),
)
STOP_RULE = ModbusRule(6, 10, 10, TrustLevel.NONE, (0,))
READ, START, STOP = (bytes.fromhex(h) for h in ("0300000001", "06000a0001", "06000a0000"))


def profile(*targets: Target) -> Profile:
    """An infusion pump's."""
    flow = Flow("10.77.0.100", Protocol.TCP, 502, from_device=False, via=True)
    function = Function("control", TrustLevel.STANDARD, OnLoss.CUT, (flow,), RULES, (STOP_RULE,))
    return Profile("infusion-pump", "Infusion pump", Bus.MODBUS, "IIb", (function,), targets)


def assignment(*targets: Target, state: DeviceState = DeviceState.ENFORCED) -> Assignment:
    """pump-1."""
    binding = Binding("p-pump-1", MAC, (ADDRESS, "fd77::11"))
    return Assignment(
        Device("pump-1", "Pump", Bus.MODBUS, "infusion-pump", ADDRESS, state, binding),
        profile(*targets),
    )


@dataclass
class Wire:
    """A client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    framer: Framer = field(default_factory=Framer)
    number: int = 0

    async def ask(self, pdu: bytes, unit: int = 1) -> bytes:
        """Send a request, return the answer's PDU; fails on an answer to something else."""
        self.number += 1
        self.writer.write(mbap.encode(self.number, unit, pdu))
        frame = await self.next()
        assert (frame.transaction, frame.unit) == (self.number, unit)
        return frame.pdu

    async def next(self) -> Frame:
        """The next frame; ConnectionError when the proxy closed."""
        async with asyncio.timeout(8):
            while (frame := self.framer.next()) is None:
                data = await self.reader.read(65536)
                if not data:
                    raise ConnectionError("closed by the proxy")
                self.framer.feed(data)
        return frame

    async def is_closed(self, within_s: float = 3.0) -> bool:
        """Whether the proxy closes it in time."""
        try:
            async with asyncio.timeout(within_s):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True


@dataclass
class Bench:
    """A running driver with its context."""

    context: FakeContext
    driver: ModbusDriver
    wires: list[Wire] = field(default_factory=list)

    async def connect(self, receive_buffer: int | None = None) -> Wire:
        """A new client."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.driver.port))
        wire = Wire(*await asyncio.open_connection(sock=sock))
        self.wires.append(wire)
        return wire

    def grant(self, level: int, seconds: float = 30.0) -> None:
        """A lease for pump-1."""
        self.context.grant("pump-1").set(TrustLevel(level), profile().rules, seconds)

    async def attest(self, media_type: MediaType = MediaType.MODBUS, nonce: bytes = NONCE) -> bytes:
        """Evidence's payload; fails if there is none."""
        since = len(self.context.events)
        await self.driver.attest("pump-1", media_type, nonce)
        return (await self.context.wait(EvidenceArrived, since=since, timeout_s=0.1)).evidence.payload


@contextlib.asynccontextmanager
async def running(
    upstream: tuple[str, int], assigned: Assignment, settings: dict[str, object] | None = None
) -> AsyncIterator[Bench]:
    """A driver on a free port, its device at ``upstream``, clients taken to have dialled the device's address."""
    context = FakeContext("modbus")
    given: dict[str, object] = {
        "listen_port": 0,
        "listen": ["127.0.0.1"],
        "upstream": {ADDRESS: list(upstream), "fd77::11": list(upstream)},
        **(settings or {}),
    }
    driver = ModbusDriver(context, given, lambda _: (ADDRESS, 502))
    driver.assign([assigned])
    task = asyncio.create_task(driver.run())
    bench = Bench(context, driver)
    try:
        await until(lambda: driver.port or task.done(), "the driver listens")
        yield bench
    finally:
        for wire in bench.wires:
            wire.writer.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)


@dataclass
class PumpProcess:
    """The bench's pump in a process."""

    ctl: Path
    port: int

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        """One command."""
        return control.ask(self.ctl, do, **arguments)

    def writes(self) -> list[str]:
        """Every PDU that reached it and is no read and no nonce."""
        return [w["pdu"] for w in self.ask("writes")["writes"]]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def pump_process() -> Iterator[PumpProcess]:
    """A pump that dials a central station nobody started."""
    with tempfile.TemporaryDirectory(prefix=f"wg-pump-{os.getpid()}-") as name:
        here, port = Path(name), free_port()
        arguments = ["--ctl", str(here / "ctl"), "--key", str(here / "key.pem"), "--central", f"127.0.0.1:{free_port()}"]
        arguments += ["--host", "127.0.0.1", "--modbus-port", str(port), "--maintenance-port", str(free_port())]
        started = process.start("pump", [sys.executable, "-m", "hil.pump", *arguments], log_dir=here)
        try:
            yield PumpProcess(here / "ctl", port)
        finally:
            started.stop()


Behaviour = Callable[[Frame], Awaitable[Sequence[bytes] | None]]


class ScriptedDevice:
    """A device whose answers a test writes: ``script(frame)`` gives the packets to send, None to close the connection."""

    def __init__(self, script: Behaviour) -> None:
        self.script, self.seen, self.connections = script, [], 0
        self._server: asyncio.Server | None = None

    seen: list[Frame]

    async def __aenter__(self) -> ScriptedDevice:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        framer = Framer()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                framer.feed(data)
                while (frame := framer.next()) is not None:
                    self.seen.append(frame)
                    packets = await self.script(frame)
                    if packets is None:
                        writer.close()
                        return
                    for packet in packets:
                        writer.write(packet)
        writer.close()


def honest(frame: Frame) -> bytes:
    """The right answer: reads show zeros, writes are echoed."""
    pdu = frame.pdu
    if pdu[0] in (3, 4):
        count = int.from_bytes(pdu[3:5], "big")
        pdu = bytes((pdu[0], 2 * count)) + bytes(2 * count)
    elif pdu[0] in (15, 16):
        pdu = pdu[:5]
    return mbap.encode(frame.transaction, frame.unit, pdu)
