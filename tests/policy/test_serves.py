"""What the gateway itself offers, as elements: for present wired devices, family by family, and for nobody else."""

from __future__ import annotations

from gateway.enforcer.document import check_document
from gateway.model.device import DeviceState
from gateway.policy.compile import Serves, compile_document
from gateway.policy.difference import difference
from tests.policy.ward import GATEWAY, patch, profiles, pump

SERVES = Serves((("udp", 53, 1), ("udp", 123, 0)), dhcp=True)
MAC = "02:57:47:00:00:11"


def compiled(state: DeviceState = DeviceState.ENFORCED, serves: Serves = SERVES) -> dict[str, list[list[object]]]:
    document = compile_document([pump(state), patch()], profiles(), GATEWAY, serves=serves)
    check_document(document)
    return dict(document["sets"])


def test_a_wired_device_may_ask_for_what_is_served() -> None:
    sets = compiled()
    assert sets["dhcp_port"] == [["p-pump-1", MAC]]
    assert sets["dhcp_bind"] == [["ward0", MAC]]
    assert ["10.77.0.11", "10.77.0.1", "udp", 53] in sets["rtl1_4"]
    assert ["fd77::11", "fd77::1", "udp", 53] in sets["rtl1_6"]
    assert ["10.77.0.11", "10.77.0.1", "udp", 123] in sets["rtl0_4"]
    assert ["10.77.0.11", "10.77.0.1", "udp", 67] in sets["rtl0_4"]
    assert not [e for e in sets["rtl0_6"] if e[3] == 67]  # IPv6 addresses are set on the device


def test_observing_too_and_whoever_is_out_not_at_all() -> None:
    assert compiled(DeviceState.OBSERVING)["dhcp_port"] == [["p-pump-1", MAC]]
    out = compiled(DeviceState.SUSPENDED)
    assert "dhcp_port" not in out
    assert not any(e[3] in (53, 67, 123) for name in out if name.startswith("rtl") for e in out[name])


def test_a_gateway_that_serves_nothing_has_the_document_it_always_had() -> None:
    assert compile_document([pump()], profiles(), GATEWAY) == compile_document([pump()], profiles(), GATEWAY, serves=Serves())
    assert "dhcp_port" not in compiled(serves=Serves())


def test_the_person_who_confirms_reads_it() -> None:
    before = compile_document([pump()], profiles(), GATEWAY)
    after = compile_document([pump()], profiles(), GATEWAY, serves=SERVES)
    lines = difference(before, after)
    assert f"{MAC} may ask this gateway for its address, on port p-pump-1" in lines
    assert f"{MAC} may no longer ask this gateway for its address, on port p-pump-1" in difference(after, before)
    assert any("10.77.0.11 to 10.77.0.1, udp port 53: needs level 1" in line for line in lines)
