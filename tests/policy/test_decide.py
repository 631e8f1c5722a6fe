from __future__ import annotations

import pytest

from gateway.model.decision import Decision
from gateway.model.device import DeviceState
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import ModbusRule, Profile
from gateway.policy.decide import decide, rules_for, would_cut
from gateway.policy.failures import Failure, failure_table
from gateway.policy.profile import parse_profile
from tests.policy.ward import PEERS, profiles, table

PUMP = profiles()["infusion-pump"]
PATCH = profiles()["heart-rate-patch"]
READ_ONLY = parse_profile(table("infusion-pump", "image"), PEERS)
UNTIL = Instant("boot", 30_000_000_000, 0)
OUT = (DeviceState.PROPOSED, DeviceState.SUSPENDED, DeviceState.RETIRED)


def at(state: DeviceState, level: int, profile: Profile = PUMP) -> Decision:
    return decide(profile, state, TrustLevel(level), "its firmware is the maker's", UNTIL, "policy", "pump-1")


def allowed(decision: Decision) -> set[str]:
    return {f.function for f in decision.functions if f.allowed}


@pytest.mark.parametrize(
    ("level", "passing"),
    [
        (0, {"monitoring"}),
        (1, {"monitoring"}),
        (2, {"monitoring", "control"}),
        (3, {"monitoring", "control", "maintenance"}),
    ],
)
def test_enforced_gets_what_its_level_earns(level: int, passing: set[str]) -> None:
    decision = at(DeviceState.ENFORCED, level)
    assert allowed(decision) == passing
    assert (decision.device_id, decision.level, decision.policy_id) == ("pump-1", level, "policy")
    for f in decision.functions:
        assert f.until == (UNTIL if f.allowed and f.function != "monitoring" else None)
        assert f.reason


def test_reasons_say_what_is_needed_and_what_stays() -> None:
    reasons = {f.function: f.reason for f in at(DeviceState.ENFORCED, 1).functions}
    assert "needs level 2, has 1" in reasons["control"] and "stop commands still pass" in reasons["control"]
    assert reasons["maintenance"] == "needs level 3, has 1: its firmware is the maker's"
    assert "never cut" in reasons["monitoring"]
    assert "reads still pass" in at(DeviceState.ENFORCED, 1, READ_ONLY).functions[0].reason
    assert "reads still pass" not in at(DeviceState.ENFORCED, 0, READ_ONLY).functions[0].reason


def test_observing_cuts_nothing_and_says_what_it_would() -> None:
    decision = at(DeviceState.OBSERVING, 2)
    assert allowed(decision) == {"control", "maintenance", "monitoring"}
    assert all(f.until is None for f in decision.functions)
    assert "Enforce would cut it" in {f.function: f.reason for f in decision.functions}["maintenance"]


def test_would_cut() -> None:
    assert would_cut(PUMP, TrustLevel.NONE) == ("control", "maintenance")
    assert would_cut(PUMP, TrustLevel.STANDARD) == ("maintenance",)
    assert would_cut(PUMP, TrustLevel.FULL) == ()
    assert would_cut(READ_ONLY, TrustLevel.NONE) == ("control",)
    assert would_cut(READ_ONLY, TrustLevel.LIMITED) == ("control (writes)",)


@pytest.mark.parametrize("level", range(4))
def test_would_cut_is_what_enforce_cuts(level: int) -> None:
    for profile in (PUMP, PATCH, READ_ONLY):
        cut = {name.removesuffix(" (writes)") for name in would_cut(profile, TrustLevel(level))}
        assert cut == {f.function for f in at(DeviceState.ENFORCED, level, profile).functions if not f.allowed}


@pytest.mark.parametrize("state", OUT)
def test_who_is_out_gets_nothing_and_no_rules(state: DeviceState) -> None:
    assert allowed(at(state, 3)) == set()
    assert rules_for(PUMP, TrustLevel.FULL, state) == ()


def test_service_keeps_the_held_level_and_takes_no_writes_but_stop() -> None:
    assert allowed(at(DeviceState.SERVICE, 2)) == {"control", "monitoring"}
    rules = rules_for(PUMP, TrustLevel.STANDARD, DeviceState.SERVICE)
    codes = {r.function_code for r in rules if isinstance(r, ModbusRule) and r.level > 0}
    assert codes == {3, 4, 43}
    assert ModbusRule(6, 10, 10, TrustLevel.NONE, (0,)) in rules
    assert rules_for(PATCH, TrustLevel.STANDARD, DeviceState.SERVICE) == PATCH.rules


def test_rules_while_observing_need_no_level_and_enforced_rules_are_the_profiles() -> None:
    assert {r.level for r in rules_for(PUMP, TrustLevel.NONE, DeviceState.OBSERVING)} == {TrustLevel.NONE}
    assert rules_for(PUMP, TrustLevel.NONE, DeviceState.ENFORCED) == PUMP.rules


def test_more_level_never_allows_less() -> None:
    for state in DeviceState:
        for low in range(3):
            assert allowed(at(state, low)) <= allowed(at(state, low + 1))


def test_failure_table_has_every_cell_and_means_it() -> None:
    rows = failure_table(PUMP)
    assert {(r.function, r.failure) for r in rows} == {(f.name, x) for f in PUMP.functions for x in Failure}
    cells = {(r.function, r.failure): r for r in rows}
    assert cells["monitoring", Failure.DAEMON_DEAD].passes == "passes: it needs no lease"
    assert "30 s" in cells["maintenance", Failure.DAEMON_HUNG].passes
    assert "at once" in cells["control", Failure.DAEMON_DEAD].passes
    assert "enforcer rings" in cells["maintenance", Failure.DAEMON_DEAD].alarm
    assert "nothing" in cells["monitoring", Failure.POWER].passes
    assert "radio" in {r.failure: r for r in failure_table(PATCH)}[Failure.POWER].passes
