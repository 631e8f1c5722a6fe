"""A device's side of the relay: one connection, one message at a time, each checked and judged when its turn comes.

A route acknowledges ``end_to_end`` (the receiver's own answer, byte for byte; none in time: AE, so that a monitor's alarm for a
lost central station works) or ``stored`` (our answer, once it is on disk). Nothing else is ever written to a receiver than the
bytes of a message that passed. Refuses to know what a message says of a patient.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from drivers.hl7 import mllp, secure
from drivers.hl7.ack import DUPLICATE_KEY, Verdict, acknowledge, follows, is_ack, is_bare, is_due, read_ack
from drivers.hl7.expected import Expected
from drivers.hl7.fingerprint import identity
from drivers.hl7.message import Message, key_of, parse, parse_header
from drivers.hl7.route import Route
from drivers.hl7.settings import Settings
from drivers.hl7.turn import Turn
from drivers.hl7.upstream import Upstream, connect
from drivers.redirect import bound
from gateway.driver import Clock, JournalPort
from gateway.errors import MalformedError, RefusedError, WardgateError
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.level import TrustLevel

MAX_PIPELINED = 16  # messages that wait behind the one being answered; MLLP senders have one under way
MAX_QUEUED = 256 * 1024  # bytes of those; a device of 16 connections holds no more memory than a few long messages need
PARTIAL_S = 10.0  # a message that began must be whole by then
_SEND_BUFFER = 64 * 1024  # bytes of answers the kernel holds for a sender that does not read
_NEVER = float("inf")
_OWED = 16  # application acknowledgements that the device may acknowledge, in enhanced mode
APPLICATION_S = 30.0  # how long one of those may come


@dataclass(frozen=True, slots=True)
class Services:
    """What every connection needs: settings, clock, the journal, TLS, counting, tasks, and waking a stored route."""

    settings: Settings
    clock: Clock
    journal: JournalPort
    tls: Callable[[str], ssl.SSLContext]
    note: Callable[[str, str, str], None]
    task: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
    stored: Callable[[Route], None]
    turn: Turn


class ClientLink(asyncio.Protocol):
    """One connection from a device, or toward one."""

    def __init__(self, route: Route, services: Services) -> None:
        self._route, self._link, self._services, self._settings = route, route.link, services, services.settings
        self._decoder = mllp.Decoder(services.settings.max_message)
        self._queue: deque[bytes] = deque()
        self._open = self._paused = self._busy = self._working = self._congested = False
        self._held: Message | None = None  # says something of its sender that is not known yet
        self._asked: Message | None = None  # with the receiver
        self._level, self._at = TrustLevel.NONE, services.clock.now()  # of the message under way, and when it came
        self._up: Upstream | None = None
        self._later = Expected()
        self._owed: deque[bytes] = deque(maxlen=_OWED)
        self._ended = False  # it sends no more
        self._deadline_s = self._partial_s = _NEVER
        self._queued = 0
        self._loop = asyncio.get_running_loop()

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._link.join(self, from_device=self._route.from_device):
            self._note("too-many-connections", "it has too many connections")
            self._transport.abort()
            return
        bound(transport.get_extra_info("socket"), _SEND_BUFFER)
        self._open = True

    def data_received(self, data: bytes) -> None:
        if not self._open:
            return
        try:
            whole = self._decoder.feed(data)
        except MalformedError as e:
            self._note("malformed", f"a sender broke MLLP: {e.what}; its connection was closed")
            self.close()
            return
        self._queue.extend(whole)
        self._queued += sum(map(len, whole))
        if whole or self._partial_s == _NEVER:
            self._partial_s = self._loop.time() + PARTIAL_S if self._decoder.partial else _NEVER
        self._work()

    def pause_writing(self) -> None:
        self._congested = True  # a sender that does not read its answers gets no more

    def resume_writing(self) -> None:
        self._congested = False
        self._work()

    def eof_received(self) -> bool:
        """It sends no more; what it sent is still answered, where a connection can be half closed (TLS ends as a whole)."""
        self._ended = True
        self._work()
        return self._open and self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut()

    def close(self) -> None:
        """Let it go; answers already written are still sent."""
        self._services.turn.flush()
        self._shut()
        self._transport.close()

    def _shut(self) -> None:
        if self._open:
            self._open = False
            self._queue.clear()
            self._held = self._asked = None
            if self._up is not None:
                self._up.finish()
            self._link.leave(self)

    def tick(self, now_s: float) -> None:
        """What took too long: a half message closes; a held or an unanswered one is answered AE; a receiver that takes nothing is
        let go."""
        up = self._up
        if (up is None or up.full_since_s is None) and self._later.expire(now_s):
            self._route.health.worked(now_s)  # a receiver that takes nothing may have what was sent just before, or not
        self._work()
        if now_s > self._partial_s:
            self._note("malformed", f"a sender left a message unfinished for {PARTIAL_S:g} s; its connection was closed")
            self.close()
        elif now_s > self._deadline_s:
            if self._held is not None:
                held, self._held = self._held, None
                self._refuse(held, Verdict.ERROR, "unattested", "a message from a sender that is not attested yet was not relayed")
            elif up is not None:
                up.poison(f"the receiver did not answer in {self._settings.answer_s:g} s")
        elif up is not None and up.full_since_s is not None and now_s > up.full_since_s + self._settings.answer_s:
            up.poison(f"the receiver took nothing for {self._settings.answer_s:g} s")

    # --- messages, one at a time ---

    def _work(self) -> None:
        """Take messages until one has to wait for somebody."""
        if self._working:
            return
        self._working = True
        while self._open and self._queue and not self._busy and not self._is_full():
            self._busy = True
            raw = self._queue.popleft()
            self._queued -= len(raw)
            self._take(raw)
        self._working = False
        if self._ended and self._open and not self._queue and not self._busy:
            self.close()
        full = len(self._queue) >= MAX_PIPELINED or self._queued >= MAX_QUEUED
        if self._open and full is not self._paused:
            self._paused = full
            if full:
                self._partial_s = _NEVER  # it cannot be whole while nobody reads
                self._transport.pause_reading()
            else:
                self._partial_s = self._loop.time() + PARTIAL_S if self._decoder.partial else _NEVER
                self._transport.resume_reading()

    def _is_full(self) -> bool:
        """Whether the sender does not read its answers, the receiver not its messages, or too much may still be acknowledged."""
        return self._congested or self._later.full or (self._up is not None and self._up.full_since_s is not None)

    def _take(self, raw: bytes) -> None:
        try:
            message = parse(raw)
        except MalformedError as e:
            self._malformed(raw, e)
            return
        now = self._services.clock.now()
        if is_ack(message):
            self._pass_ack(message, now)
        elif self._route.from_device and not self._link.knows(identity(message), now):
            self._held, self._deadline_s = message, self._loop.time() + self._settings.hold_s
        else:
            self._judge(message, now)

    def resume(self) -> None:
        """Evidence was handed in: what is held may be known now."""
        now = self._services.clock.now()
        if self._held is not None and self._link.knows(identity(self._held), now):
            held, self._held = self._held, None
            self._judge(held, now)

    def _judge(self, message: Message, now: Instant) -> None:
        judgement = self._link.judge(self._route.function, message, now)
        self._level, self._at = judgement.level, now
        if not judgement.passes:
            verdict = Verdict.REJECT if judgement.never else Verdict.ERROR
            self._refuse(message, verdict, judgement.code, judgement.text)
        elif self._route.stored:
            self._store(message, now)
        else:
            self._relay(message)

    def _accepted(self, message: Message) -> None:
        """A receiver has it, or will: what the device measured is known from now on."""
        if self._route.from_device and _has_readings(message.msh[8][:8], message.component):
            self._link.readings.take(message.raw, self._level, self._at, self._link.trusted_since)

    def _malformed(self, raw: bytes, error: MalformedError) -> None:
        """Refused as AR when it says whom to answer; otherwise the sender is out of step."""
        try:
            header = parse_header(raw)
        except MalformedError:
            self._note("malformed", f"a sender sent {error.what}; its connection was closed")
            self.close()
            return
        self._refuse(header, Verdict.REJECT, "malformed", f"a malformed message was refused: {error.what}")

    def _refuse(self, message: Message, verdict: Verdict, code: str, text: str) -> None:
        self._note(code, text)
        condition = DUPLICATE_KEY if code == "reused-control-id" else b""
        self._finish(self._answer(message, verdict, self._services.clock.now(), text, condition))

    def _answer(self, message: Message, verdict: Verdict, now: Instant, text: str = "", condition: bytes = b"") -> bytes | None:
        return acknowledge(message, verdict, text.encode("ascii", "replace"), stamp(now), b"WG%x" % now.utc_ns, condition)

    def _finish(self, answer: bytes | None, turn: Turn | None = None) -> None:
        """The message is done with; the next one may come. ``turn``: the answer leaves with what else this turn has."""
        self._busy, self._asked, self._deadline_s = False, None, _NEVER
        if self._open and answer:
            if turn is not None:
                turn.write(self._transport, mllp.encode(answer))
            else:
                self._services.turn.flush()
                self._transport.write(mllp.encode(answer))
        self._work()

    def _note(self, code: str, text: str) -> None:
        self._services.note(self._route.link.device_id, code, text)

    # --- stored ---

    def _store(self, message: Message, now: Instant) -> None:
        """On disk first, then the answer; for one that is there already, the answer that was given then."""
        answer = self._answer(message, Verdict.ACCEPT, now) or b""
        kept = self._services.journal.keep(self._route.name, key_of(message), message.raw, answer, now)
        kept.add_done_callback(functools.partial(self._is_stored, message, answer))

    def _is_stored(self, message: Message, answer: bytes, kept: asyncio.Future[bytes]) -> None:
        error = kept.exception() if not kept.cancelled() else None
        if isinstance(error, RefusedError):
            self._refuse(message, Verdict.ERROR, "reused-control-id", f"a message was not taken: {error.what}")
        elif isinstance(error, WardgateError):
            self._refuse(message, Verdict.ERROR, "not-stored", f"a message could not be stored: {error.what}")
        elif error is not None or kept.cancelled():
            self._refuse(message, Verdict.ERROR, "not-stored", "a message could not be stored")
        else:
            if kept.result() is answer:
                self._services.stored(self._route)
                self._accepted(message)
            self._finish(kept.result())

    # --- end to end ---

    def _relay(self, message: Message) -> None:
        self._asked = message
        if self._up is not None and self._up.open:
            self._send(self._up, message)
        else:
            self._services.task(functools.partial(self._connect, message))

    async def _connect(self, message: Message) -> None:
        try:
            s = self._services
            up = await connect(self._route, s.tls, self._settings, s.turn, self._heard, self._lost, self._work)
        except WardgateError as e:
            self._lost(e)
            return
        if up.ended is not None:
            return  # as soon as it was there; the sender has heard of it
        if not self._open:
            if not is_due(message) and self._still_passes(message):
                up.send(mllp.encode(message.raw))  # nobody will send it again
                self._accepted(message)
            up.finish()
        elif self._still_passes(message):
            self._up = up
            self._send(up, message)
        else:
            up.finish()
            self._judge(message, self._services.clock.now())  # refused by what holds now

    def _still_passes(self, message: Message) -> bool:
        """What goes into a device needs its level at this moment; what came from one had it when it came."""
        return self._route.from_device or self._link.judge(self._route.function, message, self._services.clock.now()).passes

    def _send(self, up: Upstream, message: Message) -> None:
        up.send(mllp.encode(message.raw))
        until_s = self._loop.time() + self._settings.answer_s
        if is_due(message):
            self._deadline_s = until_s
            return
        self._later.add(message.control_id, until_s, unsure=True)
        self._accepted(message)
        self._finish(None)

    def _heard(self, raw: bytes) -> None:
        """A receiver's message: the answer that is waited for, or a later application acknowledgement. Anything else ends it."""
        up = self._up
        try:
            ack = read_ack(raw)
        except MalformedError as e:
            if up is not None:
                up.poison(f"the receiver answered with {e.what}")
            return
        asked = self._asked
        if asked is not None and ack.control_id == asked.control_id:
            self._route.health.worked(self._loop.time())
            if follows(asked):
                self._later.add(ack.control_id, self._loop.time() + APPLICATION_S, unsure=False)
            if ack.verdict is Verdict.ACCEPT:
                self._accepted(asked)
            self._finish(raw, self._services.turn)
        elif self._later.take(ack.control_id):
            self._route.health.worked(self._loop.time())
            self._owed.append(parse_header(raw).control_id)
            self._services.turn.write(self._transport, mllp.encode(raw))
            self._work()
        elif up is not None:
            up.poison("the receiver answered something that was not asked")

    def _lost(self, why: WardgateError) -> None:
        """No receiver: the sender hears AE for what is under way, at once."""
        unsure, self._up = self._later.unsure, None
        self._later.clear()
        if self._asked is not None or unsure or secure.lasting(why):
            self._route.health.failed(str(why), self._loop.time(), at_once=secure.lasting(why))
        if unsure:
            text = f"{unsure} messages of which no acknowledgement was due may not have arrived: {why.what}"
            self._note("receiver-lost", text)
        if self._asked is not None:
            self._refuse(self._asked, Verdict.ERROR, "receiver-lost", f"not delivered: {why.what}")
        self._work()

    def _pass_ack(self, message: Message, now: Instant) -> None:
        """The device acknowledges a receiver's application acknowledgement (enhanced mode).

        Nothing ever answers an acknowledgement. One that nobody waits for, that says anything else, or that comes while there is no
        evidence or no level is dropped and told. Its MSH may be made from the receiver's: it says nothing new of the device.
        """
        of = message.field(message.segments(b"MSA")[0], 2)
        known = not self._route.from_device or self._link.trusted_since is not None
        if of not in self._owed or self._up is None or not self._up.open:
            self._note("unasked-acknowledgement", "an acknowledgement that nobody waits for was not relayed")
        elif not known or self._link.level(now) is TrustLevel.NONE or not is_bare(message):
            self._note("acknowledgement-refused", "an acknowledgement was not relayed: its sender's level, or what else it says")
        else:
            self._owed.remove(of)
            self._up.send(mllp.encode(message.raw))
        self._finish(None)


@functools.lru_cache(64)
def _has_readings(kind: bytes, component: bytes) -> bool:
    """Whether the OBX of a message of this kind (how MSH-9 begins) are measurements of its sender."""
    return kind.split(component)[:2] == [b"ORU", b"R01"]


def stamp(now: Instant) -> bytes:
    """MSH-7."""
    return _stamp(now.utc_ns // NS_PER_S)


@functools.lru_cache(2)
def _stamp(utc_s: int) -> bytes:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y%m%d%H%M%S+0000").encode()
