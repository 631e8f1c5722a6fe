"""A profile's own tests: what must pass and what must not, tried on what the kernel and the drivers would get."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gateway.errors import InputErrors
from gateway.policy.profile import parse_profile, parse_with_trials
from gateway.policy.trials import try_profile
from tests.policy.ward import PEERS, pump_table, table

CONTROL = {"peer": "clients", "opened_by": "peer", "protocol": "tcp", "port": 502}
WRITE = {"function_code": 6, "address": 20, "values": [5]}
STOP = {"function_code": 6, "address": 10, "values": [0]}


def test(what: str = "it", level: int = 2, expect: str = "pass", **more: Any) -> dict[str, Any]:
    return {"what": what, "level": level, "expect": expect, **more}


test.__test__ = False  # type: ignore[attr-defined]


def tried(tests: list[dict[str, Any]], data: dict[str, Any] | None = None) -> list[bool]:
    profile, trials = parse_with_trials({**(data or pump_table()), "test": tests}, PEERS)
    return [t.ok for t in try_profile(profile, trials)]


@pytest.mark.parametrize(
    ("level", "more", "passes"),
    [
        (2, {**CONTROL, "request": WRITE}, True),
        (1, {**CONTROL, "request": WRITE}, False),
        (0, {**CONTROL, "request": STOP}, True),  # stopping is never blocked
        (2, {**CONTROL, "request": {"function_code": 6, "address": 10, "values": [2]}}, False),  # not a value of its rule
        (3, {**CONTROL, "request": {"function_code": 6, "address": 30, "values": [1]}}, False),
        (3, {**CONTROL, "request": {"function_code": 3, "address": 100, "count": 20}}, True),
        (3, {**CONTROL, "request": {"function_code": 3, "address": 100, "count": 21}}, False),
        (2, {**CONTROL, "port": 7000}, False),
        (3, {**CONTROL, "port": 7000}, True),
        (3, {**CONTROL, "port": 7001}, False),
        (3, {**CONTROL, "port": 7000, "protocol": "udp"}, False),
        (3, {**CONTROL, "peer": "10.9.9.9"}, False),
        (0, {"peer": "central", "opened_by": "device", "protocol": "tcp", "port": 6000}, True),  # vital
        (3, {"peer": "central", "opened_by": "peer", "protocol": "tcp", "port": 6000}, False),  # the other way round
    ],
)
def test_a_trial_says_what_the_kernel_and_the_proxy_would(level: int, more: dict[str, Any], passes: bool) -> None:
    assert tried([test(level=level, expect="pass" if passes else "refuse", **more)]) == [True]
    assert tried([test(level=level, expect="refuse" if passes else "pass", **more)]) == [False]


def test_wireless_and_hl7_devices_are_tried_too() -> None:
    patch = table("heart-rate-patch")
    notify = {"characteristic": "2A37", "access": "notify"}
    assert tried([test(level=2, **notify), test(level=1, expect="refuse", **notify)], patch) == [True, True]
    assert tried([test(level=3, expect="refuse", characteristic="2A37", access="write")], patch) == [True]
    monitor = table("bedside-monitor")
    rule = monitor["function"][0]["hl7"][0]
    route = {"peer": "central", "opened_by": "device", "protocol": "tcp", "port": monitor["function"][0]["flow"][0]["port"]}
    wanted = {k: rule[k] for k in ("application", "facility", "message")}
    assert tried([test(level=2, request=wanted, **route)], monitor) == [True]
    assert tried([test(level=2, expect="refuse", request={**wanted, "message": "ADT^A01"}, **route)], monitor) == [True]
    assert tried([test(level=0, expect="refuse", request=wanted, **route)], monitor) == [True]


def test_every_mistake_of_a_test_is_told_with_its_path() -> None:
    wrong = [{"level": 7, "expect": "maybe", "peer": "nobody", "opened_by": "me", "protocol": "icmp", "port": "x", "wrong": 1}]
    with pytest.raises(InputErrors) as e:
        parse_profile({**pump_table(), "test": wrong}, PEERS)
    paths = {path for path, _ in e.value.problems}
    assert {f"test[0].{k}" for k in ("what", "level", "expect", "peer", "opened_by", "protocol", "port", "wrong")} <= paths


def test_a_profile_that_no_device_could_be_given_is_told_so() -> None:
    data = copy.deepcopy(pump_table())
    data["function"][1]["flow"][0]["peer"] = "198.51.100.1"  # the gateway's own address, as a trial sees it
    profile, trials = parse_with_trials(data, PEERS)
    with pytest.raises(InputErrors, match="cannot be enforced"):
        try_profile(profile, trials)


def test_a_draft_s_open_questions_are_refused() -> None:
    with pytest.raises(InputErrors, match="a range of ports"):
        parse_profile({**pump_table(), "undecided": [{"what": "acl/x", "why": "it names a range of ports"}]}, PEERS)


def test_the_shipped_profiles_pass_their_own_tests() -> None:
    peers = {**PEERS}
    for name in ("infusion-pump", "bedside-monitor", "heart-rate-patch"):
        profile, trials = parse_with_trials(table(name, "image"), peers)
        assert trials, name
        assert all(t.ok for t in try_profile(profile, trials)), name


def test_tests_are_no_part_of_what_a_profile_is() -> None:
    from gateway.policy.decide import profile_digest

    with_tests = parse_profile({**pump_table(), "test": [test(**CONTROL)]}, PEERS)
    assert profile_digest(with_tests) == profile_digest(parse_profile(pump_table(), PEERS))
