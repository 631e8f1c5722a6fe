"""From where the kernel is to where it should be: lines, and none the second time. VLANs are on lists only (see test_wiring)."""

from __future__ import annotations

from typing import Any

from gateway.config import Network
from gateway.network.plan import Ends, State, end_steps, ends, link_steps, ports, stable_mac, sysctls
from gateway.wiring import Place
from tests.test_wiring import link

PUMP = Place("pump-1", "p-pump-1", "02:57:47:00:00:11", ("10.77.0.11", "fd77::11", "fe80::11"))
NETWORK = Network(addresses=("10.77.0.1", "fd77::1"), nics={"hosp0": "enp1s0", "p-pump-1": "02:11:22:33:44:55"})
CARDS = [link("enp1s0", address="02:00:00:00:00:01"), link("enp2s0", address="02:11:22:33:44:55", up=False)]


def address(interface: str, text: str, scope: str = "global") -> dict[str, Any]:
    local, _, length = text.partition("/")
    return {"ifname": interface, "addr_info": [{"local": local, "prefixlen": int(length), "scope": scope}]}


def test_cards_get_their_names_and_the_bridge_its_ports_isolated_before_they_are_up() -> None:
    steps = link_steps(NETWORK, [PUMP], State(links=CARDS))
    assert (steps.problems, steps.missing) == ([], [])
    assert steps.lines.index("link set enp1s0 name hosp0") < steps.lines.index("link set enp2s0 name p-pump-1")
    port = [line for line in steps.lines if line.startswith("link set p-pump-1")]
    assert port == [
        "link set p-pump-1 master ward0",
        "link set p-pump-1 type bridge_slave isolated on",
        "link set p-pump-1 up",
    ]
    bridge = next(line for line in steps.lines if line.startswith("link add ward0"))
    assert f"address {stable_mac('ward0', '02:00:00:00:00:01')}" in bridge
    assert "no_linklocal_learn 1" in bridge


def test_what_is_right_is_not_touched() -> None:
    links = [
        link("ward0", kind="bridge"),
        link("hosp0"),
        link("p-pump-1", master="ward0"),
    ]
    assert link_steps(NETWORK, [PUMP], State(links=links)).lines == []


def test_a_card_that_carries_somebodys_traffic_is_not_taken_unless_told() -> None:
    state = State(links=CARDS, addresses=[address("enp1s0", "192.0.2.7/24")])
    steps = link_steps(NETWORK, [], state)
    assert "enp1s0 is in use (192.0.2.7)" in steps.problems[0]
    assert not any("enp1s0" in line for line in steps.lines)
    taken = link_steps(NETWORK, [], state, take=True).lines
    assert taken[:3] == ["link set enp1s0 down", "link set enp1s0 name hosp0", "addr flush dev hosp0 scope global"]
    local = State(links=CARDS, addresses=[address("enp1s0", "fe80::1/64", "link")])
    assert link_steps(NETWORK, [], local).problems == []


def test_a_card_that_is_not_there_stops_nothing_else() -> None:
    steps = link_steps(NETWORK, [PUMP], State(links=CARDS[:1]))
    assert steps.missing == ["there is no interface 02:11:22:33:44:55 for p-pump-1"]
    assert "link set enp1s0 name hosp0" in steps.lines
    assert any(line.startswith("link add ward0") for line in steps.lines)


def test_a_port_of_somebody_elses_bridge_and_a_bound_card_in_use_are_left_alone() -> None:
    links = [link("ward0", kind="bridge"), link("hosp0"), link("p-pump-1", master="br9")]
    assert "is a part of br9" in link_steps(NETWORK, [PUMP], State(links=links)).problems[0]
    bound = Place("x", "eth7", PUMP.mac, PUMP.addresses)
    state = State(links=[*links[:2], link("eth7")], addresses=[address("eth7", "192.0.2.9/24")])
    steps = link_steps(Network(addresses=NETWORK.addresses), [bound], state)
    assert "eth7 is in use" in steps.problems[0]
    assert steps.lines == []


def test_vlans_become_ports_and_the_uplink_may_be_one_too() -> None:
    network = Network(addresses=("10.77.0.1",), nics={"trunk0": "enp1s0", "hosp0": "trunk0.10"}, trunk="trunk0", vlans=(101,))
    bound = Place("pump-1", "ward.102", PUMP.mac, PUMP.addresses)
    steps = link_steps(network, [bound], State(links=CARDS[:1]))
    assert steps.problems == []
    assert "link add link trunk0 name hosp0 type vlan id 10" in steps.lines
    for vlan in (101, 102):
        made = steps.lines.index(f"link add link trunk0 name ward.{vlan} type vlan id {vlan}")
        assert made < steps.lines.index(f"link set ward.{vlan} master ward0")
    assert ports(network, [bound]) == ("ward.101", "ward.102")
    without = link_steps(network, [], State(links=[]))
    assert "there is no interface enp1s0 for trunk0" in without.missing


