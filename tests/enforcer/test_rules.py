"""What passes and what does not, on real packets: each denial by what did not arrive, each permission by what did."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hil.network import ATTACKER, PUMP, inside, run
from tests.enforcer import ward as w
from tests.enforcer.ward import HOSP4, HOSP6, PUMP4, PUMP6, Bench, Echo, Udp, bench, dial, document, echoes

pytestmark = pytest.mark.rig

FAMILIES = pytest.mark.parametrize(("pump", "hosp"), [(PUMP4, HOSP4), (PUMP6, HOSP6)], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def rig() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.fixture(autouse=True)
def level_none(rig: Bench) -> None:
    rig.drop()


@FAMILIES
def test_a_flow_passes_at_its_level_and_not_below(rig: Bench, pump: str, hosp: str) -> None:
    with (
        Udp(rig.ward.hospital, rig.pump, hosp, pump, w.LIMITED) as at_1,
        Udp(rig.ward.hospital, rig.pump, hosp, pump, w.MAINTENANCE) as at_2,
        Udp(rig.pump, rig.ward.hospital, pump, hosp, w.LIMITED) as from_device,
    ):
        assert [f.passes(0.15) for f in (at_1, at_2, from_device)] == [False, False, False]
        rig.grant(1)
        assert at_1.passes()
        assert [f.passes(0.15) for f in (at_2, from_device)] == [False, False]
        rig.grant(2)
        assert [f.passes() for f in (at_1, at_2, from_device)] == [True, True, True]
        rig.drop()
        assert [f.passes(0.15) for f in (at_1, at_2, from_device)] == [False, False, False]


@FAMILIES
def test_the_vital_flow_needs_no_level_and_nothing_else_does(rig: Bench, pump: str, hosp: str) -> None:
    with Udp(rig.pump, rig.ward.hospital, pump, hosp, w.MONITORING) as vital, Echo(rig.ward.hospital, hosp, w.MONITORING):
        assert vital.passes()
        s = dial(rig.pump, hosp, w.MONITORING)
        assert s is not None
        with s:
            assert echoes(s, b"one")
            rig.grant(3)
            rig.drop()
            assert echoes(s, b"two")
    with Udp(rig.pump, rig.ward.hospital, pump, hosp, w.MONITORING + 1) as other:
        rig.grant(3)
        assert not other.passes(0.15)


@FAMILIES
def test_an_open_connection_is_cut_by_a_drop_and_goes_on_after_a_grant(rig: Bench, pump: str, hosp: str) -> None:
    rig.grant(3)
    with Echo(rig.pump, pump, w.MAINTENANCE):
        s = dial(rig.ward.hospital, pump, w.MAINTENANCE)
        assert s is not None
        with s:
            assert echoes(s, b"before")
            rig.drop()
            assert not echoes(s, b"during", 0.5)
            rig.grant(2)
            assert not echoes(s, b"too low", 0.4)
            rig.grant(3)
            assert echoes(s, b"after", 5.0)


def test_a_lease_lapses_by_itself(rig: Bench) -> None:
    with Udp(rig.ward.hospital, rig.pump, HOSP4, PUMP4, w.MAINTENANCE) as flow:
        rig.grant(2, 600)
        assert flow.passes()
        time.sleep(0.7)
        assert not flow.passes(0.15)


def test_echo_needs_level_1(rig: Bench) -> None:
    ping = ["ip", "netns", "exec", rig.ward.hospital, "ping", "-c1", "-W1", PUMP4]
    assert subprocess.run(ping, capture_output=True, check=False, timeout=10).returncode != 0
    rig.grant(1)
    assert subprocess.run(ping, capture_output=True, check=False, timeout=10).returncode == 0


@FAMILIES
def test_a_proxied_port_reaches_the_proxy_which_learns_what_was_dialled(rig: Bench, pump: str, hosp: str) -> None:
    gate = "0.0.0.0" if "." in pump else "::"
    with Echo(rig.ward.gateway, gate, w.PROXY) as proxy, Echo(rig.pump, pump, w.CONTROL) as device:
        assert dial(rig.ward.hospital, pump, w.CONTROL, timeout_s=0.25) is None
        rig.grant(1)
        assert dial(rig.ward.hospital, pump, w.CONTROL, timeout_s=0.25) is None
        rig.grant(2)
        s = dial(rig.ward.hospital, pump, w.CONTROL)
        assert s is not None
        with s:
            assert echoes(s, b"through the proxy")
            assert proxy.original == [(pump, w.CONTROL)]
            rig.drop()
            assert not echoes(s, b"cut", 0.4)
            rig.grant(2)
            assert echoes(s, b"again", 5.0)
        assert device.original == []  # nobody reached the device's own port


@FAMILIES
def test_the_proxy_reaches_the_device_at_any_level_and_nothing_else_does(rig: Bench, pump: str, hosp: str) -> None:
    with Echo(rig.pump, pump, w.CONTROL), Echo(rig.pump, pump, w.MAINTENANCE):
        s = dial(rig.ward.gateway, pump, w.CONTROL)
        assert s is not None
        with s:
            assert echoes(s, b"evidence?")
        assert dial(rig.ward.gateway, pump, w.MAINTENANCE, timeout_s=0.25) is None


def test_the_proxys_own_port_is_closed_to_everybody(rig: Bench) -> None:
    rig.grant(3)
    with Echo(rig.ward.gateway, "0.0.0.0", w.PROXY):
        assert dial(rig.ward.hospital, w.GATE4, w.PROXY, timeout_s=0.25) is None
        assert dial(rig.pump, w.GATE4, w.PROXY, timeout_s=0.25) is None
        assert dial(rig.attacker, w.GATE4, w.PROXY, timeout_s=0.25) is None


def test_a_connection_older_than_its_redirect_is_not_forwarded_past_the_proxy(rig: Bench) -> None:
    rig.grant(3)
    without = document()
    without["sets"]["via4"] = []
    without["functions"] = {}
    rig.ward.load(without)
    try:
        with Echo(rig.pump, PUMP4, w.CONTROL):
            s = dial(rig.ward.hospital, PUMP4, w.CONTROL)
            assert s is not None
            with s:
                assert echoes(s, b"direct")
                rig.ward.load(document())
                assert not echoes(s, b"direct no more", 0.5)
    finally:
        rig.ward.load(document())


def test_an_unbound_host_gets_nothing(rig: Bench) -> None:
    rig.grant(3)
    before = rig.ward.counters()["unbound_l2"]
    with Udp(rig.attacker, rig.ward.hospital, ATTACKER.ipv4, HOSP4, w.MONITORING) as flow:
        assert not flow.passes(0.15)
    assert rig.ward.counters()["unbound_l2"] > before


@pytest.mark.parametrize("with_mac", [False, True], ids=["address", "address-and-mac"])
def test_a_devices_address_on_another_port_gets_nothing_and_the_device_keeps_working(rig: Bench, with_mac: bool) -> None:
    """Before the impostor speaks, while it does, and after: only the bound port speaks for the pump."""
    rig.grant(3)
    attacker = rig.attacker
    if with_mac:
        run("ip", "-n", attacker, "link", "set", "eth0", "address", PUMP.mac)
    run("ip", "-n", attacker, "addr", "add", f"{PUMP4}/24", "dev", "eth0")
    try:
        gate_mac = _gate_mac(rig)
        run("ip", "-n", attacker, "neigh", "replace", HOSP4, "lladdr", gate_mac, "dev", "eth0")
        with Udp(attacker, rig.ward.hospital, PUMP4, HOSP4, w.MONITORING) as impostor:
            assert not impostor.passes(0.15)
            run("ip", "netns", "exec", attacker, "sh", "-c", f"arping -A -c 2 -w 1 -I eth0 {PUMP4} || true", check=False)
            _gratuitous_arp(attacker, PUMP4, PUMP.mac if with_mac else ATTACKER.mac)
            assert not impostor.passes(0.15)
        with Udp(rig.pump, rig.ward.hospital, PUMP4, HOSP4, w.MONITORING) as genuine:
            assert genuine.passes()
    finally:
        run("ip", "-n", attacker, "addr", "del", f"{PUMP4}/24", "dev", "eth0")
        run("ip", "-n", attacker, "neigh", "flush", "all")
        run("ip", "-n", attacker, "link", "set", "eth0", "address", ATTACKER.mac)


def _gratuitous_arp(namespace: str, address: str, mac: str) -> None:
    ether, ip = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    with inside(namespace):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with s:
        s.bind(("eth0", 0x0806))
        for op in (1, 2):
            arp = struct.pack(">HHBBH", 1, 0x0800, 6, 4, op) + ether + ip + (b"\xff" * 6 if op == 2 else b"\0" * 6) + ip
            s.send(b"\xff" * 6 + ether + b"\x08\x06" + arp)


def test_a_forged_arp_answer_and_a_forged_advertisement_change_no_neighbour(rig: Bench) -> None:
    """The pump speaks for addresses that are not its own; none of it enters the gateway's table."""
    before = rig.ward.counters()["unbound_l2"]
    _gratuitous_arp(rig.pump, "10.77.0.12", PUMP.mac)
    target = socket.inet_pton(socket.AF_INET6, "fd77::12")
    with inside(rig.pump):
        s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        s.bind((PUMP6, 0))
        link = b"\x02\x01" + bytes.fromhex(PUMP.mac.replace(":", ""))
        s.sendto(struct.pack(">BBHI", 136, 0, 0, 0x20000000) + target + link, ("ff02::1", 0, 0, _index(rig.pump)))
    time.sleep(0.1)
    assert rig.ward.counters()["unbound_l2"] >= before + 3
    table = run("ip", "-n", rig.ward.gateway, "neigh", "show", "dev", "ward0")
    assert "10.77.0.12" not in table
    assert "fd77::12" not in table


