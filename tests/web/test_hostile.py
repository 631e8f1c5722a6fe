"""Ten thousand malformed requests, slow clients and full houses: answered or closed, never a 500, never in the way."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import UnavailableError
from gateway.model.view import User
from gateway.web.access import COOKIE, csrf_token
from gateway.web.desk import WebSettings
from gateway.web.server import Served, build, serve
from tests.fakes.console import FakeAccounts, FakeConsole
from tests.web.conftest import Door

_LINES = 16
CLOSED, WAITING = 0, -1  # instead of a status: the server closed, or waits for the rest of a request
_WORDS = [
    b"", b"{}", b"[]", b"null", b'{"verb":"attest"}', b'{"verb":"attest","device_id":"pump-1"}', b'{"verb":"\xff"}', b"\x00" * 40,
    b'{"verb":"a","arguments":{"x":1e999}}', b"[" * 3000, b'{"verb":"attest","device_id":"' + b"a" * 70 + b'"}', b"csrf=&csrf=",
    b"user=%ff%fe&password=x", b"user=ada&password=" + b"x" * 3000, b"a=b&" * 40, b"%%%", b"\xed\xa0\x80", b'{"a":"\\ud800"}',
    b'{"a":' * 2500 + b"1" + b"}" * 2500, b'{"verb":"attest","arguments":{"x":[]}}', b'{"verb":"attest","verb":"accept"}',
    b"[" * 15_900,
    b'{"verb":["attest"]}', b'{"verb":"attest","secret":1}', b'{"verb":"attest","device_id":null}',
    b'{"name":"t","role":"admin","days":1e2}',
    b'{"name":{},"role":[],"days":true}', b"1" * 15_000, b'"' + b"\\u0000" * 2000 + b'"', b"NaN", b"-Infinity", b"\xef\xbb\xbf{}",
]  # fmt: skip
_PATHS = [
    b"/", b"/api/v1/command", b"/api/v1/view", b"/api/v1/events?limit=%s", b"/api/v1/events?before=%s", b"/api/v1/explain/%s",
    b"/api/v1/devices/%s/bundle", b"/devices/%s", b"/devices/%s/enforce", b"/devices/pump-1/%s", b"/login", b"/claim", b"/view/%s",
    b"/static/%s", b"/logout", b"/api/v1/explain/pump-1?function=%s", b"/login?next=%s", b"/events?before=%s", b"/api/v1/view-link",
    b"/api/v1/tokens", b"/api/v1/tokens/%s", b"/metrics", b"/api/v1/openapi.json?%s", b"/%s",
]  # fmt: skip
_BITS = [
    b"%00",
    b"%ff",
    b"..%2f..",
    b"a" * 200,
    b"-1",
    b"1e9",
    b"%d9%a1",
    b"pump-1",
    b"%0d%0aX:1",
    b"'\"<>",
    b"0",
    b"9" * 30,
    b"%",
    b"?",
    b"#",
]
_HEADS = [
    [b"Expect: 100-continue"], [b"Expect: 200-maybe"], [b"Upgrade: websocket", b"Connection: upgrade"], [b"Range: bytes=0-,9-1"],
    [b"Cookie: " + b"a=b; " * 900], [b"Accept: " + b"text/html," * 400], [b"X-Forwarded-For: 127.0.0.1",
    b"X-Forwarded-Proto: https"],
    [b"If-None-Match: " + b"\xff" * 50], [b"Content-Encoding: gzip"], [b"Content-Encoding: br"],
]  # fmt: skip
_METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"get", b"", b"P\x00ST", b"DELETE"]
_BROKEN = [
    b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://a:b@c/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(200)) + b"\r\n",
    b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nCookie: a=\xff\r\n\r\n",
]  # fmt: skip


def _request(draw: random.Random, cookie: bytes, csrf: bytes, origin: bytes, token: bytes) -> bytes:
    if draw.random() < 0.15:
        return draw.choice(_BROKEN)
    path = draw.choice(_PATHS)
    if b"%s" in path:
        path = path.replace(b"%s", draw.choice(_BITS))
    body = draw.choice(_WORDS)
    kind = draw.choice(
        [b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"\xff", b""]
    )
    method = draw.choice(_METHODS) if draw.random() < 0.3 else draw.choice([b"GET", b"POST", b"POST"])
    head = [method + b" " + path + b" HTTP/1.1", b"Host: " + origin.split(b"//")[1], b"Content-Type: " + kind]
    if draw.random() < 0.7:
        head.append(b"Cookie: " + cookie)
    if draw.random() < 0.7:
        head += [b"Origin: " + origin, b"X-CSRF-Token: " + csrf]
    if draw.random() < 0.1:
        head.append(
            b"Authorization: " + draw.choice([b"Bearer " + token, b"Bearer " + token[:-1], b"Bearer", b"Basic eDp5", b"\xff"])
        )
    if draw.random() < 0.1:
        head += draw.choice(_HEADS)
    if body and draw.random() < 0.2:
        cut = draw.randint(1, len(body))
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (body[:cut], body[cut:]) if c)
        return b"\r\n".join([*head, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n" + chunks + b"0\r\n\r\n"
    head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


class _Line:
    """One keep-alive connection that is opened again whenever the server closes it."""

    def __init__(self, port: int, seen: Counter[int]) -> None:
        self._port, self._seen = port, seen
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.waiting: set[bytes] = set()

    async def send(self, request: bytes) -> None:
        """Send, and once more when the connection turns out to have been closed after the last answer."""
        for fresh in (self._ends is None, True):
            if self._ends is None:
                self._ends = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.timeout(10):
                    status = await self._exchange(*self._ends, request)
            except (ConnectionError, asyncio.IncompleteReadError):
                status = CLOSED
                await self.close()
            except TimeoutError:
                status = WAITING
                await self.close()
            if status != CLOSED or fresh:
                break
        self._seen[status] += 1
        if status == WAITING:
            self.waiting.add(request[:60])

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        while head.startswith(b"http/1.1 100"):  # somebody expected to be told to go on
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n")[0]) if b"content-length: " in head else 0
        if not request.startswith(b"HEAD"):
            assert b"traceback" not in (await reader.readexactly(length)).lower()
        if b"connection: close" in head or request in _BROKEN:
            await self.close()
        return int(head.split(b" ", 2)[1])

    async def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None


async def _good(port: int, session: str, ended: asyncio.Event) -> list[float]:
    """A person whose page goes on being answered meanwhile: how long each answer took."""
    took: list[float] = []
    async with aiohttp.ClientSession(headers={"Cookie": f"{COOKIE}={session}"}) as client:
        while not ended.is_set():
            began = time.monotonic()
            answer = await client.get(f"http://127.0.0.1:{port}{'/' if len(took) % 2 else '/api/v1/view'}")
            assert answer.status == 200
            assert "pump-1" in await answer.text()
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
    return took


async def _beat(ended: asyncio.Event) -> float:
    """The daemon renews leases on this very loop: the longest that it was kept from doing so."""
    latest = 0.0
    while not ended.is_set():
        began = time.monotonic()
        await asyncio.sleep(0.05)
        latest = max(latest, time.monotonic() - began - 0.05)
    return latest


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_ten_thousand_malformed_requests_are_refused_and_nobody_else_notices(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """At the page and the API; the enforcer's socket has its third of them in tests/enforcer/test_bad_input.py."""
    from aiohttp.test_utils import TestServer

    number = 20_000 if request.config.getoption("--fuzz") else 6_672
    caplog.set_level(logging.WARNING)
    accounts, seen, waiting, ended = FakeAccounts(), Counter[int](), set[bytes](), asyncio.Event()
    async with TestServer(build(FakeConsole(), accounts)) as server:
        token = await accounts.start_session(User("vic", "viewer"))
        admin = await accounts.start_session(User("admin-1", "admin"))
        person = await accounts.start_session(User("bea", "biomed"))
        bearer = await accounts.tokens.add(User("admin-1", "admin"), "t", "biomed", 1)
        origin = f"http://127.0.0.1:{server.port}".encode()

        async def one(seed: int, requests: int) -> None:
            line, draw = _Line(server.port, seen), random.Random(seed)
            for _ in range(requests):
                who = draw.choice([token, admin, "x"])
                await line.send(_request(draw, f"{COOKIE}={who}".encode(), csrf_token(who).encode(), origin, bearer.encode()))
                if admin not in accounts.sessions:
                    accounts.sessions[admin] = User("admin-1", "admin")  # a log-out among them was right
            await line.close()
            waiting.update(line.waiting)

        await asyncio.gather(*(one(1000 + seed, 30) for seed in range(_LINES)))  # what is made once is made by now
        before, seen = _resident(), Counter()
        good, beat = asyncio.create_task(_good(server.port, person, ended)), asyncio.create_task(_beat(ended))
        await asyncio.gather(*(one(seed, number // _LINES) for seed in range(_LINES)))
        ended.set()
        took, latest = await good, await beat
        grown = _resident() - before
    print(
        dict(sorted(seen.items())),
        waiting,
        f"grown {grown >> 20} MiB",
        f"answers {len(took)}, worst {max(took):.2f} s, loop {latest:.2f} s",
    )
    assert seen.total() == number
    assert not [s for s in seen if s >= 500], seen
    assert seen[200] > 100, "some of them must have got through, or this tests nothing"
    assert seen[400] > number // 10
    assert not waiting, waiting
    assert seen[CLOSED] <= number // 20
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR], caplog.text
    assert "Traceback" not in caplog.text
    assert grown < 48 << 20
    assert len(took) > 20
    assert max(took) < 5
    assert latest < 2, "a lease is renewed 20 s before it ends"


_SMUGGLED = b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 4",
        b"Content-Length: 4\r\nContent-Length: 5", b"Content-Length: 4, 4", b"Content-Length: +4", b"Content-Length: 0x4",
        b"Content-Length: 4 4", b"Content-Length: \xb2", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"X: a\r\n Transfer-Encoding: chunked", b"X\x00: 1", b"X: a\x00b", b"X: a\rb", b" X: a", b"X y: a",
        b"Content-Length: 99999999999999999999", b"Content-Length: -0", b": x",
    ],
)  # fmt: skip
async def test_two_readings_of_one_request_are_none(door: Door, head: bytes) -> None:
    """What a proxy in front could read differently is refused, and what hides behind it is never answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.client.server.port)
    writer.write(b"POST /login HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n0\r\n\r\n" + _SMUGGLED)
    async with asyncio.timeout(5):
        said = await reader.read(65536)
        while part := await reader.read(65536):
            said += part
    writer.close()
    assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 413", b"HTTP/1.1 403")), said[:200]
    assert b'"ok"' not in said
    assert b"Traceback" not in said


@pytest.fixture
async def small(tls: ssl.SSLContext):
    settings = WebSettings(connections=4, idle_s=0.5, body_s=0.5)
    async with await serve(build(FakeConsole(), FakeAccounts(), settings), "127.0.0.1", 0, tls) as served:
        yield served


async def _connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return await asyncio.open_connection("127.0.0.1", served.port, ssl=trusting)


async def test_a_full_house_lets_the_longest_idle_one_go(small: Served) -> None:
    held = [await _connect(small) for _ in range(4)]
    await asyncio.sleep(0.05)
    reader, writer = await _connect(small)
    writer.write(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert await held[0][0].read() == b""  # the oldest was closed
    for _, w in (*held, (reader, writer)):
        w.close()


async def test_a_connection_that_only_waits_is_closed(small: Served) -> None:
    reader, writer = await _connect(small)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")  # and never the end of it
    async with asyncio.timeout(12):
        assert await reader.read() == b""
    writer.close()


async def test_a_body_that_does_not_come_is_not_waited_for(small: Served) -> None:
    reader, writer = await _connect(small)
    origin = f"https://127.0.0.1:{small.port}".encode()
    writer.write(
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nOrigin: %s\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 100\r\n\r\nuser=a" % (small.port, origin)
    )
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_taken_port_is_said_with_a_remedy(small: Served, tls: ssl.SSLContext) -> None:
    with pytest.raises(UnavailableError, match="change \\[web\\] host or port"):
        await serve(build(FakeConsole(), FakeAccounts()), "127.0.0.1", small.port, tls)


async def test_a_close_ends_open_streams_soon(tls: ssl.SSLContext) -> None:
    accounts = FakeAccounts()
    token = await accounts.start_session(User("vic", "viewer"))
    served = await serve(build(FakeConsole(), accounts), "127.0.0.1", 0, tls)
    reader, writer = await _connect(served)
    writer.write(f"GET /live HTTP/1.1\r\nHost: x\r\nCookie: {COOKIE}={token}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        while b"event: ward" not in await reader.readline():
            pass
    began = asyncio.get_running_loop().time()
    await served.close()
    assert asyncio.get_running_loop().time() - began < 4
    writer.close()
