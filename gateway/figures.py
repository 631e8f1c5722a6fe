"""PURE. The ward and the gateway as figures for Prometheus, from what the engine and the outbox know.

No device and no person is named, no reading is in it; labels come from closed lists. Refuses to know formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.engine import Engine
from gateway.model.device import DeviceState
from gateway.model.effect import Severity
from gateway.model.level import TrustLevel
from gateway.model.metric import Family, Kind, Sample, one
from gateway.model.outbox import OutboxView


@dataclass(frozen=True, slots=True)
class Own:
    """What the gateway knows of itself. ``quote_age_s`` None: nothing was quoted yet."""

    version: str
    uptime_s: float
    events: int
    effects: int
    capacity: int
    lost_records: int
    certificates: int
    quotes: int
    readings: int
    quote_age_s: float | None


def own(g: Own) -> Iterable[Family]:
    """The gateway itself."""
    yield Family("wardgate_build_info", Kind.GAUGE, "The program's version.", (Sample(1, (("version", g.version),)),))
    yield one("wardgate_uptime_seconds", Kind.GAUGE, "Since the daemon began.", g.uptime_s)
    yield one("wardgate_queue_events", Kind.GAUGE, "Events not decided yet.", g.events)
    yield one("wardgate_queue_capacity_events", Kind.GAUGE, "Events that the queue holds at most.", g.capacity)
    yield one("wardgate_queue_effects", Kind.GAUGE, "Decisions not recorded and carried out yet.", g.effects)
    yield one("wardgate_lost_records", Kind.COUNTER, "Decisions dropped while the disk refused.", g.lost_records)
    yield one("wardgate_certificates", Kind.COUNTER, "Conformity certificates issued.", g.certificates)
    yield one("wardgate_quotes", Kind.COUNTER, "Quotes of the TPM.", g.quotes)
    yield one("wardgate_readings", Kind.COUNTER, "Readings taken from devices.", g.readings)
    if g.quote_age_s is not None:
        yield one("wardgate_quote_age_seconds", Kind.GAUGE, "Since the newest quote.", g.quote_age_s)


def ward(engine: Engine, held: Sequence[int], alarms: Sequence[Severity]) -> Iterable[Family]:
    """Devices, leases, evidence. ``held``: the level of each lease in force; ``alarms``: the severity of each that is raised."""
    found = Counter((s.device.state.value, int(s.level)) for s in engine.standings.values())
    found[DeviceState.PROPOSED.value, 0] += len(engine.found())
    yield Family(
        "wardgate_devices", Kind.GAUGE, "Devices by state and level.",
        tuple(Sample(found[state.value, int(level)], (("state", state.value), ("level", str(int(level)))))
              for state in DeviceState for level in TrustLevel),
    )  # fmt: skip
    leases = Counter(held)
    levels = tuple(Sample(leases[int(x)], (("level", str(int(x))),)) for x in TrustLevel if x)
    yield Family("wardgate_leases", Kind.GAUGE, "Leases in force by level.", levels)
    yield Family(
        "wardgate_evidence", Kind.COUNTER, "Evidence by class and by what came of it.",
        tuple(Sample(n, (("class", c), ("outcome", o))) for (c, o), n in sorted(engine.outcomes.items())),
    )  # fmt: skip
    rung = Counter(alarms)
    raised = tuple(Sample(rung[s], (("severity", s.value),)) for s in Severity)
    yield Family("wardgate_alarms", Kind.GAUGE, "Alarms that are raised now, by severity.", raised)
    parts = tuple(Sample(int(ok), (("part", name),)) for name, (ok, _) in sorted(engine.parts.items()))
    yield Family("wardgate_part_up", Kind.GAUGE, "Whether a part of the gateway is well (1) or not (0).", parts)


def outbox(view: OutboxView) -> Iterable[Family]:
    """What still has to leave; of the record's copy only where a syslog server is configured."""
    rows = tuple(Sample(n, (("kind", k),)) for k, n in (("readings", view.readings), ("messages", view.messages)))
    yield Family("wardgate_outbox_rows", Kind.GAUGE, "Readings and messages that wait.", rows)
    gauges = (
        ("bytes", "Bytes that wait on the disk.", view.bytes),
        ("oldest_seconds", "Age of the oldest that waits; 0 when nothing does.", view.oldest_s or 0.0),
        ("dead_letters", "Messages that the broker refused for good.", len(view.dead_letters)),
    )
    for name, text, value in gauges:
        yield one(f"wardgate_outbox_{name}", Kind.GAUGE, text, value)
    counters = (
        ("accepted_readings", "Readings taken.", view.accepted),
        ("delivered_readings", "Readings that the other side has acknowledged.", view.delivered),
        ("dropped", "Readings and messages lost to a bound.", view.dropped),
    )
    for name, text, value in counters:
        yield one(f"wardgate_outbox_{name}", Kind.COUNTER, text, value)
    if view.syslog is not None:
        text = "Lines of the record that the syslog server has not confirmed; counted up to 100000."
        yield one("wardgate_syslog_lines", Kind.GAUGE, text, view.syslog.lines)
        text = "Age of the oldest of them; 0 when there is none."
        yield one("wardgate_syslog_oldest_seconds", Kind.GAUGE, text, view.syslog.oldest_s or 0.0)
