"""The bench's network: a ward, its gateway, a hospital and an attacker, each a network namespace of this machine.

``Ward`` lays the cables that a gateway in line would see: one a device, one to the hospital in the devices' own subnet, one for
management to the host. The bridge, its ports, addresses, routes and neighbour entries are made by the product's own code, as are
the static tables and a policy document loaded. It removes only what it made. It knows no process and no trust.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import read_config
from gateway.network.kernel import bring_up
from gateway.wiring import Place

_CLONE_NEWNET = 0x40000000
_NETNS = Path("/run/netns")
TABLE_FILE = Path(__file__).parent.parent / "image" / "wardgate.nft"

GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"
HOSPITAL4, HOSPITAL6 = "10.77.0.100", "fd77::100"
MGMT_GATEWAY, MGMT_HOST = "10.78.0.2", "10.78.0.1"


@dataclass(frozen=True, slots=True)
class Position:
    """One wired place of the ward: the namespace's suffix, the bridge port, and how the host behind it is addressed."""

    name: str
    port: str
    mac: str
    ipv4: str
    ipv6: str


MONITOR = Position("mon1", "p-mon-1", "02:57:47:00:00:12", "10.77.0.12", "fd77::12")
PUMP = Position("pump1", "p-pump-1", "02:57:47:00:00:11", "10.77.0.11", "fd77::11")
ATTACKER = Position("att", "p-attack", "02:57:47:00:00:66", "10.77.0.66", "fd77::66")


class NetworkError(Exception):
    """A part of the bench's network could not be made."""


