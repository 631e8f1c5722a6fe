"""One device in full, from a real engine: evidence, flows, a difference with a name; profiles suggested; a certificate examined."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import InputError, RefusedError
from gateway.model.decision import FunctionDecision
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.effect import Adopt, Alarm, Grant, Record, Severity
from gateway.model.event import DeviceSeen, OperatorCommand
from gateway.model.instant import NS_PER_S
from gateway.model.sheet import Sheet
from gateway.picture import device_view
from gateway.proposal import refuse_taken, suggest
from gateway.relying import STEPS, examine
from gateway.repair import check_second_person
from gateway.sheets import evidence_since, sheet_of
from tests.certificates import Issuer
from tests.fakes.ward import Ward, profile
from tests.issuer.verdicts import NOW_NS, verdict


def sheet(ward: Ward, device_id: str = "pump-1") -> Sheet:
    s = ward.engine.standings[device_id]
    return sheet_of(s, device_view(s, ward.now, None, (), None), ward.now)


@pytest.fixture
def ward() -> Ward:
    made = Ward()
    made.link()
    return made


def test_evidence_says_what_when_and_over_which_channel(ward: Ward) -> None:
    assert {e.standing for e in sheet(ward).evidence} == {"none"}
    ward.attest_all()
    ward.now = ward.now.plus(3)
    rows = {e.target: e for e in sheet(ward).evidence}
    assert (rows["firmware"].standing, rows["firmware"].age_ms, rows["firmware"].evidence_class) == ("good", 3000, "asymmetric")
    assert rows["configuration"].channel.startswith("port:")
    since = ward.now
    ward.now = ward.now.plus(1)
    ward.registers[103] = 9
    ward.fingerprint()
    fresh = evidence_since(ward.engine.standings["pump-1"], since, ward.now)
    assert [(e.target, e.standing) for e in fresh] == [("configuration", "bad")]
    assert any("103" in f.text for f in fresh[0].findings)


def test_what_is_said_of_flows_agrees_with_the_decision_in_every_state(ward: Ward) -> None:
    for state in DeviceState:
        for prove in (True, False):
            made = Ward(state=state)
            made.link()
            if prove:
                made.attest_all()
            s = made.engine.standings["pump-1"]
            decided: dict[str, FunctionDecision] = {f.function: f for f in s.decision.functions} if s.decision else {}
            for flow in sheet(made).flows:
                f = s.profile.function(flow.function)
                partly = bool(f.always_allowed_writes) and state in (DeviceState.ENFORCED, DeviceState.SERVICE)
                allowed = decided[flow.function].allowed if decided else False
                if decided or state not in (DeviceState.OBSERVING, DeviceState.ENFORCED, DeviceState.SERVICE):
                    assert flow.open_now == (allowed or partly), (state, prove, flow)


def test_always_allowed_writes_are_named(ward: Ward) -> None:
    control = next(f for f in sheet(ward).functions if f.name == "control")
    assert control.always == ("write register 10, only 0",)
    assert "read holding registers 0 to 119" in control.rules


def accept(difference: str = "") -> OperatorCommand:
    return OperatorCommand("ada", "admin", "accept", "pump-1", (("difference", difference),) if difference else ())


def test_a_difference_is_accepted_by_its_name_and_by_no_other(ward: Ward) -> None:
    ward.attest_all()
    assert sheet(ward).difference_id == ""
    ward.feed(OperatorCommand("bea", "biomed", "service", "pump-1", (("minutes", "5"), ("reason", "update"))))
    ward.registers[103] = 9
    ward.fingerprint()
    shown = sheet(ward)
    assert [(d.name, d.reference, d.observed) for d in shown.difference] == [("register:103", "0007", "0009")]
    ward.registers[104] = 9  # it changes once more between the look and the press
    ward.fingerprint()
    effects = ward.feed(accept(shown.difference_id))
    assert not any(isinstance(e, Adopt) for e in effects)
    assert any(isinstance(e, Record) and "nothing was" in e.text for e in effects)
    assert ward.engine.standings["pump-1"].device.state is DeviceState.SERVICE
    effects = ward.feed(accept(sheet(ward).difference_id))
    assert any(isinstance(e, Adopt) for e in effects)
    assert ward.engine.standings["pump-1"].device.state is DeviceState.ENFORCED


def test_profiles_are_suggested_by_what_a_device_offers_before_what_it_calls_itself() -> None:
    names = ("heart-rate-patch", "pulse-oximeter", "infusion-pump", "temperature-beacon")
    every = {p.id: p for p in map(profile, names)}
    seen = DeviceSeen(Bus.BLE, "C0:00:00:00:00:09", "Pulse oximeter", "attestation, heart-rate")
    rows = suggest(seen, every)
    assert [r.profile for r in rows[:2]] == ["heart-rate-patch", "pulse-oximeter"]
    assert all(r.fits for r in rows[:2])
    assert "infusion-pump" not in {r.profile for r in rows}
    assert "a name alone proves nothing" in rows[1].why[-1]
    nothing = suggest(DeviceSeen(Bus.BLE, "C0:00:00:00:00:0A", "unnamed", "attestation"), every)
    assert not any(r.fits for r in nothing)
    assert suggest(DeviceSeen(Bus.HL7, "10.77.0.9", "x"), every) == ()
    needs = {r.profile: r.passkey for r in rows}
    assert needs["heart-rate-patch"] and not needs["temperature-beacon"]


def test_a_seen_device_is_reported_again_with_its_newest_signal(ward: Ward) -> None:
    ward.feed(DeviceSeen(Bus.BLE, "C0:00:00:00:00:09", "patch", "heart-rate", -80))
    _, first = ward.engine.found()["C0:00:00:00:00:09"]
    ward.now = ward.now.plus(600)
    effects = ward.feed(DeviceSeen(Bus.BLE, "C0:00:00:00:00:09", "patch", "heart-rate", -40))
    assert not any(isinstance(e, Record) for e in effects)  # told once
    seen, at = ward.engine.found()["C0:00:00:00:00:09"]
    assert (seen.signal_dbm, at.seconds_since(first)) == (-40, 600)


def test_a_host_on_a_cable_may_have_any_wired_profile_and_its_calls_speak_for_one() -> None:
    every = {p.id: p for p in map(profile, ("heart-rate-patch", "infusion-pump", "bedside-monitor"))}
    call = next(f for function in every["bedside-monitor"].functions for f in function.flows if f.from_device)
    seen = DeviceSeen(None, "02:00:00:00:00:19", "unnamed", f"udp 10.0.0.9 53, tcp {call.peer} {call.port}", port="p-3")
    rows = suggest(seen, every)
    assert [(r.profile, r.fits) for r in rows] == [("bedside-monitor", True), ("infusion-pump", False)]
    assert rows[0].why == (f"it calls {call.peer} at tcp port {call.port}, as this profile lets it",)
    looking = suggest(DeviceSeen(None, "02:00:00:00:00:19", "unnamed", f"arp 10.0.0.9, arp {call.peer}", port="p-3"), every)
    assert (looking[0].profile, looking[0].fits) == ("bedside-monitor", True)
    assert looking[0].why == (f"it looks for {call.peer}, which this profile lets it call",)
    silent = suggest(DeviceSeen(None, "02:00:00:00:00:19", "unnamed", port="p-3"), every)
    assert {(r.profile, r.fits) for r in silent} == {("bedside-monitor", False), ("infusion-pump", False)}


def test_a_host_is_found_until_it_is_added_and_is_no_card_of_the_ward(ward: Ward) -> None:
    pump = ward.engine.standings["pump-1"].device
    assert pump.binding is not None
    ward.feed(DeviceSeen(None, pump.binding.mac, "unnamed", port="p-9"))
    effects = ward.feed(DeviceSeen(None, "02:00:00:00:00:19", "unnamed", port="p-3", addresses=("10.77.0.19",)))
    assert [e.text for e in effects if isinstance(e, Record) and e.kind == "seen"] == [
        "a new host 02:00:00:00:00:19 on p-3 was seen; it gets nothing"
    ]
    assert list(ward.engine.found()) == ["02:00:00:00:00:19"]


def test_no_port_and_nobody_on_the_air_fills_the_list(ward: Ward) -> None:
    for i in range(300):
        ward.now = ward.now.plus(1)
        ward.feed(DeviceSeen(None, f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}", "unnamed", port="p-3"))
    assert list(ward.engine.found()) == [f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}" for i in range(300 - 16, 300)]
    for i in range(300):
        ward.now = ward.now.plus(1)
        ward.feed(DeviceSeen(Bus.BLE, f"C0:00:00:00:{i >> 8:02X}:{i & 255:02X}", "x"))
    assert len(ward.engine.found()) == 256 + 16
    assert "C0:00:00:00:01:2B" in ward.engine.found(), "the newest is there"
    ward.feed(DeviceSeen(None, "02:00:00:00:00:99", "unnamed", port="p-4"))
    assert "02:00:00:00:00:99" in ward.engine.found(), "another port is not hurt"
    for i in range(16):
        ward.feed(DeviceSeen(None, f"02:00:00:00:09:{i:02x}", "unnamed", port="p-4"))
        ward.feed(DeviceSeen(None, f"02:00:00:00:09:{i:02x}", "unnamed", port="p-3"))
    assert sum(e.port == "p-3" for e, _ in ward.engine.found().values()) == 16


def test_an_examination_names_the_step_that_fails() -> None:
    issuer, other = Issuer(), Issuer()
    bundle, at = issuer.bundles(verdict())["pump-1"], NOW_NS + 60 * NS_PER_S
    good = examine(bundle, issuer.ca.pem, at)
    assert good.ok
    assert [r.ok for r in good.rows] == [True] * len(STEPS)
    assert any(line.startswith("level") for line in good.lines)
    cases = {
        0: examine(bundle, b"garbage", at),
        1: examine(bundle[:-1], issuer.ca.pem, at),
        3: examine(bundle, other.ca.pem, at),
        5: examine(bundle, issuer.ca.pem, at + 3600 * NS_PER_S),
    }
    for step, found in cases.items():
        assert not found.ok
        assert [r.ok for r in found.rows] == [True] * step + [False] + [None] * (len(STEPS) - step - 1), step
        assert found.lines == ()
        assert found.rows[step].text


def test_a_difference_that_is_no_longer_there_is_refused_before_it_is_recorded(ward: Ward) -> None:
    ward.attest_all()
    ward.feed(OperatorCommand("bea", "biomed", "service", "pump-1", (("minutes", "5"), ("reason", "update"))))
    ward.registers[103] = 9
    ward.fingerprint()
    s = ward.engine.standings["pump-1"]
    check_second_person(s, accept(sheet(ward).difference_id))
    with pytest.raises(RefusedError, match="something else by now"):
        check_second_person(s, accept("0" * 64))
    with pytest.raises(RefusedError, match="opened this repair"):
        check_second_person(s, OperatorCommand("bea", "biomed", "accept", "pump-1"))


def test_a_claim_on_anothers_address_takes_nothing_from_its_owner(ward: Ward) -> None:
    ward.attest_all()
    assert int(ward.engine.standings["pump-1"].level) >= 2
    own = ward.devices
    binding = Binding("p-9", "02:00:00:00:00:99", ("10.77.0.11", "10.77.0.99"))
    claim = replace(own[0], id="pump-9", address="10.77.0.99", state=DeviceState.PROPOSED, binding=binding)
    for devices in ((*own, claim), own):  # proposed, and removed again
        ward.now = ward.now.plus(1)
        effects = ward.feed(replace(ward.configured(), devices=devices))
        leases = [e.lease for e in effects if isinstance(e, Grant) and e.lease.device_id == "pump-9"]
        assert [lease.addresses for lease in leases] == [("10.77.0.99",)]
        assert int(ward.engine.standings["pump-1"].level) >= 2


def test_an_address_or_a_mac_belongs_to_one_device() -> None:
    def wired(device_id: str, mac: str, *addresses: str) -> Device:
        return Device(device_id, "Pump", Bus.MODBUS, "infusion-pump", addresses[0], binding=Binding("p-1", mac, addresses))

    pump = wired("pump-1", "02:00:00:00:00:01", "10.77.0.11", "fd77::11")
    refuse_taken(wired("pump-2", "02:00:00:00:00:02", "10.77.0.12"), [pump])
    for other in (wired("x", "02:00:00:00:00:02", "10.77.0.12", "fd77::11"), wired("x", "02:00:00:00:00:01", "10.77.0.12")):
        with pytest.raises(InputError, match=r"belongs to Pump \(pump-1\); look at the device's label"):
            refuse_taken(other, [pump])


def test_break_glass_rings_as_long_as_it_lasts_and_says_who_and_why(ward: Ward) -> None:
    ward.attest_all()
    arguments = (("function", "maintenance"), ("minutes", "2"), ("reason", "pump stuck"))
    effects = ward.feed(OperatorCommand("nurse-1", "clinical", "break-glass", "pump-1", arguments))
    text = "pump-1: maintenance is open by break-glass for 2 min: nurse-1: pump stuck"
    assert [(e.severity, e.text) for e in effects if isinstance(e, Alarm)] == [(Severity.ALARM, text)]
    assert text in [e.text for e in effects if isinstance(e, Record)]
    assert ward.engine.standings["pump-1"].alarms["break-glass"] == text
    assert not [e for e in ward.pass_time(119) if isinstance(e, Alarm) and e.code == "break-glass"]
    ended = [e for e in ward.pass_time(2) if isinstance(e, Alarm) and e.code == "break-glass"]
    assert [e.raised for e in ended] == [False]
