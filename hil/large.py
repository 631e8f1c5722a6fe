"""The large ward: the small one and 45 more pumps, fifty devices in all, each behind a port of its own with its own key.

The further pumps share one process (``hil.fleet``) and answer what their evidence needs; the scenarios play on the small
ward's devices while these must keep their level all the time. Refuses to know what a scenario proves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hil.bench import Bench, Tell
from hil.network import Position, Ward

FURTHER = 45
TIMING = {"epoch_s": 4.0, "lease_s": 12.0, "renew_s": 4.0, "attest_s": 4.0}  # one machine signs for everybody here


def place(n: int) -> Position:
    """Where the n-th further pump stands: ``n`` from 1 to 99."""
    return Position(f"d{n}", f"p-{n}", f"02:57:47:00:10:{n:02x}", f"10.77.0.{110 + n}", f"fd77::{n + 0x200:x}")


class LargeBench(Bench):
    """A bench with fifty devices."""

    def __init__(self, directory: Path, *, prefix: str = "wg-", port: int = 8443, tell: Tell | None = None) -> None:
        super().__init__(directory, prefix=prefix, port=port, tell=tell)
        self.rig["timing"] |= TIMING
        self.places = [place(n) for n in range(1, FURTHER + 1)]
        self.further = [f"pump-{n}" for n in range(2, FURTHER + 2)]
        self.positions |= {d: _position(d, p) for d, p in zip(self.further, self.places, strict=True)}

    def _make_ward(self) -> Ward:
        small = super()._make_ward()
        return Ward(self.prefix, directory=self.policy_state, positions=(*small.positions, *self.places))

    def _equipment(self) -> tuple[str, str]:
        title, detail = super()._equipment()
        spaces = ",".join(self.ns(p.name) for p in self.places)
        self._spawn("fleet", "hil.fleet", "--namespaces", spaces, "--endorsements", str(self.state / "fleet.json"))
        return title, f"{detail}; {FURTHER} further pumps, each behind its own port"

    def reference(self, device_id: str) -> dict[str, Any]:
        """What a device's maker says of it."""
        if device_id not in self.further:
            return super().reference(device_id)
        told = json.loads((self.state / "fleet.json").read_text())
        return dict(told[self.further.index(device_id)]["reference"])

    def command(self, verb: str, device_id: str, **arguments: str) -> None:
        """As the command line does it, but without a process for each of fifty devices."""
        from gateway.config import read_config
        from gateway.control import Control

        if device_id not in self.further:
            super().command(verb, device_id, **arguments)
            return
        Control(read_config(self.config)).command(verb, device_id, arguments)

    def _devices(self) -> tuple[str, str]:
        everybody = self.positions
        self.positions = {d: p for d, p in everybody.items() if d not in self.further}
        super()._devices()
        self.positions = everybody
        for device_id in self.further:
            p = everybody[device_id]
            told = {k: str(p[k]) for k in ("bus", "profile", "address", "port", "mac")}
            more = {"name": p["label"], "addresses": ",".join(p["addresses"]), "passkey": ""}
            self.command("add", device_id, **told, **more, endorsement=json.dumps(self.reference(device_id)))
        return f"{len(everybody)} devices are proposed", "they get nothing until somebody accepts them"


def _position(device_id: str, p: Position) -> dict[str, Any]:
    return {
        "name": p.name, "kind": "virtual", "device": device_id, "label": f"Infusion pump {p.name}", "bus": "modbus",
        "profile": "infusion-pump", "address": p.ipv4, "addresses": [p.ipv4, p.ipv6], "mac": p.mac, "port": p.port,
    }  # fmt: skip
