"""``wardgate-network``: root's oneshot that makes the ward's network, and what keeps its two servers.

``apply`` is idempotent: at boot before the policy is loaded, and whenever a confirmed policy moves addresses. Exit 0: done; 1: a
part could not be made (the others were); 2: bad usage or configuration. What is only not plugged in is no failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gateway.config import Config, read_config
from gateway.enforcer.document import EMPTY, Document, DocumentError, check_document, parse_document
from gateway.enforcer.files import write_atomically
from gateway.enforcer.load import LoadError, keep_bridge_out_of_ip_hooks, keep_bridges_from_learning
from gateway.errors import Fault, InputError, WardgateError
from gateway.network import keeper, served
from gateway.network.kernel import Report, bring_up
from gateway.wiring import hospital_of, places_of

_CONFIG = Path("/etc/wardgate/wardgate.toml")


def main(argv: list[str] | None = None) -> int:
    """The command."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.act(arguments))
    except WardgateError as e:
        sys.stderr.write(f"wardgate-network: {e}\n")
        return 2 if e.fault is Fault.INPUT else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wardgate-network", description="the ward's side of the network")
    acts = parser.add_subparsers(required=True, metavar="ACT")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=_CONFIG, help=f"default {_CONFIG}")
    apply = acts.add_parser("apply", help="make links, addresses and routes, and write what the servers read", parents=[common])
    apply.add_argument("--policy", help="the confirmed document; `-` reads it from standard input; default: the configuration's")
    apply.add_argument("--take", action="store_true", help="take over interfaces that are in use; cuts what goes through them")
    apply.set_defaults(act=_apply)
    for name, text, act in (("dhcp", "keep dnsmasq", _dhcp), ("ntp", "keep chronyd", _ntp)):
        sub = acts.add_parser(name, help=text, parents=[common])
        sub.add_argument("--state", type=Path, required=True, help="where this server keeps its own files")
        sub.set_defaults(act=act)
    return parser


def _apply(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config)
    report = apply(config, _document(config, arguments.policy), take=arguments.take)
    answer = {"changes": report.changes, "missing": report.missing, "problems": report.problems}
    sys.stdout.write(json.dumps(answer) + "\n")
    for problem in report.problems:
        sys.stderr.write(f"wardgate-network: {problem}\n")
    return 1 if report.problems else 0


def apply(config: Config, document: dict[str, Any], *, take: bool = False) -> Report:
    """Make the network and write the servers' files. Raises WardgateError when nothing can be done at all."""
    places, hospital = places_of(document), hospital_of(document, config.peers)
    tables = _tables_loaded()
    report = bring_up(config.network, places, hospital, forward=tables, take=take)
    if not tables:
        report.problems.append("the tables are not loaded, so nothing is forwarded; systemctl start wardgate-firewall")
    try:
        keep_bridge_out_of_ip_hooks()
        keep_bridges_from_learning()
    except LoadError as e:
        report.problems.append(str(e))
    report.changes += write_files(config.network.run, served.texts(config.network, places, config.peers))
    return report


def write_files(directory: Path, texts: dict[str, str]) -> list[str]:
    """Write what changed, remove what is switched off; returns the names."""
    changed = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in served.FILES:
            path, text = directory / name, texts.get(name)
            if text is None:
                changed += [f"{name} removed"] if path.exists() else []
                path.unlink(missing_ok=True)
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                write_atomically(path, text.encode(), 0o644)
                changed.append(f"{name} written")
    except OSError as e:
        raise InputError(f"{directory} cannot be written ({e.strerror})", "run as root, and look at the disk") from None
    return changed


def _document(config: Config, source: str | None) -> dict[str, Any]:
    """The confirmed document, checked; before the first one, the empty one."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source or config.policy.confirmed).read_bytes()
        document: Document = parse_document(data)
    except FileNotFoundError:
        document = check_document(EMPTY)
    except (OSError, DocumentError) as e:
        raise InputError(f"the confirmed policy cannot be used: {e}", "wardgate-policy rollback") from None
    decoded: dict[str, Any] = json.loads(document.canonical)
    return decoded


def _tables_loaded() -> bool:
    """Whether the kernel of this namespace has both tables."""
    for table in (("inet", "wardgate"), ("bridge", "wardgate_l2")):
        try:
            done = subprocess.run(["nft", "list", "counters", "table", *table], capture_output=True, timeout=10, check=False)  # noqa: S603, S607
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode:
            return False
    return True


def _dhcp(arguments: argparse.Namespace) -> int:
    return keeper.Keeper(keeper.dnsmasq(read_config(arguments.config).network.run, arguments.state)).run()


def _ntp(arguments: argparse.Namespace) -> int:
    network = read_config(arguments.config).network
    return keeper.Keeper(keeper.chronyd(network.run, arguments.state, set_clock=network.services.set_clock)).run()


if __name__ == "__main__":
    sys.exit(main())
