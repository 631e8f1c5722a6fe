"""A broker with bad habits: enough of MQTT 5 to be talked to, and a rule for what it does with each message.

Packet layout: MQTT Version 5.0 (OASIS), sections 2.1 and 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

ACK, CLOSE, SILENT, ACK_AND_CLOSE = "ack", "close", "silent", "ack-and-close"
Habit = Callable[["Hostile", str, bytes], tuple[str, int]]


def good(_: Hostile, topic: str, payload: bytes) -> tuple[str, int]:
    return ACK, 0


@dataclass
class Hostile:
    """``habit(broker, topic, payload)`` -> (what to do, PUBACK reason). ``took``: what was acknowledged as good, data only."""

    habit: Habit = good
    connack: bytes = b"\x00\x00\x00"  # flags, reason, no properties
    mute: bool = False  # takes the connection and says nothing at all
    took: list[tuple[str, bytes]] = field(default_factory=list)
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    wills: list[str] = field(default_factory=list)
    gone_without_farewell: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    port: int = 0

    @contextlib.asynccontextmanager
    async def serving(self, ca: Path, certificate: Path, port: int) -> AsyncIterator[Hostile]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.with_suffix(".pem"), certificate.with_suffix(".key"))
        context.load_verify_locations(ca / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self.port = port
        server = await asyncio.start_server(self._client, "127.0.0.1", port, ssl=context)
        try:
            yield self
        finally:
            server.close()
            for writer in list(self.writers):
                writer.transport.abort()
            await asyncio.sleep(0.05)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        farewell = False
        try:
            while True:
                kind, body = await _packet(reader)
                if self.mute:
                    await asyncio.sleep(3600)
                if kind >> 4 == 14:
                    farewell = True
                    return
                if not await self._answer(kind, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.gone_without_farewell += not farewell
            self.writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, kind: int, body: bytes, writer: asyncio.StreamWriter) -> bool:
        match kind >> 4:
            case 1:
                writer.write(_wrap(0x20, self.connack))
            case 3:
                return await self._publish(body, writer)
            case 8:
                writer.write(_wrap(0x90, body[:2] + b"\x00\x01"))
            case 12:
                writer.write(b"\xd0\x00")
        await writer.drain()
        return True

    async def _publish(self, body: bytes, writer: asyncio.StreamWriter) -> bool:
        length = int.from_bytes(body[:2])
        topic, identifier = body[2 : 2 + length].decode(), body[2 + length : 4 + length]
        payload = body[5 + length :]  # no properties
        state = topic.endswith("/state")
        if not state:
            self.seen.append((topic, payload))
        what, code = (ACK, 0) if state and self.habit is not silent_always else self.habit(self, topic, payload)
        if what == SILENT:
            return True
        if what != CLOSE:
            if code < 0x80 and not state:
                self.took.append((topic, payload))
            writer.write(_wrap(0x40, identifier + bytes([code]) if code else identifier))
            await writer.drain()
        return what == ACK

    async def say(self, topic: str, payload: bytes) -> None:
        """Publish something to whoever is connected, whether or not it was asked for."""
        body = len(topic.encode()).to_bytes(2) + topic.encode() + b"\x00" + payload
        for writer in list(self.writers):
            writer.write(_wrap(0x30, body))
            await writer.drain()


def silent_always(_: Hostile, topic: str, payload: bytes) -> tuple[str, int]:
    return SILENT, 0


def _wrap(kind: int, body: bytes) -> bytes:
    length, out = len(body), bytearray([kind])
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return kind, await reader.readexactly(length)
