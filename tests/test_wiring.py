"""Which wiring it is, and people's mistakes with cables, each by its own words.

The kernel's lists are written here as iproute2 prints them. VLAN devices exist in these lists only: the kernels that this is
developed on make none (``CONFIG_VLAN_8021Q`` is off), so *VLAN per device* has been tried against lists and never on a trunk.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.wiring import Kernel, Kind, Names, Place, Severity, Wiring, describe, hospital_of, places_of

PUMP = Place("pump-1", "p-pump-1", "02:57:47:00:00:11", ("10.77.0.11", "fd77::11"))
MONITOR = Place("monitor-1", "p-mon-1", "02:57:47:00:00:12", ("10.77.0.12",))
NAMES = Names(hospital=frozenset({"10.77.0.100", "fd77::100"}))
STRANGER, OWN = "02:aa:00:00:00:01", "02:57:47:00:01:01"


def link(name: str, *, kind: str | None = None, master: str | None = None, up: bool = True, **more: Any) -> dict[str, Any]:
    """One row of ``ip -j -d link``."""
    row: dict[str, Any] = {"ifname": name, "flags": ["UP", "LOWER_UP"] if up else ["UP", "NO-CARRIER"], "link_type": "ether"}
    info: dict[str, Any] = {"info_kind": kind} if kind else {}
    if master:
        row["master"] = master
        info |= {"info_slave_kind": "bridge", "info_slave_data": {"isolated": more.pop("isolated", True)}}
    if "vlan" in more:
        info["info_data"] = {"protocol": "802.1Q", "id": more.pop("vlan"), "flags": ["REORDER_HDR"]}
    return {**row, "linkinfo": info, **more}


def base(*ports: dict[str, Any]) -> list[dict[str, Any]]:
    return [link("lo"), link("ward0", kind="bridge"), link("hosp0", address=OWN), *ports]


IN_LINE = base(link("p-pump-1", master="ward0"), link("p-mon-1", master="ward0"))


def learned(port: str, mac: str) -> dict[str, Any]:
    return {"mac": mac, "ifname": port, "flags": [], "master": "ward0", "state": ""}


def seen(links: list[dict[str, Any]] | None = None, *, places: tuple[Place, ...] = (PUMP, MONITOR), **more: Any) -> Wiring:
    return describe(Kernel(links=IN_LINE if links is None else links, **more), places, NAMES)


def codes(wiring: Wiring) -> list[str]:
    return [f.code for f in wiring.findings]


def only(wiring: Wiring, code: str) -> str:
    """The one finding's sentence and remedy."""
    (finding,) = [f for f in wiring.findings if f.code == code]
    return f"{finding.text}; {finding.remedy}"


def test_in_line_has_nothing_to_mend() -> None:
    wiring = seen(fdb=[learned("p-pump-1", PUMP.mac), {**learned("p-mon-1", "02:00:00:00:00:99"), "state": "permanent"}])
    assert (wiring.kind, wiring.ok, codes(wiring)) == (Kind.IN_LINE, True, [])
    assert wiring.summary == "in line: 2 ports of ward0, the hospital on hosp0"
    assert [(p.name, p.device, p.macs) for p in wiring.ports] == [("p-mon-1", "monitor-1", ()), ("p-pump-1", "pump-1", (PUMP.mac,))]
    assert "devices from each other" in wiring.controls[1]


def test_a_document_is_json_and_says_its_words() -> None:
    document = json.loads(json.dumps(seen(places=(PUMP,)).as_document()))
    assert document["kind"] == "in line"
    assert document["ok"] is True
    assert {"summary", "controls", "leaves", "ports", "findings", "uplink_carrier"} <= set(document)


def test_wireless_only_is_a_wiring_and_no_fault() -> None:
    wiring = seen([link("lo"), link("hosp0")], places=())
    assert (wiring.kind, wiring.ok) == (Kind.WIRELESS, True)
    assert "any wired device" in wiring.leaves[0]
    assert "one network interface, hosp0" in wiring.summary


