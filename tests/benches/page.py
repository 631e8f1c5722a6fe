"""The page at 50 devices: time to first byte of Ward and Device, and the server's CPU with 20 people looking live.

The floor of each is a bare aiohttp server over the same TLS, measured in the same run: a handler that returns as many bytes as
the page has, and streams that carry as many bytes as the live view does, at the same rate. Both run in a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.model.view import DeviceView, User
from gateway.web.access import COOKIE
from gateway.web.desk import WebSettings
from gateway.web.server import build, serve
from gateway.web.tls import self_signed
from tests.benches.figure import Figure, figure
from tests.fakes.console import FakeAccounts, FakeConsole

DEVICES, VIEWERS = 50, 20
REQUESTS = 300  # of each page, over one connection that is kept
WATCHED_S = 10.0
_SETTLE_S = 2.0
TOP = Path(__file__).parents[2]


class Busy(FakeConsole):
    """Fifty devices, each with a new reading every second and a new lease every ten."""

    def __init__(self) -> None:
        super().__init__()
        kinds = list(self.devices.values())
        self.devices = {}
        for n in range(DEVICES):
            d = replace(kinds[n % len(kinds)], id=f"device-{n + 1}", name=f"Device {n + 1}", address=f"10.77.0.{n + 1}")
            self.devices[d.id] = d
            self.renew(d.id)

    def _timed(self, d: DeviceView, now: int) -> DeviceView:
        """Evidence is as old as the lease that it earned."""
        timed = super()._timed(d, now)
        return timed if timed.lease_left_ms is None else replace(timed, evidence_age_ms=29_000 - timed.lease_left_ms)

    async def live(self) -> None:
        """A ward goes on, until cancelled."""
        beat = 0
        while True:
            for n, device_id in enumerate(self.devices):
                self.put_reading(device_id, "MDC_ECG_HEART_RATE", "/min", 60.0 + (beat + n) % 40)
                if (beat + n) % 10 == 0:
                    self.renew(device_id)
                await asyncio.sleep(1.0 / DEVICES)
            beat += 1


async def _real(where: Path, context: ssl.SSLContext) -> None:
    console, accounts = Busy(), FakeAccounts()
    session = await accounts.start_session(User("bea", "biomed"))
    async with await serve(build(console, accounts, WebSettings(streams_each=VIEWERS)), "127.0.0.1", 0, context) as served:
        await asyncio.to_thread(where.write_text, json.dumps({"port": served.port, "session": session}))
        await console.live()


async def _bare(where: Path, context: ssl.SSLContext, sizes: dict[str, Any]) -> None:
    """As many bytes, and nothing thought about them."""
    pages = {name: b"x" * sizes[name] for name in ("ward", "device")}
    chunk = b"x" * max(1, round(sizes["stream_bytes"] / sizes["messages"]))

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=pages["device" if request.path.startswith("/devices/") else "ward"], content_type="text/html")

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(chunk)
            await asyncio.sleep(sizes["seconds"] / sizes["messages"])

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/devices/{id}", page), web.get("/live", stream)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    server = await asyncio.get_running_loop().create_server(runner.server, "127.0.0.1", 0, ssl=context)  # type: ignore[arg-type]
    found = {"port": server.sockets[0].getsockname()[1], "session": "x"}
    await asyncio.to_thread(where.write_text, json.dumps(found))
    await asyncio.Event().wait()


class Served:
    """A server in a process of its own."""

    def __init__(self, kind: str, folder: Path, sizes: dict[str, Any] | None = None) -> None:
        where = folder / f"{kind}.json"
        where.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "tests.benches.page", kind, str(folder), json.dumps(sizes or {})]
        self._process = subprocess.Popen(argv, cwd=TOP)
        deadline = time.monotonic() + 20
        while not where.exists() or not where.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the {kind} server did not start")
            time.sleep(0.02)
        found = json.loads(where.read_text())
        self.port, self.cookie = found["port"], f"{COOKIE}={found['session']}"

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


async def _open(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return await asyncio.open_connection("127.0.0.1", served.port, ssl=trusting, limit=2**20)


def _request(served: Served, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nCookie: {served.cookie}\r\n\r\n".encode()


class Viewers:
    """Twenty live views; ``counted`` is (bytes, messages, seconds) of one of them, on average, since ``begin``."""

    def __init__(self, served: Served) -> None:
        self._served, self._tasks = served, list[asyncio.Task[None]]()
        self.bytes = self.messages = 0

    async def _look(self) -> None:
        reader, writer = await _open(self._served)
        writer.write(_request(self._served, "/live"))
        with contextlib.suppress(asyncio.CancelledError):
            while part := await reader.read(2**18):
                self.bytes += len(part)
                self.messages += part.count(b"\nid: ")
        writer.transport.abort()

    async def __aenter__(self) -> Viewers:
        self._tasks = [asyncio.create_task(self._look()) for _ in range(VIEWERS)]
        await asyncio.sleep(_SETTLE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def watched(self) -> tuple[float, float, float]:
        """(the server's CPU seconds, bytes a viewer, messages a viewer) in ``WATCHED_S``."""
        self.bytes = self.messages = 0
        before = self._served.cpu_s()
        await asyncio.sleep(WATCHED_S)
        return self._served.cpu_s() - before, self.bytes / VIEWERS, self.messages / VIEWERS


async def _first_bytes(served: Served, paths: dict[str, str]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds from a request to the first byte of its answer, pages in turn; and each page's size."""
    reader, writer = await _open(served)
    took: dict[str, list[float]] = {name: [] for name in paths}
    sizes: dict[str, int] = {}
    for _ in range(REQUESTS):
        for name, path in paths.items():
            began = time.perf_counter()
            writer.write(_request(served, path))
            first = await reader.read(1)
            took[name].append(time.perf_counter() - began)
            head = (first + await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"{path}: {head[:60]!r}")
            sizes[name] = int(head.split(b"content-length: ", 1)[1].split(b"\r\n")[0])
            await reader.readexactly(sizes[name])
    writer.close()
    return took, sizes


async def _measure(served: Served) -> tuple[dict[str, list[float]], dict[str, Any], float]:
    async with Viewers(served) as viewers:
        cpu_s, carried, messages = await viewers.watched()
        took, pages = await _first_bytes(served, {"ward": "/", "device": "/devices/device-25"})
    return took, {**pages, "stream_bytes": carried, "messages": messages, "seconds": WATCHED_S}, cpu_s


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def run() -> Iterable[Figure]:
    """The figures."""
    with tempfile.TemporaryDirectory(prefix="wardgate-page-") as name:
        folder = Path(name)
        key, certificate, _ = self_signed(["127.0.0.1"])
        (folder / "key").write_bytes(key)
        (folder / "cert").write_bytes(certificate)
        served = Served("real", folder)
        try:
            took, sizes, cpu_s = asyncio.run(_measure(served))
        finally:
            served.stop()
        bare = Served("bare", folder, sizes)
        try:
            floors, _, floor_cpu_s = asyncio.run(_measure(bare))
        finally:
            bare.stop()
    for page in ("ward", "device"):
        mine, theirs = [x * 1000 for x in took[page]], [x * 1000 for x in floors[page]]
        note = f"{sizes[page] / 1000:.0f} kB with {VIEWERS} live viewers; floor: a bare handler with as many bytes"
        yield figure(f"page.{page}_ttfb_p50", DEVICES, mine, "ms", theirs, note)
        yield figure(f"page.{page}_ttfb_p99", DEVICES, [_p99(mine)], "ms", [_p99(theirs)], note)
    rate = f"{sizes['stream_bytes'] / WATCHED_S / 1000:.1f} kB/s a viewer in {sizes['messages'] / WATCHED_S:.1f} messages/s"
    share, floor = [cpu_s / WATCHED_S * 100], [floor_cpu_s / WATCHED_S * 100]
    yield figure("page.cpu_20_viewers", DEVICES, share, "% of a core", floor, f"{rate}; floor: bare streams of as many bytes")


async def _serve(kind: str, folder: Path, sizes: dict[str, Any]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "cert", folder / "key")
    where = folder / f"{kind}.json"
    await (_real(where, context) if kind == "real" else _bare(where, context, sizes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("real", "bare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("sizes", type=json.loads)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.kind, options.folder, options.sizes))
