"""What the two servers are told, byte by byte where it matters, and read by the servers themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gateway.config import Network, Services
from gateway.errors import InputError
from gateway.network.__main__ import write_files
from gateway.network.answers import network_toml
from gateway.network.served import chrony, dnsmasq, names, reservations, texts
from gateway.wiring import Place

PUMP = Place("pump-1", "p-pump-1", "02:57:47:00:00:11", ("fd77::11", "10.77.0.11", "10.77.0.13"))
ONLY6 = Place("six", "p-6", "02:57:47:00:00:16", ("fd77::16", "fe80::16"))


def network(**services: object) -> Network:
    return Network(
        addresses=("10.77.0.1", "fd77::1"),
        subnets=("10.77.0.0/16", "fd77::/64"),
        run=Path("/nowhere"),
        services=Services(**services),  # type: ignore[arg-type]
    )


def test_a_reservation_a_device_by_its_mac() -> None:
    assert reservations([ONLY6, PUMP]).splitlines()[1:] == ["02:57:47:00:00:11,10.77.0.11"]


def test_only_the_known_are_answered_on_the_ward_alone_and_nothing_is_forwarded() -> None:
    lines = dnsmasq(network()).splitlines()
    assert {"interface=ward0", "except-interface=lo", "bind-interfaces", "no-resolv", "no-hosts"} <= set(lines)
    assert {"dhcp-ignore=tag:!known", "dhcp-broadcast", "dhcp-hostsfile=/nowhere/reservations"} <= set(lines)
    assert [line for line in lines if line.startswith("dhcp-range=")] == [
        "dhcp-range=set:net0a4d0000,10.77.0.0,static,255.255.0.0,86400"
    ]
    assert not any(line.startswith("server=") for line in lines)
    assert "server=10.0.0.53" in dnsmasq(network(resolvers=("10.0.0.53",)))


def test_services_that_are_off_have_no_line_and_no_file() -> None:
    assert "port=0" in dnsmasq(network(dns=False))
    assert "dhcp" not in dnsmasq(network(dhcp=False))
    assert set(texts(network(dhcp=False, dns=False, ntp=False), [PUMP], {})) == set()
    assert set(texts(network(), [PUMP], {})) == {"dnsmasq.conf", "names", "reservations", "chrony.conf"}


def test_names_are_the_gateways_and_the_peers_and_nothing_that_is_no_name() -> None:
    listed = names(network(), {"central": ("10.77.0.100",), "bad name\naddn-hosts=/etc/shadow": ("10.0.0.1",), "-x": ("10.0.0.2",)})
    assert listed.splitlines()[1:] == [
        "10.77.0.1 gateway.ward gateway",
        "fd77::1 gateway.ward gateway",
        "10.77.0.100 central.ward central",
    ]


def test_the_time_is_for_devices_on_the_ward_and_honest() -> None:
    lines = chrony(network(set_clock=False), [PUMP, ONLY6]).splitlines()
    assert [line for line in lines if line.startswith("allow")] == [
        "allow 10.77.0.11", "allow 10.77.0.13", "allow fd77::11", "allow fd77::16",
    ]  # fmt: skip
    assert {"binddevice ward0", "bindaddress 10.77.0.1", "bindaddress fd77::1", "cmdport 0"} <= set(lines)
    assert not any(line.startswith(("local", "server", "rtcsync")) for line in lines)
    told = chrony(network(local_stratum=10, time_servers=("10.0.0.123",)), []).splitlines()
    assert {"local stratum 10", "server 10.0.0.123 iburst", "rtcsync"} <= set(told)


@pytest.mark.parametrize("services", [{}, {"resolvers": ("10.0.0.53",), "local_stratum": 8, "time_servers": ("10.0.0.9",)}])
def test_the_servers_themselves_find_no_mistake(tmp_path: Path, services: dict[str, object]) -> None:
    made = Network(addresses=("10.77.0.1", "fd77::1"), run=tmp_path, services=Services(**services))  # type: ignore[arg-type]
    write_files(tmp_path, texts(made, [PUMP], {"central": ("10.77.0.100",)}))
    for argv in (["dnsmasq", "--test", f"--conf-file={tmp_path}/dnsmasq.conf"], ["chronyd", "-p", "-f", f"{tmp_path}/chrony.conf"]):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
        assert done.returncode == 0, done.stderr


def test_files_are_written_once_and_removed_when_switched_off(tmp_path: Path) -> None:
    content = texts(network(), [PUMP], {})
    assert len(write_files(tmp_path, content)) == 4
    assert write_files(tmp_path, content) == []
    changed = write_files(tmp_path, texts(network(ntp=False), [PUMP], {}))
    assert changed == ["dnsmasq.conf written", "chrony.conf removed"]  # nobody is told of a time server that is not there
    assert not (tmp_path / "chrony.conf").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"domain": "ward\nport=0"},
        {"domain": ""},
        {"resolvers": ("10.0.0.1\nserver=8.8.8.8",)},
        {"time_servers": ("pool",)},
        {"local_stratum": 16},
        {"lease_s": 1},
    ],
)
def test_a_wrong_setting_is_refused_before_it_is_written(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Services(**wrong)  # type: ignore[arg-type]


def test_what_the_gateway_asks_and_what_it_offers() -> None:
    asks = Services(resolvers=("10.0.0.53",), time_servers=("10.0.0.123",))
    assert asks.flows == (("10.0.0.53", "udp", 53), ("10.0.0.53", "tcp", 53), ("10.0.0.123", "udp", 123))
    assert asks.offers == (("udp", 53, 1), ("tcp", 53, 1), ("udp", 123, 0))
    assert Services().offers[0] == ("udp", 53, 0)


def test_init_writes_what_it_was_told_and_refuses_what_it_does_not_understand() -> None:
    import tomllib

    names_ = ("ward0", "hosp0", "mgmt0")
    text = network_toml(names_, ["10.0.0.1/23", "fd00::1"], ["10.1.0.2/24"], ["hosp0=enp1s0"], Path("/var/lib/wardgate-policy"))
    told = tomllib.loads(text)["network"]
    assert (told["addresses"], told["subnets"]) == (["10.0.0.1", "fd00::1"], ["10.0.0.0/23"])
    assert told["nics"] == {"hosp0": "enp1s0"}
    assert told["run"] == "/run/wardgate-network"
    for addresses, nics in ((["10.0.0.1/99"], []), (["10.0.0.1"], ["hosp0"])):
        with pytest.raises(InputError):
            network_toml(names_, addresses, [], nics, Path("/x"))
