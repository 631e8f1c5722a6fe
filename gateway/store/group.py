"""Group commit: many callers, one transaction, one fsync; every caller returns when its own items are on disk.

Refuses to know what the items are; ``write`` stores a list of batches and gives one result a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.errors import UnavailableError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    items: Sequence[Item]
    done: asyncio.Future[Result]


class GroupCommit(Generic[Item, Result]):
    """Collects batches for at most ``interval_s`` since the last commit, or until ``full`` items wait, then writes them all.

    ``bound``: items that may wait; a caller beyond it waits for room first, which is the back-pressure.
    """

    def __init__(
        self,
        write: Callable[[list[Sequence[Item]]], Awaitable[list[Result]]],
        *,
        interval_s: float = 0.0,
        full: int = 500,
        bound: int = 20_000,
    ) -> None:
        self._write, self._interval_s, self._full, self._bound = write, interval_s, full, bound
        self._waiting: list[_Waiting[Item, Result]] = []
        self._new = 0  # items not yet being written
        self._held = 0  # those, and the ones being written
        self._wake = asyncio.Event()
        self._room = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._last_s = float("-inf")
        self._closed = False

    async def submit(self, items: Sequence[Item], *, urgent: bool = False) -> Result:
        """Hand in ``items`` and wait until they are durable; ``urgent`` ones do not wait for others.

        Raises what ``write`` raised for their group.
        """
        async with self._room:
            await self._room.wait_for(lambda: self._held == 0 or self._held + len(items) <= self._bound)
            if self._closed:
                raise UnavailableError("the store is closed", "start wardgate again")
            waiting: _Waiting[Item, Result] = _Waiting(items, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            self._new += len(items)
            self._held += len(items)
            if urgent or self._new >= self._full:
                self._wake.set()
            if self._task is None:
                self._task = asyncio.create_task(self._commit_all(), name="group-commit")
        return await waiting.done

    async def close(self) -> None:
        """Write what waits, at once, and take nothing more."""
        self._closed = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def _commit_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            left_s = self._last_s + self._interval_s - loop.time()
            if left_s > 0 and self._new < self._full and not self._closed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._wake.wait()
            self._wake.clear()
            group, self._waiting, self._new = self._waiting, [], 0
            self._last_s = loop.time()
            await self._commit(group)
            async with self._room:
                self._held -= sum(len(w.items) for w in group)
                self._room.notify_all()
        self._task = None  # no await since the check above: nobody can have come in between

    async def _commit(self, group: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._write([w.items for w in group])
        except Exception as e:  # noqa: BLE001 - whatever it was, each caller gets it; none may wait for ever
            for w in group:
                if not w.done.done():
                    w.done.set_exception(_copy(e))
        else:
            for w, result in zip(group, results, strict=True):
                if not w.done.done():
                    w.done.set_result(result)


def _copy(error: Exception) -> Exception:
    """One instance a caller: a traceback grows on an exception that several tasks raise."""
    if isinstance(error, UnavailableError):
        return UnavailableError(error.what, error.remedy)
    return error