def vlan_ports(parent: str) -> list[dict[str, Any]]:
    return [link(f"ward.{n}", kind="vlan", master="ward0", vlan=n, link=parent) for n in (101, 102)]


def test_a_vlan_per_device_on_a_trunk_of_its_own() -> None:
    places = (Place("pump-1", "ward.101", PUMP.mac, PUMP.addresses),)
    wiring = seen(base(link("trunk0"), *vlan_ports("trunk0")), places=places)
    assert (wiring.kind, wiring.ok) == (Kind.VLAN, True)
    assert [(p.name, p.vlan, p.device) for p in wiring.ports] == [("ward.101", 101, "pump-1"), ("ward.102", 102, "")]
    assert wiring.summary == "VLAN per device: 2 ports of ward0 on the trunk trunk0, the hospital on hosp0"
    assert any("switch" in sentence for sentence in wiring.leaves)


def test_a_vlan_per_device_with_one_card_for_both_sides() -> None:
    links = [
        link("ward0", kind="bridge"),
        link("trunk0"),
        link("hosp0", kind="vlan", vlan=10, link="trunk0"),
        *vlan_ports("trunk0"),
    ]
    wiring = seen(links, places=())
    assert wiring.summary.endswith("one network interface for both sides")


@pytest.mark.parametrize("how", ["learned", "refused"])
def test_a_shared_switch_is_named_with_what_it_does_not_control(how: str) -> None:
    if how == "learned":
        wiring = seen(fdb=[learned("p-pump-1", PUMP.mac), learned("p-pump-1", STRANGER)])
    else:
        wiring = seen(fdb=[learned("p-pump-1", PUMP.mac)], refused=[("p-pump-1", STRANGER, "10.77.0.50")])
    assert (wiring.kind, wiring.ok) == (Kind.SHARED, True)
    assert "what they send each other is not controlled" in only(wiring, "shared-switch")
    assert "each other" in wiring.leaves[0]


def test_swapped_cables_are_known_by_the_hospital_behind_a_ward_port() -> None:
    refused = [("p-pump-1", f"02:bb:00:00:00:{n:02x}", f"10.77.0.{n}") for n in range(90, 110)]
    wiring = seen(refused=refused)
    assert codes(wiring) == ["swapped"]
    said = only(wiring, "swapped")
    assert "10.77.0.100" in said
    assert "swap the cables" in said


def test_swapped_cables_are_known_by_a_device_on_the_hospitals_side() -> None:
    wiring = seen(neighbours=[{"dst": "10.77.0.11", "dev": "hosp0", "lladdr": PUMP.mac, "state": ["STALE"]}])
    assert "pump-1 was heard on hosp0" in only(wiring, "swapped")
    assert not wiring.ok


def test_both_cables_in_one_network_is_heard_by_our_own_mac() -> None:
    assert codes(seen(refused=[("p-pump-1", OWN, "10.77.0.1")])) == ["swapped"]


def test_a_device_on_anothers_port() -> None:
    wiring = seen(refused=[("p-mon-1", PUMP.mac, "10.77.0.11"), ("p-mon-1", PUMP.mac, "0.0.0.0")])
    said = only(wiring, "wrong-port")
    assert "pump-1 is on p-mon-1; it belongs on p-pump-1" in said
    assert not wiring.ok


def test_an_address_used_twice_on_the_ward_and_across() -> None:
    by_ward = seen(refused=[("p-mon-1", STRANGER, "10.77.0.11")])
    assert "10.77.0.11 is used twice: by pump-1 on p-pump-1 and by 02:aa:00:00:00:01 on p-mon-1" in only(by_ward, "address-twice")
    across = seen(neighbours=[{"dst": "10.77.0.11", "dev": "hosp0", "lladdr": STRANGER}])
    assert "in the hospital" in only(across, "address-twice")


def test_another_device_in_its_place() -> None:
    wiring = seen(refused=[("p-pump-1", STRANGER, "10.77.0.11")])
    assert "whose MAC is 02:57:47:00:00:11" in only(wiring, "other-device")


