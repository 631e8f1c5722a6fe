"""People's mistakes with cables, made on a real bridge, and what ``wardgate check`` would say of each."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from gateway import own_address
from gateway.config import read_config
from gateway.enforcer.client import EnforcerClient
from gateway.model.event import PartChanged
from gateway.newcomers import Newcomers
from gateway.own_address import OwnAddress
from gateway.wiring import Finding, Kind, Wiring
from gateway.wiring_reader import look, managers, rows
from hil import frames
from hil.network import ATTACKER, HOSPITAL4, PUMP, inside, run
from tests.enforcer.ward import GATE4, GATE6, PUMP4
from tests.network.ward import Served

rig_only = pytest.mark.rig


def wiring(rig: Served) -> Wiring:
    """What is seen from inside the gateway now."""
    settings = rig.settings.read_text() + f'[policy]\nconfirmed = "{rig.ward.confirmed}"\n'
    path = rig.directory / "look.toml"
    path.write_text(settings)
    with inside(rig.ward.gateway):
        return look(read_config(path))


def finding(rig: Served, code: str, wait_s: float = 3.0) -> Finding:
    """The finding with this code, as soon as it is there."""
    deadline = time.monotonic() + wait_s
    while True:
        found = wiring(rig).findings
        for f in found:
            if f.code == code:
                return f
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def forgotten(request: pytest.FixtureRequest) -> None:
    """Who was refused in another test is forgotten."""
    if "rig" in request.fixturenames:
        rig: Served = request.getfixturevalue("rig")
        for name in ("met4", "met6"):
            rig.ward.nft("flush", "set", "bridge", "wardgate_l2", name)
        run("ip", "-n", rig.ward.gateway, "neigh", "flush", "all")


@contextmanager
def impostor(rig: Served, mac: str, address: str) -> Iterator[str]:
    """The attacker's place with another MAC and address; yields its namespace."""
    namespace = rig.bench.attacker
    run("ip", "-n", namespace, "link", "set", "eth0", "address", mac)
    run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
    run("ip", "-n", namespace, "route", "add", "10.77.0.200/32", "dev", "eth0", "src", address)
    try:
        yield namespace
    finally:
        run("ip", "-n", namespace, "route", "del", "10.77.0.200/32", "dev", "eth0")
        run("ip", "-n", namespace, "addr", "del", f"{address}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "address", ATTACKER.mac)


def speak(namespace: str) -> None:
    """Look for somebody, so that the bridge hears who asks."""
    run("ip", "netns", "exec", namespace, "ping", "-c1", "-W0.2", "-n", "10.77.0.200", check=False)


@rig_only
def test_a_ward_as_it_should_be_is_in_line(rig: Served) -> None:
    seen = wiring(rig)
    assert (seen.kind, seen.ok) == (Kind.IN_LINE, True), seen.findings
    assert {(p.name, p.device, p.carrier, p.isolated) for p in seen.ports} == {
        (PUMP.port, "pump-1", True, True),
        (ATTACKER.port, "", True, True),
    }


@rig_only
def test_a_device_on_anothers_port(rig: Served) -> None:
    with impostor(rig, PUMP.mac, PUMP4) as namespace:
        speak(namespace)
        assert "pump-1 is on p-attack; it belongs on p-pump-1" in finding(rig, "wrong-port").text


@rig_only
def test_one_address_twice_on_the_ward(rig: Served) -> None:
    with impostor(rig, ATTACKER.mac, PUMP4) as namespace:
        speak(namespace)
        assert (
            f"{PUMP4} is used twice: by pump-1 on p-pump-1 and by {ATTACKER.mac} on p-attack" in finding(rig, "address-twice").text
        )


@rig_only
def test_the_gateways_own_address_on_another_station(rig: Served) -> None:
    with impostor(rig, ATTACKER.mac, GATE4) as namespace:
        speak(namespace)
        found = finding(rig, "own-address")
        assert found.text == f"{GATE4} is this gateway's own address, and {ATTACKER.mac} on p-attack uses it too, which is refused"
        assert found.severity == "wrong"


@rig_only
async def test_the_daemon_tells_of_it_by_real_frames_and_when_it_has_stopped(rig: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gratuitous ARP answer, as a station sends when it takes an address; the enforcer hears it, the kernel knows who it was."""
    monkeypatch.setattr(own_address, "_AGAIN_S", 0.2)
    monkeypatch.setattr(own_address, "_REST_S", 0.1)
    client, told = EnforcerClient(rig.bench.socket), asyncio.Queue[PartChanged]()
    part = OwnAddress([GATE4, GATE6], client, told.put_nowait)
    async with hearing(client, part):
        await asyncio.to_thread(announce, rig.bench.attacker, PUMP4)
        await asyncio.sleep(1.0)
        assert told.empty(), "another address is not ours"
        await asyncio.to_thread(announce, rig.bench.attacker, GATE4)
        first = await asyncio.wait_for(told.get(), 5)
        assert (first.part, first.up) == ("own-address", False)
        assert first.detail.startswith(f"{GATE4} is this gateway's own, and {ATTACKER.mac} behind p-attack uses it too; give")
        rig.ward.nft("flush", "set", "bridge", "wardgate_l2", "met4")  # as two minutes after the last frame
        assert (await asyncio.wait_for(told.get(), 5)).up


@asynccontextmanager
async def hearing(client: EnforcerClient, part: OwnAddress | Newcomers) -> AsyncIterator[None]:
    """The part runs, and hears what the enforcer denies."""

    async def listen() -> None:
        async for event in client.watch():
            if event.get("event") == "denied":
                part.heard(event)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen()), group.create_task(part.run())]
        await asyncio.sleep(0.3)
        yield
        for task in tasks:
            task.cancel()
    await client.close()


def announce(namespace: str, address: str) -> None:
    """An ARP answer that nobody asked for, to everybody."""
    with inside(namespace):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with s:
        s.bind(("eth0", 0))
        claim = frames.arp(2, ATTACKER.mac, address, frames.BROADCAST, address)
        s.send(frames.ethernet(ATTACKER.mac, frames.BROADCAST, frames.ARP, claim))


@rig_only
def test_cables_swapped_the_hospital_behind_a_ward_port(rig: Served) -> None:
    with impostor(rig, "02:99:00:00:00:01", HOSPITAL4) as namespace:
        speak(namespace)
        said = finding(rig, "swapped")
        assert HOSPITAL4 in said.text
        assert "swap the cables" in said.remedy


@rig_only
@pytest.mark.parametrize("with_mac", [False, True], ids=["another-host", "the-device-itself"])
def test_a_devices_address_is_heard_in_the_hospital(rig: Served, with_mac: bool) -> None:
    hospital = rig.ward.hospital
    own = run("ip", "netns", "exec", hospital, "cat", "/sys/class/net/eth0/address").strip()
    if with_mac:
        run("ip", "-n", hospital, "link", "set", "eth0", "address", PUMP.mac)
    run("ip", "-n", hospital, "addr", "add", f"{PUMP4}/24", "dev", "eth0")
    try:
        run("ip", "netns", "exec", hospital, "ping", "-c1", "-W0.2", "-n", "-I", PUMP4, "10.77.0.1", check=False)
        said = finding(rig, "swapped" if with_mac else "address-twice")
        assert ("pump-1 was heard on hosp0" if with_mac else f"by {own} in the hospital") in said.text
    finally:
        run("ip", "-n", hospital, "addr", "del", f"{PUMP4}/24", "dev", "eth0")
        run("ip", "-n", hospital, "link", "set", "eth0", "address", own)
        run("ip", "-n", hospital, "neigh", "flush", "all")
        run("ip", "-n", rig.ward.gateway, "neigh", "flush", "all")


@rig_only
def test_several_hosts_behind_one_port_are_a_shared_switch(rig: Served) -> None:
    for mac in ("02:99:00:00:00:02", "02:99:00:00:00:03"):
        with impostor(rig, mac, "10.77.0.67") as namespace:
            speak(namespace)
    assert "what they send each other is not controlled" in finding(rig, "shared-switch").text
    assert wiring(rig).kind is Kind.SHARED


@rig_only
def test_no_carrier_and_no_isolation_on_a_bound_port(rig: Served) -> None:
    run("ip", "-n", rig.bench.pump, "link", "set", "eth0", "down")
    run("ip", "-n", rig.ward.gateway, "link", "set", PUMP.port, "type", "bridge_slave", "isolated", "off")
    try:
        assert "no link on p-pump-1, where pump-1 is" in finding(rig, "no-carrier").text
        assert not wiring(rig).ok
        assert rig.apply()["changes"] == [f"ip link set {PUMP.port} type bridge_slave isolated on"]
        assert "not-isolated" not in [f.code for f in wiring(rig).findings]
    finally:
        run("ip", "-n", rig.bench.pump, "link", "set", "eth0", "up")
        run("ip", "-n", rig.bench.pump, "addr", "replace", f"{PUMP.ipv6}/64", "dev", "eth0", "nodad")


@rig_only
def test_check_has_a_row_for_the_wiring_and_one_for_each_mistake(rig: Served) -> None:
    with impostor(rig, PUMP.mac, PUMP4) as namespace:
        speak(namespace)
        finding(rig, "wrong-port")
        with inside(rig.ward.gateway):
            first, *others = rows(read_config(rig.directory / "look.toml"))
    assert first[1] is True
    assert first[2].startswith("in line: 2 ports of ward0, the hospital on hosp0. Controls every packet between")
    assert [(ok, "pump-1 is on p-attack" in text, bool(remedy)) for _, ok, text, remedy in others] == [(False, True, True)]


# --- who else configures our interfaces ---


@pytest.mark.parametrize(
    ("path", "text", "manager"),
    [
        ("run/NetworkManager/devices/7", "[device]\nmanaged=true\n", "NetworkManager"),
        ("run/NetworkManager/devices/7", "[device]\nmanaged=false\n", None),
        ("run/systemd/netif/links/7", "ADMIN_STATE=configured\nOPER_STATE=routable\n", "systemd-networkd"),
        ("run/systemd/netif/links/7", "ADMIN_STATE=unmanaged\n", None),
        ("run/network/ifstate", "lo=lo\nhosp0=hosp0\n", "ifupdown"),
        ("etc/network/interfaces", "auto lo\niface lo inet loopback\n  iface hosp0 inet dhcp\n", "ifupdown"),
        ("etc/network/interfaces", "iface hosp01 inet dhcp\n", None),
        ("run/dhcpcd/hosp0.pid", "12", "dhcpcd"),
    ],
)
def test_other_managers_are_recognised(tmp_path: Path, path: str, text: str, manager: str | None) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True)
    place.write_text(text)
    assert managers({"hosp0": 7}, tmp_path).get("hosp0") == manager
