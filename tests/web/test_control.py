"""The control socket: the kernel says who is at the other end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector

from gateway.errors import UnavailableError
from gateway.web.desk import WebSettings
from gateway.web.server import build_control, serve_control
from tests.fakes.console import FakeAccounts, FakeConsole

_STRANGER = 61_777
_CHILD = """
import os, socket, sys
os.setgid({uid}); os.setuid({uid})
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect({path!r})
s.sendall(b"GET /api/v1/view HTTP/1.1\\r\\nHost: c\\r\\nConnection: close\\r\\n\\r\\n")
out = b""
while (part := s.recv(65536)): out += part
sys.stdout.buffer.write(out)
"""


async def test_root_commands_by_its_uid_alone(tmp_path: Path) -> None:
    console = FakeConsole()
    path = tmp_path / "c.sock"
    async with await serve_control(build_control(console, FakeAccounts()), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with ClientSession(connector=UnixConnector(str(path))) as client:
            answer = await client.post("http://c/api/v1/command", json={"verb": "attest", "device_id": "pump-1"})
            assert answer.status == 200, await answer.text()
            assert len((await (await client.get("http://c/api/v1/view")).json())["devices"]) == 3
            link = await (await client.post("http://c/api/v1/view-link")).json()
            assert link["path"].startswith("/view/")
            nowhere = await client.get("http://c/login")
            assert (nowhere.status, nowhere.content_type) == (404, "application/json")
    assert (console.commands[0].actor, console.commands[0].role) == ("root" if os.getuid() == 0 else f"uid-{os.getuid()}", "admin")
    assert not path.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
async def test_everyone_else_is_refused_with_a_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    path = tmp_path / "c.sock"
    console = FakeConsole()
    settings = WebSettings(uids=frozenset({0, 61_001}))
    async with await serve_control(build_control(console, FakeAccounts(), settings), path, mode=0o666):
        answers = {}
        for uid in (_STRANGER, 61_001):
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", _CHILD.format(uid=uid, path=str(path)), stdout=asyncio.subprocess.PIPE
            )
            answers[uid] = (await asyncio.wait_for(child.communicate(), 10))[0]
    assert answers[_STRANGER].startswith(b"HTTP/1.1 403")
    told = json.loads(answers[_STRANGER].split(b"\r\n\r\n", 1)[1])
    assert told == {"error": f"uid {_STRANGER} may not command this gateway", "remedy": "run it as root"}
    assert answers[61_001].startswith(b"HTTP/1.1 200")


async def test_over_tcp_nobody_is_anybody(tmp_path: Path) -> None:
    from aiohttp.test_utils import TestClient, TestServer

    async with TestClient(TestServer(build_control(FakeConsole(), FakeAccounts()))) as client:
        assert (await client.get("/api/v1/view")).status == 403


async def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    async with await serve_control(build_control(FakeConsole(), FakeAccounts()), path):
        with pytest.raises(UnavailableError, match="control socket"):
            await serve_control(build_control(FakeConsole(), FakeAccounts()), path)
        async with ClientSession(connector=UnixConnector(str(path))) as client:
            assert (await client.get("http://c/api/v1/health")).status == 200
    path.write_text("not a socket")
    with pytest.raises(UnavailableError):
        await serve_control(build_control(FakeConsole(), FakeAccounts()), path)
    assert path.read_text() == "not a socket"
