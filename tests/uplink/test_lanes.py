"""Who goes next and who is to blame: a bad neighbour costs others nothing, a bad broker costs no message."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.uplink.lanes import DEAD_AFTER, PER_LANE, WINDOW, Fate, Lane, Lanes, Message, Result


class Post:
    """An outbox of numbers, a broker that is a function, and the clock."""

    def __init__(self, waiting: dict[str, list[int]], priorities: dict[str, int] | None = None) -> None:
        self.lanes, self.now, self.waiting = Lanes(), 0.0, waiting
        self.priorities = priorities or {}
        self.delivered: list[tuple[str, int]] = []
        self.buried: list[tuple[str, int]] = []
        self.sent: list[tuple[str, int]] = []
        self.refresh()

    def refresh(self) -> None:
        self.lanes.refresh((t, self.priorities.get(t, 5), t) for t, rows in self.waiting.items() if rows)

    def launch(self) -> None:
        """Send whatever may be sent."""
        while (chosen := self.lanes.choose(self.now)) is not None:
            m = self.fetch(chosen) if isinstance(chosen, Lane) else chosen
            assert m is None or isinstance(chosen, Lane) or not m.body, "what waits is not held in memory"
            if m is not None:
                self.lanes.sent(m)
                self.sent.append((m.topic, m.first))

    def fetch(self, lane: Lane) -> Message | None:
        row = next((i for i in self.waiting[lane.topic] if i > lane.after), None)
        if row is None:
            lane.empty = True
            return None
        lane.after = row
        return Message(lane.topic, f"{row}", "", lane.device_id, (row,))

    def settle(self, m: Message, result: Result) -> None:
        fate = self.lanes.settle(m, result, self.now, "because")
        if fate is not Fate.KEEP:
            (self.delivered if fate is Fate.DELIVERED else self.buried).append((m.topic, m.first))
            self.waiting[m.topic].remove(m.first)

    def step(self, answer: dict[str, Result] | Result) -> None:
        """One round: everything on its way is answered by topic (default: accepted), then a second passes."""
        self.refresh()
        self.launch()
        for m in sorted(self.lanes.flying, key=lambda m: m.first):
            self.settle(m, answer if isinstance(answer, Result) else answer.get(m.topic, Result.ACCEPTED))
        self.now += 1.0


def test_alarms_leave_before_decisions_and_readings() -> None:
    post = Post({"readings": [1, 2, 3], "decision": [1], "alarm": [1, 2]}, {"alarm": 0, "decision": 1})
    post.launch()
    assert [t for t, _ in post.sent] == ["alarm", "alarm", "decision", "readings", "readings", "readings"]


def test_lanes_share_the_window_and_keep_their_order() -> None:
    post = Post({f"d{i}": list(range(1, 100)) for i in range(10)})
    post.launch()
    assert len(post.sent) == WINDOW
    assert {t for t, _ in post.sent} == {f"d{i}" for i in range(10)}
    for _ in range(60):
        post.step(Result.ACCEPTED)
    for i in range(10):
        mine = [n for t, n in post.delivered if t == f"d{i}"]
        assert mine == list(range(1, 100))


def test_one_lane_never_fills_the_window_alone() -> None:
    post = Post({"d": list(range(1, 100))})
    post.launch()
    assert len(post.sent) == PER_LANE


def test_the_brokers_own_limit_is_kept() -> None:
    post = Post({f"d{i}": [1, 2, 3] for i in range(10)})
    post.lanes.window = 2
    post.launch()
    assert len(post.sent) == 2


def test_a_refused_topic_is_set_aside_after_five_rounds_and_keeps_nobody_waiting() -> None:
    post = Post({"bad": list(range(1, 4)), "good": list(range(1, 200))})
    for _ in range(6):
        post.step({"bad": Result.REFUSED})
    assert len([1 for t, _ in post.delivered if t == "good"]) == 6 * PER_LANE
    assert not post.buried, "eight refusals of one moment are one refusal"
    for _ in range(200):
        post.step({"bad": Result.REFUSED})
    assert post.buried == [("bad", 1), ("bad", 2), ("bad", 3)]
    assert not post.waiting["good"]


def test_a_topic_that_is_let_in_again_starts_anew() -> None:
    post = Post({"bad": [1, 2]})
    for _ in range(20):
        lane = post.lanes.lanes.get(("bad", "bad"))
        post.step(Result.REFUSED if lane and lane.failures < DEAD_AFTER - 1 and not post.delivered else Result.ACCEPTED)
    assert not post.buried
    assert post.delivered == [("bad", 1), ("bad", 2)]
    assert post.lanes.troubles() == []


def test_nobody_listening_is_not_delivery_and_never_a_dead_letter() -> None:
    post = Post({"d": [1, 2], "heard": [1]})
    for _ in range(100):
        post.step({"d": Result.NOBODY})
    assert not post.buried
    assert post.waiting["d"] == [1, 2]
    assert post.delivered == [("heard", 1)]
    assert post.lanes.troubles() == ["d: because"]
    tries = len([1 for t, _ in post.sent if t == "d"])
    assert tries < 15  # it is asked less and less often
    post.now += 60
    for _ in range(3):
        post.step(Result.ACCEPTED)
    assert post.waiting["d"] == []


def test_a_message_at_which_the_connection_ends_is_found_and_the_others_get_through() -> None:
    """One poison among many: the broker closes whenever it sees it, and everything on its way with it is lost."""
    post = Post({"a": list(range(1, 40)), "b": list(range(1, 40))})
    poison = ("a", 7)
    for i in range(400):
        if i % 3 == 0:  # the ward goes on
            post.waiting["b"].append(40 + i)
        post.refresh()
        post.launch()
        flying = list(post.lanes.flying)
        random.Random(i).shuffle(flying)
        closed = any((m.topic, m.first) == poison for m in flying)
        for m in flying:
            post.settle(m, Result.LOST if closed else Result.ACCEPTED)
        post.now += 1
    assert post.buried == [poison]
    assert not post.waiting["a"]
    assert len(post.waiting["b"]) <= 2


def test_a_broker_that_ends_every_connection_costs_no_message() -> None:
    post = Post({"a": list(range(1, 200)), "b": [1, 2, 3]})
    for _ in range(500):
        post.step(Result.LOST)
    assert not post.buried
    assert len(post.lanes.suspects) + sum(len(x.back) for x in post.lanes.lanes.values()) <= 3 * PER_LANE
    for _ in range(400):
        post.step(Result.ACCEPTED)
    assert post.waiting == {"a": [], "b": []}


def test_a_broker_that_takes_one_message_a_connection_gets_them_all() -> None:
    post = Post({"a": list(range(1, 60)), "b": list(range(1, 60))})
    for _ in range(1500):
        post.refresh()
        post.launch()
        for i, m in enumerate(sorted(post.lanes.flying, key=lambda m: m.first)):
            post.settle(m, Result.ACCEPTED if i == 0 else Result.LOST)
        post.now += 1
    assert not post.buried
    assert post.waiting == {"a": [], "b": []}


def test_silence_blames_nobody() -> None:
    post = Post({"a": [1, 2, 3]})
    for _ in range(100):
        post.step(Result.UNANSWERED)
    assert not post.buried
    assert not post.lanes.suspects
    post.step(Result.ACCEPTED)
    assert post.delivered == [("a", 1), ("a", 2), ("a", 3)]


def test_a_busy_broker_blames_nobody() -> None:
    post = Post({"a": [1]})
    for _ in range(100):
        post.step(Result.BUSY)
    assert not post.buried
    assert post.waiting["a"] == [1]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_whatever_a_broker_answers_nothing_is_lost_and_nothing_grows(data: st.DataObject) -> None:
    post = Post({"a": list(range(1, 30)), "b": list(range(1, 30))})
    every = {(t, i) for t, rows in post.waiting.items() for i in rows}
    for _ in range(60):
        post.refresh()
        post.launch()
        assert len(post.lanes.flying) <= WINDOW
        for m in sorted(post.lanes.flying, key=lambda m: (m.first, m.topic)):
            post.settle(m, data.draw(st.sampled_from(list(Result))))
        post.now += 1
    for _ in range(300):
        post.now += 5
        post.step(Result.ACCEPTED)
    assert set(post.delivered) | set(post.buried) == every
    assert not (set(post.delivered) & set(post.buried))
