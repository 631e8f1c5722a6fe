"""How the tests are shared between two pytest workers (tests/run starts them): a file stays whole, the longest begin first.

Most long tests wait: for leases, sensors, browsers. What may not run beside another of its kind has one group, so one worker
does it in order. Refuses to know what a test does; without workers (``-n0``, ``pytest`` alone) nothing here takes part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

# Each whole bench is a dozen processes, and each radio keeps real time: one after the other, beside whatever else there is.
GROUPS = {
    "tests/hil/test_first_light.py": "bench",
    "tests/web/test_bench_pages.py": "bench",
    "tests/network": "network",  # one ward for the folder
}
# What takes longest, longest first: begun last, it would leave the other worker idle.
FIRST = (
    "tests/hil/test_first_light.py",
    "tests/image",
    "tests/web/test_bench_pages.py",
)


def below(nodeid: str, places: Iterable[str]) -> str | None:
    """The first of the files and folders that a test is in."""
    return next((p for p in places if nodeid.startswith((f"{p}::", f"{p}/"))), None)


def group(nodeid: str) -> str:
    """The name of what a test stays together with."""
    place = below(nodeid, GROUPS)
    return GROUPS[place] if place else nodeid.split("::")[0]


def rank(nodeid: str) -> int:
    """Smaller begins earlier."""
    place = below(nodeid, FIRST)
    return FIRST.index(place) if place else len(FIRST)


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
