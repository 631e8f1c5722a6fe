"""The two doors people come through: the page over HTTPS and the control socket of the command line.

Makes the page's key (new with every start; the TPM's quote names it) and opens both. Refuses to know what is behind them.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from pathlib import Path

from aiohttp import web

from gateway.attester.attester import Attester
from gateway.config import Config
from gateway.errors import InputError
from gateway.model.view import User
from gateway.people import People
from gateway.ports import ConsolePort
from gateway.web.server import Served, build, build_control, serve, serve_control
from gateway.web.tls import self_signed
from gateway.web.wire import json_of


class Doors:
    """Both servers."""

    def __init__(self, config: Config, console: ConsolePort, people: People, attester: Attester) -> None:
        self._config, self._console, self._people, self._attester = config, console, people, attester
        self._open: list[Served] = []

    async def open(self) -> None:
        """Open both; raises UnavailableError when one cannot be opened."""
        settings = self._config.web
        control = build_control(self._console, self._people)
        control.add_routes([web.post("/api/v1/claim", self._claim), web.post("/api/v1/users", self._add_user)])
        self._open.append(await serve_control(control, self._config.gateway.run / "control.sock"))
        page = build(self._console, self._people)
        self._open.append(await serve(page, settings.host, settings.port, self._tls()))

    async def until(self, stopping: asyncio.Event) -> None:
        """Keep them open until ``stopping``, then close them."""
        await stopping.wait()
        for served in self._open:
            await served.close()

    def _tls(self) -> ssl.SSLContext:
        key, certificate, spki = self_signed(self._config.web.names)
        self._attester.register_software_key("tls", spki)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with tempfile.TemporaryDirectory() as d:
            for name, content in (("key", key), ("cert", certificate)):
                path = Path(d) / name
                path.touch(0o600)
                path.write_bytes(content)
            context.load_cert_chain(Path(d) / "cert", Path(d) / "key")
        return context

    async def _claim(self, request: web.Request) -> web.Response:
        """The claim from the console: ``{"code", "user", "password"}``."""
        body = await json_of(request)
        user = await self._people.claim(_text(body, "code"), _text(body, "user"), _text(body, "password"))
        return web.json_response({"user": user.name, "role": user.role})

    async def _add_user(self, request: web.Request) -> web.Response:
        """A user from the console: ``{"name", "password", "role"}``. Root makes the credential at wardgate-policy itself."""
        body = await json_of(request)
        user = await self._people.add_user(User("root", "admin"), _text(body, "name"), _text(body, "password"), _text(body, "role"))
        return web.json_response({"user": user.name, "role": user.role})


def _text(body: object, key: str) -> str:
    value = body.get(key) if isinstance(body, dict) else None
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise InputError(f"{key} is missing or is no text of 1 to 256 characters", "send it")
    return value
