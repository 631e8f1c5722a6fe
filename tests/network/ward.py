"""A ward made by the product's own code, with its servers running and a pump that asks them. Real packets only."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hil.network import ATTACKER, PUMP, inside, run
from hil.process import Process
from hil.services import apply, keep
from tests.enforcer import ward as w

GATE = {4: w.GATE4, 6: w.GATE6}


def document() -> dict[str, Any]:
    """The pump's policy, with the gateway's own services for it."""
    made = w.document()
    sets = made["sets"]
    for family, pump in ((4, w.PUMP4), (6, w.PUMP6)):
        flows = [("udp", 53), ("tcp", 53), ("udp", 123), *([("udp", 67)] if family == 4 else [])]
        sets[f"rtl0_{family}"] += [[pump, GATE[family], *flow] for flow in flows]
    sets |= {"dhcp_port": [[PUMP.port, PUMP.mac]], "dhcp_bind": [["ward0", PUMP.mac]]}
    return made


class Served:
    """The bench of the enforcer's tests, and both servers kept as on the appliance."""

    def __init__(self, bench: w.Bench, directory: Path) -> None:
        self.bench, self.ward, self.directory = bench, bench.ward, directory
        self.keepers: dict[str, Process] = {}

    @property
    def settings(self) -> Path:
        return self.ward.settings

    def start(self) -> None:
        """Write what the servers read, and keep them."""
        self.apply()
        log = self.directory / "log"
        log.mkdir()
        self.keepers = keep(self.ward.gateway, self.settings, self.directory / "served", log)

    def apply(self) -> dict[str, Any]:
        """``wardgate-network apply`` with the confirmed policy; returns what it changed."""
        answer: dict[str, Any] = json.loads(apply(self.ward.gateway, self.settings, "--policy", str(self.ward.confirmed)))
        return answer

    def stop(self) -> None:
        for process in self.keepers.values():
            process.stop(3.0)

    def counter(self, name: str) -> int:
        return int(self.ward.counters()[name])


@contextmanager
def served() -> Iterator[Served]:
    """Everything; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="nw-", dir="/tmp") as name, w.bench(document()) as bench:
        Path(name).chmod(0o755)
        made = Served(bench, Path(name))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def lease(namespace: str, directory: Path, tries: int = 3, wait_s: int = 1) -> dict[str, str] | None:
    """What a real DHCP client (udhcpc) in ``namespace`` is told, or None when nobody answers."""
    told, script = directory / f"lease-{namespace}", directory / "script"
    told.unlink(missing_ok=True)
    script.write_text(f'#!/bin/sh\n[ "$1" = bound ] && env >"{told}"\nexit 0\n')
    script.chmod(0o755)
    argv = ["udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", str(tries), "-T", str(wait_s), "-s", str(script)]
    subprocess.run(["ip", "netns", "exec", namespace, *argv], capture_output=True, timeout=30, check=False)
    return dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line) if told.exists() else None


def forget(namespace: str, address: str) -> None:
    """Take the address away, as on a device that was set to DHCP."""
    run("ip", "-n", namespace, "addr", "del", f"{address}/24", "dev", "eth0", check=False)


def remember(namespace: str, address: str) -> None:
    run("ip", "-n", namespace, "addr", "replace", f"{address}/24", "dev", "eth0")


def resolve(namespace: str, server: str, name: str, kind: int = 1, wait_s: float = 1.0) -> tuple[int, list[str]] | None:
    """(response code, addresses) of a DNS question asked with a plain datagram; None: nobody answered."""
    question = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0" + struct.pack(">HH", kind, 1)
    answer = ask(namespace, server, 53, struct.pack(">HHHHHH", 77, 0x0100, 1, 0, 0, 0) + question, wait_s)
    if answer is None:
        return None
    _, flags, _, count = struct.unpack(">HHHH", answer[:8])
    rest, addresses = answer[12 + len(question) :], []
    for _ in range(count):
        (length,) = struct.unpack(">H", rest[10:12])  # the name is a pointer (2 bytes), then type, class, lifetime
        family = socket.AF_INET6 if length == 16 else socket.AF_INET
        addresses.append(socket.inet_ntop(family, rest[12 : 12 + length]))
        rest = rest[12 + length :]
    return flags & 15, addresses


def clock(namespace: str, server: str, wait_s: float = 1.0) -> tuple[int, int] | None:
    """(leap indicator, stratum) of an NTP answer; 3 is *unsynchronised*. None: nobody answered."""
    answer = ask(namespace, server, 123, b"\x23" + bytes(39) + b"wardgate", wait_s)
    if answer is None:
        return None
    assert answer[24:32] == b"wardgate"  # the origin timestamp is ours: it answers this question
    return answer[0] >> 6, answer[1]


def ask(namespace: str, server: str, port: int, question: bytes, wait_s: float) -> bytes | None:
    """One datagram and its answer, asked again while neighbours are looked for."""
    with inside(namespace):
        s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    with s:
        s.settimeout(wait_s / 3)
        for _ in range(3):
            try:
                s.sendto(question, (server, port))
                return s.recv(1024)
            except (TimeoutError, OSError):
                continue
    return None


ATTACKER_NAMESPACE_ADDRESS = ATTACKER.ipv4