def _index(namespace: str) -> int:
    with inside(namespace):
        return socket.if_nametoindex("eth0")


@pytest.mark.parametrize("frames", ["server", "router"])
def test_no_device_serves_addresses_or_routes(rig: Bench, frames: str) -> None:
    before = rig.ward.counters()["server_l2"]
    with inside(rig.pump):
        if frames == "server":
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        else:
            s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with closing(s):
        if frames == "server":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.setsockopt(socket.SOL_SOCKET, 25, b"eth0\0")  # SO_BINDTODEVICE
            s.bind(("0.0.0.0", 67))
            s.sendto(b"\x02" * 240, ("255.255.255.255", 68))
        else:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            s.bind((PUMP6, 0))
            s.sendto(struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, _index(rig.pump)))
    time.sleep(0.1)
    assert rig.ward.counters()["server_l2"] == before + 1


def test_devices_do_not_reach_one_another_by_bridge_or_router(rig: Bench) -> None:
    """Both bound and at level 3, isolation of the ports switched off: the bridge table alone must hold."""
    both = document()
    both["devices"]["other"] = {"cap": 3, "addresses": [ATTACKER.ipv4]}
    both["sets"]["port4"].append([ATTACKER.port, ATTACKER.mac, ATTACKER.ipv4])
    both["sets"]["bind4"].append(["ward0", ATTACKER.mac, ATTACKER.ipv4])
    rig.ward.load(both)
    for port in (PUMP.port, ATTACKER.port):
        run("ip", "-n", rig.ward.gateway, "link", "set", port, "type", "bridge_slave", "isolated", "off")
    leases = [{"addresses": [a], "level": 3, "ms": 30_000} for a in (PUMP4, ATTACKER.ipv4)]
    try:
        assert rig.ask({"do": "grant", "leases": leases})["ok"]
        run("ip", "-n", rig.attacker, "neigh", "replace", PUMP4, "lladdr", PUMP.mac, "dev", "eth0")
        before = rig.ward.counters()["lateral_l2"]
        with Udp(rig.attacker, rig.pump, ATTACKER.ipv4, PUMP4, w.LIMITED) as by_bridge:
            assert not by_bridge.passes(0.15)
        assert rig.ward.counters()["lateral_l2"] > before
        gate_mac = _gate_mac(rig)
        run("ip", "-n", rig.attacker, "neigh", "replace", PUMP4, "lladdr", gate_mac, "dev", "eth0")
        before = rig.ward.counters()["denied_flow"]
        with Udp(rig.attacker, rig.pump, ATTACKER.ipv4, PUMP4, w.LIMITED) as by_router:
            assert not by_router.passes(0.15)
        assert rig.ward.counters()["denied_flow"] > before
    finally:
        run("ip", "-n", rig.attacker, "neigh", "flush", "all")
        for port in (PUMP.port, ATTACKER.port):
            run("ip", "-n", rig.ward.gateway, "link", "set", port, "type", "bridge_slave", "isolated", "on")
        rig.ward.load(document())


