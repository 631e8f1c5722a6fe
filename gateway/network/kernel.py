"""Reads the kernel with ``ip -j`` and brings it to what ``plan`` says, as root. Idempotent; says what it changed.

Lines that fail do not keep the others from being tried: half a ward is better than none, and all that failed is told together.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.config import Network
from gateway.enforcer.files import write_atomically
from gateway.errors import InputError, UnavailableError
from gateway.network.plan import PROTOCOL, State, Steps, end_steps, ends, link_steps, ports, sysctls
from gateway.wiring import Place

_IP_S = 30.0
_SYSCTL = Path("/proc/sys")
_RECORD = "applied.json"  # addresses that were added: they carry no mark of their own
_RECORDED_MAX = 4096


@dataclass
class Report:
    """What a run did. ``missing``: not there yet, and no fault; ``problems``: what must be mended."""

    changes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, steps: Steps) -> None:
        self.missing += [m for m in steps.missing if m not in self.missing]
        self.problems += steps.problems


def bring_up(
    network: Network,
    places: Sequence[Place],
    hospital: Iterable[str],
    *,
    forward: bool,
    take: bool = False,
    run: Path | None = None,
) -> Report:
    """Make the ward's network what it should be. ``forward``: the tables are loaded, so routing may begin.

    ``run``: where the record of added addresses lies; default: the configuration's. Raises UnavailableError without iproute2.
    """
    report, record = Report(), (run or network.run) / _RECORD
    state = read_state(record)
    links = link_steps(network, places, state, take=take)
    report.take(links)
    _batch(links.lines, report)
    state = read_state(record)
    present = {str(row["ifname"]) for row in state.links}
    _set(sysctls(network, sorted(present & set(ports(network, places))), forward=forward), present, report)
    wanted = ends(network, places, hospital)
    steps = end_steps(network, wanted, state, present)
    report.take(steps)
    _batch(steps.lines, report)
    _remember(record, sorted(a for a in wanted.addresses if a[0] in present))
    return report


def read_state(record: Path) -> State:
    """What the kernel of this namespace has now."""
    both = [("-4",), ("-6",)]
    return State(
        links=ip_json("-d", "link"),
        addresses=ip_json("addr"),
        routes=[row for family in both for row in ip_json(*family, "route", "show", "proto", str(PROTOCOL))],
        proxies=[row for row in ip_json("neigh", "show", "proxy") if str(row.get("protocol")) == str(PROTOCOL)],
        recorded=_recorded(record),
    )


def ip_json(*words: str, program: str = "ip") -> list[dict[str, Any]]:
    """``ip -j WORDS`` (or ``bridge``), decoded. Raises UnavailableError."""
    out = _run([program, "-j", *words])
    try:
        rows = json.loads(out or "[]")
    except ValueError as e:
        raise UnavailableError(f"{program} {' '.join(words)} did not answer in JSON: {e}", "install iproute2 5 or newer") from None
    return [row for row in rows if isinstance(row, dict) and row]


def _run(argv: Sequence[str], text: str | None = None, check: bool = True) -> str:
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_IP_S, check=False)  # noqa: S603 - fixed programs
    except (OSError, subprocess.TimeoutExpired) as e:
        raise UnavailableError(f"{argv[0]} did not run: {e}", "install iproute2, and run as root") from None
    if check and done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise UnavailableError(f"{' '.join(argv)}: {said[0][:200]!a}", "run as root")
    return done.stdout if check else done.stderr


def _batch(lines: Sequence[str], report: Report) -> None:
    """Run all lines, each on its own merits; what fails is a problem with its line."""
    if not lines:
        return
    said = _run(["ip", "-force", "-batch", "-"], "\n".join(lines) + "\n", check=False)
    failed: dict[int, str] = {}
    pending = ""
    for line in said.splitlines():
        if line.startswith("Command failed -:"):
            failed[int(line.rpartition(":")[2])] = pending
            pending = ""
        else:
            pending = pending or line.strip()
    for number, line in enumerate(lines, 1):
        if number in failed:
            report.problems.append(f"ip {line}: {failed[number] or 'it failed'}"[:300])
        else:
            report.changes.append(f"ip {line}")


def _set(values: Mapping[str, str], present: set[str], report: Report) -> None:
    for name, value in values.items():
        path = _SYSCTL / name
        interface = name.split("/")[3] if name.count("/") > 3 else ""
        if (interface and interface not in present) or (name.startswith("net/ipv6") and not (_SYSCTL / "net/ipv6").is_dir()):
            continue
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
                report.changes.append(f"{name} = {value}")
        except OSError as e:
            report.problems.append(f"{name} cannot be set to {value} ({e.strerror})")


def _recorded(record: Path) -> frozenset[tuple[str, str]]:
    try:
        rows = json.loads(record.read_bytes())
        return frozenset((str(interface), str(address)) for interface, address in rows[:_RECORDED_MAX])
    except (OSError, ValueError, TypeError):
        return frozenset()


def _remember(record: Path, addresses: Sequence[tuple[str, str]]) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        if _recorded(record) != frozenset(addresses):
            write_atomically(record, json.dumps(addresses).encode(), 0o644)
    except OSError as e:
        raise InputError(f"{record} cannot be written ({e.strerror})", "run as root, and look at the disk") from None
