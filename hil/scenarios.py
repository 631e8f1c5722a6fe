"""The scenarios: each plays one story on the bench and proves it by what arrived, and what did not, at the other end.

Every figure is measured here and now. Refuses to know how the bench is built.
"""

from __future__ import annotations

import functools
import importlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hil.bench import Bench

QUIET_S = 0.6  # how long nothing may arrive before we say that nothing arrives; the streams send 50 to 1000 times a second


@dataclass(frozen=True, slots=True)
class Result:
    """How a scenario ended."""

    name: str
    ok: bool
    figures: dict[str, float] = field(default_factory=dict)
    detail: str = ""


class Failed(Exception):
    """Something did not hold; the text says what was expected and what was seen."""


def check(holds: bool, text: str) -> None:
    """Raise Failed unless it holds."""
    if not holds:
        raise Failed(text)


def play(bench: Bench, name: str) -> Result:
    """Play one scenario; a failure is a result, not an exception."""
    began = time.monotonic()
    try:
        figures, detail = SCENARIOS[name](bench)
    except Exception as e:  # noqa: BLE001 - whatever went wrong, the scenario did not hold
        return Result(name, False, {}, f"{type(e).__name__}: {e}")
    return Result(name, True, {k: round(v, 3) for k, v in figures.items()}, f"{detail} ({time.monotonic() - began:.1f} s)")


Story = Callable[[Bench], tuple[dict[str, float], str]]


# --- what the ends see ---


def arrived(bench: Bench, who: str) -> tuple[int, int]:
    """(messages received so far, CLOCK_MONOTONIC ns of the last) at a hospital client."""
    state = bench.ask(who, "state")
    return int(state["received"]), int(state["last_ns"])


def flows(bench: Bench, who: str, timeout_s: float = 20.0) -> None:
    """Wait until new messages arrive at a client (TCP's own back-off after a cut included); raises Failed."""
    before, deadline = arrived(bench, who)[0], time.monotonic() + timeout_s
    while arrived(bench, who)[0] <= before + 2:
        check(time.monotonic() < deadline, f"nothing arrives at {who} within {timeout_s:g} s")
        time.sleep(0.05)


def stalls(bench: Bench, who: str) -> int:
    """Wait until a client hears nothing for QUIET_S; returns when the last message arrived (CLOCK_MONOTONIC ns)."""
    deadline = time.monotonic() + 15
    while True:
        received, last = arrived(bench, who)
        time.sleep(QUIET_S)
        again, _ = arrived(bench, who)
        if again == received:
            return last
        check(time.monotonic() < deadline, f"{who} still receives")


def passed(answer: dict[str, Any]) -> bool:
    """Whether a Modbus request was answered, and not with an exception."""
    return bool(answer["answer"]) and answer["exception"] is None


def writes(bench: Bench) -> list[str]:
    """Every write PDU (hex) that reached the pump, in order."""
    return [w["pdu"] for w in bench.ask("pump-1", "writes")["writes"]]


@functools.cache
def boot_offset_ns() -> int:
    """CLOCK_BOOTTIME - CLOCK_MONOTONIC, read once: the gateway stamps with the one, the clients with the other."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def refused_at(bench: Bench, device_id: str, after_ns: int) -> tuple[int, str]:
    """When the evidence that took a device's level was handed to the engine (CLOCK_MONOTONIC ns), and the reason."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for event in bench.api("GET", "/api/v1/events?limit=200")["events"]:
            fell = event["kind"] == "decision" and event["device_id"] == device_id and "→ 0" in event["text"]
            if fell and event["mono_ns"] - boot_offset_ns() > after_ns:
                return event["mono_ns"] - boot_offset_ns(), str(event["text"]).partition("→ 0: ")[2]
        time.sleep(0.05)
    raise Failed(f"no decision took {device_id}'s level")


def level_changes(bench: Bench, after_ns: int) -> list[str]:
    """Every decision that changed a level since a moment (boot time)."""
    rows = [(d, b) for kind, _, d, _, b in bench.record(after_ns) if kind == "decision"]
    return [f"{d}: {b['before']} → {b['level']}" for d, b in rows if b["level"] != b["before"]]


def at_level(level: int) -> Callable[[dict[str, Any]], bool]:
    """A device at exactly this level."""
    return lambda d: d["level"] == level


def trusted(bench: Bench) -> float:
    """Wait until every device is at the level it should earn; returns the seconds it took."""
    return max(bench.await_device(d, at_level(bench.earns(d)), 20, f"at level {bench.earns(d)}")[1] for d in bench.positions)


