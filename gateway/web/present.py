"""From the picture of the ward to what a person reads: one model for each part of the page that changes by itself.

Every model is frozen and comparable, and every time in it is a moment of boot time, not a rest, so a model changes only when
its device did. Refuses to know HTML, who looks and who may do what.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.observation import Reading
from gateway.model.view import DeviceView, EventView, FunctionView, WardView
from gateway.web import wording

# What a card says at a glance. The order is that of the page: what needs a person comes first.
TONES = ("cut", "short", "new", "service", "watch", "well")
_READINGS = 4  # in the ward; the device itself has more
_JITTER_MS = 400  # a rest that was rounded twice is not a new deadline
_WALL_JITTER_MS = 1_500  # the wall time of a view is given to the second


@dataclass(frozen=True, slots=True)
class Level:
    """The numeral: level, its word, what is needed, and the verdict in a word or two."""

    level: int
    word: str
    needed: int
    tone: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Main:
    """Who it is, how it is reached, and why it stands where it stands."""

    id: str
    name: str
    kind: str
    address: str
    link: str
    link_word: str
    state: str
    state_word: str
    reason: str
    since_ms: int
    since_utc: str
    alarms: tuple[str, ...]
    would_cut: tuple[str, ...]
    service_until_ms: int | None


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """One function: ``mark`` is allowed, readonly, cut, would or always."""

    name: str
    mark: str
    word: str
    needs: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """The latest reading of one quantity; ``absent`` is why there is no value."""

    name: str
    value: str
    unit: str
    taken_ms: int
    absent: str


@dataclass(frozen=True, slots=True)
class Clocks:
    """What runs out: the lease and the certificate, as moments; when the newest evidence was taken."""

    lease_until_ms: int | None
    certificate_until_ms: int | None
    sequence: int | None
    evidence_ms: int | None
    tier: str


@dataclass(frozen=True, slots=True)
class Card:
    """One device as the page shows it."""

    id: str
    tone: str
    level: Level
    main: Main
    functions: tuple[FunctionRow, ...]
    readings: tuple[ReadingRow, ...]
    clocks: Clocks


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the gateway itself."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The first line of the page: how the ward is, in one sentence; the observing banner; alarms of the gateway itself."""

    tone: str
    headline: str
    observing: str
    gateway_id: str
    gateway_name: str
    version: str
    parts: tuple[Part, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ward:
    """The whole page at one moment. ``cards`` are in the order of the page."""

    now_ms: int
    time_utc: str
    time_quality: str
    overview: Overview
    cards: tuple[Card, ...]
    events: tuple[EventView, ...]


class Deadlines:
    """Turns rests into moments, and keeps a moment that only rounding moved."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], int] = {}

    def at(self, device_id: str, name: str, moment_ms: int | None, jitter_ms: int = _JITTER_MS) -> int | None:
        """``moment_ms``, or the same device's last one under ``name`` when it is within a rounding of it."""
        key = (device_id, name)
        if moment_ms is None:
            self._kept.pop(key, None)
            return None
        kept = self._kept.get(key)
        if kept is None or abs(kept - moment_ms) > jitter_ms:
            self._kept[key] = kept = moment_ms
        return kept

    def forget(self, known: set[str]) -> None:
        """Drop devices that are gone; what belongs to no device stays."""
        for key in [k for k in self._kept if k[0] and k[0] not in known]:
            del self._kept[key]


def present(view: WardView, deadlines: Deadlines) -> Ward:
    """Everything the Ward page shows."""
    cards = [card(d, view, deadlines) for d in view.devices]
    cards.sort(key=lambda c: (TONES.index(c.tone), c.main.name.casefold(), c.id))
    deadlines.forget({c.id for c in cards})
    return Ward(
        view.now_ms,
        view.gateway.time_utc,
        view.gateway.time_quality,
        _overview(view, cards),
        tuple(cards),
        view.events[:12],
    )


def card(d: DeviceView, view: WardView, deadlines: Deadlines) -> Card:
    """One device."""
    tone = tone_of(d)
    now = view.now_ms
    main = Main(
        id=d.id,
        name=d.name,
        kind=" · ".join(w for w in (d.profile, wording.BUS_WORDS.get(d.bus, d.bus)) if w),
        address=d.address,
        link=d.link,
        link_word=wording.LINK_WORDS.get(d.link, d.link),
        state=d.state,
        state_word=wording.STATE_WORDS.get(d.state, d.state),
        reason="" if any(d.reason in a for a in d.alarms) else wording.sentence(d.reason),
        since_ms=d.since_ms,
        since_utc=_since_utc(d, view, deadlines),
        alarms=tuple(wording.sentence(a.removeprefix(f"{d.id}: ")) for a in d.alarms),
        would_cut=d.would_cut,
        service_until_ms=_until(deadlines, d.id, "service", now, d.service_left_ms),
    )
    clocks = Clocks(
        lease_until_ms=_until(deadlines, d.id, "lease", now, d.lease_left_ms),
        certificate_until_ms=_until(deadlines, d.id, "certificate", now, d.certificate_left_ms),
        sequence=d.certificate_sequence,
        evidence_ms=_until(deadlines, d.id, "evidence", now, None if d.evidence_age_ms is None else -d.evidence_age_ms),
        tier=d.tier,
    )
    level = Level(d.level, wording.LEVEL_WORDS[min(d.level, 3)], d.needed, tone, _verdict(d, tone))
    return Card(
        d.id, tone, level, main, tuple(_function(f, d) for f in d.functions), tuple(map(_reading, d.readings[:_READINGS])), clocks
    )


def tone_of(d: DeviceView) -> str:
    """One of ``TONES``: cut (all but vital is lost), short (something is lost), or why nothing is."""
    if d.state == "proposed":
        return "new"
    if d.state == "service":
        return "service"
    if d.state == "observing":
        return "watch"
    lost = [f for f in d.functions if not f.allowed]
    if d.level == 0 or d.state in ("suspended", "retired"):
        return "cut"
    return "short" if lost or d.level < d.needed else "well"


def _since_utc(d: DeviceView, view: WardView, deadlines: Deadlines) -> str:
    """Wall time of ``since_ms``, kept steady against the rounding of the two clocks."""
    now = wording.moment(view.gateway.time_utc)
    if now is None:
        return ""
    offset = deadlines.at("", "wall", int(now.timestamp() * 1000) - view.now_ms, _WALL_JITTER_MS)
    return wording.earlier("1970-01-01T00:00:00Z", -(d.since_ms + (offset or 0)))


def _until(deadlines: Deadlines, device_id: str, name: str, now_ms: int, left_ms: int | None) -> int | None:
    return deadlines.at(device_id, name, None if left_ms is None else now_ms + left_ms)


def _verdict(d: DeviceView, tone: str) -> str:
    match tone:
        case "new":
            return "not accepted"
        case "service":
            return "in service"
        case "watch":
            return "would be cut" if d.would_cut else "observed"
        case "cut":
            return d.state if d.state in ("suspended", "retired") else "cut"
        case "short":
            return "too low"
        case _:
            return "as needed"


def _function(f: FunctionView, d: DeviceView) -> FunctionRow:
    mark, word = _mark(f, d)
    needs = "needs no level" if f.on_loss == "vital" else f"needs {f.required}"
    return FunctionRow(f.name, mark, word, needs, wording.sentence(f.reason))


def _mark(f: FunctionView, d: DeviceView) -> tuple[str, str]:
    if f.on_loss == "vital" and f.allowed:
        return "always", "always on"
    if d.state == "observing" and f.allowed:
        lost = any(cut == f.name or cut == f"{f.name} (writes)" for cut in d.would_cut)
        return ("would", "would be cut") if lost else ("allowed", "allowed")
    if f.allowed:
        return "allowed", "allowed"
    if f.on_loss == "read_only" and d.level >= 1 and d.state not in ("proposed", "suspended", "retired"):
        return "readonly", "read only"
    return "cut", "cut"


def _reading(r: Reading) -> ReadingRow:
    value = "" if r.value is None else wording.number(r.value)
    return ReadingRow(wording.quantity(r.quantity), value, wording.unit(r.unit), r.taken_at.mono_ns // 1_000_000, r.absent or "")


def _overview(view: WardView, cards: list[Card]) -> Overview:
    g = view.gateway
    parts = tuple(Part(wording.PART_WORDS.get(p.name, p.name.capitalize()), p.ok, wording.sentence(p.text)) for p in g.parts)
    facts = (
        ("certificates", f"{g.certificates:,}".replace(",", " ")),
        ("quotes", f"{g.quotes:,}".replace(",", " ")),
        ("waiting to leave", f"{g.outbox_rows:,}".replace(",", " ")),
    )
    tone, headline = _headline(cards, parts)
    return Overview(tone, headline, _observing(cards), g.id, g.name, g.version, parts, facts)


def _headline(cards: list[Card], parts: tuple[Part, ...]) -> tuple[str, str]:
    """The tone of the whole ward and its one sentence."""
    total = len(cards)
    devices = f"{total} device{'s' if total != 1 else ''}"
    named = {t: [c.main.name for c in cards if c.tone == t] for t in TONES}
    if named["cut"]:
        more = f"; {len(named['short'])} more too low" if named["short"] else ""
        return "cut", f"{wording.listing(named['cut'])} {_is(named['cut'])} cut{more}"
    if named["short"]:
        return "short", f"{wording.listing(named['short'])} {_has(named['short'])} less than needed"
    if broken := [p.name for p in parts if not p.ok]:
        return "short", f"The devices are well; the gateway's {wording.listing(broken)} {_is(broken)} not"
    if not total:
        return "watch", "No device yet"
    if named["new"]:
        return "new", f"{wording.listing(named['new'])} {_is(named['new'])} new and waits for you"
    if lost := [c.main.name for c in cards if c.tone == "watch" and c.main.would_cut]:
        return "watch", f"Observing: Enforce would cut something of {wording.listing(lost)}"
    if named["service"]:
        return "service", f"{wording.listing(named['service'])} {_is(named['service'])} in service"
    every = f"All {devices} have" if total > 1 else "The only device has"
    return "well", f"{every} what {'they need' if total > 1 else 'it needs'}"


def _observing(cards: list[Card]) -> str:
    """The banner's sentence while something is only observed; empty when nothing is."""
    accepted = [c for c in cards if c.tone != "new"]
    watched = [c for c in accepted if c.tone == "watch"]
    if not watched:
        return ""
    if len(watched) == len(accepted):
        return "Observing: nothing is cut yet"
    names = wording.listing([c.main.name for c in watched])
    return f"Observing {len(watched)} of {len(accepted)}: nothing of {names} is cut yet"


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
