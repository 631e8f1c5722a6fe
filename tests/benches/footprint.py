"""What the gateway takes with 50 devices: memory idle and at its peak, from its start to rules up and to the first grant.

Fifty Modbus devices, each in a namespace of its own with its own key, behind real tables, an enforcer and a TPM; evidence
every 10 s, as in the product. The floor of the times is a bare Python interpreter's start on this machine now.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateway.enforcer.confirm_client import confirm_sync
from hil.bench import BIN, TOP, WARDGATE_UID, Bench
from hil.network import Position, Ward
from tests.benches.figure import Figure, figure

DEVICES = 50
SETTLE_S = 25.0  # two and a half epochs of evidence
REPEATS = 3


def position(n: int) -> Position:
    """The n-th place of the ward."""
    return Position(
        f"d{n}", f"p-{n}", f"02:57:47:00:10:{n:02x}", f"10.77.0.{100 + n}" if n > 9 else f"10.77.0.{200 + n}", f"fd77::{n + 512:x}"
    )


class Fifty(Bench):
    """A bench with fifty wired devices and the product's own timing."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, prefix="fp-", port=0)
        self.rig["timing"] = {"epoch_s": 10.0, "lease_s": 30.0, "renew_s": 10.0}
        self.positions = {}
        self.places = [position(n) for n in range(1, DEVICES + 1)]

    def _steps(self) -> Any:
        return (
            self._network,
            self._firewall,
            self._machine,
            self._equipment,
            self._initialise,
            self._enforcement,
            self._enrol,
            self._stored,
        )

    def _make_ward(self) -> Ward:
        return Ward(self.prefix, directory=self.policy_state, positions=self.places)

    def _drivers(self) -> str:
        return "[drivers.modbus]\nlisten_port = 15502\n"

    def _equipment(self) -> tuple[str, str]:
        spaces = ",".join(f"{self.prefix}{p.name}" for p in self.places)
        self._spawn("fleet", "hil.fleet", "--namespaces", spaces, "--endorsements", str(self.state / "fleet.json"))
        return "fifty devices", ""

    def _stored(self) -> tuple[str, str]:
        document = asyncio.run(self._store())
        subprocess.run(["chown", "-R", f"{WARDGATE_UID}:{WARDGATE_UID}", str(self.state / "gateway")], check=True)
        confirm_sync(self.run / "policy.sock", {"do": "confirm", "document": document})
        return "fifty devices are enforced", ""

    async def _store(self) -> dict[str, Any]:
        """Put the devices where a claim, fifty accepts and fifty enforces would have put them."""
        from gateway.bootstrap import load_profiles
        from gateway.config import read_config
        from gateway.model.device import Binding, Bus, Device, DeviceState
        from gateway.model.profile import Provenance, References, ReferenceValue
        from gateway.policy.compile import compile_document
        from gateway.proposal import read_endorsement
        from gateway.store.database import Database
        from gateway.store.inventory import Inventory

        config = read_config(self.config)
        told = json.loads((self.state / "fleet.json").read_text())
        devices = []
        database = Database(config.gateway.state / "wardgate.sqlite")
        await database.open()
        inventory = Inventory(database)
        for n, (place, reference) in enumerate(zip(self.places, told, strict=True), 1):
            binding = Binding(place.port, place.mac, (place.ipv4, place.ipv6))
            device = Device(f"pump-{n}", f"Pump {n}", Bus.MODBUS, "infusion-pump", place.ipv4, DeviceState.ENFORCED, binding)
            maker, _ = read_endorsement(json.dumps(reference["reference"]), "firmware", None)
            seen = [
                ReferenceValue("configuration", k, bytes.fromhex(v), Provenance.HOSPITAL, countersigned=True)
                for k, v in reference["fingerprint"].items()
            ]
            await inventory.save_device(device)
            await inventory.save_references(device.id, References(maker.anchors, (*maker.values, *seen)))
            devices.append(device)
        await database.close()
        return compile_document(devices, load_profiles(config), config.network.addresses, config.network.ward)


def run() -> Iterable[Figure]:
    """The figures."""
    directory = Path(tempfile.mkdtemp(prefix="wardgate-bench-", dir="/tmp"))
    directory.chmod(0o755)
    bench = Fifty(directory)
    try:
        bench.start()
        yield from _figures(bench)
    finally:
        bench.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _figures(bench: Fifty) -> Iterator[Figure]:
    bare = [_timed([str(BIN / "python"), "-c", "pass"]) for _ in range(5)]
    rules = [_rules_up(bench) for _ in range(REPEATS)]
    yield figure(
        "footprint.rules_up", DEVICES, rules, "s", bare, "exec of wardgate-policy load to its end; floor: a bare interpreter"
    )
    grants = []
    for _ in range(REPEATS):
        grants.append(_first_grant(bench))
        if len(grants) < REPEATS:
            _stop(bench)
    yield figure(
        "footprint.first_grant", DEVICES, grants, "s", bare, "exec of the daemon to the first lease in the kernel; budget 3 s"
    )
    _await_all(bench)
    time.sleep(SETTLE_S)
    assert bench.daemon
    status = Path(f"/proc/{bench.daemon.pid}/status").read_text()
    for name, key, budget in (("idle", "VmRSS", 120), ("peak", "VmHWM", 200)):
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{key}:"))
        yield figure(f"footprint.rss_{name}", DEVICES, [kib / 1024], "MiB", [float(budget)], f"floor: the budget, {budget} MiB")


def _timed(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def _rules_up(bench: Fifty) -> float:
    bench._in_gateway(["nft", "flush", "ruleset"])
    table = str(TOP / "image" / "wardgate.nft")
    command = [
        str(BIN / "python"),
        "-m",
        "gateway.enforcer.confirm",
        "load",
        "--state",
        str(bench.policy_state),
        "--table-file",
        table,
    ]
    return _timed(["ip", "netns", "exec", bench.ns("gw"), *command])


def _first_grant(bench: Fifty) -> float:
    began = time.monotonic()
    bench.start_daemon()
    while not any(bench.kernel_lease_ms(p.ipv4) for p in bench.places[:1]) and "expires" not in _leases(bench):
        if time.monotonic() - began > 30:
            raise RuntimeError("no lease within 30 s")
        time.sleep(0.02)
    return time.monotonic() - began


def _leases(bench: Fifty) -> str:
    return bench._in_gateway(["nft", "list", "map", "inet", "wardgate", "lvl4"])


def _stop(bench: Fifty) -> None:
    assert bench.daemon
    bench.daemon.stop(10)
    bench._in_gateway(["nft", "flush", "map", "inet", "wardgate", "lvl4"])


def _await_all(bench: Fifty, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while (held := _leases(bench).count("expires")) < DEVICES:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{held} of {DEVICES} devices hold a lease")
        time.sleep(0.5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        for f in run():
            sys.stdout.write(f"{f}\n")
