from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import InputErrors, RefusedError
from gateway.model.device import Bus
from gateway.model.evidence import EvidenceClass
from gateway.model.level import TrustLevel
from gateway.model.profile import Flow, GattRule, Mailbox, ModbusRule, OnLoss, Protocol
from gateway.policy.decide import profile_digest
from gateway.policy.profile import parse_profile, raise_required
from tests.policy.ward import PEERS, pump_table, table


def problems(data: dict[str, Any], peers: Any = PEERS) -> dict[str, str]:
    with pytest.raises(InputErrors) as e:
        parse_profile(data, peers)
    return dict(e.value.problems)


def test_pump_profile() -> None:
    p = parse_profile(table("infusion-pump"), PEERS)
    assert (p.id, p.bus, p.clinical_class) == ("infusion-pump", Bus.MODBUS, "IIb")
    firmware, configuration = p.targets
    assert firmware.mailbox == Mailbox(0x9000, 0x9100)
    assert firmware.evidence_class is EvidenceClass.ASYMMETRIC
    assert configuration.objects == (0, 1, 2) and configuration.registers == ((100, 119),)
    control, maintenance, monitoring = p.functions
    assert control.flows == (
        Flow("10.77.0.100", Protocol.TCP, 502, False, True),
        Flow("fd77::100", Protocol.TCP, 502, False, True),
    )
    assert control.always_allowed_writes == (ModbusRule(6, 10, 10, TrustLevel.NONE, (0,)),)
    assert ModbusRule(16, 10, 10, TrustLevel.STANDARD, (0, 1)) in control.rules
    assert ModbusRule(3, 0, 119, TrustLevel.STANDARD) in control.rules
    assert (maintenance.required, maintenance.on_loss) == (TrustLevel.FULL, OnLoss.CUT)
    assert monitoring.on_loss is OnLoss.VITAL and monitoring.required is TrustLevel.NONE
    assert monitoring.flows[0] == Flow("10.77.0.100", Protocol.TCP, 6000, True)


def test_patch_profile() -> None:
    p = parse_profile(table("heart-rate-patch"))
    assert p.functions[0].rules == (GattRule("2A37", "notify", TrustLevel.STANDARD),)


@pytest.mark.parametrize("name", ["infusion-pump", "heart-rate-patch"])
def test_shipped_examples_parse(name: str) -> None:
    assert parse_profile(table(name, "image"), PEERS).id == name


def test_read_only_reads_pass_from_level_one_and_writes_need_the_level() -> None:
    control = parse_profile(table("infusion-pump", "image"), PEERS).function("control")
    assert control.on_loss is OnLoss.READ_ONLY
    levels = {r.function_code: r.level for r in control.rules if isinstance(r, ModbusRule)}
    assert levels == {3: TrustLevel.LIMITED, 4: TrustLevel.LIMITED, 6: TrustLevel.STANDARD, 16: TrustLevel.STANDARD}


def test_missing_on_loss_has_its_own_message() -> None:
    data = pump_table()
    del data["function"][1]["on_loss"]
    found = problems(data)
    assert list(found) == ["function[1].on_loss"]
    assert "There is no default" in found["function[1].on_loss"]
    assert all(word in found["function[1].on_loss"] for word in ("cut", "read_only", "vital"))


def test_vital_through_the_proxy_is_refused() -> None:
    data = pump_table()
    control = data["function"][0]
    control["on_loss"] = "vital"
    del control["required"]
    assert "vital needs direct flows" in problems(data)["function[0].on_loss"]


def test_vital_with_a_level_is_refused() -> None:
    data = pump_table()
    data["function"][2]["required"] = 1
    assert list(problems(data)) == ["function[2].required"]


