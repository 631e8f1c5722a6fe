"""Options of the whole suite: the long tests run only when asked for, and the output says so."""

from __future__ import annotations

import pytest
from hypothesis import settings

# no deadline for one example: the machine is shared, and pytest-timeout bounds every test anyway
settings.register_profile("wardgate", deadline=None)
settings.load_profile("wardgate")

LONG = ("soak", "fuzz")
_left_out: dict[str, int] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("wardgate")
    group.addoption("--soak", action="store_true", help="also run the tests that take minutes to hours")
    group.addoption("--fuzz", action="store_true", help="also run the long fuzzing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _left_out.clear()
    for mark in LONG:
        if config.getoption(f"--{mark}"):
            continue
        out = [i for i in items if i.get_closest_marker(mark)]
        if out:
            _left_out[mark] = len(out)
            config.hook.pytest_deselected(items=out)
            items[:] = [i for i in items if not i.get_closest_marker(mark)]


def pytest_report_collectionfinish() -> list[str]:
    return [f"{n} {mark} test{'s' if n != 1 else ''} left out: run with --{mark}" for mark, n in _left_out.items()]
