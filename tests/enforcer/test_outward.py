"""Proxied flows that a device opens itself: gated by its own level, ended at the proxy, told whom they were for. Real packets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.enforcer import ward as w
from tests.enforcer.ward import HOSP4, HOSP6, PUMP4, PUMP6, Bench, Echo, bench, dial, document, echoes

pytestmark = pytest.mark.rig

FAMILIES = pytest.mark.parametrize(("pump", "hosp"), [(PUMP4, HOSP4), (PUMP6, HOSP6)], ids=["ipv4", "ipv6"])
ANSWERED, EARNED, DIRECT, OTHER_PROXY = 2575, 2576, 2577, 15575


def outward() -> dict[str, Any]:
    """The pump's policy with two flows of its own through a proxy: one open at any level, one that needs level 2."""
    made = document()
    sets = made["sets"]
    for family, pump, hosp in ((4, PUMP4, HOSP4), (6, PUMP6, HOSP6)):
        sets[f"rtl0_{family}"].append([pump, hosp, "tcp", ANSWERED])
        sets[f"rtl2_{family}"] += [[pump, hosp, "tcp", EARNED], [pump, hosp, "tcp", DIRECT]]
        sets[f"via{family}"] += [[pump, "tcp", ANSWERED, OTHER_PROXY], [pump, "tcp", EARNED, OTHER_PROXY]]
        sets[f"uplink{family}"] = [[hosp, "tcp", ANSWERED]]
    live = {"set4": [[PUMP4, HOSP4, "tcp", EARNED]], "via4": [[PUMP4, "tcp", EARNED]]}
    made["functions"]["pump-1"]["live"] = live
    return made


@pytest.fixture(scope="module")
def rig() -> Iterator[Bench]:
    with bench(outward()) as made:
        yield made


@pytest.fixture(autouse=True)
def level_none(rig: Bench) -> None:
    rig.drop()


def anywhere(address: str) -> str:
    return "0.0.0.0" if "." in address else "::"


@FAMILIES
def test_it_reaches_the_proxy_by_its_own_level_and_the_proxy_learns_whom_it_meant(rig: Bench, pump: str, hosp: str) -> None:
    with Echo(rig.ward.gateway, anywhere(pump), OTHER_PROXY) as proxy, Echo(rig.ward.hospital, hosp, EARNED) as receiver:
        assert dial(rig.pump, hosp, EARNED, timeout_s=0.4) is None
        rig.grant(1)
        assert dial(rig.pump, hosp, EARNED, timeout_s=0.4) is None
        rig.grant(2)
        s = dial(rig.pump, hosp, EARNED)
        assert s is not None
        with s:
            assert echoes(s, b"through the proxy")
            assert proxy.original == [(hosp, EARNED)]
            rig.drop()
            assert not echoes(s, b"cut", 0.4)
            rig.grant(2)
            assert echoes(s, b"again", 5.0)
        assert receiver.original == []


@FAMILIES
def test_a_flow_open_at_any_level_is_answered_by_the_proxy_and_by_nobody_else(rig: Bench, pump: str, hosp: str) -> None:
    with Echo(rig.ward.hospital, hosp, ANSWERED) as receiver:
        assert dial(rig.pump, hosp, ANSWERED, timeout_s=0.4) is None  # no proxy: not past it
        with Echo(rig.ward.gateway, anywhere(pump), OTHER_PROXY):
            s = dial(rig.pump, hosp, ANSWERED)
            assert s is not None
            with s:
                assert echoes(s, b"refused, politely")
        assert receiver.original == []
        own = dial(rig.ward.gateway, hosp, ANSWERED)  # the proxy's own connection
        assert own is not None
        with own:
            assert echoes(own, b"relayed")


@FAMILIES
def test_another_port_is_direct_and_another_peer_is_nobodys(rig: Bench, pump: str, hosp: str) -> None:
    rig.grant(3)
    with (
        Echo(rig.ward.gateway, anywhere(pump), OTHER_PROXY) as proxy,
        Echo(rig.ward.hospital, hosp, DIRECT),
        Echo(rig.ward.hospital, hosp, w.LIMITED),
    ):
        s = dial(rig.pump, hosp, DIRECT)
        assert s is not None
        with s:
            assert echoes(s, b"direct")
        other = "10.77.0.101" if "." in hosp else "fd77::101"
        assert dial(rig.pump, other, ANSWERED, timeout_s=0.4) is None
        assert dial(rig.pump, w.GATE4 if "." in hosp else w.GATE6, OTHER_PROXY, timeout_s=0.4) is None
        assert proxy.original == []


def test_a_hospital_host_does_not_reach_the_proxy_by_it(rig: Bench) -> None:
    rig.grant(3)
    with Echo(rig.ward.gateway, "0.0.0.0", OTHER_PROXY) as proxy:
        assert dial(rig.ward.hospital, PUMP4, ANSWERED, timeout_s=0.4) is None
        assert dial(rig.ward.hospital, w.GATE4, OTHER_PROXY, timeout_s=0.4) is None
        assert dial(rig.attacker, HOSP4, ANSWERED, timeout_s=0.4) is None
        assert proxy.original == []


@FAMILIES
def test_a_connection_older_than_its_redirect_ends_at_once(rig: Bench, pump: str, hosp: str) -> None:
    rig.grant(3)
    before = outward()
    for family in (4, 6):
        before["sets"][f"via{family}"] = []
    before["functions"] = {}
    rig.ward.load(before)
    try:
        with Echo(rig.ward.hospital, hosp, EARNED):
            s = dial(rig.pump, hosp, EARNED)
            assert s is not None
            with s:
                assert echoes(s, b"direct")
                rig.ward.load(outward())
                assert not echoes(s, b"direct no more", 1.0)
                with pytest.raises(ConnectionError):
                    s.sendall(b"it was told")
    finally:
        rig.ward.load(outward())


def test_an_observed_device_passes_through_the_proxy_at_any_level(rig: Bench) -> None:
    seen = outward()
    seen["sets"]["seen4"] = [[PUMP4]]
    rig.ward.load(seen)
    try:
        with Echo(rig.ward.gateway, "0.0.0.0", OTHER_PROXY) as proxy:
            s = dial(rig.pump, HOSP4, EARNED)
            assert s is not None
            with s:
                assert echoes(s, b"observed")
            assert proxy.original == [(HOSP4, EARNED)]
    finally:
        rig.ward.load(outward())


def test_break_glass_leads_past_a_dead_proxy(rig: Bench) -> None:
    with Echo(rig.ward.hospital, HOSP4, EARNED) as receiver:
        assert dial(rig.pump, HOSP4, EARNED, timeout_s=0.4) is None
        element = f"{{ {PUMP4} . {HOSP4} . tcp . {EARNED} timeout 20s }}"
        rig.ward.nft("add", "element", "inet", "wardgate", "glass4", element)
        rig.ward.nft("add", "element", "inet", "wardgate", "bypass4", f"{{ {PUMP4} . tcp . {EARNED} timeout 20s }}")
        try:
            s = dial(rig.pump, HOSP4, EARNED)
            assert s is not None
            with s:
                assert echoes(s, b"the receiver itself")
            assert receiver.original != []
        finally:
            rig.ward.nft("flush", "set", "inet", "wardgate", "glass4")
            rig.ward.nft("flush", "set", "inet", "wardgate", "bypass4")
