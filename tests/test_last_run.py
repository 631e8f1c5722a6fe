"""A run that ended without a word is told at the next start: when it was heard last, and what the enforcer closed since."""

from __future__ import annotations

import pytest

from gateway.last_run import LastRun, Meanwhile, meanwhile_of, sentence
from gateway.logs import clean
from gateway.model.event import PartChanged
from gateway.model.incident import LAST_RUN
from gateway.model.instant import NS_PER_S, Instant, TimeQuality

HEARD = Instant("boot", 1_000 * NS_PER_S, 1_800_000_000 * NS_PER_S, TimeQuality.RTC)  # 2027-01-15 08:00:00 UTC
BEGAN = HEARD.plus(312)


def lapsed(*devices: str, after_s: float = 30, since_s: float = -500) -> Meanwhile:
    return Meanwhile(
        round((1_000 + since_s) * NS_PER_S), 998 * NS_PER_S, tuple((d, round((1_000 + after_s) * NS_PER_S)) for d in devices)
    )


def test_it_says_when_it_was_heard_and_what_was_closed_from_when_on() -> None:
    text = sentence(HEARD, BEGAN, lapsed("pump-1", "monitor-1"))
    for words in ("last heard at 2027-01-15 08:00:00 UTC, 312 s before this start", "renewed until 07:59:58", "from 08:00:30 on",
                  "of monitor-1, pump-1", "wardgate acknowledge"):  # fmt: skip
        assert words in text, words


def test_what_nobody_knows_is_said_so() -> None:
    assert "no lease ended meanwhile" in sentence(HEARD, BEGAN, lapsed())
    assert "no lease ended meanwhile" in sentence(HEARD, BEGAN, lapsed("pump-1", after_s=-100))  # an older one
    assert "does not say" in sentence(HEARD, BEGAN, None)
    assert "started again meanwhile" in sentence(HEARD, BEGAN, lapsed("pump-1", since_s=60))
    rebooted = Instant("next boot", 5 * NS_PER_S, BEGAN.utc_ns, TimeQuality.RTC)
    assert "machine was started again: every lease ended" in sentence(HEARD, rebooted, lapsed("pump-1"))


def test_a_line_of_the_record_has_room_for_it_with_its_remedy_whatever_the_devices_are_called() -> None:
    text = sentence(HEARD, BEGAN, lapsed(*(f"{'d' * 58}{n}" for n in range(50))))
    assert clean(text) == text and text.endswith("wardgate acknowledge") and "and 48 more" in text


@pytest.mark.parametrize(
    "answer", [None, 7, {}, {"since_ns": 1, "granted_ns": 2}, {"since_ns": "1", "granted_ns": 2, "devices": 3}]
)
def test_an_enforcer_that_does_not_remember_is_no_fault(answer: object) -> None:
    assert meanwhile_of(answer) is None


def test_what_the_enforcer_says_is_read_strictly() -> None:
    answer = {"since_ns": 1, "granted_ns": 2, "devices": [["a", 3], ["b"], 7, ["c", "4"]]}
    assert meanwhile_of(answer) == Meanwhile(1, 2, (("a", 3),))


async def test_the_alarm_does_not_depend_on_the_enforcer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.last_run._PATIENCE_S", 0.05)
    told: list[PartChanged] = []

    async def emit(event: PartChanged) -> None:
        told.append(event)

    await LastRun(HEARD, BEGAN).tell(emit)
    answered = LastRun(HEARD, BEGAN)
    answered.enforcer_said({"since_ns": 1, "granted_ns": 2, "devices": [["pump-1", 1_030 * NS_PER_S]]})
    await answered.tell(emit)
    assert [(e.part, e.up) for e in told] == [(LAST_RUN, False)] * 2
    assert "does not say" in told[0].detail and "of pump-1" in told[1].detail
