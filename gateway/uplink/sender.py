"""Carries the outbox to the broker: one connection at a time, tried again for ever, nothing deleted before it is acknowledged.

Only ``link`` knows MQTT and only ``lanes`` decides what goes next; this file joins them, tells how the way out is, and
refuses to hear anything from the network but acknowledgements.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable
from typing import Any

from gateway.clock import Clock
from gateway.config import Uplink
from gateway.errors import InputError, MalformedError, UnavailableError
from gateway.model.event import PartChanged
from gateway.model.instant import Instant
from gateway.ports import OutgoingPort
from gateway.uplink import messages
from gateway.uplink.lanes import READINGS_PRIORITY, WINDOW, Fate, Lane, Lanes, Message, Result
from gateway.uplink.link import Link, LinkLostError, Will, connect, tls_context

BATCH = 200  # readings a message
BODY_MAX = 128 * 1024  # bytes a message; BATCH readings are 80 KB
RECEIPT_S = 30.0  # a receiver that confirms nothing for this long gets the message again
_FIRST_S = 0.5
_DOWN_S = 3.0  # shorter interruptions are nobody's alarm
_UP_S = 1.0
_PACKET_HEAD = 1024  # room for topic and header below the broker's packet limit
log = logging.getLogger("wardgate.uplink")


class Sender:
    """``run`` until cancelled. ``up`` and ``sentence`` say how the way out is."""

    def __init__(
        self,
        settings: Uplink,
        gateway: str,
        outbox: OutgoingPort,
        clock: Clock,
        *,
        told: Callable[[PartChanged], None],
        vouch: Callable[[bytes], None],
        subject: Callable[[str, Instant], str] = lambda _, at: "",
    ) -> None:
        """``told`` hears of changes; ``vouch`` gets the SPKI of the client's key, so that the gateway's quote names it."""
        self._settings, self._gateway, self._outbox, self._clock = settings, gateway, outbox, clock
        self._told, self._vouch, self._subject = told, vouch, subject
        self._base = f"{settings.prefix}/{gateway}"
        self._lanes, self._stream = Lanes(), ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._delivered: list[Message] = []
        self._receipts: dict[str, asyncio.Future[None]] = {}
        self._body_max = BODY_MAX
        self._health: tuple[bool, str] | None = None
        self._steady = False
        self.strangers = 0  # what came from the network and was not an acknowledgement
        self.up, self.sentence = False, "not connected yet"
        self._cable = ""

    # --- connections ---

    async def run(self) -> None:
        """Keep a connection; ends only when cancelled."""
        self._stream = await self._outbox.stream()
        settling = asyncio.create_task(self._settle(), name="uplink-settle")
        try:
            await self._keep_connected()
        finally:
            settling.cancel()
            await asyncio.gather(settling, return_exceptions=True)
            with contextlib.suppress(UnavailableError):
                await self._flush()

    async def _keep_connected(self) -> None:
        wait_s, turn, gone_since = _FIRST_S, 0, self._now()
        while True:
            before = self._lanes.accepted
            try:
                await self._once(self._settings.where[turn % len(self._settings.where)])
            except (UnavailableError, InputError) as e:
                self.sentence = str(e)
            if self._steady:
                gone_since = self._now()
            self.up, self._steady = False, False
            if self._lanes.accepted > before:
                wait_s = _FIRST_S
            if self._now() - gone_since > _DOWN_S:
                self._tell(False, self.sentence)
            await asyncio.sleep(random.uniform(wait_s / 4, wait_s))  # noqa: S311 - jitter, not a secret
            wait_s, turn = min(wait_s * 2, self._settings.retry_s), turn + 1

    async def _once(self, address: str) -> None:
        """One connection, from birth to its end. Raises why it ended."""
        context, spki = await asyncio.to_thread(tls_context, self._settings)
        self._vouch(spki)
        session, state = secrets.token_hex(8), f"{self._base}/{messages.STATE}"
        will = Will(state, self._state(session, False))
        async with connect(self._settings, address, f"wardgate-{self._gateway}", will, context) as link:
            hearing = asyncio.create_task(link.hear(self._receipt), name="uplink-hear")
            try:
                await self._serve(link, session, state)
            except asyncio.CancelledError:
                await self._farewell(link, session, state)
                raise
            finally:
                await self._leave(link, hearing)

    async def _serve(self, link: Link, session: str, state: str) -> None:
        """Birth, then messages until the connection ends."""
        self._lanes.window = min(WINDOW, link.window)
        self._body_max = min(BODY_MAX, max(link.packet_maximum - _PACKET_HEAD, 256))
        if self._settings.acknowledge == "receiver":
            await link.subscribe(f"{self._base}/{messages.RECEIPTS}")
        await link.publish(state, self._state(session, True), retain=True)
        self.up, self.sentence = True, f"delivers to {self._settings.host}"
        self._outbox.arrived.set()
        steady = asyncio.get_running_loop().call_later(_UP_S, self._became_steady)
        try:
            await self._pump(link)
        finally:
            steady.cancel()

    def _became_steady(self) -> None:
        self._steady = True
        self._judge()

    async def _farewell(self, link: Link, session: str, state: str) -> None:
        """Say that we go, while the broker still listens; a second is enough for one that does."""
        try:
            async with asyncio.timeout(1.0):
                await link.publish(state, self._state(session, False), retain=True)
                link.farewell = True
        except (UnavailableError, TimeoutError):
            log.debug("the broker did not hear us go; it has our will")

    async def _leave(self, link: Link, hearing: asyncio.Task[None]) -> None:
        """The connection is over: every message on its way is back in its lane before we go on."""
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
        link.end(LinkLostError("the connection ended", by_broker=False))
        for waiting in self._receipts.values():
            waiting.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _receipt(self, topic: str, payload: bytes) -> None:
        """An acknowledgement; anything else is counted and dropped."""
        try:
            names = messages.parse_receipt(payload, self._stream) if topic == f"{self._base}/{messages.RECEIPTS}" else None
        except MalformedError as e:
            self._strange(str(e))
            return
        if names is None:
            self._strange("a message that nobody asked for")
        for name in names or ():
            if (waiting := self._receipts.get(name)) is not None and not waiting.done():
                waiting.set_result(None)

    def _strange(self, what: str) -> None:
        self.strangers += 1
        log.log(logging.WARNING if self.strangers == 1 else logging.DEBUG, "from the network: %s", what)

    # --- messages ---

    async def _pump(self, link: Link) -> None:
        """Send whatever may be sent, until the connection ends; then raise why."""
        while not link.ended.done():
            if self._outbox.arrived.is_set():
                self._outbox.arrived.clear()
                devices, topics = await self._outbox.lanes()
                readings = [(f"{messages.READINGS}/{d}", READINGS_PRIORITY, d) for d in devices]
                self._lanes.refresh((*readings, *((t, p, "") for t, p in topics)))
            while not link.ended.done() and (chosen := self._lanes.choose(self._now())) is not None:
                message = await (self._next(chosen) if isinstance(chosen, Lane) else self._again(chosen))
                if message is not None:
                    self._lanes.sent(message)
                    self._launch(link, message)
            await self._something(link)
        raise link.ended.result()

    async def _something(self, link: Link) -> None:
        """Wait for an answer, for something new, for the end, or until something may be tried again."""
        due_s = self._lanes.due_s()
        wait_s = 30.0 if due_s is None else max(due_s - self._now(), 0.05)
        waits = [asyncio.create_task(self._wake.wait()), asyncio.create_task(self._outbox.arrived.wait())]
        anything: list[asyncio.Future[Any]] = [*waits, link.ended]
        try:
            await asyncio.wait(anything, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for w in waits:
                w.cancel()
        self._wake.clear()

    async def _next(self, lane: Lane) -> Message | None:
        """Take a lane's next message from the outbox; None when it has none."""
        message = await self._message(lane.topic, lane.device_id, lane.after)
        if message is None:
            lane.empty = True
        else:
            lane.after = message.last
        return message

    async def _again(self, old: Message) -> Message | None:
        """Read a message again that is to be sent again; None when a bound took it meanwhile."""
        found = await self._message(old.topic, old.device_id, old.first - 1, old.last)
        if found is None:
            self._lanes.drop(old)
            return None
        lane = self._lanes.lanes[old.topic, old.device_id]
        lane.after = min(lane.after, found.last) if found.last < old.last else lane.after  # a smaller packet limit splits it
        old.key, old.body, old.ids, old.letter = found.key, found.body, found.ids, found.letter
        old.first, old.last = found.first, found.last
        return old

    async def _message(self, topic: str, device_id: str, after: int, last: int | None = None) -> Message | None:
        """The oldest of a lane after one id, up to another, as much as fits into one message."""
        now = self._clock.now()
        if not device_id:
            letters = await self._outbox.take_letters(topic, after, 1)
            if not letters or (last is not None and letters[0].id > last):
                return None
            key, body = messages.letter_message(self._gateway, self._stream, letters[0], now)
            return Message(topic, key, body, letter=letters[0])
        waiting = await self._outbox.take(BATCH, after, device_id)
        if last is not None:
            waiting = [w for w in waiting if w.id <= last]
        while waiting:
            body = messages.readings_message(self._gateway, self._stream, waiting, now, self._subject)
            if len(waiting) == 1 or len(body.encode()) <= self._body_max:
                return Message(topic, messages.readings_key(waiting), body, device_id, tuple(w.id for w in waiting))
            waiting = waiting[: len(waiting) // 2]
        return None

    def _launch(self, link: Link, message: Message) -> None:
        task = asyncio.create_task(self._carry(link, message), name="uplink-message")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, link: Link, message: Message) -> None:
        """One message to its end: answered, refused or lost."""
        result, reason = await self._deliver(link, message)
        fate = self._lanes.settle(message, result, self._now(), reason)
        if fate is Fate.DELIVERED:
            self._delivered.append(message)
        elif fate is Fate.BURY:
            await self._bury(message, reason)
        if result not in (Result.ACCEPTED, Result.UNANSWERED) or self._health is None or not self._health[0]:
            self._judge()
        self._wake.set()

    async def _deliver(self, link: Link, message: Message) -> tuple[Result, str]:
        receipt = None
        if self._settings.acknowledge == "receiver":
            receipt = self._receipts.setdefault(message.key, asyncio.get_running_loop().create_future())
        try:
            answer = await link.publish(f"{self._base}/{message.topic}", message.body)
            result = _meaning(answer.code)
            if result is Result.ACCEPTED and receipt is not None:
                async with asyncio.timeout(RECEIPT_S):
                    await asyncio.wait([receipt])
                result = Result.UNANSWERED if receipt.cancelled() else Result.ACCEPTED
            return result, f"{answer.name.lower()} (0x{answer.code:02x})"
        except LinkLostError as e:
            return (Result.LOST if e.by_broker else Result.UNANSWERED), e.what
        except TimeoutError:
            return Result.UNANSWERED, "the receiver does not confirm"
        finally:
            if receipt is not None:
                self._receipts.pop(message.key, None)

    async def _bury(self, message: Message, reason: str) -> None:
        log.warning("%s was refused again and again (%s); it is set aside, see `wardgate outbox`", message.topic, reason)
        try:
            await self._outbox.bury(message.topic, message.body, reason, ids=message.ids, letter=message.letter)
        except UnavailableError as e:
            log.warning("%s; it is sent again after the next start", e)

    # --- acknowledgements to the disk ---

    async def _settle(self) -> None:
        """Delete what was delivered, many at a time; what cannot be deleted now is tried again, and at worst delivered twice."""
        while True:
            await asyncio.sleep(0.05)
            if self._delivered:
                try:
                    await self._flush()
                except UnavailableError as e:
                    log.warning("delivered, but not yet deleted: %s", e)
                    await asyncio.sleep(2.0)

    async def _flush(self) -> None:
        taken, self._delivered = self._delivered, []
        if not taken:
            return
        try:
            letters = [m.letter.id for m in taken if m.letter]
            await self._outbox.acknowledge([i for m in taken for i in m.ids], letters)
        except BaseException:
            self._delivered = taken + self._delivered
            raise

    # --- telling ---

    def _state(self, session: str, online: bool) -> str:
        return messages.state_message(self._gateway, self._stream, session, online, self._clock.now())

    def _judge(self) -> None:
        """Tell of trouble that a person must mend, and of its end; a connection must have lasted a little first."""
        if self._steady:
            troubles = self._lanes.troubles()
            self._tell(not troubles, "; ".join(troubles)[:300] or self.sentence)

    def cable(self, trouble: str) -> None:
        """The cable is out, or (empty) in again: known long before a connection over it notices."""
        self._cable = trouble
        if trouble or not self._steady:
            self._tell(False, self.sentence)
        else:
            self._judge()

    @property
    def state(self) -> tuple[bool, str]:
        """Whether it delivers, and one sentence."""
        return (False, self._cable) if self._cable else (self.up, self.sentence)

    def _tell(self, up: bool, detail: str) -> None:
        if self._cable:
            up, detail = False, self._cable
        if self._health is None or self._health[0] is not up or (not up and self._health[1] != detail):
            self._health = (up, detail)
            log.log(logging.INFO if up else logging.WARNING, "%s", detail)
            self._told(PartChanged("uplink", up=up, detail=detail))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _meaning(code: int) -> Result:
    """What a PUBACK reason code means for us (MQTT 5, 3.4.2.1)."""
    if code == 0x10:
        return Result.NOBODY
    if code < 0x80:
        return Result.ACCEPTED
    return Result.BUSY if code in (0x83, 0x97) else Result.REFUSED  # implementation specific, quota exceeded: it may pass
