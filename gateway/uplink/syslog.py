"""Carries a copy of the audit log to a syslog server over TLS (RFC 5425), one connection at a time, for ever.

The audit log itself is the spool: only a position is kept. Syslog has no acknowledgement, so a line counts as delivered when
the other side's kernel has acknowledged its bytes and the connection has then lasted ``SETTLE_S`` longer; after a break all
that is not delivered by this rule is sent again, and its sequence number tells a receiver so. Nothing waits for this task.
Refuses to hear anything from the network.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import logging
import random
import ssl
import termios
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.clock import Clock
from gateway.config import Syslog
from gateway.errors import InputError, UnavailableError
from gateway.model.event import PartChanged
from gateway.model.view import EventView
from gateway.uplink.rfc5424 import Sender, frame, head_message, message

SETTLE_S = 3.0  # a receiver that accepts and closes does so sooner
_CONNECT_S = 5.0
_WRITE_S = 15.0  # a receiver that takes nothing for so long is gone
_LOOK_S = 1.0  # how often the log is looked at: nobody waits for this copy
_KEEP_S = 10.0  # how often the position goes to the disk; after a crash of ours so much is sent twice
_HEAD_S = 600.0
_FIRST_S = 1.0
_DOWN_S = 5.0
_BUFFER = 256 * 1024
log = logging.getLogger("wardgate.syslog")


class Spool(Protocol):
    """The audit log, for those who carry it, and where they are in it. Every method raises UnavailableError with the disk."""

    async def since(self, sequence: int) -> Sequence[EventView]:
        """Lines for people after ``sequence``, oldest first, at most 1000."""
        ...

    async def end(self) -> tuple[int, bytes]:
        """The newest line's sequence and hash."""
        ...

    async def position(self) -> int:
        """The last line that was delivered."""
        ...

    async def keep(self, sequence: int) -> None:
        """Remember it."""
        ...


