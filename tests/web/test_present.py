"""What the page says of a device in each of its situations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.web import wording
from gateway.web.present import Deadlines, Ward, present
from tests.fakes.console import FakeConsole


def shown(console: FakeConsole) -> Ward:
    return present(console.view(), Deadlines())


def card(console: FakeConsole, device_id: str):
    return next(c for c in shown(console).cards if c.id == device_id)


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


def test_a_ward_that_is_well_says_so_in_one_sentence(console: FakeConsole) -> None:
    ward = shown(console)
    assert ward.overview.headline == "All 3 devices have what they need"
    assert {c.tone for c in ward.cards} == {"well"}
    assert ward.overview.observing == ""


def test_a_fallen_device_comes_first_and_keeps_what_is_vital(console: FakeConsole) -> None:
    console.set_level("pump-1", 0, "register 104 is 7 where 3 is confirmed")
    ward = shown(console)
    first = ward.cards[0]
    assert (first.id, first.tone, first.level.verdict) == ("pump-1", "cut", "cut")
    assert [(f.name, f.mark, f.word) for f in first.functions] == [
        ("control", "cut", "cut"),
        ("maintenance", "cut", "cut"),
        ("monitoring", "always", "always on"),
    ]
    assert ward.overview.headline == "Infusion pump, bed 4 is cut"
    assert first.main.alarms == ("Register 104 is 7 where 3 is confirmed; monitoring stays.",)
    assert first.main.reason == ""  # the alarm says it already
    assert first.clocks.lease_until_ms is None


def test_read_only_is_said_from_level_1_on_and_only_there(console: FakeConsole) -> None:
    console.set_level("monitor-1", 1, "the evidence has grown old")
    assert card(console, "monitor-1").functions[0].word == "read only"
    assert card(console, "monitor-1").tone == "short"
    console.set_level("monitor-1", 0, "it was changed")
    assert card(console, "monitor-1").functions[0].word == "cut"


def test_while_observing_nothing_is_called_cut(console: FakeConsole) -> None:
    for device_id in console.devices:
        console.set_level(device_id, 0, "waiting for the first evidence")
        allowed = tuple(replace(f, allowed=True) for f in console.devices[device_id].functions)
        console.change(device_id, state="observing", functions=allowed, alarms=(), would_cut=("control", "results (writes)"))
    ward = shown(console)
    assert ward.overview.observing == "Observing: nothing is cut yet"
    assert not [f for c in ward.cards for f in c.functions if f.mark == "cut"]
    assert {f.name for c in ward.cards for f in c.functions if f.mark == "would"} == {"control", "results"}


def test_the_observing_banner_does_not_claim_more_than_is_so(console: FakeConsole) -> None:
    console.change("patch-1", state="observing")
    assert shown(console).overview.observing == "Observing 1 of 3: nothing of Heart-rate patch, bed 4 is cut yet"


def test_a_broken_part_of_the_gateway_is_in_the_headline(console: FakeConsole) -> None:
    console.parts["tpm"] = (False, "gone since 14:02; certificates are not renewed")
    assert shown(console).overview.headline == "The devices are well; the gateway's TPM is not"


def test_deadlines_hold_still_against_rounding_and_move_with_a_renewal() -> None:
    deadlines = Deadlines()
    assert deadlines.at("a", "lease", 30_000) == 30_000
    assert deadlines.at("a", "lease", 30_001) == 30_000
    assert deadlines.at("a", "lease", 40_000) == 40_000
    assert deadlines.at("a", "lease", None) is None
    deadlines.at("b", "lease", 1)
    deadlines.forget({"a"})
    assert deadlines.at("b", "lease", 2) == 2  # forgotten, so not held to 1


def test_a_picture_of_an_unchanged_ward_is_equal_to_the_last_one(console: FakeConsole) -> None:
    deadlines = Deadlines()
    first, second = (present(console.view(), deadlines) for _ in range(2))
    assert first.cards == second.cards
    assert first.overview == second.overview


@pytest.mark.parametrize(
    ("ms", "text"), [(-5, "0 s"), (59_999, "59 s"), (60_000, "1 min"), (7_980_000, "2 h 13 min"), (356_400_000, "4 d 3 h")]
)
def test_durations(ms: int, text: str) -> None:
    assert wording.duration(ms) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(-1, "over"), (0, "over"), (1, "0:01"), (24_000, "0:24"), (760_000, "12:40"), (3_723_000, "1:02:03")]
)
def test_countdowns(ms: int, text: str) -> None:
    assert wording.countdown(ms) == text


def test_sentences_get_a_capital_and_a_stop_but_ids_stay_as_they_are() -> None:
    assert wording.sentence("no link") == "No link."
    assert wording.sentence("pump-1: no link") == "pump-1: no link."
    assert wording.sentence("Well!") == "Well!"
    assert wording.sentence(" ") == ""


def test_quantities_have_names_and_unknown_ones_stay_readable() -> None:
    assert wording.quantity("MDC_ECG_HEART_RATE") == "Heart rate"
    assert wording.quantity("MDC_FLOW_AWAY") == "Flow away"
    assert wording.quantity("") == "Reading"
    assert wording.listing(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
