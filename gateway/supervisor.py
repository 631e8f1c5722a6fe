"""Keeps tasks running: each has a name, an owner, a readiness signal and an end.

A task that fails starts again after a backoff with full jitter; the fault is told once when it begins and once when it is
over. A fault of ours (a bug) is told with where it happened, and the task still starts again: a ward needs the rest of us.
Refuses to know what the tasks do.
"""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Awaitable, Callable

from gateway.errors import WardgateError

_FIRST_S = 0.5  # a transient fault is over by then
_LONGEST_S = 15.0  # nobody in a ward waits longer for a part to come back
_STEADY_S = 5.0  # a task that ran this long had recovered

log = logging.getLogger("wardgate.supervisor")


class Supervisor:
    """Starts tasks in one TaskGroup and keeps them running until it is cancelled."""

    def __init__(self, group: asyncio.TaskGroup, told: Callable[[str, bool, str], Awaitable[None]]) -> None:
        """``told(name, up, detail)`` is called once for each change of a task's health."""
        self._group, self._told = group, told
        self._down: set[str] = set()

    def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run ``run()`` for ever; returns its task."""
        return self._group.create_task(self._keep(name, run), name=name)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        loop, wait_s = asyncio.get_running_loop(), _FIRST_S
        while True:
            began = loop.time()
            recovered = loop.call_later(_STEADY_S, self._recovered, name)
            try:
                await run()
                detail = "it ended"
            except WardgateError as e:
                detail = str(e)
            except Exception as e:  # noqa: BLE001 - whatever broke one part must not take the others with it
                where = traceback.extract_tb(e.__traceback__)[-1]
                detail = f"{type(e).__name__}: {e} at {where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
            finally:
                recovered.cancel()
            if loop.time() - began > _STEADY_S:
                wait_s = _FIRST_S
            if name not in self._down:
                self._down.add(name)
                log.warning("%s stopped: %s; it starts again by itself", name, detail)
                await self._told(name, False, detail)
            await asyncio.sleep(random.uniform(0.1, wait_s))  # noqa: S311 - jitter, not a secret
            wait_s = min(wait_s * 2, _LONGEST_S)

    def _recovered(self, name: str) -> None:
        if name in self._down:
            self._down.discard(name)
            log.info("%s is running again", name)
            self._group.create_task(self._told(name, True, "running again"), name=f"{name}-told")  # type: ignore[arg-type]
