"""The connection to a receiver: framed messages out, framed messages in. What does not frame ends it.

Refuses to know what answer belongs to what.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
from collections.abc import Callable
from typing import cast

from drivers.hl7 import mllp, secure
from drivers.hl7.route import Route
from drivers.hl7.secure import Contexts
from drivers.hl7.settings import Settings
from drivers.hl7.turn import Turn
from gateway.errors import MalformedError, UnavailableError, WardgateError

_LOOK_S = 0.005
_TIOCOUTQ = 0x5411  # tcp(7): SIOCOUTQ, bytes that the other end's TCP has not acknowledged


def _unacknowledged(sock: socket.socket) -> int:
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), _TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):
        return 1  # nobody knows: not taken. That it is gone, connection_lost says


class Upstream(asyncio.Protocol):
    """``heard`` gets every whole message, ``lost`` the reason when the connection ends by itself or out of step."""

    def __init__(
        self, route: Route, max_message: int, turn: Turn, heard: Callable[[bytes], None], lost: Callable[[WardgateError], None]
    ) -> None:
        self._route, self._decoder, self._answered = route, mllp.Decoder(max_message), False
        self._turn, self._heard, self._lost = turn, heard, lost
        self._transport: asyncio.Transport
        self.open = False
        self.ended: WardgateError | None = None  # the reason, once it ended by itself or out of step

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.open = cast(asyncio.Transport, transport), True

    def send(self, frame: bytes) -> None:
        """Write one frame."""
        self._turn.write(self._transport, frame)

    async def left(self) -> None:
        """Wait until the receiver's machine has taken all that was sent. Raises why the connection ended before."""
        self._turn.flush()
        sock = self._transport.get_extra_info("socket")
        while self.open and (self._transport.get_write_buffer_size() or _unacknowledged(sock)):  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(_LOOK_S)
        if self.ended is not None:
            raise self.ended

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except MalformedError as e:
            self.poison(f"the receiver sent {e.what}")
            return
        self._answered = True
        for message in messages:
            if self.open:
                self._heard(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.open:
            self.open = False
            self.ended = secure.ended(self._route, exc, answered=self._answered)
            self._lost(self.ended)

    def poison(self, why: str) -> None:
        """Out of step or too late: never used again."""
        if self.open:
            self.close()
            self.ended = UnavailableError(why, "look at the receiver")
            self._lost(self.ended)

    def close(self) -> None:
        """End it without a word."""
        self.open = False
        self._transport.abort()


async def connect(
    route: Route,
    contexts: Contexts,
    settings: Settings,
    turn: Turn,
    heard: Callable[[bytes], None],
    lost: Callable[[WardgateError], None],
) -> Upstream:
    """A connection to a route's receiver. Raises as ``secure.dial``."""
    return await secure.dial(route, contexts, settings.connect_s, lambda: Upstream(route, settings.max_message, turn, heard, lost))
