"""The outage: the broker goes, then the whole hospital; the ward goes on, nothing is lost, everything arrives after.

What stops is what has its other end in the hospital: control, maintenance, the central station. No cable, no packet.
"""

from __future__ import annotations

import time

from hil.bench import Bench
from hil.scenarios import at_level, check, flows

_BROKER_S, _CABLE_S = 3.5, 3.0


def wan_outage(bench: Bench) -> tuple[dict[str, float], str]:
    """Broker and hospital network go away: readings, leases and certificates go on; then all of it is delivered."""
    assert bench.broker and bench.ward
    bench.drained(15)
    before = _progress(bench)
    bench.broker.stop()
    try:
        time.sleep(_BROKER_S)
        flows(bench, "central", 2)  # the broker alone: clinical traffic does not notice
        bench.ward.unplug()
        time.sleep(0.2)  # what was on its way when the cable was pulled
        at_the_pull = bench.ask("receiver", "state")
        time.sleep(_CABLE_S)
        after = _progress(bench)
        _ward_worked(bench, before, after)
        queued = bench.waiting()
        check(queued > 0, "nothing waits, though nothing can leave")
        part = next(p for p in bench.view()["gateway"]["parts"] if p["name"] == "uplink")
        check(not part["ok"], "the page says that the uplink is well")
        check("look at the cable" in part["text"], f"the page does not name the cable: {part['text']}")
        check(bench.ask("receiver", "state")["messages"] == at_the_pull["messages"], "something arrived through a pulled cable")
    finally:
        bench.broker.start()
        bench.ward.unplug(hospital=False)
    restored = time.monotonic()
    while bench.ask("receiver", "state")["readings"] == at_the_pull["readings"]:
        check(time.monotonic() - restored < 15, "nothing arrives after the hospital is back")
        time.sleep(0.01)
    reconnect, began = time.monotonic() - restored, time.monotonic()
    bench.drained(20)
    drain = max(time.monotonic() - began, 0.001)
    _, lost = bench.missing(timeout_s=5)
    check(lost == 0, f"{lost:g} readings never arrived")
    events = bench.ask("receiver", "events", limit=100)["events"]
    told = [e["text"] for e in events if e.get("code") == "part-uplink" and e["raised"]]
    check(bool(told), "the hospital never heard that it was gone")
    flows(bench, "central")
    flows(bench, "maintenance")
    for device_id in bench.positions:
        check(
            bench.device(device_id)["level"] == bench.earns(device_id), f"{device_id} lost its level because the hospital was gone"
        )
    figures = {"queued": float(queued), "lost": float(lost), "drain_per_s": queued / drain, "reconnect_s": reconnect}
    text = f"broker gone {_BROKER_S + _CABLE_S:g} s, the cable {_CABLE_S:g} s of it; the ward worked; all arrived"
    return figures, text


def _progress(bench: Bench) -> tuple[int, int, int]:
    """(readings taken in, certificates issued, batches quoted)."""
    gateway = bench.view()["gateway"]
    return bench.accepted(), int(gateway["certificates"]), int(gateway["sequence"])


def _ward_worked(bench: Bench, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    for what, was, now in zip(("reading was taken in", "certificate was issued", "batch was quoted"), before, after, strict=True):
        check(now > was, f"no {what} while the hospital was gone")
    for device_id in bench.positions:
        device, _ = bench.await_device(device_id, at_level(bench.earns(device_id)), 1, "trusted without the hospital")
        check((device["lease_left_ms"] or 0) > 0, f"{device_id} has no lease")
    check(bench.kernel_lease_ms("10.77.0.11") is not None, "the kernel holds no lease for the pump")
