"""Who may talk to whom now: the confirmed document's flows at each level, in each state; and what was refused, counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.landscape import landscape
from gateway.model.event import Behaviour
from gateway.model.landscape import Passing
from gateway.tally import KEPT_MS, Tally
from tests.fakes.console import FakeConsole
from tests.fakes.house import _CONTROL, _MAINTENANCE, _MONITORING, DOCUMENT, GROUND


def passing(console: FakeConsole, document: dict = DOCUMENT) -> dict[str, str]:
    land = landscape(console.view(), document, GROUND, ())
    return {f"{lane.device_id}.{lane.function}": lane.passing.name for s in land.spots for lane in s.lanes}


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        (3, {"control": "OPEN", "maintenance": "OPEN", "monitoring": "ALWAYS"}),
        (2, {"control": "OPEN", "maintenance": "SHUT", "monitoring": "ALWAYS"}),
        (0, {"control": "HELD", "maintenance": "SHUT", "monitoring": "ALWAYS"}),
    ],
)
def test_a_pumps_flows_follow_its_level_and_the_vital_one_does_not(level: int, wanted: dict[str, str]) -> None:
    console = FakeConsole()
    console.set_level("pump-1", level, "a reason")
    found = passing(console)
    assert {n: found[f"pump-1.{n}"] for n in wanted} == wanted


def test_without_a_lease_the_kernel_has_no_level_whatever_the_engine_thinks() -> None:
    console = FakeConsole()
    console._lease_ends["pump-1"] = 0
    assert passing(console)["pump-1.maintenance"] == "SHUT"
    assert passing(console)["pump-1.monitoring"] == "ALWAYS"


def test_an_observed_device_passes_and_says_so() -> None:
    console = FakeConsole()
    console.set_level("pump-1", 0, "a reason")
    document = {**DOCUMENT, "sets": {**DOCUMENT["sets"], "seen4": [["10.77.0.11"]]}}
    found = passing(console, document)
    assert found["pump-1.maintenance"] == found["pump-1.control"] == "WATCHED"


def test_an_opening_by_break_glass_is_drawn_as_what_it_is_until_it_closes() -> None:
    console = FakeConsole()
    console.set_level("pump-1", 0, "a reason")
    glass = {tuple(e): 900_000 for e in (_MAINTENANCE, _CONTROL, _MONITORING)} | {("10.77.0.11", "tcp", 502): 900_000}
    land = landscape(console.view(), DOCUMENT, GROUND, (), glass)
    lanes = {lane.function: lane for s in land.spots if s.id == "pump-1" for lane in s.lanes}
    assert {n: (x.passing.name, x.until_ms) for n, x in lanes.items()} == {
        "maintenance": ("GLASS", 900_000), "control": ("GLASS", 900_000), "monitoring": ("ALWAYS", None),
    }  # fmt: skip
    assert lanes["maintenance"].word == "open by break-glass"
    assert not lanes["control"].proxied, "it goes past the proxy meanwhile"
    before = {lane.function: lane for s in landscape(console.view(), DOCUMENT, GROUND, ()).spots for lane in s.lanes}
    assert (before["control"].proxied, before["control"].passing) == (True, Passing.HELD)


def test_a_device_that_is_not_in_the_policy_has_no_flow() -> None:
    console = FakeConsole()
    land = landscape(console.view(), {"version": 1, "devices": {}, "functions": {}, "sets": {}}, GROUND, ())
    assert [len(s.lanes) for s in land.spots if s.bus != "ble"] == [0, 0]


@pytest.mark.parametrize(
    "document", [{}, {"sets": 7}, {"sets": {"vital4": "x", "rtl3_4": [7, []]}, "functions": [], "devices": {"pump-1": 3}}]
)
def test_a_document_that_is_none_draws_nothing_and_raises_nothing(document: dict) -> None:
    land = landscape(FakeConsole().view(), document, GROUND, ())
    assert not [lane for s in land.spots for lane in s.lanes if lane.peer]


def test_names_of_one_host_are_one_host_and_both_families_one_line() -> None:
    console = FakeConsole()
    ground = replace(GROUND, peers={**GROUND.peers, "archive": ("10.77.0.100", "fd77::9")})
    flow6 = ["fd77::11", "fd77::100", "tcp", 6000]
    document = {
        **DOCUMENT,
        "devices": {**DOCUMENT["devices"], "pump-1": {"cap": 3, "addresses": ["10.77.0.11", "fd77::11"]}},
        "functions": {"pump-1": {"monitoring": {**DOCUMENT["functions"]["pump-1"]["monitoring"], "set6": [flow6]}}},
        "sets": {**DOCUMENT["sets"], "vital6": [flow6]},
    }
    land = landscape(console.view(), document, ground, ())
    host = next(h for h in land.hosts if "10.77.0.100" in h.addresses)
    assert host.names == ("archive", "central", "broker")
    lanes = next(s for s in land.spots if s.id == "pump-1").lanes
    assert [(x.families, x.passing) for x in lanes] == [(("IPv4", "IPv6"), Passing.ALWAYS)]


def test_the_gateways_own_way_out_is_shut_while_the_broker_is_not_reached() -> None:
    console = FakeConsole()
    assert [x.passing for x in landscape(console.view(), DOCUMENT, GROUND, ()).own] == [Passing.OPEN]
    console.parts["uplink"] = (False, "gone")
    assert [x.passing for x in landscape(console.view(), DOCUMENT, GROUND, ()).own] == [Passing.SHUT]


def test_refusals_are_counted_for_an_hour_and_a_flood_keeps_the_newest() -> None:
    tally = Tally()
    tally.add(Behaviour("pump-1", "denied", "a", 3), 0)
    tally.add(Behaviour("pump-1", "denied", "a", 2), 1000)
    tally.add(Behaviour("pump-1", "seen", "only observed", 9), 1000)
    assert [(r.count, r.last_ms) for r in tally.lately(2000)] == [(5, 1000)]
    tally.add(Behaviour("pump-1", "denied", "a", 1), 1000 + KEPT_MS + 1)
    assert [r.count for r in tally.lately(1000 + KEPT_MS + 1)] == [1]
    for i in range(2000):
        tally.add(Behaviour("", "denied", f"flood {i}"), 10**9)
    found = tally.lately(10**9)
    assert len(found) == 500
    assert found[0].text == "flood 1999"