# --- the stories ---


def observed(bench: Bench) -> tuple[dict[str, float], str]:
    """A new device's flows pass and are counted; what Enforce would cut is listed, and is not cut."""
    for device_id in bench.positions:
        bench.command("accept", device_id)
    for device_id in bench.positions:
        bench.await_device(device_id, lambda d: d["state"] == "observing" and d["level"] > 0, 25, "observed with evidence")
    flows(bench, "maintenance")
    bench.ask("pump-1", "tamper", register=119, value=4711)
    device, _ = bench.await_device("pump-1", lambda d: d["level"] == 0 and d["would_cut"], 10, "found bad while observed")
    flows(bench, "maintenance")
    flows(bench, "central")
    flows(bench, "control")
    cut = list(device["would_cut"])
    check({"control", "maintenance"} <= {c.split(" ")[0] for c in cut}, f"Enforce would cut control and maintenance, listed: {cut}")
    seen = bench.counter("seen")
    check(seen > 0, "the kernel counted no packet of an observed device")
    bench.mend("pump-1")
    bench.await_device("pump-1", lambda d: d["level"] > 0, 20, "good again")
    return {"would_cut": float(len(cut))}, f"{seen} packets passed and were counted; Enforce would have cut {', '.join(cut)}"


def trusted_ward(bench: Bench) -> tuple[dict[str, float], str]:
    """Every honest device reaches its level, and its functions pass traffic end to end."""
    began = time.monotonic()
    for device_id in bench.positions:
        bench.command("enforce", device_id)
    trusted(bench)
    took = time.monotonic() - began
    for client in ("maintenance", "central", "control"):
        flows(bench, client)
    written = bench.ask("control", "write", register=20, value=55)
    check(passed(written), f"a legitimate write was not answered as it should be: {written}")
    check("0600140037" in writes(bench), "the write did not reach the pump")
    flows(bench, "hl7-receiver")
    vitals = bench.ask("monitor-1", "state")["live"]
    check(vitals["last"] == "AA", f"the monitor's vitals are answered {vitals['last']}")
    heard = ", ".join(f"{d} {_reading(bench, d):g}" for d, p in bench.positions.items() if p["bus"] == "ble")
    bundle = bench.verify("patch-1")
    text = f"everybody at the level its evidence can earn, all functions pass; {heard}; certificate {bundle} verified"
    return {"seconds_to_trust": took}, text


def _reading(bench: Bench, device_id: str) -> float:
    """A number that a wearable measured, as the gateway shows it (the bench's oximeter has moments without one)."""
    deadline = time.monotonic() + 5
    while True:
        for reading in bench.device(device_id)["readings"]:
            if reading["value"] is not None:
                return float(reading["value"])
        check(time.monotonic() < deadline, f"no reading arrived from {device_id}")
        time.sleep(0.1)


def tampered_wearable(bench: Bench) -> tuple[dict[str, float], str]:
    """The patch's firmware changes: level 0, no reading after it is taken as trusted, its certificate is not renewed."""
    began = time.monotonic_ns()
    bench.ask("patch-1", "tamper")
    device, _ = bench.await_device("patch-1", at_level(0), 10, "cut")
    decided, reason = refused_at(bench, "patch-1", began)
    sent = bench.ask("patch-1", "counts")
    time.sleep(2.5)
    later = bench.ask("patch-1", "counts")
    check(not later["subscribed"], "the gateway is still subscribed to the patch's readings")
    check(later["notifications"] - sent["notifications"] <= 1, "readings still reach the gateway")
    trusted_after = bench.readings_after("patch-1", decided + boot_offset_ns(), 2)
    check(trusted_after == 0, f"{trusted_after} readings after the decision are labelled trusted")
    before = bench.device("patch-1")["certificate_sequence"]
    time.sleep(bench.rig["timing"]["epoch_s"] * 1.5)
    check(bench.device("patch-1")["certificate_sequence"] == before, "its certificate is still being renewed")
    check(bool(device["alarms"]), "there is no alarm")
    collected = bench.collected_ns("patch-1", decided + boot_offset_ns())
    last = bench.last_reading_ns("patch-1", 2)
    contain = (max(last, decided + boot_offset_ns()) - collected) / 1e6
    return {"contain_ms": contain}, f"{reason}; no reading after the decision counts as trusted"


