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


class ObservedLink(asyncio.Protocol):
    """The device's half; it dials the receiver at once, as the device itself would have."""

    def __init__(self, route: Route, services: Services) -> None:
        self._route, self._services = route, services
        self._decoder: mllp.Decoder | None = mllp.Decoder(services.settings.max_message)
        self._other: asyncio.Transport | None = None
        self._early = bytearray()
        self._open = False
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
        if not self._open:
            other.abort()
            return
        other.write(bytes(self._early))
        self._early.clear()
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

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def resume(self) -> None:
        """Nothing is ever held."""

    def tick(self, now_s: float) -> None:
        """Nothing has a limit of ours."""

    def close(self) -> None:
        """End both halves; what was written is still sent."""
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
        self._device.joined(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._device.transport.write(data)

    def pause_writing(self) -> None:
        self._device.transport.pause_reading()

    def resume_writing(self) -> None:
        self._device.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._device.close()
