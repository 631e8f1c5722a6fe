"""Stories of the bedside monitor: it is tampered with, its receiver goes away, somebody sends what is not HL7.

Proved at the receiver, by what arrived there and what did not, and at the monitor, by what it was answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hil.bench import LIVE_PORT, RESULTS_PORT, Bench
from hil.hl7 import MEASURED
from hil.scenarios import at_level, boot_offset_ns, check, refused_at

MONITOR, RECEIVER = "monitor-1", "hl7-receiver"
FORGED = "DEADBEEF00000066"


def seen(bench: Bench, port: int) -> dict[str, Any]:
    """What the receiver saw on one port."""
    return dict(bench.ask(RECEIVER, "state")["ports"][str(port)])


def monitor(bench: Bench, channel: str) -> dict[str, Any]:
    """What the monitor was answered on one channel."""
    return dict(bench.ask(MONITOR, "state")[channel])


def wait(holds: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Wait until it holds. Raises Failed."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        check(time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


def tampered_monitor(bench: Bench) -> tuple[dict[str, float], str]:
    """Another serial number in the messages: AE, and not one of them reaches the receiver; restored, it earns its level back."""
    wait(lambda: monitor(bench, "live")["last"] == "AA", "vitals are answered AA")
    for who in (MONITOR, RECEIVER):
        bench.ask(who, "reset")
    began = time.monotonic_ns()
    bench.ask(MONITOR, "tamper", serial=FORGED)
    device, _ = bench.await_device(MONITOR, at_level(0), 10, "cut")
    _, reason = refused_at(bench, MONITOR, began)
    wait(lambda: monitor(bench, "live")["codes"].get("AE", 0) > 1, "the monitor is answered AE")
    check(bool(device["alarms"]), "there is no alarm")
    for port in (LIVE_PORT, RESULTS_PORT):
        check(FORGED not in seen(bench, port)["serials"], "a message of the changed monitor reached the receiver")
    bench.ask(MONITOR, "restore")
    took = bench.await_device(MONITOR, at_level(2), 20, "at level 2 again")[1]
    wait(lambda: monitor(bench, "live")["last"] == "AA" and monitor(bench, "results")["last"] == "AA", "answered AA again")
    check(FORGED not in seen(bench, RESULTS_PORT)["serials"], "a stored message of the changed monitor was delivered")
    return {"seconds_to_trust": took}, f"{reason}; answered AE at level 0, none of it arrived"


def receiver_away(bench: Bench) -> tuple[dict[str, float], str]:
    """Vitals are answered AE and the monitor alarms by itself; results are kept and arrive after, each once and in order."""
    wait(lambda: monitor(bench, "live")["last"] == "AA", "vitals are answered AA")
    for who in (MONITOR, RECEIVER):
        bench.ask(who, "reset")
    bench.ask(RECEIVER, "away")
    wait(lambda: bool(monitor(bench, "live")["alarm"]), "the monitor alarms by itself")
    live, results = monitor(bench, "live"), monitor(bench, "results")
    check(set(live["codes"]) <= {"AE", "none", "AA"} and live["codes"]["AE"] > 1, f"vitals were answered {live['codes']}")
    check(results["codes"].keys() == {"AA"}, f"results were answered {results['codes']}")
    kept = results["accepted"]
    bench.ask(RECEIVER, "back")
    wait(lambda: monitor(bench, "live")["last"] == "AA", "vitals are answered AA again")
    wait(lambda: seen(bench, RESULTS_PORT)["distinct"] >= kept, "the results arrive", 15)
    arrived = seen(bench, RESULTS_PORT)
    check(arrived["in_order"] and not arrived["duplicates"], f"{arrived['duplicates']} came twice, in order: {arrived['in_order']}")
    return {"kept": float(kept)}, f"{kept} results kept and delivered in order; vitals AE {live['codes']['AE']} times, never kept"


def hostile_hl7(bench: Bench) -> tuple[dict[str, float], str]:
    """The malformed list from the monitor's own address: refused, nothing relayed, its other connections unharmed."""
    wait(lambda: monitor(bench, "live")["last"] == "AA", "vitals are answered AA")
    for who in (MONITOR, RECEIVER):
        bench.ask(who, "reset")
    answers = bench.ask(MONITOR, "malformed")["answers"]
    for what, answer in answers.items():
        check(answer["closed"] or answer["code"] in ("AR", "CR"), f"{what} was answered {answer}")
    wait(lambda: monitor(bench, "live")["codes"].get("AA", 0) > 2, "vitals go on")
    for port in (LIVE_PORT, RESULTS_PORT):
        state = seen(bench, port)
        check(not state["wrong"] and not [i for i in state["ids"] if i.startswith("BAD")], f"the receiver saw {state['wrong']}")
    for channel in ("live", "results"):
        state = monitor(bench, channel)
        check(set(state["codes"]) == {"AA"} and state["longest_gap_ms"] < 4000, f"the monitor's own messages suffered: {state}")
    check(bench.device(MONITOR)["level"] == 2, "the monitor's level changed")
    return {"refused": float(len(answers))}, f"{len(answers)} kinds refused; the monitor's own two connections went on"