def test_a_device_that_speaks_as_somebody_unknown() -> None:
    wiring = seen(refused=[("p-pump-1", PUMP.mac, "192.168.1.7")])
    assert codes(wiring) == ["other-address"]
    assert wiring.ok


def test_a_devices_link_local_address_is_no_news_unless_it_is_another_devices() -> None:
    assert codes(seen(refused=[("p-pump-1", PUMP.mac, "fe80::57:47ff:fe00:11")])) == []


def test_a_bound_port_without_link_or_without_existence() -> None:
    wiring = seen(base(link("p-pump-1", master="ward0", up=False)))
    assert "no link on p-pump-1, where pump-1 is" in only(wiring, "no-carrier")
    assert "has no such port" in only(wiring, "no-port")
    assert not seen([link("ward0", kind="bridge"), link("hosp0", up=False)]).uplink_carrier


def test_an_unbound_port_without_a_cable_is_no_fault() -> None:
    assert seen(base(link("p-spare", master="ward0", up=False)), places=()).ok


@pytest.mark.parametrize(
    ("links", "code"),
    [
        ([link("lo"), link("hosp0")], "no-ward"),
        ([link("hosp0"), link("ward0")], "no-ward"),
        ([link("ward0", kind="bridge"), link("p-pump-1", master="ward0")], "no-uplink"),
        (base(link("p-pump-1", master="ward0", isolated=False)), "not-isolated"),
    ],
)
def test_what_the_machine_lacks(links: list[dict[str, Any]], code: str) -> None:
    wiring = seen(links, places=(PUMP,))
    assert code in codes(wiring)
    assert not wiring.ok


def test_another_manager_is_named_with_how_to_keep_it_off() -> None:
    said = only(seen(managers={"hosp0": "NetworkManager"}), "other-manager")
    assert "NetworkManager configures hosp0 too" in said
    assert "unmanaged-devices" in said


def test_who_was_refused_is_not_taken_for_nobody() -> None:
    assert codes(seen(refused=None)) == ["unseen"]


def test_hostile_rows_change_nothing() -> None:
    rows = [("p-pump-1", "not a mac", "x" * 1000), ("", "", "")]
    assert codes(seen(refused=rows, fdb=[{"mac": 7}, {}], neighbours=[{}])) == []
    many = [("p-pump-1", f"02:cc:00:00:{n >> 8:02x}:{n & 255:02x}", "10.0.0.1") for n in range(1000)]
    wiring = seen(refused=many)
    assert all(len(p.macs) <= 8 for p in wiring.ports)
    assert len(only(wiring, "shared-switch")) < 300


def test_every_fault_has_a_remedy_and_wrong_comes_first() -> None:
    wiring = seen(
        base(link("p-pump-1", master="ward0", isolated=False)),
        refused=[("p-pump-1", PUMP.mac, "192.168.1.7"), ("p-mon-1", STRANGER, "10.77.0.11")],
        managers={"ward0": "dhcpcd"},
    )
    assert all(f.remedy and f.text and f.subject for f in wiring.findings)
    severities = [f.severity for f in wiring.findings]
    assert severities == sorted(severities, key=lambda s: s is Severity.NOTE)


def test_places_and_hospital_come_from_the_document() -> None:
    document = {
        "devices": {"pump-1": {"cap": 3, "addresses": ["10.77.0.11", "fd77::11"]}},
        "sets": {
            "port4": [["p-pump-1", PUMP.mac, "10.77.0.11"]],
            "port6": [["p-pump-1", PUMP.mac, "fd77::11"]],
            "vital6": [["fd77::11", "fd77::100", "tcp", 6000]],
            "uplink4": [["10.77.0.200", "tcp", 8883]],
        },
    }
    assert places_of(document) == (PUMP,)
    assert hospital_of(document, {"pacs": ("10.77.0.7",)}) == {"fd77::100", "10.77.0.200", "10.77.0.7"}
