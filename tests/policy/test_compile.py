from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enforcer.document import check_document
from gateway.errors import InputErrors
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.profile import Flow, OnLoss, Protocol
from gateway.policy.compile import canonical, compile_document, document_id
from gateway.policy.difference import difference
from tests.policy.ward import BINDING, GATEWAY, patch, profiles, pump

PROFILES = profiles()


def compiled(*devices: Device, **options: Any) -> dict[str, Any]:
    return compile_document(devices, PROFILES, GATEWAY, **options)


def refused(*devices: Device, gateway: Iterable[str] = GATEWAY, table: Any = PROFILES) -> dict[str, str]:
    with pytest.raises(InputErrors) as e:
        compile_document(devices, table, tuple(gateway))
    found: dict[str, str] = {}
    for path, what in e.value.problems:
        found[path] = f"{found.get(path, '')} {what}"
    return found


V4 = {
    "port4": [["p-pump-1", "02:57:47:00:00:11", "10.77.0.11"]],
    "bind4": [["ward0", "02:57:47:00:00:11", "10.77.0.11"]],
    "vital4": [["10.77.0.11", "10.77.0.100", "tcp", 6000]],
}
V6 = {
    "port6": [["p-pump-1", "02:57:47:00:00:11", "fd77::11"]],
    "bind6": [["ward0", "02:57:47:00:00:11", "fd77::11"]],
    "vital6": [["fd77::11", "fd77::100", "tcp", 6000]],
}
EMPTY = {f"{n}{v}": [] for n in ("port", "bind", "vital", "seen", "via", "uplink") for v in (4, 6)} | {
    f"rtl{k}_{v}": [] for k in range(4) for v in (4, 6)
}


def test_enforced_exactly() -> None:
    document = compiled(pump(), patch())
    assert document["version"] == 1
    assert document["devices"] == {
        "pump-1": {"cap": 3, "addresses": ["10.77.0.11", "fd77::11"]},
        "patch-1": {"cap": 3, "addresses": []},
    }
    assert document["sets"] == {
        **EMPTY,
        **V4,
        **V6,
        "rtl0_4": [["10.77.0.1", "10.77.0.11", "tcp", 502], ["10.77.0.100", "10.77.0.11", "tcp", 502]],
        "rtl0_6": [["fd77::1", "fd77::11", "tcp", 502], ["fd77::100", "fd77::11", "tcp", 502]],
        "rtl3_4": [["10.77.0.100", "10.77.0.11", "tcp", 7000]],
        "rtl3_6": [["fd77::100", "fd77::11", "tcp", 7000]],
        "via4": [["10.77.0.11", "tcp", 502, 15502]],
        "via6": [["fd77::11", "tcp", 502, 15502]],
    }
    assert document["functions"]["pump-1"]["maintenance"] == {
        "set4": [["10.77.0.100", "10.77.0.11", "tcp", 7000]],
        "set6": [["fd77::100", "fd77::11", "tcp", 7000]],
        "via4": [],
        "via6": [],
    }
    assert document["functions"]["pump-1"]["control"]["via4"] == [["10.77.0.11", "tcp", 502]]
    assert set(document["functions"]["pump-1"]) == {"control", "maintenance", "monitoring"}


def test_observed_has_the_same_flows_is_seen_and_not_proxied() -> None:
    observed, enforced = compiled(pump(DeviceState.OBSERVING)), compiled(pump())
    changed = {"seen4": [["10.77.0.11"]], "seen6": [["fd77::11"]], "via4": [], "via6": []}
    assert observed["sets"] == {**enforced["sets"], **changed}
    assert all(not f["via4"] and not f["via6"] for f in observed["functions"]["pump-1"].values())


@pytest.mark.parametrize("state", [DeviceState.PROPOSED, DeviceState.SUSPENDED, DeviceState.RETIRED])
def test_who_is_out_is_not_there_at_all(state: DeviceState) -> None:
    document = compiled(pump(state), patch(state))
    assert document["sets"] == EMPTY
    assert document["devices"] == {} and document["functions"] == {}


def test_service_is_as_enforced() -> None:
    assert compiled(pump(DeviceState.SERVICE)) == compiled(pump())


def test_without_always_allowed_writes_the_proxied_port_needs_the_lowest_rule() -> None:
    p = PROFILES["infusion-pump"]
    control = replace(p.function("control"), always_allowed_writes=())
    table = {"infusion-pump": replace(p, functions=(control, *p.functions[1:]))}
    sets = compile_document([pump()], table, GATEWAY)["sets"]
    assert sets["rtl0_4"] == [["10.77.0.1", "10.77.0.11", "tcp", 502]]
    assert sets["rtl2_4"] == [["10.77.0.100", "10.77.0.11", "tcp", 502]]