def monitor_readings(bench: Bench) -> tuple[dict[str, float], str]:
    """What the monitor measures is on the page and arrives behind the broker, with its level, and without its patient."""
    wait(lambda: monitor(bench, "live")["last"] == "AA", "vitals are answered AA")
    began = time.monotonic_ns() + boot_offset_ns()
    wait(lambda: bench.readings_after(MONITOR, began, 2) >= 2 * len(MEASURED), "its readings are taken in at level 2")
    shown = {r["quantity"]: r["value"] for r in bench.device(MONITOR)["readings"]}
    check(shown.get("MDC_PULS_OXIM_SAT_O2") == 97 and len(shown) == len(MEASURED), f"the page shows {shown}")
    wait(lambda: bool(bench.ask("receiver", "readings", device=MONITOR, after_ns=began, level=2)["ids"]), "some have arrived")
    view = str(bench.view()) + str(bench.wardgate("outbox"))
    check(not [w for w in ("DOE", "JANE", "100012") if w in view], "the page or the outbox names the patient")
    return {"quantities": float(len(shown))}, f"{len(shown)} quantities at level 2, on the page and behind the broker"


def kept_aside(bench: Bench) -> tuple[dict[str, float], str]:
    """The receiver refuses a result for good: it is kept, shown, sent again by a named person, and arrives; another is let go."""
    bench.ask(RECEIVER, "answer", port=RESULTS_PORT, code="AR")
    try:
        wait(lambda: len(bench.wardgate("outbox")["kept_aside"]) >= 2, "refused results are kept aside")
    finally:
        bench.ask(RECEIVER, "answer", port=RESULTS_PORT, code="AA")
    first, second = sorted(m["id"] for m in bench.wardgate("outbox")["kept_aside"])[:2]
    bench.wardgate("message", "retry", str(first), "--reason", "the receiver is mended", *bench.as_person("biomed-1"))
    bench.wardgate("message", "discard", str(second), "--reason", "written down by hand", *bench.as_person("biomed-1"))

    def settled() -> bool:
        view = bench.wardgate("outbox")
        route = next(r for r in view["routes"] if r["device_id"] == MONITOR)
        return not {first, second} & {m["id"] for m in view["kept_aside"]} and route["waiting"] == 0

    wait(settled, "one has arrived, one is gone")
    told = [e["text"] for e in bench.api("GET", "/api/v1/events?limit=200")["events"]]
    for words in ("biomed-1: retry-message monitor-1", "biomed-1: discard-message monitor-1", "kept aside"):
        check(any(words in text for text in told), f"nobody was told: {words}")
    for left in bench.wardgate("outbox")["kept_aside"]:
        bench.wardgate("message", "retry", str(left["id"]), "--reason", "the receiver is mended", *bench.as_person("biomed-1"))
    return {"kept": 2.0}, "refused for good, kept aside, one sent again and one let go, both on the record"
