"""Levels over time as a picture: spans of a step chart, what a table and a sentence say of the same, and the marks of its axis.

Pure functions from a history to numbers in a box of ``WIDTH`` by ``HEIGHT``. Time of which nothing is known is a span of its
own kind, never a level. Refuses to know HTML and how levels came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from gateway.model.sheet import LevelHistory
from gateway.web import wording

WIDTH, HEIGHT = 1000, 96
RANGES = (24, 168)  # hours: a day, a week
_ROWS_MAX = 60  # of the table; the command line lists them all
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Span:
    """From ``x`` on, ``width`` long; the top edge is at ``y``. ``kind``: ``known``, ``none`` (level 0) or ``unknown``."""

    kind: str
    x: float
    width: float
    y: float


@dataclass(frozen=True, slots=True)
class Row:
    """The same span in words. ``from_utc``: when it began, ISO 8601; ``lasted``: how long."""

    from_utc: str
    level: str
    lasted: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that the page draws. ``rises`` are the vertical lines between levels: (x, y1, y2)."""

    hours: int
    spans: tuple[Span, ...]
    rises: tuple[tuple[float, float, float], ...]
    needed_y: float | None
    ticks: tuple[tuple[float, str], ...]
    said: str
    rows: tuple[Row, ...]
    more: int
    complete: bool


def chart_of(history: LevelHistory, needed: int, now_utc: str) -> Chart:
    """The chart of a history. ``needed``: the level that the device's functions ask for, 0 for none."""
    whole = history.hours * _HOUR_MS
    ends = [(a.level, a.age_ms, b) for a, b in zip(history.steps, [*(s.age_ms for s in history.steps[1:]), 0], strict=True)]
    ends = [e for e in ends if e[1] > e[2]]
    spans = tuple(_span(level, start, end, whole) for level, start, end in ends)
    known = [(a, b) for a, b in pairwise(spans) if "unknown" not in (a.kind, b.kind)]
    rows = [Row(wording.earlier(now_utc, start), level_words(level), wording.duration(start - end)) for level, start, end in ends]
    rows.reverse()
    return Chart(
        hours=history.hours,
        spans=spans,
        rises=tuple((b.x, a.y, b.y) for a, b in known),
        needed_y=_y(needed) if needed else None,
        ticks=_ticks(history.hours),
        said=_sentence(history, ends),
        rows=tuple(rows[:_ROWS_MAX]),
        more=max(0, len(rows) - _ROWS_MAX),
        complete=history.complete,
    )


def level_words(level: int | None) -> str:
    """``2 standard``, or ``not known``."""
    return "not known" if level is None else f"{level} {wording.LEVEL_WORDS[min(level, 3)]}"


def _span(level: int | None, start: int, end: int, whole: int) -> Span:
    x = (whole - start) * WIDTH / whole
    kind = "unknown" if level is None else "known" if level else "none"
    return Span(kind, round(x, 2), round(max((start - end) * WIDTH / whole, 0.6), 2), 0.0 if level is None else _y(level))


def _y(level: int) -> float:
    return HEIGHT - min(level, 3) * (HEIGHT - 4) / 3


def _ticks(hours: int) -> tuple[tuple[float, str], ...]:
    """Marks with words, from the left; the last is now."""
    step, word = (6, "h") if hours <= 24 else (24, "d")
    marks = range(hours, -1, -step)
    return tuple((round((hours - h) * 100 / hours, 2), f"−{h // (24 if word == 'd' else 1)} {word}" if h else "now") for h in marks)


def _sentence(history: LevelHistory, ends: list[tuple[int | None, int, int]]) -> str:
    span = "24 hours" if history.hours == 24 else "7 days" if history.hours == 168 else f"{history.hours} hours"
    if not ends:
        return f"Nothing is known of the last {span}."
    lasted: dict[int | None, int] = {}
    for level, start, end in ends:
        lasted[level] = lasted.get(level, 0) + start - end
    order = sorted(lasted, key=lambda level: -1 if level is None else level, reverse=True)
    parts = [f"{'not known' if n is None else f'level {n}'} for {wording.duration(lasted[n])}" for n in order]
    changes = sum(a[0] is not None and b[0] is not None for a, b in pairwise(ends))
    return f"Last {span}: {', '.join(parts)}; {changes} change{'' if changes == 1 else 's'} of level."
