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

Heard = Callable[[bytes], None]
Lost = Callable[[WardgateError], None]
_LOOK_S = 0.005
_TIOCOUTQ = 0x5411  # tcp(7): SIOCOUTQ, bytes that the other end's TCP has not acknowledged


def _unacknowledged(sock: socket.socket) -> int:
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), _TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):
        return 1  # nobody knows: not taken. That it is gone, connection_lost says


class Upstream(asyncio.Protocol):
    """``heard`` gets every whole message, ``lost`` the reason when the connection ends by itself or out of step, ``room`` is called
    when it takes more again."""

    def __init__(self, route: Route, settings: Settings, turn: Turn, heard: Heard, lost: Lost, room: Callable[[], None]) -> None:
        self._route, self._settings, self._decoder, self._answered = route, settings, mllp.Decoder(settings.max_message), False
        self._turn, self._heard, self._lost, self._room = turn, heard, lost, room
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self.open = False
        self.in_order = False  # the receiver ended it, having read what was sent
        self.ready = False  # whoever dialled knows of it
        self.full_since_s: float | None = None  # what was sent has not left: nothing more should be
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

    def pause_writing(self) -> None:
        self.full_since_s = self._loop.time()

    def resume_writing(self) -> None:
        self.full_since_s = None
        if self.open:
            self._room()

    def data_received(self, data: bytes) -> None:
        if not self.ready:
            self.poison("the receiver spoke before it was asked")
            return
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
            self.open, self.in_order = False, exc is None
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

    def finish(self) -> None:
        """End it when what was sent has left, ``answer_s`` later at most."""
        self.open = False
        self._turn.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._settings.answer_s, self._transport.abort)


async def connect(
    route: Route,
    contexts: Contexts,
    settings: Settings,
    turn: Turn,
    heard: Heard,
    lost: Lost,
    room: Callable[[], None] = lambda: None,
) -> Upstream:
    """A connection to a route's receiver. Raises as ``secure.dial``."""
    up = await secure.dial(route, contexts, settings.connect_s, lambda: Upstream(route, settings, turn, heard, lost, room))
    up.ready = True
    return up
