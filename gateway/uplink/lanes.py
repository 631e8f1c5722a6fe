"""PURE. What is sent next, how much may be on its way, and who is to blame when something does not arrive.

A lane is a topic. A lane that is refused, or that nobody listens to, waits and keeps nobody else waiting. A message is set
aside only when the broker says so again and again, or when the connection ends each time that message alone is on its way
while others get through: a broker that is itself at fault costs no message. Time is an argument. Refuses to know MQTT.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from gateway.model.outbox import Letter

DEAD_AFTER = 5  # refusals of one message: at one in a second and growing, half a minute of patience
WINDOW = 32  # messages on their way: 6,400 readings, enough to hide a round trip of a tenth of a second
PER_LANE = 8
_FIRST_S, _LONGEST_S = 0.5, 20.0
_TELL_S = 2.0  # the third pause: what passes sooner is nobody's business
READINGS_PRIORITY = 5


class Result(Enum):
    """What became of a message that was sent."""

    ACCEPTED = "accepted"
    NOBODY = "nobody listens"  # MQTT 5, 3.4.2.1: PUBACK with 0x10, the broker threw it away
    BUSY = "the broker is busy"
    REFUSED = "refused"
    LOST = "the connection ended"  # by the broker, before it answered
    UNANSWERED = "no answer"  # half-open, a pulled cable, or a receiver that did not confirm


class Fate(Enum):
    """What is to be done with it."""

    DELIVERED = 1
    KEEP = 2
    BURY = 3


@dataclass(slots=True, eq=False)
class Message:
    """One message on its way: readings by ``ids``, or a ``letter``.

    While it waits to be sent again it is only its ``first`` and ``last`` id: ten thousand lanes may each hold one.
    """

    topic: str
    key: str
    body: str
    device_id: str = ""
    ids: tuple[int, ...] = ()
    letter: Letter | None = None
    first: int = 0
    last: int = 0
    lost: int = 0
    lost_alone: int = 0
    accepted_before: int = 0
    round: int = 0

    def __post_init__(self) -> None:
        if self.ids:
            self.first, self.last = self.ids[0], self.ids[-1]
        elif self.letter:
            self.first = self.last = self.letter.id

    def forget(self) -> None:
        """Keep only what finds it again."""
        self.body, self.ids, self.letter = "", (), None


@dataclass(slots=True, eq=False)
class Lane:
    """A topic with what is known of it: a device's readings, or letters. ``after``: the last id taken from the outbox."""

    topic: str
    priority: int
    device_id: str = ""  # empty: a lane of letters
    after: int = 0
    empty: bool = False
    back: list[Message] = field(default_factory=list)  # to be sent again, in order
    flying: int = 0
    failures: int = 0
    round: int = 0  # counts refusals once, however many messages were on their way
    wait_s: float = 0.0
    not_before_s: float = 0.0
    trouble: str = ""
    served: int = 0
    suspects: int = 0  # PER_LANE of them, and no more is taken from the outbox until others got through

    def limit(self) -> int:
        """How many of its messages may be on their way: one, while in trouble."""
        return 1 if self.trouble else PER_LANE

    def pause(self, now_s: float, trouble: str) -> None:
        """Leave it alone for a while, longer each time."""
        self.wait_s = min(max(self.wait_s * 2, _FIRST_S), _LONGEST_S)
        self.not_before_s, self.trouble = now_s + self.wait_s, trouble

    def well(self) -> None:
        """It was accepted: everything is forgotten."""
        self.failures, self.wait_s, self.not_before_s, self.trouble = 0, 0.0, 0.0, ""


