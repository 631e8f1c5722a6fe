"""Faults nobody waited for, in the log: one line for a connection that ended, the traceback for a mistake of ours."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
from collections.abc import Callable, Iterator

import pytest

from gateway.logs import configure


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    heard = io.StringIO()
    monkeypatch.setattr("sys.stderr", heard)
    root, quiet = logging.getLogger(), logging.getLogger("asyncio")
    before = root.handlers[:], root.level, quiet.level, quiet.filters[:]
    configure()
    configure()
    yield heard.getvalue
    root.handlers[:], quiet.filters[:] = before[0], before[3]
    root.setLevel(before[1])
    quiet.setLevel(before[2])


async def abandon(error: Exception) -> None:
    asyncio.get_running_loop().create_future().set_exception(error)
    gc.collect()
    await asyncio.sleep(0)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), EOFError(), ConnectionResetError("a\nb")])
async def test_a_connection_that_ended_is_one_line(error: Exception, told: Callable[[], str]) -> None:
    await abandon(error)
    text = told()
    assert text.startswith("E asyncio: a connection ended while nobody waited for it: " + type(error).__name__)
    assert text.count("\n") == 1


async def test_a_mistake_keeps_its_traceback(told: Callable[[], str]) -> None:
    async def wrong() -> None:
        raise OSError("of our own task")

    await abandon(ValueError("ours"))
    task = asyncio.create_task(wrong())
    await asyncio.sleep(0)
    del task
    gc.collect()
    text = told()
    assert "ValueError: ours" in text
    assert "Traceback" in text and "OSError: of our own task" in text
