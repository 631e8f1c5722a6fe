"""Clients' side of the proxy: TCP in, whole and canonical requests out to the device's link. Nothing is passed through.

A client dials the device's own address; the kernel redirects it here and says whom it meant (SO_ORIGINAL_DST). A stream out of
step is closed and hurts nobody else. Refuses to know levels and rules: the link does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from drivers.modbus import mbap
from drivers.modbus.link import DeviceLink
from drivers.modbus.pdu import RequestError, UnknownFunctionError, parse_request
from drivers.modbus.waiting import Origin, Waiting
from drivers.redirect import SocketLike, bound
from gateway.errors import MalformedError

MAX_PIPELINED = 16  # requests of one client that wait or are answered in one go; what comes beyond stays in the socket
MAX_CLIENTS = 64  # connections a device: a ward's stations and a few that did not close
_PARTIAL_S = 5.0  # a frame that began must be whole by then
_SEND_BUFFER = 64 * 1024  # bytes of answers the kernel holds for a client that does not read; some 250 of the longest


class ClientLink(asyncio.BufferedProtocol):
    """One client's connection. ``find`` names the link of a destination, or None; ``note`` counts what was refused."""

    def __init__(
        self,
        find: Callable[[SocketLike], DeviceLink | None],
        note: Callable[[str, str, str], None],
    ) -> None:
        self.queue: deque[Waiting] = deque()
        self.turn: deque[Origin] | None = None
        self._find, self._note = find, note
        self._framer, self._room = mbap.Framer(), memoryview(bytearray(mbap.READ_BYTES))
        self._link: DeviceLink | None = None
        self._open = False
        self._congested = self._paused = self._draining = False
        self._partial: asyncio.TimerHandle | None = None

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        self._link = link = self._find(sock)
        if link is None:
            transport.abort()
            return
        if len(link.clients) >= MAX_CLIENTS:
            self._note(link.device_id, "too-many-clients", f"more than {MAX_CLIENTS} connections to it")
            transport.abort()
            return
        bound(sock, _SEND_BUFFER)
        link.clients.add(self)
        self._open = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        if self._open:
            self._framer.feed(bytes(self._room[:nbytes]))
            self._drain()

    def pause_writing(self) -> None:
        self._congested = True  # a client that does not read its answers gets no more

    def resume_writing(self) -> None:
        self._congested = False
        self._drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut()

    # --- requests and answers ---

    def _drain(self) -> None:
        """Take requests in until there is no whole one, or enough of them."""
        taken, link, framer = 0, self._link, self._framer
        if link is None:
            return
        try:
            while self._open and taken < MAX_PIPELINED and len(self.queue) < MAX_PIPELINED and not self._congested:
                frame = framer.next() if framer.waiting else None
                if frame is None:
                    break
                taken += 1
                try:
                    request = parse_request(frame.pdu)
                except RequestError as e:
                    self._refuse(link, frame, e)
                else:
                    link.submit(Waiting(self, frame.transaction, frame.unit, request))
        except MalformedError as e:
            self._note(link.device_id, "malformed", f"a client sent {e.what}; its connection was closed")
            self.close()
        if self._open:
            self._regulate(taken)

    def _regulate(self, taken: int) -> None:
        """Read on only while there is room; a half frame has a time limit."""
        left, full = self._framer.waiting, len(self.queue) >= MAX_PIPELINED or self._congested
        if not (left or full or self._paused or self._partial):
            return
        loop = asyncio.get_running_loop()
        if full is not self._paused:
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
        if left and taken >= MAX_PIPELINED and not full and not self._draining:
            self._draining = True
            loop.call_soon(self._go_on)
        if self._partial is not None and (taken or full or not left):
            self._partial.cancel()
            self._partial = None
        if left and not full and self._partial is None:
            self._partial = loop.call_later(_PARTIAL_S, self._expire)

    def _go_on(self) -> None:
        self._draining = False
        if self._open:
            self._drain()

    def _expire(self) -> None:
        self._partial = None
        if self._link is not None:
            self._note(self._link.device_id, "malformed", f"a client left a frame unfinished for {_PARTIAL_S:g} s")
        self.close()

    def _refuse(self, link: DeviceLink, frame: mbap.Frame, error: RequestError) -> None:
        """Answer what is well framed and wrong; raises ``error`` when the sender is out of step."""
        if error.code is None:
            raise error
        kind = "unknown-function" if isinstance(error, UnknownFunctionError) else "malformed"
        self._note(link.device_id, kind, f"a client's request was refused: {error.what}")
        pdu = bytes((frame.pdu[0] | 0x80, error.code))
        self._transport.write(mbap.encode(frame.transaction, frame.unit, pdu))

    def answer(self, waiting: Waiting, pdu: bytes) -> None:
        """An answer for the client (``drivers.modbus.waiting.Origin``)."""
        if self._open:
            self._transport.write(mbap.encode(waiting.transaction, waiting.unit, pdu))
            if (self._paused or self._framer.waiting) and not self._draining:
                self._draining = True
                asyncio.get_running_loop().call_soon(self._go_on)

    def close(self) -> None:
        """Let the client go; answers already written are still sent."""
        self._shut()
        self._transport.close()

    def _shut(self) -> None:
        self._open = False
        if self._partial is not None:
            self._partial.cancel()
            self._partial = None
        if self._link is not None:
            self._link.leave(self)
