"""How a change of what may pass reaches root's wardgate-policy: one JSON line there, one back.

Standard library and ``gateway.errors`` only. Refuses to know what is in a document.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.errors import RefusedError, UnavailableError

_TIMEOUT_S = 20.0  # loading ten thousand devices takes under one second; the rest is a loaded machine
_MAX_ANSWER = 1024 * 1024


def confirm_sync(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send one request and return the answer. Raises RefusedError (what and remedy from there) or UnavailableError."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(_TIMEOUT_S)
            s.connect(str(path))
            s.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(s))
    except (OSError, ValueError) as e:
        raise UnavailableError(
            f"wardgate-policy does not answer on {path} ({type(e).__name__})", "systemctl start wardgate-policy.socket"
        ) from None
    if not isinstance(answer, dict) or not answer.get("ok"):
        said = answer if isinstance(answer, dict) else {}
        raise RefusedError(str(said.get("error", "wardgate-policy refused")), str(said.get("remedy", "see its log")))
    return answer


async def confirm(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """``confirm_sync`` off the event loop."""
    return await asyncio.to_thread(confirm_sync, path, request)


def _line(s: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = s.recv(65536)
        if not part or len(data) > _MAX_ANSWER:
            raise OSError("the answer ended early")
        data += part
    return data