def test_a_device_being_observed_passes_and_is_told(rig: Bench) -> None:
    seen = document()
    seen["sets"]["seen4"] = [[PUMP4]]
    rig.ward.load(seen)
    try:
        with (
            rig.connected() as watcher,
            Udp(rig.ward.hospital, rig.pump, HOSP4, PUMP4, w.MAINTENANCE) as flow,
            Udp(rig.pump, rig.ward.hospital, PUMP4, HOSP4, 9999) as stranger,
            Echo(rig.ward.gateway, "0.0.0.0", w.PROXY),
            Echo(rig.ward.gateway, "0.0.0.0", 9998),
        ):
            assert w.exchange(watcher, {"do": "watch"})["ok"]
            assert flow.passes()
            assert stranger.passes()
            s = dial(rig.ward.hospital, PUMP4, w.CONTROL)
            assert s is not None
            with s:
                assert echoes(s, b"proxied")
            assert dial(rig.pump, w.GATE4, 9998, timeout_s=0.25) is None  # observing opens nothing of the gateway
            told = _events(watcher, 1.0)
        assert not [e for e in told if e["event"] == "denied" and e["port"] in (w.MAINTENANCE, 9999)]
        assert {e["device"] for e in told if e["event"] == "seen"} == {"pump-1"}
        assert {e["port"] for e in told if e["event"] == "seen"} >= {w.MAINTENANCE, 9999, w.CONTROL}
    finally:
        rig.ward.load(document())


