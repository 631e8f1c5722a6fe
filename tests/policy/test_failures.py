"""The failure table of every profile of the bench: each sentence is checked against what decides it."""

from __future__ import annotations

import pytest

from gateway.model.device import Bus
from gateway.model.evidence import EvidenceClass
from gateway.model.profile import Acknowledge, OnLoss, Profile
from gateway.policy.failures import Failure, FailureRow, failure_table
from gateway.policy.profile import parse_profile
from tests.policy.ward import PEERS, ROOT, table

NAMES = sorted(p.stem for p in (ROOT / "hil" / "profiles").glob("*.toml"))
DAEMON = (Failure.DAEMON_DEAD, Failure.DAEMON_HUNG)


@pytest.fixture(params=NAMES)
def profile(request: pytest.FixtureRequest) -> Profile:
    return parse_profile(table(request.param), PEERS)


def cells(profile: Profile) -> dict[tuple[str, Failure], FailureRow]:
    rows = failure_table(profile)
    found = {(r.function, r.failure): r for r in rows}
    assert len(found) == len(rows) == len(profile.functions) * len(Failure)
    return found


def test_the_bench_has_all_kinds() -> None:
    kinds = [parse_profile(table(n), PEERS) for n in NAMES]
    assert {p.bus for p in kinds} == set(Bus)
    assert {f.on_loss for p in kinds for f in p.functions} >= {OnLoss.CUT, OnLoss.VITAL}


def test_what_lives_in_the_daemon_ends_with_it_and_what_is_vital_does_not(profile: Profile) -> None:
    found = cells(profile)
    for f in profile.functions:
        for failure in DAEMON:
            said = found[f.name, failure].passes
            if f.on_loss is OnLoss.VITAL:
                assert said == "passes: it needs no lease"
            elif not f.flows or any(flow.via for flow in f.flows):
                assert "at once" in said
                assert ("own buttons" in said) is bool(f.always_allowed_writes)
            else:
                assert "until its lease lapses" in said


def test_the_enforcer_rings_for_those_who_have_a_lease_only(profile: Profile) -> None:
    found = cells(profile)
    for f in profile.functions:
        for failure in DAEMON:
            assert found[f.name, failure].alarm.startswith("the enforcer rings") is bool(f.flows)


def test_without_the_enforcer_stopping_still_passes_and_the_radio_does_not_notice(profile: Profile) -> None:
    found = cells(profile)
    for f in profile.functions:
        said = found[f.name, Failure.ENFORCER_DEAD].passes
        assert ("stop commands still pass" in said) is bool(f.always_allowed_writes)
        assert said.startswith("passes")
        assert ("lease lapses" in said) is (bool(f.flows) and f.on_loss is not OnLoss.VITAL)


def test_keys_sealed_in_the_tpm_are_missing_after_a_restart_without_it(profile: Profile) -> None:
    shared = any(t.evidence_class in (EvidenceClass.SYMMETRIC, EvidenceClass.BEACON) for t in profile.targets)
    for f in profile.functions:
        assert ("has no keys" in cells(profile)[f.name, Failure.TPM].passes) is shared


def test_a_route_says_what_it_does_without_its_receiver(profile: Profile) -> None:
    for f in profile.functions:
        said = cells(profile)[f.name, Failure.UPLINK].passes
        assert ("answered AE" in said) is (f.acknowledge is Acknowledge.END_TO_END)
        assert ("kept on disk" in said) is (f.acknowledge is Acknowledge.STORED)
        assert ("outbox" in said) is (profile.bus is Bus.BLE)


def test_without_power_nothing_passes(profile: Profile) -> None:
    for f in profile.functions:
        assert cells(profile)[f.name, Failure.POWER].passes.startswith("nothing")