def run(*argv: str, text: str | None = None, check: bool = True) -> str:
    """Run a command to its end; returns its output. Raises NetworkError with what it said."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30, check=False)
    if check and done.returncode:
        raise NetworkError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def enter(namespace: str) -> None:
    """Move the calling thread (and what it starts) into a namespace for good: for child processes of tests and benches."""
    descriptor = os.open(_NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a namespace for the length of a ``with`` (this thread only). Sockets made inside keep belonging to it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        try:
            yield
        finally:
            if ctypes.CDLL(None, use_errno=True).setns(home, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns home")
    finally:
        os.close(home)


class Ward:
    """The bench's network. ``build`` makes it, ``close`` removes what was made; ``with Ward(…)`` does both.

    ``directory`` is where the policy lives (``confirmed.json``); it must exist. With one, ``with`` also loads the tables
    and ``document`` (none: the tables hold no element); without one, somebody else loads them.
    """

    def __init__(
        self,
        prefix: str = "wg-",
        *,
        directory: Path | None = None,
        positions: Sequence[Position] = (PUMP, ATTACKER),
        document: Mapping[str, Any] | None = None,
        management: bool = True,
    ) -> None:
        if len(prefix) > 8:
            raise NetworkError("a prefix has at most 8 characters")
        self.prefix, self.positions, self.policy_dir = prefix, tuple(positions), directory
        self._document, self._management = document, management
        self.gateway, self.hospital = f"{prefix}gw", f"{prefix}hosp"
        self._made: list[str] = []
        self._loaded = False
        self._own = directory is None
        self._run = Path(tempfile.mkdtemp(prefix="wg-net-")) if directory is None else directory.parent / "network"

    def __enter__(self) -> Ward:
        self.build()
        try:
            if self.policy_dir is not None:
                self.load(self._document)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def build(self) -> None:
        """Make the namespaces and links (0.2 s). On failure nothing stays."""
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def namespace(self, position: Position) -> str:
        """The namespace of the host at a position."""
        return f"{self.prefix}{position.name}"

    @property
    def confirmed(self) -> Path:
        """The confirmed document's file."""
        return self._policy() / "confirmed.json"

    def _policy(self) -> Path:
        if self.policy_dir is None:
            raise NetworkError("this ward was made without a policy directory")
        return self.policy_dir

    def load(self, document: Mapping[str, Any] | None = None) -> None:
        """Confirm ``document`` as root and load it; without one, load what is confirmed already."""
        argv = ["ip", "netns", "exec", self.gateway, sys.executable, "-m", "gateway.enforcer.confirm"]
        common = ["--state", str(self._policy()), "--table-file", str(TABLE_FILE), "--network", str(self.settings)]
        if document is None or not self._loaded:
            run(*argv, "load", *common)
            self._loaded = True
        if document is None:
            return
        draft = self._policy() / f".draft-{threading.get_native_id()}.json"
        draft.write_text(json.dumps(document))
        try:
            run(*argv, "confirm", *common, "--document", str(draft))
        finally:
            draft.unlink(missing_ok=True)

    def nft(self, *argv: str) -> str:
        """``nft`` in the gateway's namespace."""
        return run("ip", "netns", "exec", self.gateway, "nft", *argv)

    def counters(self) -> dict[str, int]:
        """Packets of every named counter of the two tables."""
        listed = json.loads(self.nft("-j", "list", "counters"))["nftables"]
        return {item["counter"]["name"]: item["counter"]["packets"] for item in listed if "counter" in item}

    def unplug(self, hospital: bool = True) -> None:
        """Pull the hospital's cable (or put it back with ``hospital=False``)."""
        run("ip", "-n", self.hospital, "link", "set", "eth0", "down" if hospital else "up")
        if not hospital:
            run("ip", "-n", self.hospital, "addr", "replace", f"{HOSPITAL6}/64", "dev", "eth0", "nodad")

    def close(self) -> None:
        """Remove the namespaces that this object made; their links go with them."""
        if self._made and self._management:  # a namespace goes in its own time; the next ward may want the name at once
            run("ip", "link", "del", self.management_link, check=False)
        while self._made:
            run("ip", "netns", "del", self._made.pop(), check=False)
        if self._own:
            shutil.rmtree(self._run, ignore_errors=True)

    def _add(self, namespace: str) -> None:
        run("ip", "netns", "add", namespace)
        self._made.append(namespace)

    def _build(self) -> None:
        for namespace in (self.gateway, self.hospital, *map(self.namespace, self.positions)):
            self._add(namespace)
        for namespace in self._made:
            forwards = namespace == self.gateway
            _sysctl(namespace, _GATEWAY_SYSCTLS if forwards else _HOST_SYSCTLS)
        self._links()
        self._gateway()
        _batch(self.hospital, _host("02:57:47:00:01:00", HOSPITAL4, HOSPITAL6))
        for position in self.positions:
            _batch(self.namespace(position), _host(position.mac, position.ipv4, position.ipv6))

    def _links(self) -> None:
        lines = [f"link add hosp0 type veth peer name eth0 netns {self.hospital}"]
        for position in self.positions:
            lines.append(f"link add {position.port} type veth peer name eth0 netns {self.namespace(position)}")
        if self._management:
            lines.append(f"link add mgmt0 type veth peer name {self.management_link} netns {os.getpid()}")
        _batch(self.gateway, lines)

    @property
    def management_link(self) -> str:
        """The host's end of the management veth."""
        return f"{self.prefix}mgmt"

    def _gateway(self) -> None:
        """Cards with known MACs; everything else is the product's."""
        _batch(self.gateway, ["link set lo up", "link set hosp0 address 02:57:47:00:01:01"])
        if self._management:
            run("ip", "addr", "add", f"{MGMT_HOST}/30", "dev", self.management_link)
            run("ip", "link", "set", self.management_link, "up")
        settings = read_config(self._write_settings()).network
        # Before a policy there is none whose devices could be reached; a ward without one is open for its tests.
        known = () if self.policy_dir else self.positions
        places = [Place(p.name, p.port, p.mac, (p.ipv4, p.ipv6)) for p in known]
        with inside(self.gateway):
            report = bring_up(settings, places, (HOSPITAL4, HOSPITAL6), forward=True)
        if report.problems:
            raise NetworkError("; ".join(report.problems))

    @property
    def settings(self) -> Path:
        """The product's configuration of this ward's network."""
        return self._run / "network.toml"

    def _write_settings(self) -> Path:
        names = [p.port for p in self.positions]
        management = f'"{MGMT_GATEWAY}/30"' if self._management else ""
        lines = [
            "[network]",
            f'addresses = ["{GATEWAY4}", "{GATEWAY6}"]\nmanagement_addresses = [{management}]\nrun = "{self._run}"',
            "[network.nics]",
            *(f'"{name}" = "{name}"' for name in names),
            f'[network.services]\nset_clock = false\n[peers]\nhospital = ["{HOSPITAL4}", "{HOSPITAL6}"]',
        ]
        self._run.mkdir(parents=True, exist_ok=True)
        self.settings.write_text("\n".join(lines) + "\n")
        return self.settings


# Duplicate address detection would cost a second an address, and every address here is known to be the only one.
_HOST_SYSCTLS = {"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/default/accept_dad": "0"}
_GATEWAY_SYSCTLS = {
    **_HOST_SYSCTLS,
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}


def _host(mac: str, ipv4: str, ipv6: str) -> list[str]:
    return [
        "link set lo up",
        f"link set eth0 address {mac} up",
        f"addr add {ipv4}/24 dev eth0",
        f"addr add {ipv6}/64 dev eth0 nodad",
    ]


def _batch(namespace: str, lines: Sequence[str]) -> None:
    run("ip", "-n", namespace, "-batch", "-", text="\n".join(lines) + "\n")


def _sysctl(namespace: str, values: Mapping[str, str]) -> None:
    with inside(namespace):
        for name, value in values.items():
            Path("/proc/sys", name).write_text(value)


def clean(prefix: str) -> list[str]:
    """Remove the namespaces that an interrupted ward with this prefix left; returns their names."""
    own = re.compile(f"{re.escape(prefix)}(gw|hosp|{PUMP.name}|{MONITOR.name}|{ATTACKER.name}|d[0-9]+)")
    left = sorted(path.name for path in _NETNS.glob(f"{prefix}*") if own.fullmatch(path.name)) if _NETNS.is_dir() else []
    for namespace in left:
        run("ip", "netns", "del", namespace, check=False)
    return left
