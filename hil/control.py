"""How the bench talks to its simulated devices: one JSON object a line over a Unix socket, one answer a line.

``{"do": "tamper", …}`` in, ``{"ok": true, …}`` out. Knows nothing of any device.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


async def serve(path: Path, answer: Callable[[Answer], Awaitable[Answer]]) -> asyncio.Server:
    """Answer every request on ``path`` with ``answer(request)``; an exception becomes ``{"ok": false, "error": …}``."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    reply = {"ok": True, **await answer(json.loads(line))}
                except Exception as e:  # noqa: BLE001 - the bench must hear of any fault
                    reply = {"ok": False, "error": repr(e)}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anything runs
    server = await asyncio.start_unix_server(talk, str(path), limit=1 << 20)
    path.chmod(0o666)  # noqa: ASYNC240
    return server


def ask(path: Path, do: str, timeout_s: float = 10.0, **arguments: object) -> Answer:
    """Send one request and return its answer; raises RuntimeError when the device says no."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout_s)
        s.connect(str(path))
        s.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        with s.makefile("rb") as f:
            reply: Answer = json.loads(f.readline())
    if not reply.pop("ok"):
        raise RuntimeError(f"{path.name}: {reply['error']}")
    return reply