def test_the_page_may_share_the_hospitals_cable() -> None:
    network = Network(addresses=("10.77.0.1",), nics={"mgmt0": "hosp0"}, management_addresses=("10.77.0.2/24",))
    steps = link_steps(network, [], State(links=[link("hosp0", address="02:00:00:00:00:01")]))
    mac = stable_mac("mgmt0", "02:00:00:00:00:01")
    assert f"link add link hosp0 name mgmt0 address {mac} type macvlan mode private" in steps.lines
    assert int(mac[:2], 16) & 3 == 2  # locally administered, one host


WANTED = ends(NETWORK, [PUMP], ["fd77::100", "10.77.0.100", "192.0.2.1", "fd77::11", "fd77::1"])


def test_a_device_keeps_its_address_by_a_host_route_and_two_answers() -> None:
    assert {("10.77.0.11/32", "ward0", ""), ("fd77::11/128", "ward0", "")} == WANTED.routes
    assert WANTED.proxies == {
        ("10.77.0.11", "hosp0"),
        ("fd77::11", "hosp0"),
        ("10.77.0.100", "ward0"),
        ("fd77::100", "ward0"),
    }
    assert ("hosp0", "10.77.0.1/24") in WANTED.addresses
    assert ("ward0", "fd77::1/128") in WANTED.addresses


def test_a_subnet_and_a_router_are_what_the_configuration_says() -> None:
    network = Network(addresses=("10.77.0.1",), subnets=("10.76.0.0/15",), routers=("10.76.0.254",))
    made = ends(network, [], [])
    assert ("hosp0", "10.77.0.1/15") in made.addresses
    assert made.routes == {("default", "hosp0", "10.76.0.254")}
    assert made.proxies == {("10.76.0.254", "ward0")}


THERE = State(
    addresses=[
        *(address("hosp0", a) for a in ("10.77.0.1/24", "fd77::1/64", "10.9.9.8/24")),
        *(address("ward0", a) for a in ("10.77.0.1/32", "fd77::1/128", "10.9.9.9/32")),
    ],
    routes=[{"dst": "10.77.0.11", "dev": "ward0"}, {"dst": "fd77::11", "dev": "ward0"}],
    proxies=[{"dst": a, "dev": d} for a, d in sorted(WANTED.proxies)],
    recorded=frozenset({("ward0", "10.9.9.9/32"), ("ward0", "10.77.0.1/32")}),
)


def test_only_our_own_is_removed_and_after_the_new_is_there() -> None:
    assert end_steps(NETWORK, WANTED, THERE, ["ward0", "hosp0"]).lines == ["addr del 10.9.9.9/32 dev ward0"]
    moved = Place("pump-1", "p-pump-1", PUMP.mac, ("10.77.0.13",))
    steps = end_steps(NETWORK, ends(NETWORK, [moved], ["10.77.0.100"]), THERE, ["ward0", "hosp0"])
    added = [n for n, line in enumerate(steps.lines) if " replace " in line or " add " in line]
    gone = [n for n, line in enumerate(steps.lines) if " del " in line]
    assert max(added) < min(gone)
    assert "route replace 10.77.0.13/32 dev ward0 proto 77" in steps.lines
    assert "route del 10.77.0.11/32 dev ward0 proto 77" in steps.lines
    assert "neigh del proxy fd77::11 dev hosp0" in steps.lines
    assert not any("10.9.9.8" in line for line in steps.lines)


def test_an_interface_that_is_not_there_gets_nothing() -> None:
    steps = end_steps(NETWORK, WANTED, State(), ["ward0"])
    assert not any("hosp0" in line for line in steps.lines)
    assert steps.missing == ["there is no interface hosp0"]


def test_nothing_wanted_removes_a_default_route_of_our_own() -> None:
    state = State(routes=[{"dst": "default", "dev": "hosp0", "gateway": "fd77::fe"}])
    lines = end_steps(NETWORK, Ends(frozenset(), frozenset(), frozenset()), state, ["hosp0"]).lines
    assert lines == ["-6 route del default via fd77::fe dev hosp0 proto 77"]


def test_routing_begins_only_when_the_tables_are_loaded() -> None:
    without, with_tables = sysctls(NETWORK, [], forward=False), sysctls(NETWORK, [], forward=True)
    assert not any("forward" in name for name in without)
    assert list(with_tables)[:3] == ["net/ipv4/ip_unprivileged_port_start", "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
    assert with_tables["net/ipv6/conf/hosp0/accept_ra"] == "0"
