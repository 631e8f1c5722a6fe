"""``hl7-relay``: ORU^R01 of ten OBX through the HL7 driver, acknowledged by a receiver or from the journal, against its floors.

A link is a monitor with one connection, in a closed loop: the next message when the last is acknowledged, each with a control id
of its own. ``stored`` promises on this disk while no receiver is there; its floor is this disk's single-row commits with
``synchronous = FULL``. ``end_to_end`` waits for a receiver that costs nearly nothing; its floor is a bare byte relay before the
same one. ``drain`` is what the journal delivers when the receiver comes back, one message at a time. Every part is a process.
Monitors, receiver and driver share the machine's cores; monitors and receiver are bare loops over epoll, so that most of them is
the driver's. ``cpu`` is what a message costs the driver's own process, all its threads, against what it costs the bare relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drivers.hl7.driver import Hl7Driver
from gateway.driver import Assignment
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.event import LinkChanged
from gateway.model.evidence import EvidenceClass, MediaType
from gateway.model.level import TrustLevel
from gateway.model.profile import Acknowledge, Flow, Function, Hl7Rule, OnLoss, Profile, Protocol, Target
from gateway.store.database import Database
from gateway.store.journal import Journal
from hil.hl7 import frame, oru
from tests.benches.figure import Figure, figure
from tests.fakes.context import FakeContext, until

LINKS, ROUNDS, SECONDS = 32, 5, 0.8
LIVE_AT, RESULTS_AT, RECEIVER, NOBODY = "127.0.2.1", "127.0.2.2", "127.0.9.1", "127.0.9.2"
DISK = "/var/tmp"  # a disk, where /tmp may be memory
NUMBER = b"0000000000"
TEMPLATE = frame(oru(NUMBER))
BEFORE, _, AFTER = TEMPLATE.partition(NUMBER)
PATIENCE_S = 20.0
ACK = b"MSH|^~\\&|CENTRAL|HOSP|BEDMON|WARD3|20261124053001||ACK^R01^ACK|C1|P|2.6\rMSA|AA|"


# --- the parts, each run in a process of its own ---


def receive(port: int) -> None:
    """The receiver: answers AA with the message's own control id, and looks at nothing else."""
    server = socket.create_server(("0.0.0.0", port))
    server.setblocking(False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    print(f"ready {server.getsockname()[1]}", flush=True)
    links: dict[int, tuple[socket.socket, bytearray]] = {}
    while True:
        for number, _ in poll.poll():
            if number == server.fileno():
                s, _ = server.accept()
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                links[s.fileno()] = s, bytearray()
                poll.register(s, select.EPOLLIN)
                continue
            s, rest = links[number]
            try:
                data = s.recv(65536)
            except OSError:
                data = b""
            if not data:
                del links[number]
                s.close()
                continue
            rest += data
            *whole, left = bytes(rest).split(b"\x1c\r")
            rest[:] = left
            if whole:
                s.send(b"".join(b"\x0b" + ACK + m.split(b"|", 10)[9] + b"\r\x1c\r" for m in whole))


class Half(asyncio.Protocol):
    """The bare relay's half toward the receiver."""

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


class Monitor:
    """Sends, waits for AA, sends the next; notes how long each took."""

    def __init__(self, s: socket.socket, first: int) -> None:
        self.socket, self.number = s, first

    def send(self) -> None:
        self.number += 1
        self.id = b"%010d" % self.number
        self.sent_ns = time.perf_counter_ns()
        self.socket.send(BEFORE + self.id + AFTER)

    def heard(self) -> int:
        """When its acknowledgement was there."""
        data = self.socket.recv(4096)
        if b"\rMSA|AA|" + self.id not in data or not data.endswith(b"\x1c\r"):
            raise RuntimeError(f"a wrong answer: {data!r}")
        return time.perf_counter_ns()


async def serve(factory: Callable[[], asyncio.Protocol], port: int = 0) -> None:
    """Listen on every loopback address, say on which port, serve until killed."""
    server = await asyncio.get_running_loop().create_server(factory, "0.0.0.0", port)
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def _profile() -> Profile:
    rules = (Hl7Rule("BEDMON", "WARD3", "ORU^R01", TrustLevel.STANDARD),)

    def function(name: str, peer: str, how: Acknowledge) -> Function:
        flow = Flow(peer, Protocol.TCP, 2575, from_device=True, via=True)
        return Function(name, TrustLevel.STANDARD, OnLoss.CUT, (flow,), rules, (), how)

    functions = (function("live", RECEIVER, Acknowledge.END_TO_END), function("results", NOBODY, Acknowledge.STORED))
    return Profile("monitor", "Monitor", Bus.HL7, "IIb", functions, (Target("i", MediaType.HL7, EvidenceClass.FINGERPRINT),))


async def serve_driver(receiver_port: int, nobody_port: int, directory: str) -> None:
    """The product's driver and journal with 32 monitors at level 2; evidence is asked for as the engine would."""
    database = Database(Path(directory) / "wardgate.sqlite")
    await database.open()
    context, profile = FakeContext("hl7"), _profile()
    context.journal = Journal(database)  # type: ignore[assignment]
    upstream = {RECEIVER: ["127.0.0.1", receiver_port], NOBODY: ["127.0.0.1", nobody_port]}
    settings: dict[str, object] = {"listen_port": 0, "listen": ["0.0.0.0"], "upstream": upstream}
    driver = Hl7Driver(context, settings, lambda s: (RECEIVER if s.getsockname()[0] == LIVE_AT else NOBODY, 2575))
    devices = []
    for i in range(1, LINKS + 1):
        binding = Binding(f"p-{i}", f"02:57:47:00:01:{i:02x}", (f"127.0.1.{i}",))
        devices.append(Device(f"monitor-{i}", "Monitor", Bus.HL7, "monitor", f"127.0.1.{i}", DeviceState.ENFORCED, binding))
        context.grant(f"monitor-{i}").set(TrustLevel.STANDARD, profile.rules, seconds=3600)
    driver.assign([Assignment(d, profile) for d in devices])
    task = asyncio.create_task(driver.run())
    await until(lambda: driver.port, "the driver listens")
    print(f"ready {driver.port}", flush=True)
    seen = 0
    async with asyncio.TaskGroup() as group:
        while not task.done():
            for event in context.events[seen:]:
                if isinstance(event, LinkChanged) and event.up:
                    group.create_task(driver.attest(event.device_id, MediaType.HL7, bytes(32)))
            seen = len(context.events)
            await asyncio.sleep(0.02)
    await task


def send(port: int, to: str, links: int, seconds: float, first: int) -> dict[str, float]:
    """Closed loops over ``links`` monitors; every control id is new."""
    took_ns: list[int] = []
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        monitors: dict[int, Monitor] = {}
        for i in range(links):
            s = stack.enter_context(socket.socket())
            s.bind((f"127.0.1.{i + 1}", 0))
            s.connect((to, port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.settimeout(PATIENCE_S)
            poll.register(s, select.EPOLLIN)
            monitors[s.fileno()] = monitor = Monitor(s, (first * LINKS + i) * 1_000_000)
            monitor.send()
        for monitor in monitors.values():
            monitor.heard()  # the first one: connections and evidence are made
        began = time.perf_counter_ns()
        until_ns = began + round(seconds * 1e9)
        for monitor in monitors.values():
            monitor.send()
        under_way = links
        while under_way:
            ready = poll.poll(PATIENCE_S)
            if not ready:
                raise RuntimeError(f"no answer in {PATIENCE_S:g} s")
            for number, _ in ready:
                monitor = monitors[number]
                now = monitor.heard()
                took_ns.append(now - monitor.sent_ns)
                if now < until_ns:
                    monitor.send()
                else:
                    under_way -= 1
        elapsed = (time.perf_counter_ns() - began) / 1e9
    return {"p50_us": statistics.median(took_ns) / 1000, "per_s": len(took_ns) / elapsed, "count": len(took_ns)}


def send_repeatedly() -> None:
    """The monitors' process: one line in (port, address, links, seconds), one result out."""
    for number, line in enumerate(sys.stdin, 1):
        port, to, links, seconds = line.split()
        print(json.dumps(send(int(port), to, int(links), float(seconds), number)), flush=True)


# --- the benchmark ---


def child(*arguments: str) -> subprocess.Popen[str]:
    """One part."""
    top = Path(__file__).resolve().parent.parent.parent
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=top
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A serving part."""

    pid: int
    port: int

    def cpu_ns(self) -> int:
        """CPU time of all its threads so far."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
        return total


@contextlib.contextmanager
def part(*arguments: str) -> Iterator[Part]:
    """A serving part, until the block ends."""
    process = child(*arguments)
    assert process.stdout is not None
    try:
        word, _, port = process.stdout.readline().partition(" ")
        if word != "ready":
            raise RuntimeError(f"{arguments[0]} did not start")
        yield Part(process.pid, int(port))
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def monitors() -> Iterator[Callable[[Part, str, int], dict[str, float]]]:
    """The monitors' process; gives what measures (part, address, links)."""
    process = child("send")

    def measure(through: Part, to: str, links: int) -> dict[str, float]:
        assert process.stdin is not None and process.stdout is not None
        before = through.cpu_ns()
        process.stdin.write(f"{through.port} {to} {links} {SECONDS}\n")
        process.stdin.flush()
        result: dict[str, float] = json.loads(process.stdout.readline())
        return result | {"cpu_us": (through.cpu_ns() - before) / 1000 / result["count"]}

    try:
        yield measure
    finally:
        process.kill()
        process.communicate()


def commits_per_s(directory: Path) -> float:
    """This disk's floor: one row of a message's size a commit, WAL, synchronous = FULL."""
    path = directory / "floor.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, b BLOB)"
    )
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        db.execute("INSERT INTO t (b) VALUES (?)", (TEMPLATE,))
        count += 1
    db.close()
    return count / elapsed


def free_port() -> int:
    """A port where nobody listens until ``receiver`` is started on it; outside of what the kernel gives to those who dial it."""
    for port in range(20_000, 30_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no port is free")


def drain_per_s(database: Path, port: int) -> float:
    """The receiver comes back: how fast all links' stored messages reach it."""

    def waiting() -> int:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM journal WHERE state = 0").fetchone()[0])

    with part("receiver", str(port)):
        before = waiting()
        while waiting() == before:
            time.sleep(0.05)
        began, first = time.perf_counter(), waiting()
        time.sleep(2.0)
        return (first - waiting()) / (time.perf_counter() - began)


def run() -> Iterator[Figure]:
    """Floors and driver in turns, several rounds; medians."""
    seen: dict[str, list[dict[str, float]]] = {}
    commits: list[float] = []
    directory = Path(tempfile.mkdtemp(prefix="wardgate-bench-", dir=DISK))
    nobody = free_port()
    try:
        with (
            part("receiver", "0") as up,
            part("relay", str(up.port)) as relay,
            part("driver", str(up.port), str(nobody), str(directory)) as driver,
            monitors() as measure,
        ):
            turns = {
                "relay.1": (relay, LIVE_AT, 1), "end_to_end.1": (driver, LIVE_AT, 1), "relay.32": (relay, LIVE_AT, LINKS),
                "end_to_end.32": (driver, LIVE_AT, LINKS), "stored.1": (driver, RESULTS_AT, 1),
                "stored.32": (driver, RESULTS_AT, LINKS),
            }  # fmt: skip
            for _ in range(ROUNDS):
                for name, turn in turns.items():
                    seen.setdefault(name, []).append(measure(*turn))
                commits.append(commits_per_s(directory))
            drain = drain_per_s(directory / "wardgate.sqlite", nobody)
    finally:
        shutil.rmtree(directory, ignore_errors=True)

    def rates(name: str, what: str = "per_s") -> list[float]:
        return [r[what] for r in seen[name]]

    times = statistics.median(rates("stored.32")) / statistics.median(rates("stored.1"))
    yield figure("hl7-relay.stored.1", 1, rates("stored.1"), "msg/s", commits, "floor: single-row commits; budget: at least 0.4")
    note = f"budget: at least 10,000/s and 4 x one link (here {times:.1f})"
    yield figure("hl7-relay.stored.32", LINKS, rates("stored.32"), "msg/s", commits, note)
    yield figure("hl7-relay.end_to_end.1", 1, rates("end_to_end.1"), "msg/s", rates("relay.1"), "floor: a bare byte relay")
    note = "floor: a bare byte relay; budget: at least 10,000/s"
    yield figure("hl7-relay.end_to_end.32", LINKS, rates("end_to_end.32"), "msg/s", rates("relay.32"), note)
    for name in ("end_to_end.32", "stored.32"):
        note = "CPU of the driver's process; floor: the bare relay's, which keeps nothing and looks at nothing"
        yield figure(f"hl7-relay.cpu.{name}", LINKS, rates(name, "cpu_us"), "us/msg", rates("relay.32", "cpu_us"), note)
    yield figure("hl7-relay.drain.32", LINKS, [drain], "msg/s", (), "stored messages delivered when the receiver is back")


def main() -> None:
    """A part, by name."""
    name, *rest = sys.argv[1:]
    if name == "receiver":
        receive(int(rest[0]))
    elif name == "relay":
        Relay.upstream_port = int(rest[0])
        asyncio.run(serve(Relay))
    elif name == "driver":
        asyncio.run(serve_driver(int(rest[0]), int(rest[1]), rest[2]))
    else:
        send_repeatedly()


if __name__ == "__main__":
    main()