class SyslogSender:
    """``run`` until cancelled. ``delivered`` is the last line that counts as delivered, ``sentence`` how the way is."""

    def __init__(
        self, settings: Syslog, sender: Sender, spool: Spool, clock: Clock, *, told: Callable[[PartChanged], None]
    ) -> None:
        self._settings, self._sender, self._spool, self._clock, self._told = settings, sender, spool, clock, told
        self._flying: deque[tuple[float, int]] = deque()  # (when its bytes were acknowledged, last sequence)
        self._kept, self._kept_at = -1, float("-inf")
        self._head_at, self._head = float("-inf"), -1
        self._health: bool | None = None
        self.delivered, self.sentence, self.up = 0, "not connected yet", False
        self.sent = 0

    async def run(self) -> None:
        """Keep a connection; ends only when cancelled."""
        self.delivered = self._kept = await self._spool.position()
        wait_s, turn, gone_since = _FIRST_S, 0, self._now()
        while True:
            before = self.delivered
            try:
                await self._once(self._settings.where[turn % len(self._settings.where)])
            except (UnavailableError, InputError) as e:
                self.sentence = str(e)
            gone_since = self._now() if self.up else gone_since
            self.up = False
            wait_s = _FIRST_S if self.delivered > before else wait_s
            if self._now() - gone_since > _DOWN_S:
                self._tell(False)
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 - jitter, not a secret
            wait_s, turn = min(wait_s * 2, self._settings.retry_s), turn + 1

    async def _once(self, address: str) -> None:
        """One connection to its end. Raises why it ended."""
        context = await asyncio.to_thread(tls_context, self._settings)
        where = f"{self._settings.host} port {self._settings.port}"
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    address, self._settings.port, ssl=context, server_hostname=self._settings.host, ssl_shutdown_timeout=1.0
                )
        except (OSError, TimeoutError, ssl.SSLError) as e:
            raise UnavailableError(
                f"the syslog server {where} cannot be reached ({_why(e)})", "see [syslog] in wardgate.toml"
            ) from None
        writer.transport.set_write_buffer_limits(high=_BUFFER)
        hearing = asyncio.create_task(_until_closed(reader), name="syslog-hear")
        self._flying.clear()
        try:
            await self._carry(writer, hearing)
        except (OSError, TimeoutError, ssl.SSLError) as e:
            raise UnavailableError(f"the connection to {where} ended ({_why(e)})", "it is tried again by itself") from None
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            await self._leave(writer)

    async def _carry(self, writer: asyncio.StreamWriter, hearing: asyncio.Task[str]) -> None:
        """Send what is new until the connection ends; raises why it did."""
        sent, opened = self.delivered, self._now()
        while True:
            if hearing.done():
                raise ConnectionError(hearing.result())
            lines = await self._spool.since(sent)
            for line in lines:
                await self._write(writer, message(self._sender, line), hearing)
                self.sent += 1
            sent = lines[-1].sequence if lines else sent
            if not lines:
                await self._say_head(writer, hearing)
            await self._account(writer, sent, hearing)
            if not self.up and self._now() - opened > SETTLE_S:
                self.up, self.sentence = True, f"copies the audit log to {self._settings.host}"
                self._tell(True)
            if len(lines) < 1000:
                await asyncio.wait([hearing], timeout=_LOOK_S)

    async def _write(self, writer: asyncio.StreamWriter, body: bytes, hearing: asyncio.Task[str]) -> None:
        if hearing.done():
            raise ConnectionError(hearing.result())
        writer.write(frame(body))
        async with asyncio.timeout(_WRITE_S):
            await writer.drain()

    async def _say_head(self, writer: asyncio.StreamWriter, hearing: asyncio.Task[str]) -> None:
        """Now and then where the chain ends, so that a copy elsewhere holds the log to it."""
        if self._now() - self._head_at < _HEAD_S:
            return
        sequence, digest = await self._spool.end()
        if sequence != self._head:
            time_utc = self._clock.now().utc().isoformat(timespec="milliseconds")
            await self._write(writer, head_message(self._sender, sequence, digest, time_utc), hearing)
        self._head_at, self._head = self._now(), sequence

    async def _account(self, writer: asyncio.StreamWriter, sent: int, hearing: asyncio.Task[str]) -> None:
        """Wait until the other kernel has what was written; what it has had for long enough is delivered."""
        deadline = self._now() + _WRITE_S
        while writer.transport.get_write_buffer_size() or _unacknowledged(writer):
            if hearing.done():
                raise ConnectionError(hearing.result())
            if self._now() > deadline:
                raise TimeoutError("it takes nothing")
            await asyncio.sleep(0.02)
        if sent > (self._flying[-1][1] if self._flying else self.delivered):
            self._flying.append((self._now(), sent))
        while self._flying and self._now() - self._flying[0][0] > SETTLE_S:
            self.delivered = self._flying.popleft()[1]
        if self.delivered > self._kept and self._now() - self._kept_at > _KEEP_S:
            await self._keep()

    async def _keep(self) -> None:
        await self._spool.keep(self.delivered)
        self._kept, self._kept_at = self.delivered, self._now()

    async def _leave(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
            async with asyncio.timeout(2.0):
                await writer.wait_closed()
        if self.delivered > self._kept:
            with contextlib.suppress(UnavailableError):  # at worst they are sent twice
                await self._keep()

    def _tell(self, up: bool) -> None:
        if self._health is not up:
            self._health = up
            log.log(logging.INFO if up else logging.WARNING, "%s", self.sentence)
            self._told(PartChanged("syslog", up=up, detail=self.sentence))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def tls_context(settings: Syslog) -> ssl.SSLContext:
    """The client's context, read anew for each connection. Raises InputError naming the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ValueError) as e:
        files = ", ".join(str(f) for f in (settings.ca, settings.cert, settings.key) if f)
        raise InputError(f"the files for syslog cannot be used ({e}): {files}", "put PEM files there") from None
    return context


async def _until_closed(reader: asyncio.StreamReader) -> str:
    """A syslog server says nothing: whatever arrives is thrown away, and the end is told."""
    try:
        while await reader.read(4096):
            pass
    except (OSError, ssl.SSLError) as e:
        return _why(e)
    return "the server closed it"


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    """Bytes in the kernel that the other side has not acknowledged (SIOCOUTQ, tcp(7))."""
    sock = writer.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        raise ConnectionError("it is closed")
    waiting = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, waiting)
    return waiting[0]


def _why(e: BaseException) -> str:
    if isinstance(e, TimeoutError):
        return str(e) or "no answer in time"
    if isinstance(e, PermissionError):
        return "the firewall does not let us; the confirmed policy does not name this server yet"
    if isinstance(e, ssl.SSLCertVerificationError):
        return f"its certificate is not the one expected: {e.verify_message}"
    return " ".join(str(e).split())[:160] or type(e).__name__
