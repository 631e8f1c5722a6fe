"""What is proposed of what was seen: bounded whatever a device sends, never obeyed, honest about guesses."""

from __future__ import annotations

import struct
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enforcer.told import opens
from gateway.errors import InputErrors
from gateway.learned import MAX_FLOWS, Learned
from gateway.model.device import DeviceState
from gateway.policy.profile import parse_profile
from tests.policy.ward import PEERS, profiles, pump

PUMP = pump(DeviceState.OBSERVING)
ADDRESSES = {PUMP.id: PUMP.ip_addresses}
HOSP = "10.77.0.100"


def seen(source: str, target: str, sport: int, dport: int, *, count: int = 1, **more: Any) -> dict[str, Any]:
    base = {"event": "seen", "device": "pump-1", "source": source, "destination": target, "protocol": "tcp"}
    return {**base, "source_port": sport, "port": dport, "opens": False, "count": count, **more}


def proposed(learned: Learned, nearby: tuple[str, ...] = ()) -> list[tuple[str, str, str, int]]:
    found = tomllib.loads(learned.propose(PUMP, profiles()["infusion-pump"], PEERS, nearby)["draft"])
    return [(f["peer"], f["opened_by"], f["protocol"], f["port"]) for fn in found.get("function", []) for f in fn["flow"]]


def test_an_opening_packet_says_who_opens_and_an_answer_is_the_same_flow() -> None:
    learned = Learned()
    learned.note(seen("10.77.0.11", "10.9.0.1", 40000, 50000, opens=True, count=3), ADDRESSES)
    learned.note(seen("10.77.0.11", HOSP, 40001, 123, protocol="udp"), ADDRESSES)
    learned.note(seen(HOSP, "10.77.0.11", 123, 40001, protocol="udp", count=2), ADDRESSES)
    learned.note(seen("10.9.0.2", "10.77.0.11", 51000, 8080), ADDRESSES)
    assert set(proposed(learned)) == {
        ("10.9.0.1", "device", "tcp", 50000),
        ("central", "device", "udp", 123),  # by the site's name for it
        ("10.9.0.2", "peer", "tcp", 8080),
    }
    answer = learned.propose(PUMP, profiles()["infusion-pump"], PEERS, ())
    notes = {f["peer"]: f["note"] for f in answer["flows"]}
    assert notes["10.9.0.1"] == "3 packets"
    assert notes["central"] == "3 packets; who opens it is a guess"


def test_what_the_profile_names_already_is_not_proposed_again() -> None:
    learned = Learned()
    learned.note(seen("10.77.0.11", HOSP, 40000, 6000, opens=True), ADDRESSES)
    assert proposed(learned) == []


def test_a_neighbour_behind_the_gateway_is_nothing_that_a_profile_can_open() -> None:
    learned = Learned()
    learned.note(seen("10.77.0.11", "10.77.0.12", 40000, 22, opens=True), ADDRESSES)
    answer = learned.propose(PUMP, profiles()["infusion-pump"], PEERS, ["10.77.0.12"])
    assert answer["flows"] == []
    with pytest.raises(InputErrors, match=r"10\.77\.0\.12"):
        parse_profile(tomllib.loads(answer["draft"]), PEERS)


def test_neither_level_nor_on_loss_is_proposed() -> None:
    learned = Learned()
    learned.note(seen("10.77.0.11", "10.9.0.1", 40000, 443, opens=True), ADDRESSES)
    with pytest.raises(InputErrors) as e:
        parse_profile(tomllib.loads(learned.propose(PUMP, profiles()["infusion-pump"], PEERS, ())["draft"]), PEERS)
    assert {"function[0].required", "function[0].on_loss"} <= {path for path, _ in e.value.problems}


def test_a_device_that_scans_fills_its_own_bound_and_is_named() -> None:
    learned = Learned()
    learned.note(seen("10.77.0.11", HOSP, 40000, 8443, opens=True), ADDRESSES)
    for n in range(5000):
        learned.note(seen("10.77.0.11", f"10.{n % 200}.{n % 250}.9", 40000, n % 60000 + 1, opens=True), ADDRESSES)
    answer = learned.propose(PUMP, profiles()["infusion-pump"], PEERS, ())
    assert len(answer["flows"]) <= MAX_FLOWS and answer["others"] > 4000
    assert any("scans" in note for note in answer["notes"]) and "scans" in answer["draft"]
    assert ("central", "device", "tcp", 8443) in proposed(learned)
    [(_, text)] = learned.changed()
    assert len(text) < 16_000
    assert learned.changed() == []


def test_a_stranger_s_packets_and_those_of_devices_not_observed_count_for_nobody() -> None:
    learned = Learned()
    for event in (
        seen("10.1.1.1", "10.2.2.2", 1, 2),
        seen("10.77.0.11", "fd77::11", 1, 2),
        seen("10.77.0.11", HOSP, 40000, 443, device="other"),
        seen("10.77.0.11", HOSP, 40000, 443, count=0),
        seen("10.77.0.11", HOSP, 40000, 443, count="1"),
    ):
        learned.note(event, ADDRESSES)
    assert learned.changed() == []
    for target in ("224.0.0.1", "10.77.0.255", "ff02::1", "nobody"):
        learned.note(seen("10.77.0.11", target, 40000, 443), ADDRESSES)
    assert proposed(learned) == []


def test_a_restart_forgets_nothing_and_a_broken_note_is_forgotten() -> None:
    learned, again = Learned(), Learned()
    learned.note(seen("10.77.0.11", "10.9.0.1", 40000, 443, opens=True), ADDRESSES)
    rows = learned.changed()
    again.restore([*rows, ("x", "{"), ("y", "[]"), ("z", '{"flows":[[1]],"others":0}'), ("w", '{"flows":[],"others":"x"}')])
    assert proposed(again) == proposed(learned) != []


ANY = st.none() | st.text(max_size=20) | st.integers() | st.booleans() | st.just("10.77.0.11") | st.just(HOSP)


@given(st.fixed_dictionaries({k: ANY for k in ("source", "destination", "protocol", "source_port", "port", "opens", "count")}))
def test_no_event_breaks_it(event: dict[str, Any]) -> None:
    learned = Learned()
    learned.note({"device": "pump-1", **event}, ADDRESSES)
    for device in (PUMP, replace(PUMP, name="x" * 80)):
        tomllib.loads(learned.propose(device, profiles()["infusion-pump"], PEERS, ())["draft"])


def _tcp(flags: int, six: bool) -> bytes:
    head = bytes([0x60]) + bytes(5) + b"\x06" + bytes(33) if six else bytes([0x46]) + bytes(8) + b"\x06" + bytes(14)
    return head + struct.pack(">HHIIBBHHH", 40000, 443, 0, 0, 0x50, flags, 0, 0, 0)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize(("flags", "first"), [(0x02, True), (0xC2, True), (0x12, False), (0x10, False), (0x04, False)])
def test_the_first_packet_of_a_connection_is_known_by_its_flags(flags: int, first: bool, six: bool) -> None:
    packet = _tcp(flags, six)
    assert opens(packet) is first
    assert not any(opens(packet[:n]) for n in range((40 if six else 24) + 13))