def tampered_equipment(bench: Bench) -> tuple[dict[str, float], str]:
    """The pump's configuration changes: control and maintenance stop, monitoring stays, stop commands pass."""
    register = 103
    began = time.monotonic_ns()
    bench.ask("central", "reset")
    bench.ask("pump-1", "tamper", register=register, value=4242)
    bench.await_device("pump-1", at_level(0), 10, "cut")
    decided, reason = refused_at(bench, "pump-1", began)
    last = stalls(bench, "maintenance")
    check(str(register) in reason, f"the reason names no register: {reason}")
    answer = bench.ask("control", "write", register=20, value=77)
    check(not passed(answer), "a write passed after the device was found bad")
    flows(bench, "central")
    gap = float(bench.ask("central", "state")["longest_gap_ms"])
    check(gap < 500, f"monitoring paused for {gap:.0f} ms")
    stop = bench.ask("control", "stop")
    check(passed(stop), f"the stop command was refused: {stop}")
    state = bench.ask("pump-1", "state")
    check(state["running"] is False, "the stop command did not stop the pump")
    check("060014004d" not in writes(bench), "the refused write reached the pump")
    check(bool(bench.device("pump-1")["alarms"]), "there is no alarm")
    contain = max(0.0, (last - decided) / 1e6)
    text = f"{reason}; last maintenance packet {contain:.1f} ms later, open connection included; monitoring stays"
    return {"contain_ms": contain, "monitoring_gap_ms": gap}, text


def reattested(bench: Bench) -> tuple[dict[str, float], str]:
    """The tampered devices are restored and earn their level back."""
    began = time.monotonic()
    bench.mend("patch-1")
    bench.mend("pump-1")
    trusted(bench)
    took = time.monotonic() - began
    flows(bench, "maintenance")
    flows(bench, "control")
    return {"seconds_to_trust": took}, "both devices are back; the maintenance connection that was open goes on"


def service_mode(bench: Bench) -> tuple[dict[str, float], str]:
    """A legitimate update in service mode costs no monitoring, and is accepted by difference, by a second person."""
    bench.ask("central", "reset")
    bench.wardgate("device", "service", "pump-1", "--minutes", "5", "--reason", "firmware update", *bench.as_person("biomed-1"))
    bench.await_device("pump-1", lambda d: d["state"] == "service", 5, "in service")
    bench.ask("pump-1", "update")
    deadline = time.monotonic() + 10
    while not (difference := bench.wardgate("explain", "pump-1")["difference"]):
        check(time.monotonic() < deadline, "the update was not noticed")
        time.sleep(0.1)
    time.sleep(2 * bench.rig["timing"]["attest_s"])
    difference = bench.wardgate("explain", "pump-1")["difference"]
    same = bench.wardgate("device", "accept", "pump-1", *bench.as_person("biomed-1"), code=None)
    check("error" in same, "the person who opened the repair could also accept it")
    bench.wardgate("device", "accept", "pump-1", *bench.as_person("biomed-2"))
    bench.updated = True
    bench.await_device("pump-1", lambda d: d["state"] == "enforced" and d["level"] == 3, 20, "enforced at level 3 again")
    time.sleep(2 * bench.rig["timing"]["attest_s"])
    check(bench.device("pump-1")["level"] == 3, "the accepted firmware is not accepted")
    gap = float(bench.ask("central", "state")["longest_gap_ms"])
    check(gap < 500, f"monitoring paused for {gap:.0f} ms")
    names = ", ".join(sorted({d["name"] for d in difference})[:6])
    return {
        "monitoring_gap_ms": gap,
        "differences": float(len(difference)),
    }, f"{len(difference)} fields differed ({names}); accepted by a second person"


def forbidden_write(bench: Bench) -> tuple[dict[str, float], str]:
    """Writes outside the profile and unknown function codes are refused and never reach the device."""
    before = writes(bench)
    attempts = {
        "0600640001": "write a configuration register",
        "10006400010200ff": "write it with function 16",
        "0600c80001": "write a register nobody named",
        "5a0000": "an unknown function code",
        "16006400f2f225": "mask a configuration register",
        "170000000100640001020001": "read and write at once",
        "2b0d00": "a transport that is not identification",
    }
    blocked = 0
    for pdu, what in attempts.items():
        code = bench.ask("control", "raw", pdu=pdu)["exception"]
        check(code in (1, 2), f"{what} ({pdu}) was answered with exception {code}")
        blocked += 1
    time.sleep(0.3)
    new = [w for w in writes(bench)[len(before) :] if not w.startswith("109000")]  # nonces are the gateway's own
    check(not new, f"a refused write reached the pump: {new}")
    flows(bench, "control")
    return {"blocked": float(blocked)}, f"{blocked} of {len(attempts)} refused with exception 1 or 2; none reached the pump"


