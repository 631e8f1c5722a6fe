"""One connection to the broker: MQTT 5 over TLS with a client certificate; the only file that knows aiomqtt.

It publishes and returns the broker's own answer (aiomqtt forgets the reason code, and with it every refusal), bounds what
comes in, and ends when the other side is silent. Refuses to know what is published and to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config import Uplink
from gateway.errors import InputError, UnavailableError

KEEPALIVE_S = 10  # a half-open link is noticed within twice this time
ANSWER_S = 10.0  # without an answer for this long the connection is given up
CONNECT_S = 3.0
_INCOMING = 64  # messages from the network that may wait; more are dropped, and acknowledgements come again
_QUIET = logging.getLogger("wardgate.mqtt")
_QUIET.setLevel(logging.CRITICAL)  # its errors come back to us as exceptions; nothing is told twice


class LinkLostError(UnavailableError):
    """The connection ended; ``by_broker``: it was closed from the other side, not by silence."""

    def __init__(self, what: str, *, by_broker: bool) -> None:
        super().__init__(what, "it is tried again by itself")
        self.by_broker = by_broker


@dataclass(frozen=True, slots=True)
class Answer:
    """The broker's PUBACK: its reason code (MQTT 5, 3.4.2.1) and name."""

    code: int
    name: str


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we fall silent."""

    topic: str
    body: str


class _NamedContext(ssl.SSLContext):
    """A client context that checks the broker's name, wherever its address was taken from."""

    name = ""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kwargs["server_hostname"] = self.name
        return super().wrap_socket(*args, **kwargs)


