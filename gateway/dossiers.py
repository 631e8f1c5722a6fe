"""One device in full, for people: its sheet, its levels over time, its certificate examined; and devices that were found.

Composes the engine's picture with the record, the outbox and the certificates. Decides nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.clock import Clock
from gateway.conductor import Conductor
from gateway.errors import InputError
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.outbox import DeviceCounts
from gateway.model.profile import Profile
from gateway.model.sheet import EvidenceView, Examination, Found, LevelChange, LevelHistory, LevelStep, Sheet, Traffic
from gateway.model.view import DeviceView, Outcome, WardView
from gateway.picture import bus_of, key_of, name_of
from gateway.ports import HistoryPort
from gateway.proposal import suggest
from gateway.relying import examine
from gateway.sheets import evidence_since, sheet_of

_MS = 1_000_000
HOURS_MAX = 24 * 7
_PATIENCE_S, _LOOK_S = 4.0, 0.05  # a wearable answers in a second or two
_SAID = {
    "good": "is as expected",
    "warning": "is as expected, with a reservation",
    "bad": "is not what it should be",
    "none": "proves nothing",
}
_ANCHOR_MAX = 16 * 1024  # one certificate in PEM is 1 to 4 KiB


@dataclass(frozen=True, slots=True)
class Sources:
    """Where it all comes from. ``anchor``: the file with the CA certificate that certificates are examined against here."""

    view: Callable[[], WardView]
    history: HistoryPort
    counts: Callable[[], Awaitable[Sequence[DeviceCounts]]]
    bundle: Callable[[str], Awaitable[bytes]]
    profiles: Mapping[str, Profile]
    anchor: Path


class Dossiers:
    """``gateway.ports.DossierPort`` over the live engine."""

    def __init__(self, conductor: Conductor, clock: Clock, sources: Sources) -> None:
        self._conductor, self._clock, self._from = conductor, clock, sources

    async def sheet(self, device_id: str) -> Sheet:
        """Everything about a device now. Raises InputError for an unknown one."""
        view = self._view(device_id)
        now = self._clock.now()
        found = sheet_of(self._conductor.engine.standings[device_id], view, now)
        refused = await self._from.history.refused(device_id, now)
        counts = next((c for c in await self._from.counts() if c.device_id == device_id), None)
        traffic = (
            Traffic(counts.accepted, counts.waiting, counts.acknowledged, counts.dropped, counts.dead) if counts else Traffic()
        )
        return replace(found, refused=tuple(refused), traffic=traffic)

    async def levels(self, device_id: str, hours: int) -> LevelHistory:
        """The levels of the last ``hours`` (1 to 168), with what nobody knows."""
        if not 1 <= hours <= HOURS_MAX:
            raise InputError(f"a history is of 1 to {HOURS_MAX} hours", "ask for fewer")
        self._view(device_id)
        now = self._clock.now()
        changes, complete = await self._from.history.levels(device_id, now.utc_ns - hours * 3600 * NS_PER_S)
        steps = _steps([*changes, *self._present(device_id, changes)], now, hours)
        return LevelHistory(device_id, hours, steps, complete)

    async def verify(self, device_id: str, anchor: bytes = b"") -> Examination:
        """The newest certificate, examined as a relying party would; ``anchor`` PEM, else the one kept here.

        Raises InputError when there is no certificate or no anchor.
        """
        if len(anchor) > _ANCHOR_MAX:
            raise InputError(f"an anchor is at most {_ANCHOR_MAX} bytes", "give the one certificate of your CA, in PEM")
        data = await self._from.bundle(device_id)
        pem = anchor or await asyncio.to_thread(_kept, self._from.anchor)
        return examine(data, pem, self._clock.now().utc_ns)

    async def attested(self, device_id: str, since: Instant) -> Outcome:
        """What evidence came after ``since``, waiting a few seconds for all targets; silence is told as silence."""
        standings = self._conductor.engine.standings
        s = standings.get(device_id)
        if s is None or not s.link_up:
            return Outcome(True, f"{device_id} has no link now; it is asked as soon as it has one", (("evidence", ()),))
        unattributed, deadline = s.unattributed, self._clock.now().plus(_PATIENCE_S).mono_ns
        rows: Sequence[EvidenceView] = ()
        while (s := standings.get(device_id)) is not None:
            now = self._clock.now()
            rows = evidence_since(s, since, now)
            if len(rows) == len(s.profile.targets) or now.mono_ns >= deadline:
                break
            await asyncio.sleep(_LOOK_S)
        told = [f"{r.target} {_SAID[r.standing]}" for r in rows]
        came = {r.target for r in rows}
        told += [f"{t.name} gave no answer yet" for t in (s.profile.targets if s else ()) if t.name not in came]
        if s and s.unattributed > unattributed:
            told.append("evidence that fails authentication came too: it counts for nothing")
        text = f"{device_id} was asked: {'; '.join(told) or 'its profile asks for nothing'}"
        return Outcome(not any(r.standing == "bad" for r in rows), text, (("evidence", tuple(rows)),))

    def found(self) -> Sequence[Found]:
        """What was seen and not added, the most recently seen first, with the profiles that may fit."""
        engine = self._conductor.engine
        now = self._clock.now().mono_ns
        rows = sorted(engine.found().values(), key=lambda pair: pair[1].mono_ns, reverse=True)
        return [
            Found(
                key_of(e.address), bus_of(e), e.address, name_of(e), e.hint[:400], e.signal_dbm, e.port, e.mac,
                (now - at.mono_ns) // _MS, suggest(e, self._from.profiles), e.addresses,
            )
            for e, at in rows
        ]  # fmt: skip

    def profiles(self) -> Sequence[Profile]:
        """Every profile that is loaded."""
        return sorted(self._from.profiles.values(), key=lambda p: (p.bus, p.name))

    def _view(self, device_id: str) -> DeviceView:
        for d in self._from.view().devices:
            if d.id == device_id and device_id in self._conductor.engine.standings:
                return d
        raise InputError(f"there is no device {device_id!r}", "see `wardgate device list`")

    def _present(self, device_id: str, changes: Sequence[LevelChange]) -> Sequence[LevelChange]:
        """What no record says: a device that this run has known from its start, and whose level never changed since."""
        s = self._conductor.engine.standings[device_id]
        return [] if changes and changes[-1].level is not None else [LevelChange(s.since, int(s.level))]


def _steps(changes: Sequence[LevelChange], now: Instant, hours: int) -> tuple[LevelStep, ...]:
    """Ages in the window, never growing; equal neighbours are one step."""
    whole, steps = hours * 3_600_000, [LevelStep(hours * 3_600_000, None)]
    for change in changes:
        ns = now.mono_ns - change.at.mono_ns if change.at.boot_id == now.boot_id else now.utc_ns - change.at.utc_ns
        age = min(max(0, ns // _MS), whole, steps[-1].age_ms)
        while steps and steps[-1].age_ms == age:
            steps.pop()
        if not steps or steps[-1].level != change.level:
            steps.append(LevelStep(age, change.level))
    return tuple(steps)


def _kept(path: Path) -> bytes:
    try:
        with path.open("rb") as f:
            return f.read(_ANCHOR_MAX)
    except OSError:
        raise InputError(
            "this gateway keeps no certificate of the CA that enrolled it",
            "choose the CA’s certificate here, or keep it with `wardgate enrol --anchor FILE`",
        ) from None
