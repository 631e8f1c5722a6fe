"""The two doors people come through: the page over HTTPS and the control socket of the command line.

Makes the page's key (new with every start, and when its certificate's time is over; the TPM's quote names it), opens both.
Refuses to know what is behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import tempfile
from pathlib import Path

from gateway.attester.attester import Attester
from gateway.clock import Clock
from gateway.config import Config
from gateway.people import People
from gateway.ports import ConsolePort, LifecyclePort
from gateway.web import console_only, lifecycle
from gateway.web.server import Served, build, build_control, serve, serve_control
from gateway.web.tls import renewal_due, self_signed

_LOOK_S = 60.0
log = logging.getLogger("wardgate.doors")


class Doors:
    """Both servers."""

    def __init__(
        self, config: Config, console: ConsolePort, people: People, attester: Attester, clock: Clock, life: LifecyclePort
    ) -> None:
        self._config, self._console, self._people, self._attester = config, console, people, attester
        self._clock, self._life = clock, life
        self._open: list[Served] = []
        self._certificate = b""

    async def open(self) -> None:
        """Open both; raises UnavailableError when one cannot be opened."""
        settings = self._config.web
        control = build_control(self._console, self._people)
        control.add_routes(console_only.routes())
        lifecycle.install(control, self._life)
        self._open.append(await serve_control(control, self._config.gateway.run / "control.sock"))
        page = build(self._console, self._people)
        lifecycle.install(page, self._life)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._renew()
        self._open.append(await serve(page, settings.host, settings.port, self._context))

    async def until(self, stopping: asyncio.Event) -> None:
        """Keep them open until ``stopping``, then close them."""
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await stopping.wait()
            if renewal_due(self._certificate, self._clock.now().utc()):
                self._renew()  # the clock was set, or a year has passed
                log.info("the page has a new certificate")
        for served in self._open:
            await served.close()

    def _renew(self) -> None:
        """A new key and certificate, valid from the time that is known now: never before this version was made."""
        key, self._certificate, spki = self_signed(self._config.web.names, self._clock.now().utc())
        self._attester.register_software_key("tls", spki)
        with tempfile.TemporaryDirectory() as d:
            for name, content in (("key", key), ("cert", self._certificate)):
                path = Path(d) / name
                path.touch(0o600)
                path.write_bytes(content)
            self._context.load_cert_chain(Path(d) / "cert", Path(d) / "key")
