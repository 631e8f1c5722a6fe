"""How a change of what may pass reaches root's wardgate-policy: one JSON line there, one back.

Whoever asks waits as long as an act may take there (``bounds``): the kernel first, then the ward's network follows. Standard
library and ``gateway.errors`` only. Refuses to know what is in a document.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.enforcer.bounds import ANSWER_S
from gateway.errors import RefusedError, UnavailableError

_CONNECT_S = 10.0  # systemd holds the socket: what is not there after this does not come
_MAX_ANSWER = 1024 * 1024


class UnansweredError(UnavailableError):
    """The request arrived and no answer came: what was asked is done, or will be, or never is. Nobody may act as if it was not."""


def confirm_sync(path: Path, request: Mapping[str, Any], answer_s: float = ANSWER_S) -> dict[str, Any]:
    """Send one request and return the answer.

    Raises RefusedError (what and remedy from there), UnansweredError (see there), or UnavailableError: nothing was asked.
    """
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.settimeout(_CONNECT_S)
            s.connect(str(path))
        except OSError as e:
            raise _away(path, e) from None
        try:
            s.settimeout(answer_s)
            s.sendall(json.dumps(request).encode() + b"\n")
            return _said(json.loads(_line(s)))
        except (OSError, ValueError) as e:
            raise _unanswered(e, answer_s) from None


async def confirm(path: Path, request: Mapping[str, Any], answer_s: float = ANSWER_S) -> dict[str, Any]:
    """``confirm_sync`` on the event loop. It keeps no thread for its minutes: others need theirs meanwhile."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=_MAX_ANSWER)
    except OSError as e:
        raise _away(path, e) from None
    try:
        async with asyncio.timeout(answer_s):
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
        if not line.endswith(b"\n"):
            raise OSError("the answer ended early")  # noqa: TRY301 - told below like every other broken answer
        return _said(json.loads(line))
    except (OSError, ValueError) as e:
        raise _unanswered(e, answer_s) from None
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _said(answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict) or not answer.get("ok"):
        said = answer if isinstance(answer, dict) else {}
        raise RefusedError(str(said.get("error", "wardgate-policy refused")), str(said.get("remedy", "see its log")))
    return answer


def _away(path: Path, e: Exception) -> UnavailableError:
    return UnavailableError(
        f"wardgate-policy does not answer on {path} ({type(e).__name__})", "systemctl start wardgate-policy.socket"
    )


def _unanswered(e: Exception, answer_s: float) -> UnansweredError:
    late = isinstance(e, TimeoutError)
    what = f"wardgate-policy has not answered within {answer_s:g} s" if late else "wardgate-policy ended before it answered"
    return UnansweredError(
        f"{what}; what was asked may be done already, or be done yet",
        "as root: wardgate-policy status says what is active and what waits; look before you ask again",
    )


def _line(s: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = s.recv(65536)
        if not part or len(data) > _MAX_ANSWER:
            raise OSError("the answer ended early")
        data += part
    return data
