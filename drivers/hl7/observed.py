"""A connection of a device that is being observed: its bytes pass as they are, and what they say of the device is looked at.

Nothing is cut, refused or answered here: observing costs nothing. What would be refused later is counted.
"""

from __future__ import annotations

import asyncio
from typing import cast

from drivers.hl7 import mllp, secure
from drivers.hl7.fingerprint import identity
from drivers.hl7.message import parse
from drivers.hl7.proxy import Services
from drivers.hl7.route import Route
from gateway.errors import MalformedError, WardgateError

_EARLY = 64 * 1024  # bytes taken from the device before the receiver answers
_HALF_CLOSED_S = 60.0  # as long as Linux keeps a connection whose one half is over (tcp_fin_timeout)
_NEVER = float("inf")


class ObservedLink(asyncio.Protocol):
    """The device's half; it dials the receiver at once, as the device itself would have."""

    def __init__(self, route: Route, services: Services) -> None:
        self._route, self._services = route, services
        self._decoder: mllp.Decoder | None = mllp.Decoder(services.settings.max_message)
        self._other: asyncio.Transport | None = None
        self._early = bytearray()
        self._open = self._ended = False
        self._until_s = _NEVER
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._route.link.join(self, from_device=self._route.from_device):
            self.transport.abort()
            return
        self._open = True
        self._services.task(self._connect)

    async def _connect(self) -> None:
        s = self._services
        try:
            await secure.dial(self._route, s.tls, s.settings.connect_s, lambda: _Receiver(self))
        except WardgateError as e:
            self._route.health.failed(str(e), self._loop.time(), at_once=secure.lasting(e))
            self.close()
        else:
            self._route.health.worked(self._loop.time())

    def joined(self, other: asyncio.Transport) -> None:
        """The receiver is there."""
        self._other = other
        other.write(bytes(self._early))
        self._early.clear()
        if not self._open:
            other.close()  # it has hung up; what it had sent arrives
            return
        if self._ended:
            _end(other)
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
        else:
            self._early += data
            if len(self._early) >= _EARLY:
                self.transport.pause_reading()
        if self._decoder is not None and self._route.from_device:
            self._look(self._decoder, data)

    def _look(self, decoder: mllp.Decoder, data: bytes) -> None:
        link = self._route.link
        try:
            for raw in decoder.feed(data):
                link.knows(identity(parse(raw)), self._services.clock.now())
        except MalformedError as e:
            self._decoder = None
            self._services.note(link.device_id, "malformed", f"while observed it sent what would be refused: {e.what}")

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.resume_reading()

    def eof_received(self) -> bool:
        """It sends no more and may still read: so it is passed on."""
        self._ended = True
        if self._other is not None:
            _end(self._other)
        return self.half_closed(self.transport)

    def half_closed(self, by: asyncio.Transport) -> bool:
        """One end sends no more; whether the other one still may. TLS ends as a whole."""
        still = self._open and self._until_s == _NEVER and by.get_extra_info("sslcontext") is None
        self._until_s = self._loop.time() + _HALF_CLOSED_S
        return still

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut()

    def resume(self) -> None:
        """Nothing is ever held."""

    def tick(self, now_s: float) -> None:
        """Nothing has a limit of ours but a connection of which one end is over."""
        if now_s > self._until_s:
            self.close()

    def close(self) -> None:
        """End both halves. What was written is still sent; what waits for the receiver may not pass as it is any more."""
        self._early.clear()
        self._shut()

    def _shut(self) -> None:
        if self._open:
            self._open = False
            self._route.link.leave(self)
        self.transport.close()
        if self._other is not None:
            self._other.close()


class _Receiver(asyncio.Protocol):
    """The receiver's half."""

    def __init__(self, device: ObservedLink) -> None:
        self._device = device

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._device.joined(self._transport)

    def data_received(self, data: bytes) -> None:
        self._device.transport.write(data)

    def eof_received(self) -> bool:
        _end(self._device.transport)
        return self._device.half_closed(self._transport)

    def pause_writing(self) -> None:
        self._device.transport.pause_reading()

    def resume_writing(self) -> None:
        self._device.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._device.close()


def _end(transport: asyncio.Transport) -> None:
    """Say to one end that the other sends no more; where that cannot be said (TLS), the connection is over."""
    if transport.is_closing():
        return
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()
