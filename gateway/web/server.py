"""Builds the two applications (HTTPS for people, the unix socket for the CLI) and serves them, bounded.

``build`` and ``build_control`` share every handler of the API; they differ in how they know who is asking. Refuses to make keys and
to choose addresses: ``app`` passes a TLS context, a host and a port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from aiohttp import web

from gateway.errors import UnavailableError
from gateway.ports import ConsolePort
from gateway.web import (
    adding,
    api,
    api_device,
    device_page,
    exporting,
    gateway_page,
    holdings,
    house_api,
    incident_pages,
    message_pages,
    network_page,
    pages,
    people_pages,
    policy,
    policy_pages,
    record_pages,
    token_pages,
)  # fmt: skip
from gateway.web.access import by_peer, by_session
from gateway.web.connections import Doorman, quiet_log
from gateway.web.desk import DESK, Accounts, Desk, WebSettings
from gateway.web.render import Renderer
from gateway.web.stream import Hub
from gateway.web.wire import errors, put_headers

_HANDSHAKE_S = 10.0
_SHUTDOWN_S = 2.0
_HEADER_BYTES = 8190  # one header line; aiohttp's own default, stated because it is a bound
_DOORMAN: web.AppKey[Doorman] = web.AppKey("doorman", Doorman)


def build(console: ConsolePort, accounts: Accounts, settings: WebSettings | None = None) -> web.Application:
    """The application for HTTPS: the pages and the API, sessions by cookie."""
    app = _application(console, accounts, settings or WebSettings(), plain=False)
    for part in (
        pages, device_page, adding, record_pages, network_page, gateway_page, people_pages, policy_pages,
        token_pages, message_pages, incident_pages, api, api_device, house_api, exporting,
        policy, holdings,
    ):  # fmt: skip
        app.add_routes(part.routes())
    app.add_routes(house_api.page_routes())
    return app


def build_control(console: ConsolePort, accounts: Accounts, settings: WebSettings | None = None) -> web.Application:
    """The application for the control socket: the API; whoever has one of ``settings.uids`` is admin, everyone else nobody."""
    app = _application(console, accounts, settings or WebSettings(uids=frozenset({0, os.getuid()})), plain=True)
    for part in (api, api_device, house_api, exporting, policy, holdings):
        app.add_routes(part.routes())
    app.add_routes(network_page.api_routes())
    return app


def _application(console: ConsolePort, accounts: Accounts, settings: WebSettings, *, plain: bool) -> web.Application:
    doorman = Doorman(settings)
    app = web.Application(
        logger=quiet_log(),
        middlewares=(doorman.mark(), errors, by_peer if plain else by_session),
        client_max_size=settings.body_bytes,
        handler_args={"max_line_size": _HEADER_BYTES, "max_field_size": _HEADER_BYTES, "access_log": None, "logger": quiet_log()},
    )
    renderer = Renderer(plain=plain)
    hub = Hub(console, renderer, settings)
    renderer.picture = hub.ward
    app[DESK] = Desk(console, accounts, settings, renderer, hub)
    app[_DOORMAN] = doorman
    app.on_response_prepare.append(put_headers)
    app.cleanup_ctx.append(_run_hub)

    async def end_streams(_: web.Application) -> None:
        await hub.close()

    app.on_shutdown.append(end_streams)
    return app


async def _run_hub(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[DESK].hub.run(), name="web-live-view")
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class Served:
    """A listening server. ``close`` ends its streams, then its connections, in about two seconds at most."""

    def __init__(self, runner: web.AppRunner, server: asyncio.AbstractServer, doorman: Doorman, path: Path | None = None) -> None:
        self._runner, self._server, self._doorman, self._path = runner, server, doorman, path
        self.port = 0 if path else _port(server)  # what was bound, also after the end

    async def close(self) -> None:
        """Stop listening and end."""
        self._server.close()
        await self._doorman.close()
        await self._runner.cleanup()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def __aenter__(self) -> Served:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _port(server: asyncio.AbstractServer) -> int:
    sockets: Sequence[socket.socket] = getattr(server, "sockets", ())
    return next((int(s.getsockname()[1]) for s in sockets), 0)


async def serve(app: web.Application, host: str, port: int, ssl_context: ssl.SSLContext) -> Served:
    """Listen for HTTPS. Raises UnavailableError when the address cannot be had."""
    runner, doorman = await _start(app)
    try:
        server = await asyncio.get_running_loop().create_server(
            doorman.admit, host, port, ssl=ssl_context, ssl_handshake_timeout=_HANDSHAKE_S, ssl_shutdown_timeout=_SHUTDOWN_S
        )
    except OSError as e:
        await doorman.close()
        await runner.cleanup()
        raise UnavailableError(f"the page cannot listen on {host} port {port} ({e.strerror})", "change [web] host or port") from e
    return Served(runner, server, doorman)


async def serve_control(app: web.Application, path: Path, mode: int = 0o660) -> Served:
    """Listen on a unix socket at ``path``; a socket that a dead daemon left there is replaced. Raises UnavailableError."""
    runner, doorman = await _start(app)
    try:
        _remove_dead(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o777 & ~mode)  # from the first moment on, not by a chmod after it
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        server = await asyncio.get_running_loop().create_unix_server(doorman.admit, sock=listener)
    except OSError as e:
        await doorman.close()
        await runner.cleanup()
        raise UnavailableError(f"the control socket {path} cannot be made ({e.strerror or e})", "check its directory") from e
    return Served(runner, server, doorman, path)


async def _start(app: web.Application) -> tuple[web.AppRunner, Doorman]:
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    server = runner.server
    if server is None:
        raise UnavailableError("the page did not start", "look into the journal")
    app[_DOORMAN].open(server)
    return runner, app[_DOORMAN]


def _remove_dead(path: Path) -> None:
    """Remove a socket that nobody listens on; anything else at ``path`` is left and the bind then fails."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
