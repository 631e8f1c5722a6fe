"""The hospital's side of the bench: a central station, a maintenance session and a Modbus client, each a process of its own.

``python -m hil.hospital central|maintenance|control``. They dial the pump's own address, know no gateway, and keep what they
saw and when: a denial is proved by what did not arrive here, a permission by what did. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from hil import control

STALL_S = 0.1  # no line for a hundred of its intervals: the maintenance session stands still
POLL_S = 0.2
ANSWER_S = 3.0  # what a Modbus client waits as a rule
_RETRY_S = 0.2


class Arrivals:
    """What arrived, when the last came, and the longest silence since ``reset``, the present one included."""

    def __init__(self) -> None:
        self.received, self.last_ns, self.lost = 0, 0, 0
        self._longest_ns, self._since_ns = 0, time.monotonic_ns()

    def note(self, count: int = 1) -> None:
        """Something arrived now."""
        now = time.monotonic_ns()
        self._longest_ns = max(self._longest_ns, now - max(self.last_ns, self._since_ns))
        self.received, self.last_ns = self.received + count, now

    def reset(self) -> None:
        """Count silences from now on."""
        self._longest_ns, self._since_ns, self.lost = 0, time.monotonic_ns(), 0

    def state(self) -> dict[str, Any]:
        """For the bench."""
        now = time.monotonic_ns()
        gap = now - max(self.last_ns, self._since_ns)
        return {
            "received": self.received,
            "last_ns": self.last_ns,
            "now_ns": now,
            "gap_ms": gap / 1e6,
            "longest_gap_ms": max(self._longest_ns, gap) / 1e6,
            "lost": self.lost,
        }


class Central:
    """The central station: devices dial it and send a numbered JSON line each time."""

    def __init__(self) -> None:
        self.arrivals, self.connections = Arrivals(), 0
        self.newest: dict[str, Any] = {}

    async def run(self, port: int) -> None:
        """Listen until cancelled."""
        server = await asyncio.start_server(self._receive, None, port)
        await server.serve_forever()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message = json.loads(line)
                if self.newest:
                    self.arrivals.lost += max(0, message["n"] - self.newest["n"] - 1)
                self.arrivals.note()
                self.newest = message
        writer.close()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        match request["do"]:
            case "reset":
                self.arrivals.reset()
            case "state":
                pass
            case other:
                raise ValueError(f"no such command: {other}")
        return self.arrivals.state() | {"connections": self.connections, "newest": self.newest}


class Maintenance(asyncio.Protocol):
    """A technician's session: stays open whatever happens, dials again only when it was closed."""

    def __init__(self) -> None:
        self.arrivals, self.connections = Arrivals(), 0
        self.echoes: list[str] = []
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.Event()
        self._rest = b""

    async def run(self, host: str, port: int) -> None:
        """Keep a session until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._closed.clear()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await loop.create_connection(lambda: self, host, port)
                await self._closed.wait()
            await asyncio.sleep(_RETRY_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._rest = transport, b""
        self.connections += 1

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.arrivals.note(len(lines))
        self.echoes += [line.decode() for line in lines if line.startswith(b"echo ")]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closed.set()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        match request["do"]:
            case "reset":
                self.arrivals.reset()
            case "send":
                if self._transport is None:
                    raise ConnectionError("no session")
                self._transport.write(request["line"].encode() + b"\n")
            case "state":
                pass
            case other:
                raise ValueError(f"no such command: {other}")
        state = self.arrivals.state()
        connected = self._transport is not None
        extra = {"connected": connected, "connections": self.connections, "echoes": self.echoes[-100:]}
        return state | extra | {"stalled": not connected or state["gap_ms"] > STALL_S * 1000}


class Control:
    """A Modbus client: polls the pump's status, writes when told; ``raw`` sends any PDU on a connection of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.arrivals, self.status, self.failures, self.refused = Arrivals(), -1, 0, 0
        self._client = AsyncModbusTcpClient(host, port=port, timeout=ANSWER_S, retries=0, reconnect_delay=_RETRY_S)

    async def run(self) -> None:
        """Poll five times a second until cancelled."""
        while True:
            try:
                await self._poll()
            except (ModbusException, OSError, TimeoutError):
                self.failures += 1
            await asyncio.sleep(POLL_S)

    async def _poll(self) -> None:
        if not self._client.connected:
            await asyncio.wait_for(self._client.connect(), ANSWER_S)
        answer = await self._client.read_holding_registers(0, count=1, device_id=1)
        if answer.isError():
            self.refused += 1
        else:
            self.status = answer.registers[0]
            self.arrivals.note()

    async def raw(self, pdu: bytes, unit: int = 1, packet: bytes | None = None) -> dict[str, Any]:
        """Send one PDU (or a whole packet, however wrong) and say what came back: a PDU, an exception code, or nothing."""
        began = time.monotonic_ns()
        answer = await self._exchange(packet or struct.pack(">HHHB", 1, 0, len(pdu) + 1, unit) + pdu)
        exception = answer[1] if len(answer) > 1 and answer[0] & 0x80 else None
        return {"answer": answer.hex(), "exception": exception, "took_ms": (time.monotonic_ns() - began) / 1e6}

    async def _exchange(self, packet: bytes) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(*self._address)
        except (OSError, TimeoutError):
            return b""
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write(packet)
                header = await reader.readexactly(7)
                return await reader.readexactly(int.from_bytes(header[4:6], "big") - 1)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return b""
        finally:
            writer.close()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        match request["do"]:
            case "write":
                return await self.raw(struct.pack(">BHH", 6, request["register"], request["value"]))
            case "stop":
                return await self.raw(struct.pack(">BHH", 6, 10, 0))
            case "start":
                return await self.raw(struct.pack(">BHH", 6, 10, 1))
            case "read":
                return await self.raw(struct.pack(">BHH", 3, request["register"], request.get("count", 1)))
            case "raw":
                packet = bytes.fromhex(request["packet"]) if "packet" in request else None
                return await self.raw(bytes.fromhex(request.get("pdu", "")), request.get("unit", 1), packet)
            case "reset":
                self.arrivals.reset()
                self.failures = self.refused = 0
            case "state":
                pass
            case other:
                raise ValueError(f"no such command: {other}")
        counted = {"status": self.status, "failures": self.failures, "refused": self.refused}
        return self.arrivals.state() | counted | {"connected": bool(self._client.connected)}