def test_a_flow_of_two_functions_opens_at_the_lower_level() -> None:
    p = PROFILES["infusion-pump"]
    easier = replace(p.function("maintenance"), name="log", required=1)  # type: ignore[arg-type]
    sets = compile_document([pump()], {"infusion-pump": replace(p, functions=(*p.functions, easier))}, GATEWAY)["sets"]
    assert sets["rtl1_4"] == [["10.77.0.100", "10.77.0.11", "tcp", 7000]]
    assert sets["rtl3_4"] == []


def test_one_family_devices() -> None:
    only4 = Binding("p-pump-1", "02:57:47:00:00:11", ("10.77.0.11",))
    sets = compile_document([pump(binding=only4)], PROFILES, GATEWAY)["sets"]
    assert all(not elements for name, elements in sets.items() if name.endswith("6"))


# --- what cannot be enforced ---

SECOND = Binding("p-pump-2", "02:57:47:00:00:12", ("10.77.0.12", "fd77::12"))


def test_shared_address_mac_and_port_are_refused() -> None:
    for binding, claim in (
        (replace(SECOND, addresses=("10.77.0.11",)), "10.77.0.11"),
        (replace(SECOND, mac=BINDING.mac), BINDING.mac),
        (replace(SECOND, port="p-pump-1"), "port p-pump-1"),
    ):
        found = refused(pump(), pump(binding=binding, id="pump-2"))
        assert claim in found["devices.pump-2"] and "pump-1" in found["devices.pump-2"]


def test_a_retired_device_holds_no_address() -> None:
    compiled(pump(DeviceState.RETIRED, id="pump-0"), pump())


def test_the_same_id_twice_is_refused() -> None:
    assert "twice" in refused(patch(), patch())["devices.patch-1"]


def test_the_gateways_address_is_refused() -> None:
    taken = Binding("p-pump-1", "02:57:47:00:00:11", ("10.77.0.1",))
    assert "the gateway" in refused(pump(binding=taken))["devices.pump-1"]


def test_peer_is_the_device() -> None:
    itself = Binding("p-pump-1", "02:57:47:00:00:11", ("10.77.0.100",))
    found = refused(pump(binding=itself))
    assert "the device itself" in found["devices.pump-1.monitoring"]


def test_peer_is_another_device_behind_this_gateway() -> None:
    other = replace(SECOND, addresses=("10.77.0.100",))
    found = refused(pump(), pump(binding=other, id="pump-2"))
    assert any("between two devices" in what for what in found.values())


def test_no_common_family() -> None:
    found = refused(pump(binding=replace(BINDING, addresses=("fd77::11",))), table=_only_v4())
    assert "family" in found["devices.pump-1.maintenance"]


def _only_v4() -> dict[str, Any]:
    p = PROFILES["infusion-pump"]
    functions = tuple(replace(f, flows=tuple(x for x in f.flows if ":" not in x.peer)) for f in p.functions)
    return {"infusion-pump": replace(p, functions=functions)}


def test_gateway_without_the_family_cannot_attest() -> None:
    assert "no IPv6 address" in refused(pump(), gateway=("10.77.0.1",))["devices.pump-1.control"]


def test_vital_and_earned_at_once() -> None:
    p = PROFILES["infusion-pump"]
    earned = replace(p.function("monitoring"), name="also", on_loss=OnLoss.CUT, required=2)  # type: ignore[arg-type]
    found = refused(pump(), table={"infusion-pump": replace(p, functions=(*p.functions, earned))})
    assert "vital in one function" in found["devices.pump-1"]


def test_a_vital_flow_to_a_proxied_port() -> None:
    p = PROFILES["infusion-pump"]
    flow = Flow("10.77.0.101", Protocol.TCP, 502, from_device=False)
    around = replace(p.function("monitoring"), name="around", flows=(flow,))
    found = refused(pump(), table={"infusion-pump": replace(p, functions=(*p.functions, around))})
    assert "proxied in one function" in found["devices.pump-1.around"]


def test_unknown_profile_wrong_bus_no_proxy_no_binding() -> None:
    assert "not loaded" in refused(pump(), table={})["devices.pump-1"]
    wrong = replace(PROFILES["heart-rate-patch"], id="infusion-pump")
    assert "is for ble" in refused(pump(), table={"infusion-pump": wrong})["devices.pump-1"]
    loose = Device("pump-1", "Pump", Bus.MODBUS, "infusion-pump", "10.77.0.11", DeviceState.ENFORCED)
    assert "needs its port" in refused(loose)["devices.pump-1"]
    with pytest.raises(InputErrors, match="no proxy for modbus"):
        compile_document([pump()], PROFILES, GATEWAY, proxy_ports={})


