"""The engine, on real profiles, tokens and fingerprints; replayed from its log it decides the same."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import codec
from gateway.engine import Engine
from gateway.model.device import DeviceState
from gateway.model.effect import Adopt, Alarm, Challenge, Effect, Issue, KeepState, KeepVeto, Record, SealEpoch
from gateway.model.event import Event, EvidenceFailed, LinkChanged, OperatorCommand, RouteChanged
from gateway.model.evidence import MediaType, Tier
from gateway.model.level import TrustLevel
from gateway.model.profile import Provenance
from hil.psa import signer_of
from tests.fakes.ward import Ward


def command(verb: str, actor: str = "ann-role", **arguments: str) -> OperatorCommand:
    return OperatorCommand(actor, "biomed", verb, "pump-1", tuple(arguments.items()))


@pytest.fixture
def ward() -> Ward:
    w = Ward()
    w.link()
    return w


def test_a_link_that_comes_up_is_challenged_for_every_target() -> None:
    asked = {(e.device_id, e.media_type) for e in Ward().link() if isinstance(e, Challenge)}
    assert asked == {("pump-1", MediaType.PSA), ("pump-1", MediaType.MODBUS), ("patch-1", MediaType.PSA)}


def test_honest_devices_reach_level_3_with_a_lease_and_a_certificate(ward: Ward) -> None:
    effects = ward.attest_all()
    assert ward.level("pump-1") == ward.level("patch-1") == 3
    grant = ward.grants(effects, "pump-1")[-1]
    assert grant.lease.addresses == ("10.77.0.11", "fd77::11") and not grant.revocation
    assert grant.lease.until.seconds_since(ward.now) == pytest.approx(30)
    verdicts = {e.verdict.device_id: e.verdict for e in effects if isinstance(e, Issue)}
    assert verdicts["patch-1"].tier is Tier.AFFIRMING
    assert verdicts["pump-1"].tier is Tier.WARNING and verdicts["pump-1"].vector.sourced_data == 32
    assert 60 < (verdicts["patch-1"].expires_utc_ns - ward.now.utc_ns) / 1e9 < 900


def test_half_of_the_evidence_is_not_enough(ward: Ward) -> None:
    assert not ward.grants(ward.token("pump-1"), "pump-1")  # the other target may still answer
    ward.feed(EvidenceFailed("pump-1", MediaType.MODBUS, "no answer"))
    assert ward.level("pump-1") == 1


def test_bad_evidence_is_a_veto_and_is_revoked_in_the_same_step(ward: Ward) -> None:
    ward.attest_all()
    ward.registers[103] = 9
    effects = ward.fingerprint()
    grant = ward.grants(effects, "pump-1")[0]
    assert grant.revocation and grant.lease.level is TrustLevel.NONE
    assert ward.level("pump-1") == 0 and ward.level("patch-1") == 3
    assert any(isinstance(e, KeepVeto) and e.raised for e in effects)
    alarm = next(e for e in effects if isinstance(e, Alarm))
    assert "103" in alarm.text and "monitoring stays" in alarm.text


def test_a_veto_is_not_lifted_by_other_evidence_nor_before_the_dwell_time(ward: Ward) -> None:
    ward.attest_all()
    ward.registers[103] = 9
    ward.fingerprint()
    ward.pass_time(20)
    ward.token("pump-1")  # a better class, about something else
    assert ward.level("pump-1") == 0
    ward.fingerprint()
    ward.registers[103] = 7
    ward.fingerprint()  # good again, but at once
    assert ward.level("pump-1") == 0
    ward.pass_time(11)
    effects = [*ward.fingerprint(), *ward.token("pump-1")]
    assert ward.level("pump-1") == 3
    assert any(isinstance(e, KeepVeto) and not e.raised for e in effects)
    assert any(isinstance(e, Alarm) and not e.raised for e in effects)


def test_a_veto_survives_a_restart(ward: Ward) -> None:
    again = Ward()
    effects = again.configure(vetoes=[("pump-1", MediaType.MODBUS, "configuration changed at register 103")])
    assert again.grants(effects, "pump-1")[0].revocation
    again.link()
    again.token("pump-1")
    assert again.level("pump-1") == 0


def test_a_stranger_cannot_lower_a_level(ward: Ward) -> None:
    ward.attest_all()
    stranger = signer_of("patch", ec.generate_private_key(ec.SECP256R1()))
    for payload in (b"", b"rubbish", stranger.token(bytes(32)), b"\xd2\x84"):
        nonce = ward.challenge("patch-1", MediaType.PSA)
        effects = ward.present("patch-1", MediaType.PSA, payload, nonce)
        assert not any(g.revocation for g in ward.grants(effects, "patch-1"))
    assert ward.level("patch-1") == 3
    assert "unauthenticated" in ward.engine.standings["patch-1"].alarms


def test_a_replayed_token_and_an_old_nonce_change_nothing(ward: Ward) -> None:
    ward.attest_all()
    old = ward.signers["patch-1"].token(bytes(32))
    nonce = ward.challenge("patch-1", MediaType.PSA)
    ward.present("patch-1", MediaType.PSA, old, nonce)
    assert ward.level("patch-1") == 3 and "replayed" in ward.engine.standings["patch-1"].alarms
    nonce = ward.challenge("patch-1", MediaType.PSA)
    token = ward.signers["patch-1"].token(nonce)
    ward.present("patch-1", MediaType.PSA, token, nonce)
    again = ward.present("patch-1", MediaType.PSA, token, nonce)  # a nonce counts once
    assert [e.kind for e in again if isinstance(e, Record)] == ["refused"]
    nonce = ward.challenge("patch-1", MediaType.PSA)
    ward.pass_time(31)
    late = ward.present("patch-1", MediaType.PSA, ward.signers["patch-1"].token(nonce), nonce)
    assert next(e.kind for e in late if isinstance(e, Record)) == "refused"


def test_leases_are_renewed_without_a_record(ward: Ward) -> None:
    ward.attest_all()
    effects = ward.pass_time(25)
    renewals = ward.grants(effects, "pump-1")
    assert renewals and all(g.renewal for g in renewals)
    assert not [e for e in effects if isinstance(e, Record) and e.device_id == "pump-1"]


def test_silence_ages_trust_until_nothing_is_left(ward: Ward) -> None:
    ward.attest_all()
    ward.link(up=False)
    levels = []
    for _ in range(400):
        ward.pass_time(30)
        levels.append(ward.level("patch-1"))
    assert levels == sorted(levels, reverse=True) and levels[-1] == 0
    assert {3, 2, 1, 0} <= set(levels)
    last = ward.grants(ward.effects, "patch-1")[-1]
    assert last.revocation and last.lease.level is TrustLevel.NONE


def test_a_lease_never_outlives_the_trust_it_rests_on(ward: Ward) -> None:
    ward.attest_all()
    ward.link(up=False)
    s, held, falls = ward.engine.standings["patch-1"], [], 0
    for _ in range(7000):
        before = s.level
        held += [g.lease for g in ward.grants(ward.pass_time(1), "patch-1") if g.lease.level]
        if s.level < before:
            falls += 1
            late = [x for x in held if x.level > s.level and x.until.seconds_since(s.since) > 0.05]
            assert not late, (
                f"a lease of level {late[0].level} lasts {late[0].until.seconds_since(s.since):.3f} s into level {s.level}"
            )
    assert falls == 3


def test_evidence_from_before_a_reconnection_counts_for_one_epoch_only(ward: Ward) -> None:
    ward.attest_all()
    ward.pass_time(1)
    ward.feed(LinkChanged("pump-1", False))
    ward.pass_time(1)
    ward.feed(LinkChanged("pump-1", True))
    assert ward.level("pump-1") == 3
    ward.pass_time(11)
    assert ward.level("pump-1") == 0


def test_while_observing_a_fingerprint_is_learned_and_enforce_confirms_it() -> None:
    ward = Ward(DeviceState.OBSERVING, with_reference=False)
    ward.link()
    effects = ward.attest_all()
    learned = next(e for e in effects if isinstance(e, Adopt))
    new = [v for v in learned.references.values if v.target == "configuration"]
    assert len(new) == 23 and all(v.provenance is Provenance.LEARNED and not v.countersigned for v in new)
    confirmed = next(e for e in ward.feed(command("enforce")) if isinstance(e, Adopt))
    assert all(v.countersigned for v in confirmed.references.values)


def test_service_mode_keeps_the_level_and_accept_adopts_the_difference(ward: Ward) -> None:
    ward.attest_all()
    ward.feed(command("service", minutes="5", reason="update"))
    ward.registers[103], ward.objects[2] = 9, b"2.0"
    effects = ward.fingerprint()
    assert not any(g.revocation for g in ward.grants(effects, "pump-1")) and ward.level("pump-1") == 3
    changed = {n for _, n, _, _ in ward.engine.standings["pump-1"].difference()}
    assert changed == {"register:103", "object:2"}
    effects = ward.feed(command("accept", "another-role"))
    assert any(isinstance(e, Adopt) for e in effects) and any(isinstance(e, KeepState) and e.state == "enforced" for e in effects)
    ward.fingerprint()
    assert ward.level("pump-1") == 3


@pytest.mark.parametrize("how", ["undo", "time"])
def test_a_repair_that_nobody_accepts_ends_as_what_it_looks_like(ward: Ward, how: str) -> None:
    ward.attest_all()
    ward.feed(command("service", minutes="5", reason="update"))
    ward.registers[103] = 9
    ward.fingerprint()
    if how == "undo":
        ward.feed(command("undo"))
    else:
        ward.pass_time(301)
    assert ward.level("pump-1") == 0 and ward.engine.standings["pump-1"].device.state is DeviceState.ENFORCED


def test_epochs_are_sealed_and_certificates_renewed(ward: Ward) -> None:
    ward.attest_all()
    effects = ward.pass_time(35)
    assert len([e for e in effects if isinstance(e, SealEpoch)]) >= 3
    assert len([e for e in effects if isinstance(e, Issue) and e.verdict.device_id == "patch-1"]) >= 3


def _story() -> Ward:
    ward = Ward()
    ward.link()
    ward.attest_all()
    ward.pass_time(12)
    ward.registers[104] = 1
    ward.fingerprint()
    ward.pass_time(15)
    ward.registers[104] = 7
    ward.fingerprint()
    ward.token("pump-1")
    ward.feed(command("service", minutes="2", reason="look"))
    ward.pass_time(200)
    ward.link(up=False)
    ward.pass_time(2000)
    return ward


def decisions(effects: list[Effect]) -> list[str]:
    return [e.text for e in effects if isinstance(e, Record) and e.kind == "decision"]


def test_the_log_replayed_gives_the_same_decisions() -> None:
    story = _story()
    plain = [(at, None if e is None else codec.to_plain(e)) for at, e in story.log]
    engine, again = Engine(), []
    for at, stored in plain:
        event: Event | None = None if stored is None else codec.from_plain(Event, stored)
        again += engine.receive(event, at) if event is not None else engine.wake(at)
    assert decisions(again) == decisions(story.effects) and len(decisions(again)) >= 6


def test_a_link_that_is_another_one_needs_evidence_at_once_and_rings_no_alarm(ward: Ward) -> None:
    """A device that says something else of itself is still there: an alarm that flashes would be a false one."""
    ward.attest_all()
    ward.pass_time(1.0)
    effects = ward.feed(LinkChanged("pump-1", up=True, anew=True))
    assert {e.media_type for e in effects if isinstance(e, Challenge)} == {MediaType.PSA, MediaType.MODBUS}
    assert not [e for e in effects if isinstance(e, Alarm)]
    assert ward.level("pump-1") == 3
    ward.pass_time(30.0)
    assert ward.level("pump-1") == 0  # what vouched for the old one is not kept
    again = ward.feed(LinkChanged("patch-1", up=False)) + ward.feed(LinkChanged("patch-1", up=True, anew=True))
    assert [(e.code, e.raised) for e in again if isinstance(e, Alarm)] == [("link-down", True), ("link-down", False)]


def test_a_route_without_its_other_end_rings_until_it_is_back(ward: Ward) -> None:
    away = RouteChanged("pump-1", "control", up=False, detail="the receiver is away; look at it")
    (alarm,) = [e for e in ward.feed(away) if isinstance(e, Alarm)]
    assert (alarm.device_id, alarm.code, alarm.raised) == ("pump-1", "route-control", True)
    assert "the receiver is away" in alarm.text and ward.engine.standings["pump-1"].alarms
    assert not [e for e in ward.feed(away) if isinstance(e, Alarm)]  # once
    (over,) = [e for e in ward.feed(RouteChanged("pump-1", "control", up=True)) if isinstance(e, Alarm)]
    assert not over.raised and "link-down" not in ward.engine.standings["pump-1"].alarms
    assert not [e for e in ward.feed(RouteChanged("nobody", "control", up=False)) if isinstance(e, Alarm)]
