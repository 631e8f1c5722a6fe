"""Two stories of attackers with a radio: one who forges, one who forwards. Proved by what the gateway did not believe.

Both play on the real virtual air, in processes of their own, with everything but the keys.
"""

from __future__ import annotations

import time
from typing import Any

from hil.bench import Bench
from hil.scenarios import at_level, boot_offset_ns, check, level_changes

FORGERIES = 1000
_PATIENCE_S = 35  # the gateway backs off from a device that answers wrongly
APART_S = 2.2  # after this long unseen a device that is seen again came back
LEAST_S = 3.5  # how long an attacker stands in a wearable's place


def _counted(bench: Bench, device_id: str, after_ns: int) -> int:
    """How many beacons in a device's name the driver told of that nobody made, or that were old."""
    told = ("event", "Behaviour", device_id)
    events = [body["event"] for *names, _, body in bench.record(after_ns) if tuple(names) == told]
    return sum(int(e["count"]) for e in events if e["code"] in ("beacon-forged", "beacon-stale"))


def _returned(bench: Bench, device_id: str) -> None:
    """Wait until a device has its link and its level again."""
    level = bench.earns(device_id)
    bench.await_device(device_id, lambda d: d["level"] == level and "link-down" not in str(d["alarms"]), 25, "back")


def forged_evidence(bench: Bench) -> tuple[dict[str, float], str]:
    """1,000 forged beacons, and somebody in a wearable's place who accepts connections and answers rubbish: no level changes."""
    assert bench.ble
    for device_id in bench.positions:
        bench.await_device(device_id, at_level(bench.earns(device_id)), 20, "trusted before the attack")
    began = time.monotonic_ns() + boot_offset_ns()
    beacon, patch = bench.positions["beacon-1"]["address"], bench.positions["patch-1"]["address"]
    bench.ble.start_tool("impostor", "-m", "hil.impostor", *_radio(bench), "--ctl", str(bench.ctl / "impostor.sock"))
    try:
        sent = int(bench.ask("impostor", "beacons", timeout_s=60, address=beacon, count=FORGERIES)["sent"])
        counted, deadline = 0, time.monotonic() + 10
        while (counted := _counted(bench, "beacon-1", began)) < 0.9 * FORGERIES:
            check(time.monotonic() < deadline, f"of {sent} forged beacons only {counted} were noticed")
            time.sleep(0.2)
        posed = _pose(bench, patch)
    finally:
        bench.ble.processes["impostor"].stop()
        time.sleep(APART_S)
        bench.ask("patch-1", "appear")
    _returned(bench, "patch-1")
    changed = level_changes(bench, began)
    check(not changed, f"levels changed: {', '.join(changed)}")
    check(posed["challenges"] == 0 and posed["subscriptions"] == 0, f"the gateway believed a stranger: {posed}")
    figures = {
        "levels_changed": float(len(changed)),
        "forged_beacons": float(sent),
        "counted": float(counted),
        "spoofed_connections": float(posed["connections"]),
    }
    text = f"{sent} forged and replayed beacons, {counted} of them counted; {posed['connections']} connections to a stranger ended"
    return figures, f"{text} at the bond, before a challenge or a reading"


def _radio(bench: Bench) -> list[str]:
    assert bench.ble
    return ["--hci", str(bench.ble.hci), "--bonds", str(bench.state / "impostor.bonds")]


def _pose(bench: Bench, address: str) -> dict[str, Any]:
    """Take the patch's place until the gateway has come several times."""
    bench.ask("patch-1", "vanish")
    time.sleep(0.2)
    bench.ask("impostor", "pose", address=address, name="Patch CV2-000117")
    began = time.monotonic()
    while (seen := bench.ask("impostor", "seen"))["connections"] < 3 or time.monotonic() - began < LEAST_S:
        check(time.monotonic() - began < _PATIENCE_S, f"the gateway came {seen['connections']} times only")
        time.sleep(0.1)
    return bench.ask("impostor", "leave")


def relayed_wearable(bench: Bench) -> tuple[dict[str, float], str]:
    """A fake patch forwards nonces to the genuine one and hands back its answers: no reading of its own is trusted."""
    assert bench.ble
    ble, patch = bench.ble, bench.positions["patch-1"]
    far = ble.start_air("far")
    ble.processes["patch-1"].stop()
    ble.start_wearable("patch", "patch-1", patch["passkey"], far)  # out of the gateway's range, in the relay's
    try:
        where = ["--near", str(ble.hci), "--far", str(far), "--ctl", str(bench.ctl / "relay.sock")]
        who = ["--address", patch["address"], "--name", "Patch CV2-000117", "--bonds", str(bench.state / "relay.bonds")]
        began = time.monotonic_ns() + boot_offset_ns()
        ble.start_tool("relay", "-m", "hil.relay", *where, *who)
        told = _relayed(bench)
        near, between = told["near"], told["far"]
        challenges = int(bench.ask("patch-1", "counts")["challenges"])
    finally:
        ble.processes.pop("relay").stop() if "relay" in ble.processes else None
        ble.processes["patch-1"].stop()
        time.sleep(APART_S)
        ble.start_wearable("patch", "patch-1", patch["passkey"])
        ble.processes.pop("radio-far").stop()
    trusted = bench.readings_after("patch-1", began, 1)
    check(trusted == 0, f"{trusted} readings of the relay are labelled trusted")
    check(between["tokens"] == 0 and challenges == 0, f"the genuine patch answered the relay: {between}")
    check(between["forwarded"] > 0 and bool(between["refused"]), f"the relay asked nothing: {between}")
    check(near["challenges"] == 0, "the gateway challenged a stranger")
    _returned(bench, "patch-1")
    refused = ", ".join(f"{code} ({n}×)" for code, n in between["refused"].items())
    figures = {
        "trusted_readings": float(trusted),
        "relay_connections": float(near["connections"]),
        "forwarded": float(between["forwarded"]),
        "relay_readings": float(near["readings"]),
    }
    return figures, f"the genuine patch refuses the relay ({refused}); the gateway ends {near['connections']} links at the bond"


def _relayed(bench: Bench) -> dict[str, Any]:
    """Let the relay work until the gateway has come several times; it forwards a nonce of its own each time too."""
    began = time.monotonic()
    while True:
        told = bench.ask("relay", "ask")
        if told["near"]["connections"] >= 3 and time.monotonic() - began > LEAST_S - 1:
            return told
        check(time.monotonic() - began < _PATIENCE_S, f"the gateway came {told['near']['connections']} times only")
        time.sleep(0.5)