class Lanes:
    """All lanes. ``next_lane`` and ``next_again`` say what to send, ``sent`` and ``settle`` what became of it."""

    def __init__(self) -> None:
        self.lanes: dict[tuple[str, str], Lane] = {}  # by topic and device: a dead letter goes on its device's topic, as a letter
        self.suspects: list[tuple[float, Message]] = []  # (not before, message)
        self.flying: set[Message] = set()
        self.accepted = 0
        self.window = WINDOW
        self._serve = 0

    # --- what there is ---

    def refresh(self, lanes: Iterable[tuple[str, int, str]]) -> None:
        """(topic, priority, device) of everything that waits; lanes with nothing left are forgotten."""
        there = set()
        for topic, priority, device_id in lanes:
            there.add((topic, device_id))
            lane = self.lanes.setdefault((topic, device_id), Lane(topic, priority, device_id))
            lane.priority, lane.empty = priority, False
        for key in [k for k, x in self.lanes.items() if k not in there and not (x.flying or x.back or x.trouble or x.suspects)]:
            del self.lanes[key]

    def troubles(self) -> list[str]:
        """One sentence for each lane that has not got through for some time."""
        said = [f"{x.topic}: {x.trouble}" for x in self.lanes.values() if x.trouble and x.wait_s >= _TELL_S]
        ended = {m.topic for _, m in self.suspects if m.lost_alone > 1}
        return said + [f"{topic}: the broker ends the connection instead of answering" for topic in sorted(ended)]

    # --- what to send ---

    def choose(self, now_s: float) -> Message | Lane | None:
        """A message to send again, or a lane to take the next one from; None: nothing now."""
        if len(self.flying) >= self.window or any(m.lost_alone or m.lost > 1 for m in self.flying):
            return None
        ready = min(self._ready(now_s), key=lambda x: (x.priority, x.served), default=None)
        if ready is not None:
            return ready.back[0] if ready.back else ready
        if not self.flying:
            return next((m for at, m in self.suspects if at <= now_s), None)
        return None

    def _ready(self, now_s: float) -> Iterator[Lane]:
        for lane in self.lanes.values():
            more = lane.back or not (lane.empty or lane.suspects >= PER_LANE)
            if more and lane.flying < lane.limit() and lane.not_before_s <= now_s:
                yield lane

    def due_s(self) -> float | None:
        """When something that waits may be tried again; None: nothing waits for time alone."""
        times = [x.not_before_s for x in self.lanes.values() if x.trouble and (x.back or not x.empty)]
        return min((*times, *(at for at, _ in self.suspects)), default=None)

    def drop(self, m: Message) -> None:
        """It is not there any more (lost to a bound), or about to leave."""
        lane = self._lane(m)
        if m in lane.back:
            lane.back.remove(m)
        kept = [(at, s) for at, s in self.suspects if s is not m]
        lane.suspects -= len(self.suspects) - len(kept)
        self.suspects = kept

    def sent(self, m: Message) -> None:
        """It is on its way."""
        self.drop(m)
        lane = self._lane(m)
        self._serve += 1
        lane.served = self._serve
        lane.flying += 1
        m.round = lane.round
        self.flying.add(m)

    # --- what became of it ---

    def settle(self, m: Message, result: Result, now_s: float, reason: str = "") -> Fate:
        """Account for one message that was on its way."""
        alone = self.flying == {m}
        self.flying.discard(m)
        lane = self._lane(m)
        lane.flying -= 1
        fate = self._settle(lane, m, result, now_s, reason, alone)
        if fate is Fate.KEEP:
            m.forget()
        return fate

    def _settle(self, lane: Lane, m: Message, result: Result, now_s: float, reason: str, alone: bool) -> Fate:
        if result is Result.ACCEPTED:
            self.accepted += 1
            device_id = m.letter.device_id if m.letter else m.device_id
            for lane in filter(None, (self.lanes.get((m.topic, d)) for d in {"", device_id})):
                lane.well()  # the topic is open, whoever used it
            return Fate.DELIVERED
        if result is Result.REFUSED:
            return self._refused(lane, m, now_s, reason)
        if result is Result.LOST:
            return self._lost(lane, m, now_s, alone)
        if result is not Result.UNANSWERED:
            lane.pause(now_s, reason or result.value)
        insort(lane.back, m, key=lambda x: x.first)
        return Fate.KEEP

    def _refused(self, lane: Lane, m: Message, now_s: float, reason: str) -> Fate:
        if m.round == lane.round:  # the others of the same moment say nothing new
            lane.failures += 1
            lane.round += 1
            lane.pause(now_s, reason)
            if lane.failures >= DEAD_AFTER:
                return Fate.BURY
        insort(lane.back, m, key=lambda x: x.first)
        return Fate.KEEP

    def _lost(self, lane: Lane, m: Message, now_s: float, alone: bool) -> Fate:
        m.lost += 1
        if alone and m.lost > 1:
            if not m.lost_alone:
                m.accepted_before = self.accepted
            m.lost_alone += 1
            if m.lost_alone >= DEAD_AFTER and self.accepted > m.accepted_before:
                return Fate.BURY
        if m.lost < 2:
            insort(lane.back, m, key=lambda x: x.first)
        else:
            lane.suspects += 1
            self.suspects.append((now_s + min(_FIRST_S * 2 ** min(m.lost_alone, 8), _LONGEST_S), m))
        return Fate.KEEP

    def _lane(self, m: Message) -> Lane:
        return self.lanes.setdefault((m.topic, m.device_id), Lane(m.topic, READINGS_PRIORITY, m.device_id, empty=True))
