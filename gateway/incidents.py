"""PURE. What befell the gateway itself and is over: the run before ended without a word, or nobody renewed leases in time.

Such an alarm has no cause left that could go away: it ends when a person has looked at it, or after an hour; the record keeps
it. Refuses to know how anybody found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.judgement import Out
from gateway.model.effect import Alarm, Record, Severity
from gateway.model.event import LeasesLapsed, PartChanged
from gateway.model.incident import INCIDENTS, STANDSTILL, named
from gateway.model.instant import Instant
from gateway.standing import Standing

_LASTS_S = 3600.0
LAPSED = "lapsed"

Parts = dict[str, tuple[bool, str]]


@dataclass(frozen=True, slots=True)
class _Incident:
    until: Instant
    text: str


class Incidents:
    """Those that are told now. ``parts``: the engine's, where each is one that is not well."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._told: dict[str, _Incident] = {}

    @staticmethod
    def about(part: str) -> bool:
        """Whether this is an incident, not a part that comes back."""
        return part in INCIDENTS

    def begin(self, event: PartChanged, now: Instant, out: Out) -> None:
        """Tell one; a second of its kind takes its place."""
        if event.up:
            return
        self._told[event.part] = _Incident(now.plus(_LASTS_S), event.detail)
        self._parts[event.part] = (False, event.detail)
        out.append(Alarm("", f"part-{event.part}", Severity.ALARM, event.detail))

    def looked_at(self, actor: str, out: Out) -> None:
        """A person has seen them all."""
        self._end(list(self._told), f"{actor} has looked at it", out)

    def pass_time(self, now: Instant, out: Out) -> None:
        """End those that were told for an hour."""
        over = [part for part, told in self._told.items() if now.mono_ns >= told.until.mono_ns]
        self._end(over, "told for an hour, and nobody said that it was looked at", out)

    def _end(self, parts: list[str], how: str, out: Out) -> None:
        for part in parts:
            told = self._told.pop(part)
            self._parts.pop(part, None)
            out.append(Alarm("", f"part-{part}", Severity.INFORMATION, f"{how}: {told.text}", raised=False))


def lapse(event: LeasesLapsed, standings: Mapping[str, Standing], now: Instant, out: Out) -> set[str]:
    """Leases ended because this gateway did not wake to renew them: each device's gap is recorded, and decided anew."""
    found = [(s, ended) for device_id, ended in event.ended if (s := standings.get(device_id)) is not None]
    for s, ended in found:
        s.lease_until, s.decision = None, None  # what follows is a grant of its own, with a line that says so
        text = (
            f"{s.id}: its lease ended at {ended.utc():%H:%M:%S} UTC and was not renewed for {now.seconds_since(ended):.1f} s: "
            "what needs a level was closed by itself"
        )
        since = (ended.boot_id, ended.mono_ns, ended.utc_ns, int(ended.quality))
        body = (("since", since), ("before", int(s.level)), ("severity", Severity.WARNING.value))
        out.append(Record(LAPSED, s.id, text, body))
    return {s.id for s, _ in found}


def standstill(event: LeasesLapsed, now: Instant) -> PartChanged:
    """The same, told of the gateway as a whole."""
    text = (
        f"this gateway stood still from {event.since.utc():%Y-%m-%d %H:%M:%S} UTC for {now.seconds_since(event.since):.0f} s and "
        f"renewed no lease in time: what needs a level was closed for {named(d for d, _ in event.ended)}; "
        "look for what held it up (journalctl -u wardgate, memory, disk), then: wardgate acknowledge"
    )
    return PartChanged(STANDSTILL, up=False, detail=text)
