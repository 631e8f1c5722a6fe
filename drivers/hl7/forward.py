"""Stored messages on their way: one route, one connection, in the order in which they came, each until its receiver has it.

AE is tried again, AR is not; a message refused for good, or too old to pass for news, is kept aside and told. In enhanced mode a
commit is not the end: a message whose application acknowledgement refuses it later is kept aside too. Toward a device nothing
leaves while its level is too low. Refuses to know how the journal keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from dataclasses import dataclass

from drivers.hl7 import mllp, secure
from drivers.hl7.ack import Ack, Verdict, acknowledge, follows, is_due, is_enhanced, read_ack, says_success
from drivers.hl7.message import Message, parse
from drivers.hl7.proxy import APPLICATION_S, Services, stamp
from drivers.hl7.route import Route
from drivers.hl7.upstream import Upstream, connect
from gateway.driver import Kept
from gateway.errors import MalformedError, UnavailableError, WardgateError

_BATCH = 64
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 5.0
_LONGEST_AGAIN_S = 30.0
_LEVEL_S = 1.0
_LOOK_S = 2.0  # how soon what a person sent again, and what an acknowledgement did not come for, is noticed
_LATER = 64  # messages whose application acknowledgement may still come
_ROOM_S = 0.02
_SENT_S = 1.0  # a message that nobody acknowledges has arrived if the connection lives this long after it


@dataclass(slots=True)
class _Sent:
    """A message that has left and may still be refused. ``committed``: its receiver has it in safe storage."""

    kept: Kept
    message: Message
    committed: bool
    until_s: float


class Forwarder:
    """Runs for ever; ``wake`` says that there is something new."""

    def __init__(self, route: Route, services: Services) -> None:
        self._route, self._services, self._settings = route, services, services.settings
        self._clock, self._journal = services.clock, services.journal
        self._new = asyncio.Event()
        self._up: Upstream | None = None
        self._asked: Message | None = None
        self._answer: asyncio.Future[Ack] | None = None
        self._leaving: bytes | None = None  # the control id of one that is on its way out and wants no answer at once
        self._later: OrderedDict[bytes, _Sent] = OrderedDict()
        self._losses: dict[int, int] = {}  # connections that ended right after a message that nobody acknowledges
        self._after = 0
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Something was stored for this route."""
        self._new.set()

    async def run(self) -> None:
        """Deliver, oldest first; ends only when cancelled."""
        try:
            while True:
                self._new.clear()
                for kept in await self._take():
                    self._after = kept.id
                    self._new.set()
                    await self._deliver(kept)
                    if self._after != kept.id:
                        break  # something before it has to be sent again first
                self._expire()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._new.wait()
        finally:
            if self._up is not None:
                self._up.close()

    async def _take(self) -> list[Kept]:
        try:
            return list(await self._journal.take(self._route.name, self._after, _BATCH))
        except UnavailableError:
            self._loop.call_later(_LONGEST_RETRY_S, self._new.set)
            return []

    # --- one message ---

    async def _deliver(self, kept: Kept) -> None:
        """One message, until it is delivered or set aside."""
        retry_s, again_s, errors = _FIRST_RETRY_S, self._settings.again_s, 0
        try:
            message = parse(kept.body)
        except MalformedError as e:  # an older version took it
            self._set_aside(kept, "malformed", f"a stored message is malformed ({e.what})")
            return
        while not self._is_too_old(kept, message):
            if not self._may_pass(message):
                await asyncio.sleep(_LEVEL_S)
                continue
            if self._is_crowded(message.control_id):
                await asyncio.sleep(_ROOM_S)
                self._expire()
                continue
            try:
                up = await self._reach()
                if not self._may_pass(message):
                    continue  # it lost its level meanwhile
                ack = await self._ask(up, kept, message)
            except WardgateError as e:
                self._failed(e)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LONGEST_RETRY_S)
                continue
            if self._is_over(kept, message, ack, last=errors + 1 >= self._settings.tries):
                return
            errors += 1
            await asyncio.sleep(again_s)
            again_s = min(again_s * 2, _LONGEST_AGAIN_S)

    def _is_too_old(self, kept: Kept, message: Message) -> bool:
        age_s = kept.received.age_s(self._clock.now())
        if age_s <= self._route.function.too_old_s:
            return False
        self._set_aside(kept, "too-old", f"{_name(message)} was stored {age_s:.0f} s ago, too old to deliver")
        return True

    def _may_pass(self, message: Message) -> bool:
        """What goes into a device needs its level at this moment; what came from one had it when it came."""
        if self._route.from_device:
            return True
        judgement = self._route.link.judge(self._route.function, message, self._clock.now())
        if not judgement.passes:
            self._note(judgement.code, f"a stored message waits: {judgement.text}")
        return judgement.passes

    def _is_over(self, kept: Kept, message: Message, ack: Ack | None, *, last: bool) -> bool:
        """Whether there is nothing more to do for it now."""
        if ack is None:
            return True
        self._route.health.worked(self._loop.time())
        if ack.verdict is Verdict.ACCEPT:
            if ack.code == b"CA" and follows(message):
                self._remember(kept, message, committed=True)
            else:
                self._journal.settle(kept.id)
            return True
        if ack.verdict is Verdict.REJECT or last:
            self._refused(kept, message, ack)
            return True
        return False

    def _refused(self, kept: Kept, message: Message, ack: Ack) -> None:
        self._set_aside(kept, "refused-by-receiver", f"the receiver refused {_name(message)} ({ack.code.decode()})")

    def _set_aside(self, kept: Kept, code: str, text: str) -> None:
        self._note(code, f"{text}; it is kept aside")
        self._journal.settle(kept.id, text)

    def _failed(self, error: WardgateError) -> None:
        self._route.health.failed(str(error), self._loop.time(), at_once=secure.lasting(error))
        self._note("receiver-lost", f"stored messages wait: {error.what}")

    def _note(self, code: str, text: str) -> None:
        self._services.note(self._route.link.device_id, code, text)

    # --- what may still be refused ---

    def _remember(self, kept: Kept, message: Message, *, committed: bool) -> None:
        if committed:
            patience_s = APPLICATION_S
        else:
            patience_s = self._settings.answer_s if message.header(15) in (b"ER", b"SU") or follows(message) else _SENT_S
        self._later[message.control_id] = _Sent(kept, message, committed, self._loop.time() + patience_s)
        for control_id in [i for i, sent in self._later.items() if sent.committed][:-_LATER]:
            self._settle(control_id, self._later[control_id])

    def _is_crowded(self, control_id: bytes) -> bool:
        """Whether one of this name, or too many, may still be lost: none is given up early. What is committed has arrived."""
        same = self._later.get(control_id)
        if same is not None and same.committed:
            self._settle(control_id, same)
            same = None
        return same is not None or sum(not sent.committed for sent in self._later.values()) >= _LATER

    def _expire(self) -> None:
        """What nobody refused in time has arrived; what its receiver would have said that it took, has not."""
        now_s = self._loop.time()
        for control_id, sent in list(self._later.items()):
            if now_s < sent.until_s or control_id == self._leaving:
                continue
            if sent.committed or not says_success(sent.message):
                self._route.health.worked(now_s)
                self._settle(control_id, sent)
            else:
                self._again(control_id, sent, f"no acknowledgement in {self._settings.answer_s:g} s")

    def _settle(self, control_id: bytes, sent: _Sent) -> None:
        del self._later[control_id]
        self._losses.pop(sent.kept.id, None)
        self._journal.settle(sent.kept.id)

    def _application(self, ack: Ack, up: Upstream) -> None:
        """A later acknowledgement, and the commit that it may itself ask for."""
        sent = self._later[ack.control_id]
        if ack.verdict is Verdict.ACCEPT:
            self._settle(ack.control_id, sent)
        else:
            del self._later[ack.control_id]
            self._refused(sent.kept, sent.message, ack)
        message = parse(ack.raw)
        now = self._clock.now()
        if is_enhanced(message):
            commit = acknowledge(message, Verdict.ACCEPT, b"", stamp(now), b"WG%x" % now.utc_ns)
            if commit:
                up.send(mllp.encode(commit))

    # --- the receiver ---

    async def _reach(self) -> Upstream:
        """The connection to the receiver. Raises WardgateError when there is none."""
        if self._up is None or not self._up.open:
            s = self._services
            self._up = await connect(self._route, s.tls, self._settings, s.turn, self._heard, self._lost)
        if self._up.ended is not None:  # as soon as it was there
            raise self._up.ended
        return self._up

    async def _ask(self, up: Upstream, kept: Kept, message: Message) -> Ack | None:
        """Send one message and wait for its answer; None when none is due. Raises WardgateError when the receiver is gone."""
        s = self._settings
        due = is_due(message)
        if due:
            self._asked, self._answer = message, self._loop.create_future()
        else:
            self._leaving = message.control_id
            self._remember(kept, message, committed=False)
        up.send(mllp.encode(message.raw))
        try:
            async with asyncio.timeout(s.answer_s):
                if self._answer is not None:
                    return await self._answer
                await up.left()
        except TimeoutError:
            up.close()
            self._begin_anew()
            what = f"no answer in {s.answer_s:g} s" if due else f"it took nothing for {s.answer_s:g} s"
            raise UnavailableError(what, "look at the receiver") from None
        finally:
            self._answer, self._leaving = None, None
        if (sent := self._later.get(message.control_id)) is not None and not sent.committed:
            self._remember(kept, message, committed=False)  # its time counts from when it has left
        return None

    def _heard(self, raw: bytes) -> None:
        answer, up = self._answer, self._up
        if up is None:
            return
        try:
            ack = read_ack(raw)
        except MalformedError as e:
            up.poison(f"the receiver answered with {e.what}")
            return
        if answer is not None and not answer.done() and self._asked is not None and ack.control_id == self._asked.control_id:
            answer.set_result(ack)
        elif ack.control_id in self._later:
            self._application(ack, up)
        else:
            up.poison("the receiver answered something that was not asked")

    @property
    def _was_read(self) -> bool:
        """Whether all that had left was read before the connection ended: unread bytes would have broken it."""
        return self._up is not None and self._up.in_order

    def _lost(self, why: WardgateError) -> None:
        if secure.lasting(why):
            self._failed(why)
        self._begin_anew()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(why)

    def _begin_anew(self) -> None:
        """The connection is gone. What was committed has arrived; what nobody acknowledges, and went just before, goes again."""
        self._expire()
        for control_id, sent in list(self._later.items()):
            if control_id == self._leaving:
                del self._later[control_id]  # who sends it tries again
                continue
            if sent.committed:
                self._settle(control_id, sent)
            else:
                self._again(control_id, sent, "the connection ended right after it", read=self._was_read)

    def _again(self, control_id: bytes, sent: _Sent, why: str, *, read: bool = False) -> None:
        """It may not have arrived: it goes again, before what came after it; so many times, then it is kept aside. ``read``: the
        receiver took it and closed the connection in order, as some do after each message; that many times is enough."""
        losses = self._losses.get(sent.kept.id, 0) + 1
        if losses >= self._settings.tries and read and not says_success(sent.message):
            self._settle(control_id, sent)
            return
        del self._later[control_id]
        if losses < self._settings.tries:
            self._losses[sent.kept.id] = losses
            self._after = min(self._after, sent.kept.id - 1)
            self._new.set()
        else:
            self._losses.pop(sent.kept.id, None)
            self._set_aside(sent.kept, "not-acknowledged", f"{_name(sent.message)} was sent {losses} times: {why}")


def _name(message: Message) -> str:
    """A message in words: its kind and its sender's number for it, nothing of a patient."""
    kind = "^".join(p.decode("ascii", "replace") for p in message.kind)[:20]
    text = f"{kind} {message.control_id.decode('ascii', 'replace')[:40]}"
    return "".join(c if c.isprintable() else "?" for c in text)
