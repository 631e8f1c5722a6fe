"""Thousands of malformed requests at the enforcer's socket, by the right user and by others, while leases go on being renewed."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.enforcer.wire import REQUEST_MAX
from tests.enforcer import ward as w
from tests.enforcer.ward import HOSP4, PUMP4, PUMP6, Bench, bench

pytestmark = pytest.mark.rig

_GRANT = {"do": "grant", "leases": [{"addresses": [PUMP4], "level": 3, "ms": 1000}]}
_ODD: list[Any] = [
    None, True, 0, -1, 4, 1.5, 2**70, "", "x", "3", [], {}, [[]], {"a": 1}, "10.77.0.011", "::ffff:10.77.0.11", "fe80::1%eth0",
    "1" * 46, HOSP4, ["10.77.0.11"], "\u0661", "\x00", {"level": 3},
]  # fmt: skip
_STRANGER = """
import os, socket, sys
os.setgid(61003); os.setuid(61003)
for i in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX); s.settimeout(5)
    try:
        s.connect(sys.argv[1]); s.sendall(b'\\0\\0\\0\\x0d{"do":"dump"}')
        answer = s.recv(10)
    except OSError:
        answer = b''
    s.close()
    if answer: sys.exit('heard')
"""


@pytest.fixture(scope="module")
def rig() -> Iterator[Bench]:
    with bench() as made:
        yield made


def _body(draw: random.Random) -> bytes:
    """A request that is none: by its bytes, its JSON, its verb, its keys or its values."""
    match draw.randrange(8):
        case 0:
            return draw.randbytes(draw.randint(2, 200))
        case 1:
            return draw.choice([b"[", b'{"a":', b"[[{", b'"']) * draw.randint(1, 6000)
        case 2:
            verb = draw.choice(["flush", "GRANT", "", "grant ", "dump\x00", "x" * 5000, None, 1, ["grant"], {}])
            return json.dumps({**_GRANT, "do": verb}).encode()
        case 3:
            return json.dumps(
                {"do": draw.choice(["grant", "drop", "dump", "watch"]), str(draw.choice(_ODD)): draw.choice(_ODD)}
            ).encode()
        case 4:
            lease = dict(_GRANT["leases"][0])  # type: ignore[arg-type]
            lease[draw.choice(["addresses", "level", "ms"])] = draw.choice(_ODD)
            if lease["level"] == 3 and lease["addresses"] == [PUMP4] and type(lease["ms"]) is int and lease["ms"] > 0:
                lease["more"] = 1  # it would have been right
            return json.dumps({"do": "grant", "leases": [lease]}).encode()
        case 5:
            return json.dumps({"do": "drop", "addresses": draw.choice([x for x in _ODD if x != ["10.77.0.11"]])}).encode()
        case 6:
            good = json.dumps(_GRANT).encode()
            return good[: draw.randrange(2, len(good) - 1)]
        case _:
            return draw.choice(
                [b'{"do":"dump","do":"dump"}', b'{"do":NaN}', b"\xff\xfe{}", b'{"do":"dump"}x', b"null", b"{}", b'"dump"', b"[]"]
            )


def _frame(draw: random.Random) -> bytes:
    body = _body(draw)
    match draw.randrange(10):
        case 0:
            return struct.pack(">I", draw.choice([0, 1, REQUEST_MAX + 1, 2**31, 2**32 - 1])) + body
        case 1:
            return struct.pack(">I", len(body) + draw.randint(1, 500)) + body  # its rest never comes
        case 2:
            return struct.pack(">I", 17)[: draw.randint(1, 3)]
        case _:
            return struct.pack(">I", len(body)) + body


def _refused(rig: Bench, data: bytes) -> str:
    """What became of it: ``closed`` without a word, or ``refused``. Anything that was granted is a failure."""
    with rig.connected(5.0) as s:
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            said = b""
            while part := s.recv(1 << 16):
                said += part
        except ConnectionError:
            return "closed"
    if not said:
        return "closed"
    answer = json.loads(said[4:])
    assert not answer["ok"], (data[:200], answer)
    assert answer["error"]
    assert answer["remedy"]
    return "refused"


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Renewing:
    """The daemon's own connection: it renews a lease all the time and notes how long each answer took."""

    def __init__(self, rig: Bench) -> None:
        self._rig, self._ended, self.took = rig, threading.Event(), list[float]()
        self.wrong: list[Any] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._rig.connected(10.0) as s:
            while not self._ended.wait(0.01):
                began = time.monotonic()
                answer = w.exchange(s, {"do": "grant", "leases": [{"addresses": [PUMP4, PUMP6], "level": 2, "ms": 30_000}]})
                self.took.append(time.monotonic() - began)
                if not answer["ok"]:
                    self.wrong.append(answer)

    def __enter__(self) -> _Renewing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(15)
        assert not self._thread.is_alive()


def test_thousands_of_malformed_requests_are_refused_and_leases_go_on(rig: Bench, request: pytest.FixtureRequest) -> None:
    number = 10_000 if request.config.getoption("--fuzz") else 3_334
    draw, seen = random.Random(2027), Counter[str]()
    assert rig.enforcer
    pid, log = rig.enforcer.pid, rig.directory / "enforcer.log"
    for _ in range(200):
        _refused(rig, _frame(draw))
    before, lines = _resident(pid), len(log.read_text().splitlines())
    stranger = [sys.executable, "-c", _STRANGER, str(rig.socket), str(number // 10)]
    with _Renewing(rig) as renewing, subprocess.Popen(stranger, stderr=subprocess.PIPE) as other:
        for _ in range(number - number // 10):
            seen[_refused(rig, _frame(draw))] += 1
        assert other.wait(30) == 0, "nobody else is heard"
    assert rig.enforcer.running
    assert seen["refused"] > number // 2
    assert not renewing.wrong
    assert len(renewing.took) > 20
    assert max(renewing.took) < 2, "a lease lasts 30 s"
    assert _resident(pid) - before < 8 << 20
    dump = rig.ask({"do": "dump"})
    assert {v["level"] for v in dump["leases"].values()} == {2}, "and nothing that they asked for was done"
    text = log.read_text()
    assert "Traceback" not in text
    assert len(text.splitlines()) - lines < 200, "the journal is not theirs to fill"
    print(dict(seen), f"renewals {len(renewing.took)}, worst {max(renewing.took) * 1000:.0f} ms")


def test_connections_that_say_nothing_keep_nobody_out(rig: Bench) -> None:
    """Half a frame and then silence, from as many connections as there may be; when they go, everything is as before."""
    held = []
    for _ in range(14):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(rig.socket))
        s.sendall(b"\x00\x00")
        held.append(s)
    try:
        rig.grant(1)
    finally:
        for s in held:
            s.close()
    rig.drop()
