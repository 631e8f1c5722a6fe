"""A connection until it is known whose it is, and until its TLS is there where its route has it.

Then an observed device's is passed on as it is, any other is relayed. Refuses to know messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from drivers.hl7 import secure
from drivers.hl7.observed import ObservedLink
from drivers.hl7.proxy import ClientLink, Services
from drivers.hl7.route import Route
from drivers.redirect import SocketLike
from gateway.errors import WardgateError

_EARLY = 256 * 1024  # bytes that may come before the certificate was looked at: one read of an eager sender


class Arriving(asyncio.Protocol):
    """``find`` says whose a connection is."""

    def __init__(self, find: Callable[[SocketLike], Route | None], services: Services) -> None:
        self._find, self._services = find, services
        self._early = bytearray()
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        route = self._find(transport.get_extra_info("socket"))
        if route is None:
            transport.abort()
        elif not route.tls.serve:
            self._begin(route, transport)
        elif route.link.handshakes >= secure.MAX_HANDSHAKES:
            self._services.note(route.link.device_id, "too-many-connections", "it has too many connections that begin TLS")
            transport.abort()
        else:
            route.link.handshakes += 1
            self._services.task(lambda: self._secure(route, transport))

    def data_received(self, data: bytes) -> None:
        self._early += data
        self._gone = self._gone or len(self._early) > _EARLY

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True

    async def _secure(self, route: Route, transport: asyncio.Transport) -> None:
        """TLS with a certificate that is right, or nothing."""
        try:
            secured = await secure.serve(route, self._services.tls, transport, self)
        except WardgateError as e:
            transport.abort()
            text = f"a connection for {route.function.name} was refused: {e.what}"
            self._services.note(route.link.device_id, "tls-refused", text)
            if secure.lasting(e):
                route.health.failed(str(e), asyncio.get_running_loop().time(), at_once=True)
            return
        finally:
            route.link.handshakes -= 1
        if self._gone:
            secured.abort()
        else:
            self._begin(route, secured)

    def _begin(self, route: Route, transport: asyncio.Transport) -> None:
        chosen = ObservedLink if route.link.observed else ClientLink
        protocol = chosen(route, self._services)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._early:
            protocol.data_received(bytes(self._early))