def _events(watcher: socket.socket, wait_s: float) -> list[dict[str, object]]:
    events = []
    end = time.monotonic() + wait_s
    while (left := end - time.monotonic()) > 0:
        watcher.settimeout(left)
        try:
            events.append(w.read_frame(watcher))
        except TimeoutError:
            break
    return events


def test_a_refusal_says_whether_the_level_or_the_flow_was_missing(rig: Bench) -> None:
    with (
        rig.connected() as watcher,
        Udp(rig.ward.hospital, rig.pump, HOSP4, PUMP4, w.MAINTENANCE) as low,
        Udp(rig.ward.hospital, rig.pump, HOSP4, PUMP4, 9997) as stranger,
    ):
        w.exchange(watcher, {"do": "watch"})
        assert [low.passes(0.2), stranger.passes(0.2)] == [False, False]
        told = _events(watcher, 1.0)
    reasons = {e["port"]: (e["event"], e["reason"], e["device"]) for e in told}
    assert reasons[w.MAINTENANCE] == ("denied", "level", "pump-1")
    assert reasons[9997] == ("denied", "flow", "pump-1")


def test_tagged_and_link_local_frames_pass_nothing_and_draw_no_traffic(rig: Bench) -> None:
    """Frames with a VLAN tag, and to 01:80:c2:00:00:0x, which a bridge hands to the port itself and may learn from."""
    rig.grant(3)
    with inside(rig.attacker):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with inside(rig.ward.hospital):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with raw, receiver:
        receiver.bind((HOSP4, w.MONITORING))
        receiver.settimeout(0.3)
        raw.bind(("eth0", 0))
        packet, own, gate = _udp_packet(PUMP4, HOSP4, w.MONITORING), _mac(PUMP.mac), _mac(_gate_mac(rig))
        for head in (b"\x81\x00\x00\x00\x08\x00", b"\x81\x00\x00\x05\x08\x00", b"\x08\x00"):
            raw.send(gate + own + head + packet)
        for last in range(16):
            raw.send(bytes.fromhex("0180c20000") + bytes([last]) + own + b"\x08\x00" + packet)
            raw.send(bytes.fromhex("0180c20000") + bytes([last]) + own + b"\x88\xcc" + b"\0" * 46)
        with pytest.raises(TimeoutError):
            receiver.recv(100)
    table = run("bridge", "-n", rig.ward.gateway, "fdb", "show", "br", "ward0").splitlines()
    assert not [line for line in table if PUMP.mac in line and ATTACKER.port in line]
    with Udp(rig.ward.hospital, rig.pump, HOSP4, PUMP4, w.LIMITED) as flow:
        assert flow.passes()


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _gate_mac(rig: Bench) -> str:
    return run("ip", "netns", "exec", rig.ward.gateway, "cat", "/sys/class/net/ward0/address").strip()


def _udp_packet(source: str, target: str, port: int) -> bytes:
    payload = b"forged"
    udp = struct.pack(">HHHH", 45000, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:] + udp


def test_break_glass_opens_one_function_without_level_proxy_or_daemon(rig: Bench) -> None:
    command = ["ip", "netns", "exec", rig.ward.gateway, ".venv/bin/wardgate-policy", "break-glass"]
    command += ["--state", str(rig.ward.policy_dir), "--device", "pump-1", "--minutes", "1", "--reason", "the proxy hangs"]
    top = Path(__file__).parents[2]
    with Echo(rig.pump, PUMP4, w.CONTROL) as device, Echo(rig.pump, PUMP4, w.MAINTENANCE):
        assert dial(rig.ward.hospital, PUMP4, w.CONTROL, timeout_s=0.25) is None
        subprocess.run([*command, "--function", "control"], cwd=top, check=True, capture_output=True, timeout=20)
        try:
            s = dial(rig.ward.hospital, PUMP4, w.CONTROL)
            assert s is not None
            with s:
                assert echoes(s, b"stop")
            assert device.original != []
            assert dial(rig.ward.hospital, PUMP4, w.MAINTENANCE, timeout_s=0.25) is None
        finally:
            rig.ward.nft("flush", "set", "inet", "wardgate", "glass4")
            rig.ward.nft("flush", "set", "inet", "wardgate", "bypass4")
