"""Stored messages on their way: one route, one connection, in the order in which they came, each until its receiver has it.

AE is tried again, AR is not; a message refused for good, or too old to pass for news, is kept aside and told. Refuses to know
how the journal keeps them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from drivers.hl7 import mllp
from drivers.hl7.ack import Ack, Verdict, follows, is_due, read_ack
from drivers.hl7.message import Message, parse
from drivers.hl7.route import Route
from drivers.hl7.settings import Settings
from drivers.hl7.upstream import Upstream, connect
from gateway.driver import Clock, JournalPort, Kept
from gateway.errors import MalformedError, UnavailableError
from gateway.model.instant import NS_PER_S, Instant, TimeQuality

_BATCH = 64
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 5.0
MAX_ERRORS = 5  # AE for one message before it is set aside: it must not hold up the ward's other results for ever


class Forwarder:
    """Runs for ever; ``wake`` says that there is something new."""

    def __init__(
        self, route: Route, settings: Settings, clock: Clock, journal: JournalPort, note: Callable[[str, str, str], None]
    ) -> None:
        self._route, self._settings, self._clock, self._journal, self._note = route, settings, clock, journal, note
        self._new = asyncio.Event()
        self._up: Upstream | None = None
        self._asked: Message | None = None
        self._answer: asyncio.Future[Ack] | None = None
        self._later: deque[bytes] = deque(maxlen=_BATCH)
        self._after = 0

    def wake(self) -> None:
        """Something was stored for this route."""
        self._new.set()

    async def run(self) -> None:
        """Deliver, oldest first; ends only when cancelled."""
        try:
            while True:
                self._new.clear()
                for kept in await self._take():
                    await self._deliver(kept)
                    self._after = kept.id
                    self._new.set()
                await self._new.wait()
        finally:
            if self._up is not None:
                self._up.close()

    async def _take(self) -> list[Kept]:
        try:
            return list(await self._journal.take(self._route.name, self._after, _BATCH))
        except UnavailableError:
            asyncio.get_running_loop().call_later(_LONGEST_RETRY_S, self._new.set)
            return []

    async def _deliver(self, kept: Kept) -> None:
        """One message, until it is delivered or set aside."""
        retry_s, errors = _FIRST_RETRY_S, 0
        try:
            message = parse(kept.body)
        except MalformedError as e:  # an older version took it
            self._set_aside(kept, "malformed", f"a stored message is malformed ({e.what}); it is kept aside")
            return
        while True:
            age_s = age(kept.received, self._clock.now())
            if age_s > self._route.function.too_old_s:
                self._set_aside(kept, "too-old", f"a message stored {age_s:.0f} s ago is too old to deliver; it is kept aside")
                return
            try:
                ack = await self._ask(message)
            except UnavailableError as e:
                self._note(self._route.link.device_id, "receiver-lost", f"stored messages wait: {e.what}")
            else:
                if ack is None or ack.verdict is Verdict.ACCEPT:
                    self._journal.settle(kept.id)
                    return
                errors += 1
                if ack.verdict is Verdict.REJECT or errors >= MAX_ERRORS:
                    text = f"the receiver refused a stored message ({ack.code.decode()}); it is kept aside"
                    self._set_aside(kept, "refused-by-receiver", text)
                    return
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _LONGEST_RETRY_S)

    def _set_aside(self, kept: Kept, code: str, text: str) -> None:
        self._note(self._route.link.device_id, code, text)
        self._journal.settle(kept.id, text)

    async def _ask(self, message: Message) -> Ack | None:
        """Send one message and wait for its answer; None when none is due. Raises UnavailableError."""
        s = self._settings
        if self._up is None or not self._up.open:
            self._later.clear()
            self._up = await connect(self._route.endpoint, s.max_message, s.connect_s, self._heard, self._lost)
        up = self._up
        self._asked, self._answer = message, asyncio.get_running_loop().create_future()
        up.send(mllp.encode(message.raw))
        if follows(message) or not is_due(message):
            self._later.append(message.control_id)
        if not is_due(message):
            return None
        try:
            async with asyncio.timeout(s.answer_s):
                return await self._answer
        except TimeoutError:
            up.close()
            raise UnavailableError(f"no answer in {s.answer_s:g} s", "look at the receiver") from None
        finally:
            self._answer = None

    def _heard(self, raw: bytes) -> None:
        answer, up = self._answer, self._up
        try:
            ack = read_ack(raw)
        except MalformedError as e:
            if up is not None:
                up.poison(f"the receiver answered with {e.what}")
            return
        if answer is not None and not answer.done() and self._asked is not None and ack.control_id == self._asked.control_id:
            answer.set_result(ack)
        elif ack.control_id in self._later:
            self._later.remove(ack.control_id)  # an application acknowledgement; the sender was promised a commit only
        elif up is not None:
            up.poison("the receiver answered something that was not asked")

    def _lost(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(UnavailableError(why, "look at the receiver"))


def age(received: Instant, now: Instant) -> float:
    """Seconds on boot time; across a reboot on wall time, when nobody doubts it at either end (else it counts as new)."""
    if received.boot_id == now.boot_id:
        return now.seconds_since(received)
    believed = min(received.quality, now.quality) >= TimeQuality.RTC
    return (now.utc_ns - received.utc_ns) / NS_PER_S if believed else 0.0