def tls_context(settings: Uplink) -> tuple[ssl.SSLContext, bytes]:
    """The client's context, and the SPKI of its key for those who vouch for it. Raises InputError naming the file.

    Read anew for each connection, so that a renewed certificate needs no restart.
    """
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.name = settings.host
    try:
        context.load_verify_locations(settings.ca)
        context.load_cert_chain(settings.cert, settings.key)
        certificate = x509.load_pem_x509_certificates(settings.cert.read_bytes())[0]
    except (OSError, ValueError, IndexError) as e:  # ssl.SSLError is an OSError
        files = f"{settings.ca}, {settings.cert}, {settings.key}"
        raise InputError(f"the uplink's certificates cannot be used ({e})", f"look at {files}") from None
    return context, certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class _Client(aiomqtt.Client):
    """aiomqtt's client, with the broker's limits and the reason codes it drops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client.connect_timeout = CONNECT_S
        self.answers: dict[int, asyncio.Future[Answer]] = {}
        self.receive_maximum, self.packet_maximum = 65535, 268_435_455  # MQTT 5, 3.2.2.3: what holds when nothing is said

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.packet_maximum = getattr(properties, "MaximumPacketSize", self.packet_maximum)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        if not self._connected.done():  # TLS 1.3 tells of a refused client certificate only after the handshake
            text = "it ended the connection instead of letting us in; does it trust our certificate?"
            self._connected.set_exception(aiomqtt.MqttError(text))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        waiting = self.answers.pop(mid, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(int(reason_code.value), str(reason_code)))
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def start(self, topic: str, body: bytes, retain: bool) -> asyncio.Future[Answer]:
        """Publish at QoS 1; the future is the broker's answer."""
        info = self._client.publish(topic, body, 1, retain)
        if info.rc != 0:
            raise LinkLostError("the connection ended", by_broker=False)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.answers[info.mid] = future
        return future

    async def close(self, farewell: bool) -> None:
        """Close the connection: with a DISCONNECT, which cancels the will, or without."""
        if farewell:
            with contextlib.suppress(aiomqtt.MqttError, OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.__aexit__(None, None, None)
        self._client._sock_close()  # idempotent; a peer that takes no more bytes would keep it open for ever
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # seen, so that nobody logs it


class Link:
    """An open connection. ``window`` and ``packet_maximum`` are the broker's; ``ended`` tells why it is over, once it is."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self.window, self.packet_maximum = client.receive_maximum, client.packet_maximum
        self.farewell = False  # set once the broker knows that we go: else it shall publish our will
        self.ended: asyncio.Future[LinkLostError] = asyncio.get_running_loop().create_future()

    async def publish(self, topic: str, body: str, *, retain: bool = False) -> Answer:
        """Send at QoS 1 and wait for the broker's answer. Raises LinkLostError when there is none: the connection is over then."""
        try:
            answer = self._client.start(topic, body.encode(), retain)
        except LinkLostError as e:
            self.end(e)
            raise
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            silent = LinkLostError(f"the broker does not answer for {ANSWER_S:g} s", by_broker=False)
            self.end(silent)
            raise silent from None

    async def subscribe(self, topic: str) -> None:
        """Ask for one topic. Raises LinkLostError, or InputError when the broker will not."""
        try:
            codes = await self._client.subscribe(topic, qos=1, timeout=ANSWER_S)
        except aiomqtt.MqttError as e:
            raise _lost(e) from None
        if any(getattr(c, "value", c) >= 0x80 for c in codes):
            raise InputError(f"the broker does not let us hear {topic}", "mend its access list")

    async def hear(self, take: Callable[[str, bytes], None]) -> None:
        """Hand (topic, payload) of what arrives to ``take`` until the connection ends; ``ended`` says why."""
        try:
            async for message in self._client.messages:
                take(str(message.topic), message.payload if isinstance(message.payload, bytes) else b"")
        except aiomqtt.MqttError as e:
            self.end(_lost(e))

    def end(self, error: LinkLostError) -> None:
        """It is over: whoever waits for an answer is told. The first reason counts."""
        if not self.ended.done():
            self.ended.set_result(error)
        first = self.ended.result()
        answers, self._client.answers = list(self._client.answers.values()), {}
        for answer in answers:
            if not answer.done():
                answer.set_exception(LinkLostError(first.what, by_broker=first.by_broker))
                answer.exception()  # whoever waits still gets it; whoever does not, leaves no trace in the log


@asynccontextmanager
async def connect(
    settings: Uplink, address: str, identifier: str, will: Will | None, context: ssl.SSLContext
) -> AsyncIterator[Link]:
    """Open a connection; on leaving it is closed. Raises UnavailableError naming what stands in the way."""
    client = _Client(
        address, settings.port, identifier=identifier, protocol=aiomqtt.ProtocolVersion.V5, clean_start=True,
        keepalive=KEEPALIVE_S, timeout=CONNECT_S, max_queued_incoming_messages=_INCOMING, max_inflight_messages=1000,
        tls_context=context, will=aiomqtt.Will(will.topic, will.body, 1, True) if will else None, logger=_QUIET,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # small answers wait for nobody's delayed ACK
    )  # fmt: skip
    where = f"{settings.host} port {settings.port}"
    try:
        await _open(client)
    except MqttConnectError as e:
        raise UnavailableError(f"the broker {where} refuses us: {e}", "look at the broker's access list") from None
    except (aiomqtt.MqttError, OSError, ValueError) as e:
        raise UnavailableError(f"the broker {where} cannot be reached ({_why(e)})", _remedy(e, settings)) from None
    link = Link(client)
    try:
        yield link
    finally:
        await client.close(link.farewell)


async def _open(client: _Client) -> None:
    """Connect. The library does it in a thread that nobody can stop: when we are cancelled we wait for it, then close."""
    opening = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening], timeout=3 * CONNECT_S)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await client.close(farewell=False)
        raise


def _why(e: BaseException) -> str:
    text = str(e)
    if "Operation not permitted" in text:
        return "the firewall does not let us; the confirmed policy does not name this broker yet"
    return " ".join(text.split())[:160] or type(e).__name__


def _remedy(e: BaseException, settings: Uplink) -> str:
    """What to do about a broker that cannot be reached, by what stood in the way."""
    text = str(e)
    if "Operation not permitted" in text:
        return "apply the policy again, so that it names this broker: wardgate policy apply, then confirm"
    if "certificate verify failed" in text or "CERTIFICATE_VERIFY_FAILED" in text:
        return f"put the CA that signed its certificate at {settings.ca}, and the name in it as host of [uplink]"
    if "does it trust our certificate" in text:
        return f"have the broker trust the CA of {settings.cert}"
    if "refused" in text:
        return f"start the broker there, or mend host and port ({settings.port}) of [uplink]"
    return "look at the hospital's cable, at host, port and address of [uplink], and at firewalls on the way"


def _lost(e: aiomqtt.MqttError) -> LinkLostError:
    cause = e.__cause__ if isinstance(e.__cause__, aiomqtt.MqttError) else e
    rc = getattr(cause, "rc", None)
    silent = rc == 16  # paho: MQTT_ERR_KEEPALIVE
    return LinkLostError(f"the connection to the broker ended ({_why(cause)})", by_broker=not silent)
