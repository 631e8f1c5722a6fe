"""The connection to a receiver: framed messages out, framed messages in. What does not frame ends it.

Refuses to know which answer belongs to what.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import cast

from drivers.hl7 import mllp
from gateway.errors import MalformedError, UnavailableError


class Upstream(asyncio.Protocol):
    """``heard`` gets every whole message, ``lost`` the reason when the connection ends by itself or out of step."""

    def __init__(self, max_message: int, heard: Callable[[bytes], None], lost: Callable[[str], None]) -> None:
        self._decoder = mllp.Decoder(max_message)
        self._heard, self._lost = heard, lost
        self._transport: asyncio.Transport
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.open = cast(asyncio.Transport, transport), True

    def send(self, frame: bytes) -> None:
        """Write one frame."""
        self._transport.write(frame)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except MalformedError as e:
            self.poison(f"the receiver sent {e.what}")
            return
        for message in messages:
            if self.open:
                self._heard(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.open:
            self.open = False
            self._lost("the receiver closed the connection")

    def poison(self, why: str) -> None:
        """Out of step or too late: never used again."""
        if self.open:
            self.close()
            self._lost(why)

    def close(self) -> None:
        """End it without a word."""
        self.open = False
        self._transport.abort()


async def connect(
    endpoint: tuple[str, int], max_message: int, timeout_s: float, heard: Callable[[bytes], None], lost: Callable[[str], None]
) -> Upstream:
    """A connection to a receiver. Raises UnavailableError."""
    host, port = endpoint
    try:
        async with asyncio.timeout(timeout_s):
            _, upstream = await asyncio.get_running_loop().create_connection(lambda: Upstream(max_message, heard, lost), host, port)
    except (OSError, TimeoutError) as e:
        reason = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else "no answer"
        raise UnavailableError(
            f"the receiver {host}:{port} cannot be reached ({reason})", "check the receiver and the network"
        ) from e
    return upstream
