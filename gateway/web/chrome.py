"""The frame around every page: whose gateway this is, its time and how good that is, and what needs a person, with who rings.

Refuses to know HTML and which page is inside the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.web import wording
from gateway.web.present import Card, Part, Ward

_LINES = 4  # named in the banner; the rest is counted

# What a person can open, in the order of the bar: (path, word, mark).
PAGES = (
    ("/", "Ward", "ward"),
    ("/events", "Events", "events"),
    ("/network", "Network", "network"),
    ("/gateway", "Gateway", "gateway"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is wrong: what it is about, where that is explained, and what is wrong with it."""

    who: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Attention:
    """What needs a person: ``tone`` cut or short, one sentence, its parts, and who rings about it. Empty ``headline``: nothing."""

    tone: str
    headline: str
    lines: tuple[Line, ...] = ()
    more: int = 0
    rings: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy that is being tried: by whom, and when it goes back by itself (boot time, ms; None: none is)."""

    by: str = ""
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Chrome:
    """The frame at one moment."""

    gateway: str
    now_ms: int
    time_utc: str
    quality: str
    quality_ok: bool
    attention: Attention
    trial: Trial


def chrome(ward: Ward) -> Chrome:
    """The frame around a picture of the ward."""
    quality, good = wording.time_quality(ward.time_quality)
    trial = Trial(*ward.overview.trial)
    return Chrome(ward.overview.gateway_name, ward.now_ms, ward.time_utc, quality, good, attention(ward), trial)


def attention(ward: Ward) -> Attention:
    """What is cut, degraded or rings. A device that is only observed, new or in service needs nobody at once."""
    lines = [line for card in ward.cards for line in _of_card(card)]
    lines += [Line(p.name, "/gateway", p.text) for p in ward.overview.parts if not p.ok]
    if not lines:
        return Attention("well", "")
    tone = "cut" if any(c.tone == "cut" for c in ward.cards) else "short"
    headline = ward.overview.headline if ward.overview.tone in ("cut", "short") else f"{lines[0].who} needs attention"
    return Attention(tone, headline, tuple(lines[:_LINES]), max(0, len(lines) - _LINES), rings(ward.overview.parts))


def rings(parts: tuple[Part, ...]) -> str:
    """Who is told while this daemon lives. Without it the enforcer rings by itself; that is said where the view is lost."""
    uplink = next((p for p in parts if p.name == wording.PART_WORDS["uplink"]), None)
    if uplink is None:
        return "Rings here only: no broker is configured."
    if not uplink.ok:
        return "Rings here only: the broker is not reached, and the alarm waits to leave."
    return "Rings here and at the hospital’s broker."


def _of_card(card: Card) -> list[Line]:
    path = f"/devices/{card.id}"
    if card.main.alarms:
        return [Line(card.main.name, path, text) for text in card.main.alarms]
    if card.tone in ("cut", "short"):
        lost = [f.name for f in card.functions if f.mark in ("cut", "readonly")]
        what = f"{wording.listing(lost)} {'is' if len(lost) == 1 else 'are'} cut. " if lost else ""
        return [Line(card.main.name, path, f"{what}{card.main.reason}")]
    return []