def planned_restart(bench: Bench) -> tuple[dict[str, float], str]:
    """A clean restart in under 10 s costs no packet."""
    assert bench.daemon
    for who in ("maintenance", "central"):
        bench.ask(who, "reset")
    dropped, began = bench.counter("denied_level"), time.monotonic()
    bench.daemon.stop(10)
    bench.start_daemon()
    down = time.monotonic() - began
    trusted(bench)
    took = time.monotonic() - began
    lost = sum(int(bench.ask(who, "state")["lost"]) for who in ("maintenance", "central")) + bench.counter("denied_level") - dropped
    gap = max(float(bench.ask(who, "state")["longest_gap_ms"]) for who in ("maintenance", "central"))
    check(lost == 0, f"{lost} packets were lost")
    check(down < 10, f"the restart took {down:.1f} s")
    flows(bench, "control")
    return {
        "lost_packets": float(lost),
        "restart_s": down,
        "longest_gap_ms": gap,
    }, f"down for {down:.1f} s, trusted again after {took:.1f} s, nothing lost"


def daemon_killed(bench: Bench) -> tuple[dict[str, float], str]:
    """SIGKILL, then SIGSTOP: traffic stops by itself when the lease lapses, the vital flow lives, the enforcer rings."""
    lapses = [_without_daemon(bench, signal.SIGKILL), _without_daemon(bench, signal.SIGSTOP)]
    worst = max(lapses, key=lambda pair: abs(pair[0]))[0]
    restore = max(r for _, r in lapses)
    ends = f"{lapses[0][0]:+.1f} and {lapses[1][0]:+.1f} ms"
    text = f"killed and stopped: last packet {ends} from the end of the lease; monitoring lived, the enforcer rang"
    return {"lapse_ms_after_lease": worst, "restore_s": restore}, text


def _without_daemon(bench: Bench, how: signal.Signals) -> tuple[float, float]:
    """(last packet after the end of the lease in ms, seconds from the return to trust)."""
    assert bench.daemon
    flows(bench, "maintenance")
    bench.ask("central", "reset")
    bench.daemon.signal(how)
    time.sleep(0.1)
    before = time.monotonic_ns()
    left = bench.kernel_lease_ms("10.77.0.11")
    read_at = (before + time.monotonic_ns()) / 2
    check(left is not None, "there is no lease in the kernel")
    assert left is not None
    end_ns = read_at + left * 1e6
    time.sleep(max(0.0, (end_ns - time.monotonic_ns()) / 1e9) + 0.05)
    last = stalls(bench, "maintenance")
    flows(bench, "central")
    check(float(bench.ask("central", "state")["longest_gap_ms"]) < 500, "the vital flow paused")
    check(bool(bench.alarm()), "the enforcer did not ring")
    began = time.monotonic()
    if how is signal.SIGKILL:
        bench.daemon.popen.wait()
        bench.start_daemon()
    else:
        bench.daemon.signal(signal.SIGCONT)
    trusted(bench)
    flows(bench, "maintenance")
    return (last - end_ns) / 1e6, time.monotonic() - began


def elsewhere(module: str, name: str) -> Story:
    """A story of another module, which itself uses what is above."""

    def story(bench: Bench) -> tuple[dict[str, float], str]:
        told: tuple[dict[str, float], str] = getattr(importlib.import_module(module), name)(bench)
        return told

    return story


SCENARIOS: dict[str, Story] = {
    "observed": observed,
    "trusted-ward": trusted_ward,
    "tampered-wearable": tampered_wearable,
    "tampered-equipment": tampered_equipment,
    "reattested": reattested,
    "forbidden-write": forbidden_write,
    "service-mode": service_mode,
    "planned-restart": planned_restart,
    "lateral-movement": elsewhere("hil.stories_network", "lateral_movement"),
    "spoofed-address": elsewhere("hil.stories_network", "spoofed_address"),
    "wan-outage": elsewhere("hil.stories_uplink", "wan_outage"),
    "forged-evidence": elsewhere("hil.stories_radio", "forged_evidence"),
    "relayed-wearable": elsewhere("hil.stories_radio", "relayed_wearable"),
    "daemon-killed": daemon_killed,
}
