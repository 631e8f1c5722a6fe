"""Whose readings a device takes: by when they were taken, and nobody's where that cannot be told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.assignments import KEPT, Assigned, Assignments
from gateway.errors import InputError
from gateway.model.instant import NS_PER_S, Instant
from gateway.uplink.messages import readings_message
from tests.uplink.test_messages import STREAM, follows, one

NOW = Instant("one", 1000 * NS_PER_S, 10**18)


def after(seconds: float, boot: str = "one") -> Instant:
    return replace(NOW.plus(seconds), boot_id=boot)


def test_a_late_reading_keeps_the_patient_that_it_was_taken_from() -> None:
    a = Assignments()
    a.assign("patch-1", "bed-7", NOW)
    a.assign("patch-1", "bed-9", after(60))
    a.assign("patch-1", "", after(120))
    assert [a.at("patch-1", after(s)) for s in (-1, 0, 59.9, 60, 119, 120, 500)] == ["", "bed-7", "bed-7", "bed-9", "bed-9", "", ""]
    assert a.current("patch-1") == a.at("pump-1", after(1)) == ""


def test_after_a_restart_it_goes_on_and_what_lies_between_is_nobody_s() -> None:
    a, again, same = Assignments(), Assignments(), Assignments()
    kept = [a.assign("patch-1", "bed-7", NOW), a.assign("pump-1", "bed-8", NOW), a.assign("pump-1", "", after(1))]
    new = again.begin(kept, after(-990, "two"))
    assert new == [Assigned("patch-1", "bed-7", "two", 10 * NS_PER_S)]
    assert again.at("patch-1", after(5)) == "bed-7"  # taken before the restart, still waiting
    assert again.at("patch-1", after(-995, "two")) == ""
    assert again.at("patch-1", after(0, "two")) == "bed-7"
    assert again.at("patch-1", after(0, "three")) == ""
    assert again.current("pump-1") == ""
    assert same.begin(kept, after(30)) == []  # the daemon alone was restarted
    assert same.at("patch-1", after(20)) == "bed-7"


@pytest.mark.parametrize("token", ["Anna Smith", "a" * 33, "ä", "a/b", "\n", "-x", "a\x00"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InputError, match="token"):
        Assignments().assign("patch-1", token, NOW)


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 50)), max_size=30), st.integers(-10, 60))
def test_it_is_always_the_newest_that_began_before(entries: list[tuple[str, int]], when: int) -> None:
    entries.sort(key=lambda e: e[1])
    a = Assignments()
    for token, at in entries:
        a.assign("p", token, after(at))
    expected = [token for token, at in entries if at <= when]
    assert a.at("p", after(when)) == (expected[-1] if expected else "")


def test_it_is_bounded() -> None:
    a = Assignments()
    for n in range(KEPT + 50):
        a.assign("p", f"t{n}", after(n))
    assert a.at("p", after(10)) == "" and a.at("p", after(KEPT + 49)) == f"t{KEPT + 49}"


def test_a_message_says_whose_a_reading_is_and_nothing_when_it_is_nobody_s() -> None:
    batch = [one()]
    labelled = readings_message("gw", STREAM, batch, NOW, lambda device_id, at: "bed-7")
    (reading,) = follows("observations", labelled)["observations"]  # type: ignore[misc]
    assert reading["subject"] == "bed-7"
    assert "subject" not in json.loads(readings_message("gw", STREAM, batch, NOW))["observations"][0]
