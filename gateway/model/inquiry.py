"""Questions to the record and their answers: which lines, how far it was looked, and how far the chain was checked."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.view import EventView

SEVERITIES = ("information", "warning", "alarm")  # from quiet to loud
TEXT_MAX = 100  # characters to search for


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which lines of the record. Empty or None: any.

    ``severity`` is the least one. ``kinds``: any of these. ``since_ns`` (inclusive) and ``until_ns`` (exclusive) are wall time,
    UTC, in ns since 1970. ``text`` is looked for in the line's text, whatever its case. Raises ValueError for what cannot be.
    """

    device_id: str = ""
    kinds: tuple[str, ...] = ()
    severity: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if self.severity and self.severity not in SEVERITIES:
            raise ValueError(f"a severity is one of {', '.join(SEVERITIES)}")
        if len(self.text) > TEXT_MAX:
            raise ValueError(f"a text to look for has at most {TEXT_MAX} characters")
        if self.since_ns is not None and self.until_ns is not None and self.since_ns >= self.until_ns:
            raise ValueError("the time range ends before it begins")

    @property
    def severities(self) -> tuple[str, ...]:
        """Every severity that is asked for."""
        return SEVERITIES[SEVERITIES.index(self.severity) :] if self.severity else SEVERITIES


@dataclass(frozen=True, slots=True)
class EventPage:
    """Lines, newest first. ``older``: where to go on (a sequence number; None: the record ends there).

    ``complete`` False: the search stopped after a bound of lines, so ``events`` may be short although there is more.
    """

    events: tuple[EventView, ...]
    older: int | None
    complete: bool = True


@dataclass(frozen=True, slots=True)
class RecordCheck:
    """How far the chain of the record was checked by this daemon since it started.

    Lines ``first`` to ``last`` hold; ``last_utc`` is when the last of them was written (ISO 8601), ``head`` the newest line.
    ``trouble`` names the first line that does not hold, and then nothing after it counts.
    """

    first: int = 0
    last: int = 0
    last_utc: str = ""
    head: int = 0
    trouble: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is known to be wrong."""
        return not self.trouble
