"""The ward's two servers on the bench: the product's own keepers, each as a user of its own and without any capability."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hil.process import BenchError, Process, start

if TYPE_CHECKING:
    from hil.bench import Bench

DHCP_UID, NTP_UID = 61003, 61004
TOP = Path(__file__).resolve().parent.parent


def start_services(bench: Bench) -> None:
    """Make the network as the configuration says, then keep dnsmasq and chronyd; they end with the bench."""
    apply(bench.ns("gw"), bench.config)
    for name, process in keep(bench.ns("gw"), bench.config, bench.directory / "served", bench.log).items():
        bench.processes[name] = process


def apply(namespace: str, config: Path, *argv: str) -> str:
    """``wardgate-network apply`` in a namespace. Raises BenchError with its problems."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "gateway.network", "apply", "--config", str(config), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=TOP)
    if done.returncode:
        raise BenchError(f"wardgate-network apply → {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def keep(namespace: str, config: Path, state: Path, log: Path) -> dict[str, Process]:
    """Start both keepers; ``state`` gets a directory for each."""
    from hil.bench import bench_user

    started = {}
    for act, uid in (("dhcp", DHCP_UID), ("ntp", NTP_UID)):
        bench_user(f"wardgate-bench-{act}", uid)
        own = state / act
        own.mkdir(parents=True, exist_ok=True)
        own.chmod(0o700)
        os.chown(own, uid, pwd.getpwuid(uid).pw_gid)
        argv = [sys.executable, "-m", "gateway.network", act, "--config", str(config), "--state", str(own)]
        env = {"PYTHONPATH": str(TOP)}
        started[act] = start(f"keep-{act}", argv, log_dir=log, netns=namespace, uid=uid, env=env)
    return started
