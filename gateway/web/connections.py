"""How many connections there are and how long an idle one lasts: hostile clients are bounded before they say anything.

Refuses to know what requests mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.web.desk import WebSettings

_SWEEP_S = 5.0
_HANDSHAKE_MAX_S = 30.0  # a protocol that never became a connection is forgotten after this


@dataclass(slots=True)
class _Line:
    last_s: float
    busy: int = 0


class Doorman:
    """Admits connections to a server, and closes those that only wait. One an application."""

    def __init__(self, settings: WebSettings) -> None:
        self._settings = settings
        self._lines: dict[asyncio.BaseProtocol, _Line] = {}
        self._server: web.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    def open(self, server: web.Server) -> None:
        """Begin to admit connections to ``server``."""
        self._server = server
        self._sweeper = asyncio.create_task(self._sweep(), name="web-doorman")

    async def close(self) -> None:
        """Admit nobody any more."""
        self._server = None
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper

    def admit(self) -> asyncio.BaseProtocol:
        """A protocol for a new connection: when the house is full the longest idle one leaves, or the new one is refused."""
        server = self._server
        if server is None or (len(server.connections) >= self._settings.connections and not self._make_room(server)):
            return _Refused()
        protocol = server()
        self._lines[protocol] = _Line(time.monotonic())
        return protocol

    def mark(self) -> Middleware:
        """The middleware that notes who is busy; it must be the first."""

        @web.middleware
        async def busy(request: web.Request, handler: Handler) -> web.StreamResponse:
            line = self._lines.get(request.protocol)
            if line is None:
                return await handler(request)
            line.busy += 1
            try:
                return await handler(request)
            finally:
                line.busy -= 1
                line.last_s = time.monotonic()

        return busy

    def _make_room(self, server: web.Server) -> bool:
        idle = [(line.last_s, c) for c in server.connections if (line := self._lines.get(c)) is not None and not line.busy]
        if not idle:
            return False
        _, oldest = min(idle, key=lambda pair: pair[0])
        oldest.force_close()
        return True

    async def _sweep(self) -> None:
        while self._server is not None:
            await asyncio.sleep(min(_SWEEP_S, self._settings.idle_s / 2))
            now, there = time.monotonic(), set(self._server.connections)
            for protocol, line in list(self._lines.items()):
                if protocol not in there and now - line.last_s > _HANDSHAKE_MAX_S:
                    del self._lines[protocol]
            for connection in there:
                line = self._lines.setdefault(connection, _Line(now))
                if not line.busy and now - line.last_s > self._settings.idle_s:
                    connection.force_close()


def quiet_log() -> logging.Logger:
    """A logger for the HTTP library: one line for what a client sent wrong, never a traceback of it."""
    log = logging.getLogger("wardgate.web.http")
    log.setLevel(logging.ERROR)
    if not log.filters:
        log.addFilter(_one_line)
    return log


def _one_line(record: logging.LogRecord) -> bool:
    """Not for a malformed request: the client has its answer, and the journal is not theirs to fill."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, web.HTTPException) and not type(error).__module__.startswith("aiohttp.")


class _Refused(asyncio.Protocol):
    """Closes what could not be admitted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
