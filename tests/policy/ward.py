"""A pump and a patch with the bench's profiles, for the tests of this directory."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.profile import Profile
from gateway.policy.profile import parse_profile

ROOT = Path(__file__).resolve().parents[2]
PEERS = {"central": ["10.77.0.100", "fd77::100"], "clients": ["10.77.0.100", "fd77::100"]}
GATEWAY = ("10.77.0.1", "fd77::1")
BINDING = Binding("p-pump-1", "02:57:47:00:00:11", ("10.77.0.11", "fd77::11"))


def table(name: str, where: str = "hil") -> dict[str, Any]:
    """A shipped profile as its TOML table."""
    return tomllib.loads((ROOT / where / "profiles" / f"{name}.toml").read_text())


PUMP = table("infusion-pump")


def pump_table(**changes: Any) -> dict[str, Any]:
    """The pump's table, with top-level keys replaced (None: taken away)."""
    data = copy.deepcopy(PUMP)
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    return data


def profiles() -> dict[str, Profile]:
    return {n: parse_profile(table(n), PEERS) for n in ("infusion-pump", "heart-rate-patch")}


def pump(state: DeviceState = DeviceState.ENFORCED, binding: Binding = BINDING, id: str = "pump-1") -> Device:
    return Device(id, "Pump", Bus.MODBUS, "infusion-pump", binding.addresses[0], state, binding)


def patch(state: DeviceState = DeviceState.ENFORCED) -> Device:
    return Device("patch-1", "Patch", Bus.BLE, "heart-rate-patch", "C0:00:00:00:00:01", state)
