"""HL7 in profiles and in the policy: how a route acknowledges has no default, and its flows begin at the device."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from gateway.enforcer.document import DocumentError, check_document
from gateway.errors import InputErrors
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.level import TrustLevel
from gateway.model.profile import Acknowledge, Flow, Function, OnLoss, Protocol
from gateway.policy.compile import compile_document
from gateway.policy.difference import difference
from gateway.policy.failures import Failure, failure_table
from gateway.policy.profile import parse_profile, raise_required
from tests.policy.ward import GATEWAY, PEERS, PUMP, table

MONITOR = table("bedside-monitor")
BINDING = Binding("p-mon-1", "02:57:47:00:00:12", ("10.77.0.12", "fd77::12"))


def changed(function: int = 0, **values: Any) -> dict[str, Any]:
    """The monitor's profile with values of one function replaced; None takes one away."""
    data = copy.deepcopy(MONITOR)
    for key, value in values.items():
        data["function"][function][key] = value
        if value is None:
            del data["function"][function][key]
    return data


def refused(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InputErrors) as e:
        parse_profile(data, PEERS)
    return dict(e.value.problems)


def monitor(state: DeviceState = DeviceState.ENFORCED) -> Device:
    return Device("monitor-1", "Monitor", Bus.HL7, "bedside-monitor", "10.77.0.12", state, BINDING)


def compiled(state: DeviceState = DeviceState.ENFORCED, data: dict[str, Any] = MONITOR) -> dict[str, Any]:
    return compile_document([monitor(state)], {"bedside-monitor": parse_profile(data, PEERS)}, GATEWAY)


@pytest.mark.parametrize("where", ["hil", "image"])
def test_the_shipped_profiles(where: str) -> None:
    profile = parse_profile(table("bedside-monitor", where), PEERS)
    how = {f.name: (f.acknowledge, f.too_old_s) for f in profile.functions}
    assert how == {"vitals": (Acknowledge.END_TO_END, 86_400.0), "results": (Acknowledge.STORED, 86_400.0)}
    assert raise_required(profile, {"results": 3}).function("results").rules[0].level == 3


def test_how_a_route_acknowledges_has_no_default() -> None:
    assert "There is no default" in refused(changed(acknowledge=None))["function[0].acknowledge"]
    assert "end_to_end, stored" in refused(changed(acknowledge="sometimes"))["function[0].acknowledge"]
    assert "nothing of an end_to_end route ever waits" in refused(changed(too_old_s=60))["function[0].too_old_s"]
    assert "not between" in refused(changed(1, too_old_s=0))["function[1].too_old_s"]
    assert parse_profile(changed(1, too_old_s=3600), PEERS).function("results").too_old_s == 3600


def test_only_hl7_acknowledges_and_only_hl7_is_proxied_from_the_device() -> None:
    pump = copy.deepcopy(PUMP)
    pump["function"][0]["acknowledge"] = "stored"
    assert "HL7 rules" in refused(pump)["function[0].acknowledge"]
    pump = copy.deepcopy(PUMP)
    pump["function"][0]["flow"][0]["opened_by"] = "device"
    assert "cannot go through the modbus proxy" in refused(pump)["function[0].flow"]
    with pytest.raises(ValueError, match="and no other, says how it acknowledges"):
        Function("x", TrustLevel.LIMITED, OnLoss.CUT, (), (), (), Acknowledge.STORED)
    with pytest.raises(ValueError, match="only a TCP flow"):
        Flow("10.77.0.100", Protocol.UDP, 2575, from_device=True, via=True)


@pytest.mark.parametrize("state", [DeviceState.ENFORCED, DeviceState.SERVICE, DeviceState.OBSERVING])
def test_its_flows_are_redirected_at_any_level_and_the_gateway_may_dial_the_receiver(state: DeviceState) -> None:
    document = compiled(state)
    sets = document["sets"]
    assert sets["rtl0_4"] == [["10.77.0.12", "10.77.0.100", "tcp", 2575], ["10.77.0.12", "10.77.0.100", "tcp", 2576]]
    assert sets["via6"] == [["fd77::12", "tcp", 2575, 15575], ["fd77::12", "tcp", 2576, 15575]]
    assert sets["uplink4"] == [["10.77.0.100", "tcp", 2575], ["10.77.0.100", "tcp", 2576]]
    assert sets["seen4"] == ([["10.77.0.12"]] if state is DeviceState.OBSERVING else [])
    assert not any(sets[f"rtl{k}_{v}"] for k in (1, 2, 3) for v in (4, 6))
    vitals = document["functions"]["monitor-1"]["vitals"]
    assert vitals["set4"] == [["10.77.0.12", "10.77.0.100", "tcp", 2575]] and vitals["via4"] == [["10.77.0.12", "tcp", 2575]]
    check_document(document)


def test_a_port_is_proxied_or_direct_whoever_opens_it() -> None:
    data = copy.deepcopy(MONITOR)
    for peer, opened_by in (("10.77.0.101", "device"), ("clients", "peer")):
        direct = {"peer": peer, "opened_by": opened_by, "protocol": "tcp", "port": 2575}
        data["function"] = [*MONITOR["function"], {"name": "other", "on_loss": "vital", "flow": [direct]}]
        with pytest.raises(InputErrors, match="proxied in one function and direct in another"):
            compiled(data=data)


def test_the_loader_refuses_a_vital_flow_on_a_port_that_the_device_opens_through_a_proxy() -> None:
    document = compiled()
    document["sets"]["vital4"] = [["10.77.0.12", "10.77.0.100", "tcp", 2575]]
    with pytest.raises(DocumentError, match="vital is direct"):
        check_document(document)


def test_a_person_reads_what_changes_and_what_fails_when() -> None:
    lines = difference({}, compiled())
    assert "the gateway itself may dial 10.77.0.100, tcp port 2575" in lines
    assert "10.77.0.12 to 10.77.0.100, tcp port 2575: open at any level (the proxy checks what passes)" in lines
    rows = {(r.function, r.failure): r.passes for r in failure_table(parse_profile(MONITOR, PEERS))}
    assert "AE" in rows["vitals", Failure.UPLINK] and "delivered later" in rows["results", Failure.UPLINK]
    assert "stops at once" in rows["vitals", Failure.DAEMON_DEAD]


def test_without_an_address_of_its_family_a_flow_is_refused() -> None:
    four = replace(monitor(), binding=Binding("p-mon-1", "02:57:47:00:00:12", ("10.77.0.12",)))
    document = compile_document([four], {"bedside-monitor": parse_profile(MONITOR, PEERS)}, GATEWAY)
    assert document["sets"]["via6"] == [] and document["sets"]["uplink6"] == []