# Each damage: what to do to the pump's table, and the path that must be named.
DAMAGES: dict[str, tuple[Any, str]] = {
    "bus": (lambda d: d.update(bus="modbuss"), "bus"),
    "clinical class": (lambda d: d.pop("clinical_class"), "clinical_class"),
    "unknown key": (lambda d: d.update(clinicalclass="IIb"), "clinicalclass"),
    "half-life looser": (lambda d: d.setdefault("half_life_s", {}).update(asymmetric=601), "half_life_s.asymmetric"),
    "half-life unknown": (lambda d: d.setdefault("half_life_s", {}).update(asymetric=60), "half_life_s.asymetric"),
    "offline cap": (lambda d: d.update(offline_cap_s=1e9), "offline_cap_s"),
    "interval": (lambda d: d["target"][0].update(interval_s=0), "target[0].interval_s"),
    "class of evidence": (lambda d: d["target"][1].update(evidence_class="tpm"), "target[1].evidence_class"),
    "no mailbox": (lambda d: d["target"][0].pop("mailbox"), "target[0].mailbox"),
    "mailbox key": (lambda d: d["target"][0]["mailbox"].update(nnce=1), "target[0].mailbox.nnce"),
    "registers": (lambda d: d["target"][1].update(registers=[[119, 100]]), "target[1].registers"),
    "reference": (
        lambda d: d.update(reference=[{"target": "x", "name": "register:100", "number": 1, "provenance": "maker"}]),
        "reference[0].target",
    ),
    "peer": (lambda d: d["function"][1]["flow"][0].update(peer="client"), "function[1].flow[0].peer"),
    "port": (lambda d: d["function"][1]["flow"][0].update(port=70000), "function[1].flow[0].port"),
    "level": (lambda d: d["function"][1].update(required=4), "function[1].required"),
    "a bool is no number": (lambda d: d["function"][1].update(required=True), "function[1].required"),
    "write among reads": (lambda d: d["function"][0]["reads"][0].update(function_code=16), "function[0].reads[0].function_code"),
    "span": (lambda d: d["function"][0]["writes"][0].update(span=[10, 9]), "function[0].writes[0].span"),
    "always without values": (
        lambda d: d["function"][0]["always_allowed_writes"][0].pop("values"),
        "function[0].always_allowed_writes[0].values",
    ),
    "vital twice": (lambda d: d["function"][2]["flow"][0].update(protocl="tcp"), "function[2].flow[0].protocl"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_mistake_is_told_with_its_path(name: str) -> None:
    damage, path = DAMAGES[name]
    data = pump_table()
    damage(data)
    assert path in problems(data)


@given(st.lists(st.sampled_from(sorted(DAMAGES)), min_size=3, max_size=3, unique=True))
def test_any_three_mistakes_are_all_told(names: list[str]) -> None:
    assume(not {"mailbox key", "no mailbox"} <= set(names))  # a key of what is not there is no mistake
    data = pump_table()
    paths = []
    for name in names:
        damage, path = DAMAGES[name]
        damage(data)
        paths.append(path)
    found = problems(data)
    assert set(paths) <= set(found), (names, found)


def test_hints_name_the_nearest() -> None:
    data = pump_table(buss="modbus")
    data["function"][1]["flow"][0]["peer"] = "client"
    found = problems(data)
    assert "did you mean bus?" in found["buss"]
    assert "did you mean clients?" in found["function[1].flow[0].peer"]


def test_required_beyond_the_evidence_is_refused() -> None:
    data = pump_table()
    data["target"] = [data["target"][1]]  # a fingerprint alone
    assert "can prove level 2 at most" in problems(data)["function.maintenance"]


def test_rules_must_fit_the_bus_and_the_flow() -> None:
    data = pump_table()
    data["function"][0]["gatt"] = [{"characteristic": "2A37", "access": "notify"}]
    data["function"][1]["reads"] = [{"function_code": 3}]
    found = problems(data)
    assert "another bus" in found["function[0]"]
    assert "via = true" in found["function[1].flow"]


def test_a_proxied_function_without_rules_is_refused() -> None:
    data = pump_table()
    for key in ("reads", "writes"):
        del data["function"][0][key]
    assert "nothing would pass" in problems(data)["function[0].reads"]


def test_function_code_23_is_explained() -> None:
    data = pump_table()
    data["function"][0]["writes"][0]["function_code"] = 23
    assert "under 3 and its write span under 16" in problems(data)["function[0].writes[0].function_code"]


def test_peers_of_the_site_must_be_addresses() -> None:
    assert "peers.central" in problems(pump_table(), {**PEERS, "central": "10.77.0.300"})


def test_references_in_all_three_forms() -> None:
    rows = [
        {"target": "configuration", "name": "object:0", "text": "Acme", "provenance": "maker", "countersigned": True},
        {"target": "configuration", "name": "register:100", "number": 513, "provenance": "hospital"},
        {"target": "firmware", "name": "component:1", "hex": "00ff", "provenance": "learned"},
    ]
    values = parse_profile(pump_table(reference=rows), PEERS).values
    assert [v.value for v in values] == [b"Acme", b"\x02\x01", b"\x00\xff"]
    assert [v.countersigned for v in values] == [True, False, False]


def test_reference_values_given_twice_or_badly() -> None:
    rows = [
        {"target": "firmware", "name": "a", "hex": "00", "text": "x", "provenance": "maker"},
        {"target": "firmware", "name": "b", "hex": "0", "provenance": "maker"},
        {"target": "firmware", "name": "c", "number": 65536, "provenance": "maker"},
    ]
    assert set(problems(pump_table(reference=rows))) == {"reference[0].hex", "reference[1].hex", "reference[2].number"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "bus", "function", "target", "flow", "reads", "name", "peer"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_garbage_is_always_input_errors(value: Any) -> None:
    with pytest.raises(InputErrors):
        parse_profile(value, PEERS)


@given(st.data())
def test_garbage_in_one_place_is_input_errors_or_a_profile(data: st.DataObject) -> None:
    table_ = pump_table()
    path = data.draw(st.sampled_from(list(_paths(table_))))
    value = data.draw(st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3), st.floats()))
    _set(table_, path, value)
    try:
        parse_profile(table_, PEERS)
    except InputErrors as e:
        assert all(what and "Traceback" not in what for _, what in e.problems)


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _set(node: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = copy.deepcopy(value)


def test_a_site_may_ask_for_more_never_for_less() -> None:
    p = parse_profile(table("infusion-pump"), PEERS)
    control = raise_required(p, {"control": 3}).function("control")
    assert control.required is TrustLevel.FULL
    assert {r.level for r in control.rules} == {TrustLevel.FULL}
    assert control.always_allowed_writes == p.function("control").always_allowed_writes
    for wrong in ({"control": 1}, {"control": 4}, {"monitoring": 1}, {"nothing": 3}):
        with pytest.raises(RefusedError):
            raise_required(p, wrong)
    assert p.function("control").required is TrustLevel.STANDARD


def test_raising_a_read_only_function_leaves_its_reads() -> None:
    p = raise_required(parse_profile(table("infusion-pump", "image"), PEERS), {"control": 3})
    levels = {r.function_code: r.level for r in p.function("control").rules if isinstance(r, ModbusRule)}
    assert levels == {3: TrustLevel.LIMITED, 4: TrustLevel.LIMITED, 6: TrustLevel.FULL, 16: TrustLevel.FULL}


def test_digest_follows_content() -> None:
    p = parse_profile(table("infusion-pump"), PEERS)
    assert profile_digest(p) == profile_digest(parse_profile(table("infusion-pump"), PEERS))
    assert profile_digest(p) != profile_digest(raise_required(p, {"control": 3}))
