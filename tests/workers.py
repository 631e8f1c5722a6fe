"""How the tests are shared between two pytest workers (tests/run starts them): a file stays whole, the heaviest begin first.

Most long tests wait: for leases, sensors, browsers; a second worker uses that time. Refuses to know what a test does; without
workers (``-n0``, ``pytest`` alone) nothing here takes part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

# A whole bench is a dozen processes that keep real time, and a Debian that is packed, installed and booted takes what the
# machine has: these come one after the other, first, in the order below. Whatever else there is runs beside them.
HEAVY = ("tests/hil/test_first_light.py", "tests/web/test_bench_pages.py", "tests/image")
# One for the folder: its tests share a ward.
WHOLE = ("tests/network",)


def below(nodeid: str, places: Iterable[str]) -> str | None:
    """The first of the files and folders that a test is in."""
    return next((p for p in places if nodeid.startswith((f"{p}::", f"{p}/"))), None)


def group(nodeid: str) -> str:
    """The name of what a test stays together with: most often its file."""
    if below(nodeid, HEAVY):
        return "heavy"
    return below(nodeid, WHOLE) or nodeid.split("::")[0]


def rank(nodeid: str) -> int:
    """Smaller begins earlier."""
    place = below(nodeid, HEAVY)
    return HEAVY.index(place) if place else len(HEAVY)


class LeftOut:
    """How many long tests were left out, by their mark: a worker knows, and the one who started it says."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = marks
        self.counts: dict[str, int] = {}

    def take(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self.counts.clear()
        for mark in self._marks:
            out = [i for i in items if i.get_closest_marker(mark)] if not config.getoption(f"--{mark}") else []
            if out:
                self.counts[mark] = len(out)
                config.hook.pytest_deselected(items=out)
                items[:] = [i for i in items if i not in out]

    def lines(self) -> list[str]:
        return [f"{n} {mark} test{'s' if n != 1 else ''} left out: run with --{mark}" for mark, n in self.counts.items()]


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups of tests, handed out in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)
