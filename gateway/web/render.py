"""Models into HTML. Templates are read and compiled once; everything a device or a person chose is escaped.

Refuses to know requests, sessions and where a picture comes from.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gateway.web import wording
from gateway.web.chrome import PAGES, Attention, Chrome, Trial, chrome
from gateway.web.desk import Notice, Visitor
from gateway.web.present import Card, Ward

log = logging.getLogger("wardgate.web")

FRAME = ("attention", "quality", "trial")  # the parts of a page that are on every page
_STILL = 2048  # parts that no time is shown in, kept as HTML: most of fifty cards is the same at every look
_HERE = Path(__file__).parent
# bidirectional controls and marks, invisible separators, the zero-width family
_UNSEEN = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages refer to; ``tag`` names its content."""

    body: bytes
    content_type: str
    tag: str


@dataclass(frozen=True, slots=True)
class Offer:
    """An action that can be taken from where a device is now; ``direct``: at once, without a page that asks.

    ``rare``: offered on the device's own page only.
    """

    verb: str
    label: str
    direct: bool = False
    rare: bool = False


class Renderer:
    """All templates and static files. ``plain``: no HTML is ever answered (the control socket)."""

    def __init__(self, plain: bool = False) -> None:
        self.plain = plain
        self.picture: Callable[[], Ward] | None = None  # where the frame around a page comes from
        self.assets = _read_assets()
        self.build = hashlib.sha256(b"".join(a.tag.encode() for a in self.assets.values())).hexdigest()[:16]
        env = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_upright,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        env.filters["ago"] = lambda at_ms, now_ms: wording.duration(now_ms - at_ms)
        env.filters.update(count=wording.count, size=wording.size, duration=wording.duration)
        env.filters["left"] = lambda until_ms, now_ms: wording.countdown(until_ms - now_ms)
        env.filters["age"] = wording.duration
        env.globals["asset"] = self._asset_url
        env.globals["pages"] = PAGES
        env.globals["still"] = lru_cache(_STILL)(lambda name, model: Markup(self.part(name, model)))  # noqa: S704 - escaped by its template
        self._env = env
        card, overview, frame = (env.get_template(n).module for n in ("card.html", "overview.html", "frame.html"))
        self._macro: Mapping[str, Callable[..., str]] = {
            **{n: getattr(card, n) for n in ("level", "main", "functions", "readings", "clocks", "actions")},
            **{n: getattr(overview, n) for n in ("headline", "observing", "parts", "facts", "events")},
            **{n: getattr(frame, n) for n in ("attention", "quality", "rings", "trial")},
        }

    def page(self, template: str, who: Visitor | None, *, here: str = "", notice: Notice | None = None, **values: Any) -> str:
        """A whole page for ``who`` (None: nobody is logged in)."""
        return self._env.get_template(template).render(
            user=who.user if who else None, csrf=who.csrf if who else "", here=here, notice=notice, build=self.build,
            chrome=self._frame() if who else None, **values,
        )  # fmt: skip

    def _frame(self) -> Chrome | None:
        """The frame now; None, which the page says, when the picture cannot be had: a page about an error must not fail too."""
        try:
            return chrome(self.picture()) if self.picture else None
        except Exception:  # boundary: said on the page, and in the journal
            log.exception("the frame of a page could not be made")
            return None

    def note(self, who: Visitor | None, *, what: str, remedy: str) -> str:
        """A page for an error."""
        title = what[:1].upper() + what[1:]
        return self.page("note.html", who, title=title, text=wording.sentence(remedy), word="To the ward", onward="")

    def part(self, name: str, *values: Any) -> str:
        """One part of the page, as ``card.html`` and ``overview.html`` define it."""
        return str(self._macro[name](*values))

    def _asset_url(self, name: str) -> str:
        return f"/static/{name}?v={self.assets[name].tag}"


def _upright(value: object) -> object:
    """No text may turn the direction of what stands beside it, or hide in it: such characters are left out."""
    if not isinstance(value, str) or value.isascii() or _UNSEEN.search(value) is None:
        return value
    return type(value)(_UNSEEN.sub("", value))


class Slots:
    """The parts of the Ward page as HTML, made anew only where their model changed."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._made: dict[str, tuple[object, str]] = {}

    def of(self, ward: Ward) -> dict[str, str]:
        """Part name → HTML, for everything but actions, which depend on who looks."""
        wanted = dict(_models(ward))
        self._made = {name: self._one(name, model, ward.now_ms) for name, model in wanted.items()}
        return {name: html for name, (_, html) in self._made.items()}

    def _one(self, name: str, model: object, now_ms: int) -> tuple[object, str]:
        made = self._made.get(name)
        if made is not None and made[0] == model:
            return made
        kind = name.rpartition("/")[2]
        timed = (now_ms,) if kind in ("main", "readings", "clocks", "trial") else ()
        return model, self._renderer.part(kind, model, *timed)


def _models(ward: Ward) -> Iterable[tuple[str, object]]:
    o = ward.overview
    for kind in ("headline", "observing", "parts", "facts"):
        yield kind, o
    yield "events", ward.events
    frame = chrome(ward)
    yield "attention", frame.attention
    yield "rings", frame.attention
    yield "trial", frame.trial
    yield (
        "quality",
        replace(frame, now_ms=0, time_utc="", attention=Attention("", ""), trial=Trial()),
    )  # what it shows, and nothing that runs
    for c in ward.cards:
        yield from ((f"{c.id}/{kind}", model) for kind, model in _card_models(c))


def _card_models(c: Card) -> Iterable[tuple[str, object]]:
    return (
        ("level", c.level),
        ("main", c.main),
        ("functions", c.functions),
        ("readings", c.readings),
        ("clocks", c.clocks),
    )


def _read_assets() -> dict[str, Asset]:
    assets = {}
    for path in sorted((_HERE / "static").iterdir()):
        if path.suffix in _TYPES:
            body = path.read_bytes()
            assets[path.name] = Asset(body, _TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:16])
    return assets
