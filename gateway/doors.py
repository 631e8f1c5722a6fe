"""The two doors people come through: the page over HTTPS and the control socket of the command line.

Makes the page's key (new with every start; the TPM's quote names it) and opens both. Refuses to know what is behind them.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from pathlib import Path

from gateway.attester.attester import Attester
from gateway.config import Config
from gateway.people import People
from gateway.ports import ConsolePort
from gateway.web import console_only
from gateway.web.server import Served, build, build_control, serve, serve_control
from gateway.web.tls import self_signed


class Doors:
    """Both servers."""

    def __init__(self, config: Config, console: ConsolePort, people: People, attester: Attester) -> None:
        self._config, self._console, self._people, self._attester = config, console, people, attester
        self._open: list[Served] = []

    async def open(self) -> None:
        """Open both; raises UnavailableError when one cannot be opened."""
        settings = self._config.web
        control = build_control(self._console, self._people)
        control.add_routes(console_only.routes())
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