def test_all_reasons_at_once() -> None:
    found = refused(pump(), pump(binding=BINDING, id="pump-2"), patch(), patch(), gateway=("10.77.0.x",))
    assert {"gateway_addresses", "devices.pump-2", "devices.patch-1", "devices.pump-1.control"} <= set(found)


# --- the document ---


def test_canonical_bytes_and_id() -> None:
    document = compiled(pump(), patch())
    raw = canonical(document)
    assert json.loads(raw) == document
    assert raw == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert document_id(document) == hashlib.sha256(raw).hexdigest()
    assert document_id(compiled(patch(), pump())) == document_id(document)


def _wards() -> st.SearchStrategy[list[Device]]:
    def device(n: int, state: DeviceState, six: bool) -> Device:
        addresses = (f"10.77.1.{n}", f"fd77::1:{n:x}") if six else (f"10.77.1.{n}",)
        return pump(state, Binding(f"p{n}", f"02:57:47:00:01:{n:02x}", addresses), id=f"pump-{n}")

    one = st.builds(device, st.integers(1, 250), st.sampled_from(list(DeviceState)), st.booleans())
    return st.lists(one, max_size=6, unique_by=lambda d: d.id)


@given(_wards())
def test_families_never_mix_and_flows_touch_only_their_device(devices: list[Device]) -> None:
    document = compile_document(devices, PROFILES, GATEWAY)
    present = {a for d in devices if d.id in document["devices"] for a in d.ip_addresses}
    for name, elements in document["sets"].items():
        assert elements == [list(e) for e in {tuple(e): None for e in elements}], "no element twice"
        for element in elements:
            addresses = [p for p in element if _is_address(p)]
            assert {ipaddress.ip_address(a).version for a in addresses} == {int(name[-1])}
            assert present & set(addresses), (name, element)
    for d in devices:
        check_document(document)  # what the loader takes
        gone = d.state in (DeviceState.PROPOSED, DeviceState.SUSPENDED, DeviceState.RETIRED)
        assert (d.id in document["devices"]) is not gone
        seen = {e[0] for v in (4, 6) for e in document["sets"][f"seen{v}"]}
        assert (d.ip_addresses[0] in seen) is (d.state is DeviceState.OBSERVING)


@pytest.mark.parametrize("state", [DeviceState.ENFORCED, DeviceState.OBSERVING, DeviceState.SERVICE])
def test_the_loader_takes_what_is_compiled(state: DeviceState) -> None:
    document = compiled(pump(state), patch(state))
    checked = check_document(document)
    assert checked.document_id == document_id(document)
    assert checked.canonical == canonical(document)


def _is_address(part: Any) -> bool:
    try:
        return isinstance(part, str) and bool(ipaddress.ip_address(part))
    except ValueError:
        return False


# --- differences ---


def test_difference_of_enforce() -> None:
    lines = difference(compiled(pump(DeviceState.OBSERVING)), compiled(pump()))
    assert "10.77.0.11 is enforced: it gets what its level earns" in lines
    assert "tcp port 502 of 10.77.0.11 goes through the proxy on port 15502" in lines
    assert len(lines) == 4


def test_difference_names_every_kind_of_change() -> None:
    moved = Binding("p-pump-9", "02:57:47:00:00:99", ("10.77.0.11",))
    lines = difference(compiled(pump()), compiled(pump(binding=moved)))
    assert "10.77.0.11 may speak from port p-pump-9" in lines
    assert "10.77.0.11 no longer may speak from port p-pump-1" in lines
    assert "pump-1 has the addresses 10.77.0.11" in lines
    gone = difference(compiled(pump(), patch()), compiled(patch()))
    assert "pump-1 is no longer let onto the network" in gone
    assert "10.77.0.11 to 10.77.0.100, tcp port 6000: no longer a flow of the policy (vital, needs no level before)" in gone


def test_no_difference_and_the_first_document() -> None:
    assert difference(compiled(pump()), compiled(pump())) == []
    lines = difference({}, compiled(pump()))
    assert "pump-1 is let onto the network, at level 3 at most" in lines
    assert "10.77.0.100 to 10.77.0.11, tcp port 7000: needs level 3" in lines
    assert "10.77.0.100 to 10.77.0.11, tcp port 502: open at any level (the proxy checks what passes)" in lines


@given(_wards(), _wards())
def test_a_difference_is_empty_only_for_the_same_document(a: list[Device], b: list[Device]) -> None:
    old, new = (compile_document(x, PROFILES, GATEWAY) for x in (a, b))
    assert (difference(old, new) == []) is (document_id(old) == document_id(new))