def endpoint(text: str) -> tuple[str, int]:
    """``10.77.0.11:502`` or ``[fd77::11]:502``."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def live(work: Awaitable[None], answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], ctl: Path) -> None:
    """Work and answer the bench until SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(s, stop.set)
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda _: stop.set())
    server = await control.serve(ctl, answer)
    print("ready", flush=True)
    await stop.wait()
    server.close()
    if task.done():
        await task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def run(a: argparse.Namespace) -> None:
    """Start one of the three."""
    if a.role == "central":
        central = Central()
        await live(central.run(a.port), central.answer, a.ctl)
    elif a.role == "maintenance":
        maintenance = Maintenance()
        await live(maintenance.run(*a.target), maintenance.answer, a.ctl)
    else:
        client = Control(*a.target)
        await live(client.run(), client.answer, a.ctl)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    for role, default in (("central", None), ("maintenance", "10.77.0.11:7000"), ("control", "10.77.0.11:502")):
        p = roles.add_parser(role)
        p.add_argument("--ctl", type=Path, required=True, help="where the bench sends commands")
        if default is None:
            p.add_argument("--port", type=int, default=6000)
        else:
            p.add_argument("--target", type=endpoint, default=endpoint(default), help="address:port")
    a = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    asyncio.run(run(a))


if __name__ == "__main__":
    main()
