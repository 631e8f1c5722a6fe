"""The names by which what befell the gateway itself is told, beside its parts."""

from __future__ import annotations

from collections.abc import Iterable

LAST_RUN = "last-run"  # the run before ended without saying so
STANDSTILL = "standstill"  # nothing was decided for longer than a lease lasts
INCIDENTS = (LAST_RUN, STANDSTILL)
_MOST = 120  # characters of names: a line of the record has room for five hundred in all


def named(devices: Iterable[str]) -> str:
    """As many of these as a sentence has room for, and how many more there are."""
    names, shown = sorted(devices), ""
    for n, name in enumerate(names):
        longer = f"{shown}, {name}" if shown else name
        if shown and len(longer) > _MOST:
            return f"{shown} and {len(names) - n} more"
        shown = longer
    return shown
