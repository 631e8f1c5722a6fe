"""The bench's infusion pump: Modbus TCP, a secure element behind a register mailbox, a maintenance port, a monitoring stream.

A process of its own, as pymodbus keeps one device identification a process. It believes everything it is told: what may
reach it is the gateway's business, and ``writes`` says what did. Knows no gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pymodbus import ModbusDeviceIdentification
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from hil import control
from hil.psa import Component, PsaSigner, load_key, signer_of

MODEL = "infusion pump"
STATUS, COMMAND, RATE, CONFIGURATION, NONCE, TOKEN = 0, 10, 20, 100, 0x9000, 0x9100
NONCE_REGISTERS, TOKEN_REGISTERS = 16, 1024
MAX_RATE = 9999  # ml/h x 10
IDENTITY = {0: "Corvita", 1: "IP-4", 2: "2.3.1"}
UPDATED = "2.4.0"
# Concentration, hard and soft limits, occlusion pressure, key-vein-open rate, alarm volume and so on, as configured.
CONFIGURED = (1000, 250, 9999, 5, 8000, 10, 600, 50, 3, 120, 7, 0, 1, 1, 30, 5, 90, 2, 11, 42)
UPDATED_VALUE = (101, 300)  # what a legitimate update changes
READING = frozenset({1, 2, 3, 4, 43})  # whatever else arrives is kept as proof of what reached the device
_NONCE_WRITE = bytes([16]) + NONCE.to_bytes(2, "big")
LINES_PER_S, MESSAGES_PER_S = 1000, 50


@dataclass
class Pump:
    """Registers, firmware and services."""

    signer: PsaSigner
    writes: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=10_000))
    maintenance_commands: deque[str] = field(default_factory=lambda: deque(maxlen=10_000))
    requests: int = 0
    nonces: int = 0
    messages: int = 0
    _server: ModbusTcpServer | None = None
    _address: tuple[str, int] = ("", 0)

    def __post_init__(self) -> None:
        self._genuine = self.signer.components
        self._firmware = IDENTITY[2]
        self._configuration = list(CONFIGURED)
        self.holding: dict[int, int] = {STATUS: 0, COMMAND: 0, RATE: 250}

    # --- Modbus ---

    async def listen(self, host: str, port: int) -> None:
        """Serve Modbus TCP on ``host``, or on every address of both families when it is empty."""
        self._address = (host, port)
        words = DataType.REGISTERS
        bits = [SimData(0, count=16, values=False, datatype=DataType.BITS)]
        holding = [
            SimData(0, values=[0] * 100, datatype=words),
            SimData(CONFIGURATION, values=[0] * len(CONFIGURED), datatype=words),
            SimData(NONCE, values=[0] * NONCE_REGISTERS, datatype=words),
            SimData(TOKEN, values=[0] * TOKEN_REGISTERS, datatype=words),
        ]
        blocks = (bits, list(bits), holding, [SimData(0, values=[0] * 10, datatype=words)])
        device = SimDevice(id=1, simdata=blocks, action=self._access)
        identity = ModbusDeviceIdentification({**IDENTITY, 2: self._firmware})
        everywhere: Any = host or ["0.0.0.0", "::"]  # pymodbus hands it to asyncio as it is
        self._server = ModbusTcpServer(device, identity=identity, address=(everywhere, port), trace_packet=self._trace)
        await self._server.serve_forever(background=True)

    async def unplug(self) -> None:
        """Off the network: connections break, nothing listens."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.shutdown()

    async def plug(self) -> None:
        """Back."""
        if self._server is None:
            await self.listen(*self._address)

    def _identify(self) -> None:
        if self._server is not None:
            self._server.control.Identity[2] = self._firmware

    def _trace(self, sending: bool, packet: bytes) -> bytes:
        if not sending:
            self.requests += 1
            if packet[7:10] == _NONCE_WRITE:
                self.nonces += 1
            elif len(packet) < 8 or packet[7] not in READING:
                self.writes.append({"pdu": packet[7:].hex(), "packet": packet.hex(), "at_ns": time.monotonic_ns()})
        return packet

    async def _access(
        self, code: int, start: int, address: int, count: int, registers: list[int], values: list[int] | list[bool] | None
    ) -> ExcCodes | None:
        """Before pymodbus reads or writes: put in what is there now, take out what is written."""
        if code in (1, 2, 5, 15):
            return None
        if code == 4:
            registers[:10] = self._measured()
            return None
        if values is not None and (refused := self._written(address, [int(v) for v in values], registers, start)) is not None:
            return refused
        for at, value in self.holding.items():
            registers[at - start] = value
        registers[CONFIGURATION - start : CONFIGURATION - start + len(CONFIGURED)] = self._configuration
        return None

    def _written(self, address: int, values: list[int], registers: list[int], start: int) -> ExcCodes | None:
        for at, value in enumerate(values, address):
            if at == RATE and value > MAX_RATE:
                return ExcCodes.ILLEGAL_VALUE
            if at in (COMMAND, RATE):
                self.holding[at] = value
            if at == COMMAND and value in (0, 1):
                self.holding[STATUS] = value
            if CONFIGURATION <= at < CONFIGURATION + len(CONFIGURED):
                self._configuration[at - CONFIGURATION] = value
        if address == NONCE and len(values) == NONCE_REGISTERS:
            token = self.signer.token(b"".join(v.to_bytes(2, "big") for v in values))
            padded = token + b"\0" * (len(token) % 2)
            words = [len(token), *(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))]
            registers[TOKEN - start : TOKEN - start + len(words)] = words
        return None

    def _measured(self) -> list[int]:
        running = self.holding[STATUS]
        return [running * self.holding[RATE], 120, 37, *([0] * 7)]

    # --- maintenance and monitoring ---

    async def maintain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A maintenance session: a numbered, time-stamped line every millisecond; what comes in is obeyed and echoed."""

        async def obey() -> None:
            while line := await reader.readline():
                self.maintenance_commands.append(line.decode(errors="replace").strip())
                writer.write(b"echo " + line)

        listening = asyncio.create_task(obey())
        loop, number = asyncio.get_running_loop(), 0
        begin = loop.time()
        with contextlib.suppress(ConnectionError):
            while not listening.done():
                number += 1
                if writer.transport.get_write_buffer_size() < 1 << 16:  # cut off: lines are dropped, not hoarded
                    writer.write(f"{number} {time.monotonic_ns()}\n".encode())
                await asyncio.sleep(max(0.0, begin + number / LINES_PER_S - loop.time()))
        listening.cancel()
        writer.close()

    async def report(self, host: str, port: int) -> None:
        """Monitoring: a numbered JSON line to the central station fifty times a second; reconnects for ever."""
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(3):
                    _, writer = await asyncio.open_connection(host, port)
                try:
                    await self._stream(writer)
                finally:
                    writer.close()
            await asyncio.sleep(0.2)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        begin, first = loop.time(), self.messages
        while not writer.is_closing():
            self.messages += 1
            flow, pressure, temperature, *_ = self._measured()
            message = {"n": self.messages, "at_ns": time.monotonic_ns(), "rate": flow, "pressure": pressure, "t": temperature}
            writer.write(json.dumps(message).encode() + b"\n")
            async with asyncio.timeout(5):
                await writer.drain()
            await asyncio.sleep(max(0.0, begin + (self.messages - first) / MESSAGES_PER_S - loop.time()))

    # --- the bench's commands ---

    def tamper_firmware(self) -> None:
        """Other firmware runs; the device says nothing of it, its secure element does."""
        self.signer.components = tuple(
            replace(c, measurement=bytes(b ^ 0xFF for b in c.measurement)) if c.type == "FW" else c for c in self._genuine
        )

    def update(self) -> None:
        """The maker's update: a new revision, a new measurement, a new configuration default."""
        new = Component.of("FW", f"firmware of {MODEL} {UPDATED}".encode(), UPDATED)
        self.signer.components = tuple(new if c.type == "FW" else c for c in self._genuine)
        self._firmware = UPDATED
        self._configuration[UPDATED_VALUE[0] - CONFIGURATION] = UPDATED_VALUE[1]
        self._identify()

    def restore(self) -> None:
        """As delivered."""
        self.signer.components, self._firmware, self._configuration = self._genuine, IDENTITY[2], list(CONFIGURED)
        self._identify()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        match request["do"]:
            case "state":
                pass
            case "reference":
                return {"reference": self.signer.reference(), "fingerprint": self.fingerprint()}
            case "writes":
                return {"writes": list(self.writes), "maintenance": list(self.maintenance_commands)}
            case "tamper":
                self._configuration[request["register"] - CONFIGURATION] = request["value"]
            case "tamper-firmware":
                self.tamper_firmware()
            case "restore":
                self.restore()
            case "update":
                self.update()
            case "unplug":
                await self.unplug()
            case "plug":
                await self.plug()
            case other:
                raise ValueError(f"no such command: {other}")
        return self._state()

    def fingerprint(self) -> dict[str, str]:
        """Reference values of the device as it is now, by name, in hex."""
        objects = {f"object:{n}": t.encode().hex() for n, t in {**IDENTITY, 2: self._firmware}.items()}
        return objects | {f"register:{CONFIGURATION + i}": f"{v:04x}" for i, v in enumerate(self._configuration)}

    def _state(self) -> dict[str, Any]:
        return {
            "running": bool(self.holding[STATUS]),
            "rate": self.holding[RATE],
            "firmware": self._firmware,
            "configuration": self._configuration,
            "plugged": self._server is not None,
            "requests": self.requests,
            "nonces": self.nonces,
            "writes": len(self.writes),
            "messages": self.messages,
        }


async def run(a: argparse.Namespace) -> None:
    """Build the pump and let it run until SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(s, stop.set)
    pump = Pump(signer_of(MODEL, load_key(a.key)))
    await pump.listen(a.host, a.modbus_port)
    maintenance = await asyncio.start_server(pump.maintain, a.host or None, a.maintenance_port)
    server = await control.serve(a.ctl, pump.answer)
    host, _, port = a.central.rpartition(":")
    monitoring = asyncio.create_task(pump.report(host.strip("[]"), int(port)))
    print("ready", flush=True)
    await stop.wait()
    monitoring.cancel()
    server.close()
    maintenance.close()
    await pump.unplug()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ctl", type=Path, required=True, help="where the bench sends commands")
    parser.add_argument("--key", type=Path, required=True, help="attestation key (PEM); made when absent")
    parser.add_argument("--central", required=True, help="the central station, address:port")
    parser.add_argument("--host", default="", help="address to listen on; all when empty")
    parser.add_argument("--modbus-port", type=int, default=502)
    parser.add_argument("--maintenance-port", type=int, default=7000)
    a = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it prints every refused request with its last packets
    asyncio.run(run(a))


if __name__ == "__main__":
    main()
