"""``modbus-proxy``: the filtering proxy against a bare asyncio byte relay, before the same fast upstream, in turns.

A link is a client and its device: 32 links are 32 devices with a client each, as in a ward. Every part is a process of its
own: upstream (answers ten registers), relay or proxy, client (closed loop: the next request when the answer is there).
``shared``: 32 clients of one device, which the proxy serves one at a time over one connection and the relay does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from drivers.modbus.driver import ModbusDriver
from gateway.driver import Assignment
from gateway.model.device import Bus, Device, DeviceState
from gateway.model.level import TrustLevel
from gateway.model.profile import Flow, Function, ModbusRule, OnLoss, Profile, Protocol
from tests.benches.figure import Figure, figure
from tests.fakes.context import FakeContext, until

LINKS, ROUNDS = 32, 15  # many short rounds: on a machine with other work a median of few long ones says little
SECONDS = {1: 0.25, LINKS: 0.35}
REQUEST = bytes.fromhex("0000 0000 0006 01 03 0000 000a")
ANSWER = bytes.fromhex("0000 0000 0017 01 03 14") + bytes(20)


# --- the parts, each run in a process of its own ---


class Upstream(asyncio.Protocol):
    """A device that costs nearly nothing: its answer carries the request's transaction id."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), len(REQUEST)):
            self.transport.write(data[at : at + 2] + ANSWER[2:])


class Half(asyncio.Protocol):
    """The relay's upstream half."""

    def __init__(self, other: Relay) -> None:
        self.other = other

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)


class Relay(asyncio.Protocol):
    """The floor: bytes in, bytes out, looking at nothing."""

    upstream_port = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport, self.up, self.early = transport, None, b""
        self.task = asyncio.ensure_future(self.open())

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self.up, _ = await loop.create_connection(lambda: Half(self), "127.0.0.1", self.upstream_port)
        self.up.write(self.early)

    def data_received(self, data: bytes) -> None:
        if self.up is None:
            self.early += data
        else:
            self.up.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.up is not None:
            self.up.close()


class Client(asyncio.Protocol):
    """Asks, waits, asks again; notes how long each answer took."""

    def __init__(self, took_ns: list[int]) -> None:
        self.took_ns, self.until_ns, self.number = took_ns, 0, 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def ask(self) -> None:
        self.number = self.number + 1 & 0xFFFF
        self.sent_ns = time.perf_counter_ns()
        self.transport.write(self.number.to_bytes(2, "big") + REQUEST[2:])

    def data_received(self, data: bytes) -> None:
        if data != self.number.to_bytes(2, "big") + ANSWER[2:]:
            self.done.set_exception(RuntimeError(f"a wrong answer: {data.hex()}"))
            return
        now = time.perf_counter_ns()
        self.took_ns.append(now - self.sent_ns)
        if now < self.until_ns:
            self.ask()
        elif not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError("the connection was closed"))


async def serve(factory: Callable[[], asyncio.Protocol]) -> None:
    """Listen on a free port of every loopback address, say which, serve until killed."""
    server = await asyncio.get_running_loop().create_server(factory, "0.0.0.0", 0)
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def serve_proxy(upstream_port: int) -> None:
    """The product's driver with 32 devices, all at level 2 and with rules like the infusion pump's."""
    rules = (
        ModbusRule(3, 0, 119, TrustLevel.STANDARD),
        ModbusRule(4, 0, 9, TrustLevel.STANDARD),
        ModbusRule(43, level=TrustLevel.STANDARD),
        ModbusRule(6, 10, 10, TrustLevel.STANDARD, (0, 1)),
        ModbusRule(6, 20, 20, TrustLevel.STANDARD),
    )
    flow = Flow("127.0.0.1", Protocol.TCP, 502, from_device=False, via=True)
    control = Function("control", TrustLevel.STANDARD, OnLoss.CUT, (flow,), rules, (ModbusRule(6, 10, 10, TrustLevel.NONE, (0,)),))
    profile = Profile("pump", "Pump", Bus.MODBUS, "IIb", (control,), ())
    context = FakeContext("modbus")
    addresses = [f"127.0.1.{i}" for i in range(1, LINKS + 1)]
    settings: dict[str, object] = {
        "listen_port": 0,
        "listen": ["0.0.0.0"],
        "upstream": {a: ["127.0.0.1", upstream_port] for a in addresses},
    }
    driver = ModbusDriver(context, settings, lambda sock: (sock.getsockname()[0], 502))
    devices = [Device(f"pump-{i}", "Pump", Bus.MODBUS, "pump", a, DeviceState.ENFORCED) for i, a in enumerate(addresses)]
    for d in devices:
        context.grant(d.id).set(TrustLevel.STANDARD, profile.rules, seconds=3600)
    driver.assign([Assignment(d, profile) for d in devices])
    task = asyncio.create_task(driver.run())
    await until(lambda: len(context.events) >= LINKS, "every device connected")
    print(f"ready {driver.port}", flush=True)
    await task


