"""Carries a copy of the audit log to a syslog server over TLS (RFC 5425), one connection at a time, for ever.

The audit log itself is the spool: only a position is kept. Syslog has no acknowledgement, but TLS has an end: a server that
answers our close with its own, and no reset, has read every byte before it. So a connection is closed and opened again now and
then, and only what such an orderly end confirms counts as delivered; after a break the rest is sent again, and its sequence
number tells a receiver so. A server that never ends orderly is said to be one, and is believed by TCP's acknowledgement instead.
Nothing waits for this task. Refuses to hear anything from the network.
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
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.clock import Clock
from gateway.config import Syslog
from gateway.errors import InputError, UnavailableError
from gateway.model.event import PartChanged
from gateway.model.instant import NS_PER_S
from gateway.model.outbox import CopyView
from gateway.model.view import EventView
from gateway.uplink.rfc5424 import Sender, frame, head_message, message

CONFIRM_S = 60.0  # the longest that a line that was sent stays unconfirmed; so much comes twice after a break
CONFIRM_LINES = 5000
_SILENT_ENDS = 3  # so many ends without an answer, and a server is one that never answers
_CONNECT_S = 5.0
_WRITE_S = 15.0  # a receiver that takes nothing for so long is gone
_END_S = 5.0
_LOOK_S = 1.0  # how often the log is looked at: nobody waits for this copy
_HEAD_S = 600.0
_FIRST_S = 1.0
_DOWN_S = 5.0
_BUFFER = 256 * 1024
_LINES = 1000  # the most that the log gives at once
log = logging.getLogger("wardgate.syslog")


class Spool(Protocol):
    """The audit log, for those who carry it, and where they are in it. Every method raises UnavailableError with the disk."""

    async def since(self, sequence: int) -> Sequence[EventView]:
        """Lines for people after ``sequence``, oldest first, at most 1000."""
        ...

    async def behind(self, sequence: int) -> tuple[int, int | None]:
        """(how many lines for people come after ``sequence``, bounded; the oldest one's UTC nanoseconds)."""
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
        self._kept = -1
        self._head_at, self._head = float("-inf"), -1
        self._health: tuple[bool, str] | None = None
        self._silent_ends = 0
        self.delivered, self.sent, self.sentence = 0, 0, "not connected yet"

    async def run(self) -> None:
        """Keep a connection; ends only when cancelled."""
        self.delivered = self._kept = await self._spool.position()
        wait_s, turn, gone_since = _FIRST_S, 0, self._now()
        while True:
            try:
                await self._once(self._settings.where[turn % len(self._settings.where)])
                wait_s, gone_since = _FIRST_S, self._now()
                continue
            except (UnavailableError, InputError) as e:
                self.sentence = str(e)
            if self._now() - gone_since > _DOWN_S:
                self._tell(False)
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 - jitter, not a secret
            wait_s, turn = min(wait_s * 2, self._settings.retry_s), turn + 1

    async def look(self) -> CopyView:
        """What still waits, for people. Raises UnavailableError with the disk."""
        lines, oldest = await self._spool.behind(max(self.delivered, self._kept, await self._spool.position()))
        age_s = None if oldest is None else max(0.0, (self._clock.now().utc_ns - oldest) / NS_PER_S)
        return CopyView(self.sentence, bool(self._health and self._health[0]), lines, age_s)

    async def _once(self, address: str) -> None:
        """One connection, to its orderly end. Raises why it ended otherwise."""
        context = await asyncio.to_thread(tls_context, self._settings)
        where = f"{self._settings.host} port {self._settings.port}"
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    address, self._settings.port, ssl=context, server_hostname=self._settings.host, ssl_shutdown_timeout=_END_S
                )
        except (OSError, TimeoutError) as e:
            raise UnavailableError(
                f"the syslog server {where} cannot be reached ({why(e)})", "see [syslog] in wardgate.toml"
            ) from None
        writer.transport.set_write_buffer_limits(high=_BUFFER)
        hearing = asyncio.create_task(_until_closed(reader), name="syslog-hear")
        self.sent = self.delivered
        try:
            await self._carry(writer, hearing)
            await self._end(writer, hearing)
        except (OSError, TimeoutError) as e:
            raise UnavailableError(f"the connection to {where} ended ({why(e)})", "it is tried again by itself") from None
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, TimeoutError):
                await self._end(writer, hearing)
            raise
        finally:
            hearing.cancel()
            writer.transport.abort()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _carry(self, writer: asyncio.StreamWriter, hearing: asyncio.Task[str]) -> None:
        """Send what is new until enough is to be confirmed; raises when the connection ends before."""
        opened, since = self._now(), float("inf")
        while self._now() - since < CONFIRM_S and self.sent - self.delivered < CONFIRM_LINES:
            lines = await self._spool.since(self.sent)
            for line in lines:
                await self._write(writer, message(self._sender, line), hearing)
                self.sent = line.sequence
            if not lines:
                await self._say_head(writer, hearing)
            await self._taken(writer, hearing)
            if self.sent > self.delivered:
                since = min(since, self._now())
            if self._now() - opened > _LOOK_S:
                self._well()
            if len(lines) < _LINES:
                await asyncio.wait([hearing], timeout=_LOOK_S)

    async def _write(self, writer: asyncio.StreamWriter, body: bytes, hearing: asyncio.Task[str]) -> None:
        _still_open(hearing)
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

    async def _taken(self, writer: asyncio.StreamWriter, hearing: asyncio.Task[str]) -> None:
        """Wait until the other side's kernel has what was written: a server that hangs is found by that."""
        deadline = self._now() + _WRITE_S
        while True:
            _still_open(hearing)
            if not writer.transport.get_write_buffer_size() and not _unacknowledged(writer):
                return
            if self._now() > deadline:
                raise TimeoutError("it takes nothing")
            await asyncio.sleep(0.02)

    async def _end(self, writer: asyncio.StreamWriter, hearing: asyncio.Task[str]) -> None:
        """Close, and wait for the answer that confirms all that was sent. Raises when it does not come."""
        await self._taken(writer, hearing)
        writer.close()
        try:
            async with asyncio.timeout(_END_S + 1.0):
                await writer.wait_closed()
            self._silent_ends = 0
        except (TimeoutError, ssl.SSLError):  # not a reset: that says that something was not read
            self._silent_ends += 1
            if self._silent_ends < _SILENT_ENDS:
                raise TimeoutError("it does not end a connection when asked to") from None
        self.delivered = max(self.delivered, self.sent)
        if self.delivered > self._kept:
            with contextlib.suppress(UnavailableError):  # a full disk: at worst they are sent twice after a restart
                await self._spool.keep(self.delivered)
                self._kept = self.delivered

    def _well(self) -> None:
        doubt = "" if self._silent_ends < _SILENT_ENDS else "; it confirms nothing, so a crash there may lose lines"
        self.sentence = f"copies the audit log to {self._settings.host}{doubt}"
        self._tell(True)

    def _tell(self, up: bool) -> None:
        if self._health is None or self._health[0] is not up or (up and self._health[1] != self.sentence):
            self._health = (up, self.sentence)
            log.log(logging.INFO if up else logging.WARNING, "%s", self.sentence)
            self._told(PartChanged("syslog", up=up, detail=self.sentence))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _still_open(hearing: asyncio.Task[str]) -> None:
    if hearing.done():
        raise ConnectionError(hearing.result())


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
        return why(e)
    return "the server closed it"


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    """Bytes in the kernel that the other side has not acknowledged (SIOCOUTQ, tcp(7))."""
    sock = writer.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        raise ConnectionError("it is closed")
    waiting = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, waiting)
    return waiting[0]


def why(e: BaseException) -> str:
    """What went wrong on a connection, in words."""
    if isinstance(e, TimeoutError):
        return str(e) or "no answer in time"
    if isinstance(e, PermissionError):
        return "the firewall does not let us; the confirmed policy does not name this server yet"
    if isinstance(e, ssl.SSLCertVerificationError):
        return f"its certificate is not the one expected: {e.verify_message}"
    return " ".join(str(e).split())[:160] or type(e).__name__
