"""Options of the whole suite: the long tests run only when asked for, and the output says so; and two workers share the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from tests.workers import LeftOut, rank, scheduler

# no deadline for one example: the machine is shared, and pytest-timeout bounds every test anyway
settings.register_profile("wardgate", deadline=None)
settings.load_profile("wardgate")

LONG = ("soak", "fuzz")
_left_out = LeftOut(LONG)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("wardgate")
    group.addoption("--soak", action="store_true", help="also run the tests that take minutes to hours")
    group.addoption("--fuzz", action="store_true", help="also run the long fuzzing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _left_out.take(config, items)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda i: rank(i.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return scheduler(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_left_out.counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    _left_out.counts.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _left_out.lines():
        terminalreporter.write_line(line)