async def ask(port: int, links: int, spread: int, seconds: float) -> dict[str, float]:
    """Closed loops over ``links`` connections, spread over as many destinations."""
    took_ns: list[int] = []
    loop, clients = asyncio.get_running_loop(), []
    for i in range(links):
        client = Client(took_ns)
        clients.append(client)
        await loop.create_connection(lambda c=client: c, f"127.0.1.{1 + i % spread}", port)  # type: ignore[misc]
    await asyncio.sleep(0.05)  # the relay dials its own side meanwhile
    began = time.perf_counter_ns()
    for client in clients:
        client.until_ns = began + round(seconds * 1e9)
        client.ask()
    await asyncio.wait_for(asyncio.gather(*(c.done for c in clients)), seconds + 20)
    elapsed = (time.perf_counter_ns() - began) / 1e9
    for client in clients:
        client.transport.close()
    return {"p50_us": statistics.median(took_ns) / 1000, "per_s": len(took_ns) / elapsed}


def ask_repeatedly() -> None:
    """The client's process: one line in (port, links, spread, seconds), one result out."""
    for line in sys.stdin:
        port, links, spread, seconds = line.split()
        print(json.dumps(asyncio.run(ask(int(port), int(links), int(spread), float(seconds)))), flush=True)


# --- the benchmark ---


def child(*arguments: str) -> subprocess.Popen[str]:
    """One part."""
    top = Path(__file__).resolve().parent.parent.parent
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=top
    )


@contextlib.contextmanager
def part(*arguments: str) -> Iterator[int]:
    """A serving part; gives its port."""
    process = child(*arguments)
    try:
        word, _, port = line_of(process).partition(" ")
        if word != "ready":
            raise RuntimeError(f"{arguments[0]} did not start")
        yield int(port)
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line a part says."""
    assert process.stdout is not None
    return process.stdout.readline()


@contextlib.contextmanager
def client() -> Iterator[Callable[[int, int, int], dict[str, float]]]:
    """The client's process; gives what measures (port, links, spread)."""
    process = child("ask")

    def measure(port: int, links: int, spread: int) -> dict[str, float]:
        assert process.stdin is not None
        process.stdin.write(f"{port} {links} {spread} {SECONDS[links]}\n")
        process.stdin.flush()
        result: dict[str, float] = json.loads(line_of(process))
        return result

    try:
        yield measure
    finally:
        process.kill()
        process.communicate()


def run() -> Iterator[Figure]:
    """Floor and proxy in turns, several rounds; medians."""
    kinds = {"1": (1, 1), "32": (LINKS, LINKS), "shared": (LINKS, 1)}
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    with part("upstream") as up, part("relay", str(up)) as relay, part("proxy", str(up)) as proxy, client() as measure:
        for number in range(ROUNDS):
            turns = [("relay", relay), ("proxy", proxy)]
            for kind, (links, spread) in kinds.items():
                if kind == "shared" and number % 3:
                    continue  # told, not judged
                for name, port in turns if number % 2 else reversed(turns):
                    seen.setdefault((name, kind), []).append(measure(port, links, spread))

    def of(name: str, devices: int, kind: str, key: str, unit: str, note: str = "") -> Figure:
        ours, floor = ([r[key] for r in seen[who, kind]] for who in ("proxy", "relay"))
        return figure(f"modbus-proxy.{name}", devices, ours, unit, floor, note)

    yield of("p50.1", 1, "1", "p50_us", "us", "budget: at most 1.5")
    yield of("p50.32", LINKS, "32", "p50_us", "us", "budget: at most 2")
    yield of("throughput.32", LINKS, "32", "per_s", "req/s", "budget: at least 0.6")
    yield of("shared.32", 1, "shared", "per_s", "req/s", "32 clients of one device, which is asked one thing at a time")


def main() -> None:
    """A part, by name."""
    name, *numbers = sys.argv[1:]
    if name == "upstream":
        asyncio.run(serve(Upstream))
    elif name == "relay":
        Relay.upstream_port = int(numbers[0])
        asyncio.run(serve(Relay))
    elif name == "proxy":
        asyncio.run(serve_proxy(int(numbers[0])))
    else:
        ask_repeatedly()


if __name__ == "__main__":
    main()
