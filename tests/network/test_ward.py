"""The ward as the product makes it: addresses, names and time by its own servers, for bound devices and for nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hil.network import ATTACKER, PUMP, run
from tests.enforcer import ward as w
from tests.enforcer.ward import HOSP4, HOSP6, PUMP4, PUMP6, Echo, Udp, dial, echoes
from tests.network.ward import GATE, Served, clock, document, forget, lease, remember, resolve

pytestmark = pytest.mark.rig

TOP = Path(__file__).parents[2]


@contextmanager
def without_address(rig: Served, namespace: str, address: str) -> Iterator[None]:
    forget(namespace, address)
    try:
        yield
    finally:
        remember(namespace, address)


# --- addresses ---


def test_a_bound_device_gets_its_own_address_again_and_again_and_works_with_it(rig: Served, tmp_path: Path) -> None:
    with without_address(rig, rig.bench.pump, PUMP4):
        first = lease(rig.bench.pump, tmp_path)
        assert first is not None
        told = {k: first.get(k) for k in ("ip", "subnet", "router", "dns", "ntpsrv", "serverid", "lease")}
        assert told == {
            "ip": PUMP4, "subnet": "255.255.255.0", "router": GATE[4], "dns": GATE[4], "ntpsrv": GATE[4],
            "serverid": GATE[4], "lease": "86400",
        }  # fmt: skip
        again = lease(rig.bench.pump, tmp_path)
        assert again is not None
        assert again["ip"] == PUMP4
    with Udp(rig.bench.pump, rig.ward.hospital, PUMP4, HOSP4, w.MONITORING) as vital:
        assert vital.passes()


def test_a_host_that_is_not_in_the_policy_gets_no_lease_and_is_counted(rig: Served, tmp_path: Path) -> None:
    before = rig.counter("unbound_l2")
    with without_address(rig, rig.bench.attacker, ATTACKER.ipv4):
        assert lease(rig.bench.attacker, tmp_path, tries=2) is None
    assert rig.counter("unbound_l2") > before


def test_a_devices_mac_on_another_port_gets_no_lease(rig: Served, tmp_path: Path) -> None:
    run("ip", "-n", rig.bench.attacker, "link", "set", "eth0", "address", PUMP.mac)
    try:
        with without_address(rig, rig.bench.attacker, ATTACKER.ipv4):
            assert lease(rig.bench.attacker, tmp_path, tries=2) is None
    finally:
        run("ip", "-n", rig.bench.attacker, "link", "set", "eth0", "address", ATTACKER.mac)


def test_a_device_that_leaves_the_policy_loses_its_places_and_what_is_not_ours_stays(rig: Served, tmp_path: Path) -> None:
    """And one that moves gets its new address: the server reads its reservations again."""
    gone = {"version": 1, "devices": {}, "sets": {}}
    moved = json.loads(json.dumps(document()).replace(f'"{PUMP4}"', '"10.77.0.13"'))
    gateway = rig.ward.gateway
    run("ip", "-n", gateway, "route", "add", "10.99.0.1/32", "dev", "ward0")
    run("ip", "-n", gateway, "neigh", "add", "proxy", "10.99.0.2", "dev", "hosp0")
    try:
        rig.ward.load(gone)
        routes = run("ip", "-n", gateway, "route") + run("ip", "-n", gateway, "-6", "route")
        proxies = run("ip", "-n", gateway, "neigh", "show", "proxy")
        assert PUMP4 not in routes + proxies
        assert PUMP6 not in routes + proxies
        assert "10.99.0.1" in routes
        assert "10.99.0.2" in proxies
        with without_address(rig, rig.bench.pump, PUMP4):
            assert lease(rig.bench.pump, tmp_path, tries=1) is None
            rig.ward.load(moved)
            time.sleep(0.8)  # the keeper looks twice a second
            told = lease(rig.bench.pump, tmp_path)
            assert told is not None
            assert told["ip"] == "10.77.0.13"
    finally:
        run("ip", "-n", gateway, "route", "del", "10.99.0.1/32", "dev", "ward0")
        run("ip", "-n", gateway, "neigh", "del", "proxy", "10.99.0.2", "dev", "hosp0")
        rig.ward.load(document())
        time.sleep(0.8)


# --- names and time ---


@pytest.mark.parametrize("family", [4, 6])
def test_names_of_the_gateway_and_the_peers_and_no_others(rig: Served, family: int) -> None:
    pump, gate = rig.bench.pump, GATE[family]
    assert resolve(pump, gate, "gateway.ward") == (0, [GATE[4]])
    assert resolve(pump, gate, "hospital.ward", 28) == (0, [HOSP6])
    assert resolve(pump, gate, "nobody.ward") == (3, [])  # NXDOMAIN: ours, and not there
    code, addresses = resolve(pump, gate, "example.org") or (0, ["nobody answered"])
    assert (code in (3, 5), addresses) == (True, [])


@pytest.mark.parametrize("family", [4, 6])
def test_time_without_a_source_says_so_and_with_a_local_stratum_says_that(rig: Served, family: int) -> None:
    leap, stratum = clock(rig.bench.pump, GATE[family]) or (0, 1)
    assert (leap, stratum in (0, 16)) == (3, True)
    text = rig.settings.read_text()
    rig.settings.write_text(text.replace("set_clock = false", "set_clock = false\nlocal_stratum = 9"))
    try:
        assert rig.apply()["changes"] == ["chrony.conf written"]
        deadline = time.monotonic() + 10
        while (told := clock(rig.bench.pump, GATE[family])) != (0, 9):
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
    finally:
        rig.settings.write_text(text)
        rig.apply()
        time.sleep(0.8)


def test_a_stranger_and_the_hospital_get_neither(rig: Served) -> None:
    for namespace in (rig.bench.attacker, rig.ward.hospital):
        for gate in GATE.values():
            assert clock(namespace, gate, 0.3) is None
            assert resolve(namespace, gate, "gateway.ward", wait_s=0.3) is None


def test_the_servers_hold_no_capability_over_the_gateway(rig: Served) -> None:
    found = {}
    for pid in run("ip", "netns", "pids", rig.ward.gateway).split():
        status = Path(f"/proc/{pid}/status").read_text() if Path(f"/proc/{pid}").exists() else ""
        name = Path(f"/proc/{pid}/comm").read_text().strip() if status else ""
        if name in ("dnsmasq", "chronyd"):
            found[name] = (Path(f"/proc/{pid}/ns/user").readlink(), "CapEff:\t0000000000000000" in status)
    own = Path("/proc/self/ns/user").readlink()
    assert found["chronyd"] == (own, True)
    assert found["dnsmasq"][0] != own  # whatever it holds counts in a user namespace that owns no network
    command = ["ip", "netns", "exec", rig.ward.gateway, "setpriv", "--reuid", "61003", "--clear-groups", "--bounding-set=-all"]
    command += ["--inh-caps=-all", "unshare", "--user", "--map-current-user", "--keep-caps", "nft", "flush", "ruleset"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    assert "not permitted" in done.stderr


# --- links, routes, redirects ---


@pytest.mark.parametrize(("pump", "hosp"), [(PUMP4, HOSP4), (PUMP6, HOSP6)], ids=["ipv4", "ipv6"])
def test_an_old_client_dials_what_it_always_dialled(rig: Served, pump: str, hosp: str) -> None:
    """The device's own address, from the device's own subnet, by ARP and by ND; the proxy learns what was dialled."""
    rig.bench.grant(3)
    run("ip", "-n", rig.ward.hospital, "neigh", "flush", "all")
    with (
        Echo(rig.ward.gateway, "0.0.0.0" if "." in pump else "::", w.PROXY) as proxy,
        Echo(rig.bench.pump, pump, w.MAINTENANCE) as direct,
    ):
        for port in (w.CONTROL, w.MAINTENANCE):
            s = dial(rig.ward.hospital, pump, port)
            assert s is not None
            with s:
                assert echoes(s, b"as always")
        assert proxy.original == [(pump, w.CONTROL)]
        assert len(direct.original) == 1
    neighbours = run("ip", "-n", rig.ward.hospital, "neigh", "show", pump)
    assert "02:57:47:00:01:01" in neighbours  # the gateway answered for it
    rig.bench.drop()


def test_the_gateway_answers_in_the_hospital_for_its_devices_only(rig: Served) -> None:
    run("ip", "-n", rig.ward.hospital, "neigh", "flush", "all")
    for address in ("10.77.0.12", ATTACKER.ipv4, "10.78.0.2", "10.77.0.200"):
        command = ["ip", "netns", "exec", rig.ward.hospital, "ping", "-c1", "-W0.3", "-n", address]
        assert subprocess.run(command, capture_output=True, timeout=10).returncode != 0
        assert "02:57:47:00:01:01" not in run("ip", "-n", rig.ward.hospital, "neigh", "show", address)


def test_a_second_run_changes_nothing_and_loses_no_packet(rig: Served) -> None:
    stop, lost = threading.Event(), []

    def stream() -> None:
        with Udp(rig.bench.pump, rig.ward.hospital, PUMP4, HOSP4, w.MONITORING) as vital:
            assert vital.passes(2.0)
            while not stop.is_set():
                lost.append(not vital.passes(0.3))

    sender = threading.Thread(target=stream)
    sender.start()
    try:
        other = json.loads(json.dumps(document()))
        other["devices"]["other"] = {"cap": 1, "addresses": ["10.77.0.66"]}
        other["sets"]["port4"].append([ATTACKER.port, ATTACKER.mac, "10.77.0.66"])
        other["sets"]["bind4"].append(["ward0", ATTACKER.mac, "10.77.0.66"])
        assert rig.apply()["changes"] == []
        rig.ward.load(other)
        assert "10.77.0.66 dev ward0" in run("ip", "-n", rig.ward.gateway, "route")
        assert rig.apply()["changes"] == []
    finally:
        rig.ward.load(document())
        stop.set()
        sender.join(10)
    assert len(lost) > 20
    assert not any(lost)


def test_nothing_is_forwarded_before_the_tables_are_there(tmp_path: Path) -> None:
    settings = tmp_path / "w.toml"
    settings.write_text(f'[network]\naddresses = ["10.77.0.1"]\nrun = "{tmp_path}/run"\n[network.nics]\nhosp0 = "c0"\n')
    script = (
        "ip link add c0 type veth peer name c1\n"
        f"{sys.executable} -m gateway.network apply --config {settings}; echo exit $?\n"
        "cat /proc/sys/net/ipv4/ip_forward\n"
        "nft -f image/wardgate.nft\n"
        f"{sys.executable} -m gateway.network apply --config {settings} >/dev/null; echo exit $?\n"
        "cat /proc/sys/net/ipv4/ip_forward\n"
    )
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, timeout=30, cwd=TOP)
    assert done.stdout.split("\n")[1:] == ["exit 1", "0", "exit 0", "1", ""]
    assert "the tables are not loaded, so nothing is forwarded; systemctl start wardgate-firewall" in done.stderr


# --- who listens ---


def _status(rig: Served) -> dict[str, Any]:
    command = ["ip", "netns", "exec", rig.ward.gateway, sys.executable, "-m", "gateway", "--json"]
    command += ["--config", str(rig.settings), "status", "--ports"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=TOP)
    assert done.returncode == 11  # the daemon does not run here; the kernel's listeners are told all the same
    return dict(json.loads(done.stdout))


def test_nothing_listens_toward_the_ward_but_what_the_policy_says(rig: Served) -> None:
    rows = _status(rig)["listeners"]
    toward = {(r["protocol"], r["port"]) for r in rows if r["toward_ward"]}
    assert toward == {("udp", 53), ("tcp", 53), ("udp", 67), ("udp", 123)}
    assert not [r for r in rows if r["unexpected"]]


@pytest.mark.parametrize("address", ["0.0.0.0", GATE[4], "::", GATE[6]])
def test_a_listener_that_nobody_asked_for_is_found_and_reached_by_nobody(rig: Served, address: str) -> None:
    with Echo(rig.ward.gateway, address, 4444), Echo(rig.ward.gateway, "127.0.0.1", 4445):
        wrong = [(r["address"], r["port"]) for r in _status(rig)["listeners"] if r["unexpected"]]
        assert wrong == [(address, 4444)]
        rig.bench.grant(3)
        assert dial(rig.bench.pump, GATE[6 if ":" in address else 4], 4444, timeout_s=0.25) is None
        rig.bench.drop()


def test_flows_are_told_as_the_kernel_holds_them(rig: Served) -> None:
    rig.bench.grant(2)
    flows = {(f["source"], f["target"], f["protocol"], f["port"]): (f["needs"], f["passes"]) for f in _status(rig)["flows"]}
    assert flows[PUMP4, HOSP4, "tcp", w.MONITORING] == ("vital", True)
    assert flows[HOSP4, PUMP4, "tcp", w.CONTROL] == ("2", True)
    assert flows[HOSP6, PUMP6, "tcp", w.MAINTENANCE] == ("3", False)
    rig.bench.drop()
    flows = {(f["source"], f["target"], f["protocol"], f["port"]): (f["needs"], f["passes"]) for f in _status(rig)["flows"]}
    assert flows[PUMP4, HOSP4, "tcp", w.MONITORING] == ("vital", True)
    assert flows[HOSP4, PUMP4, "tcp", w.CONTROL] == ("2", False)
    assert flows[PUMP4, GATE[4], "udp", 123] == ("0", True)
