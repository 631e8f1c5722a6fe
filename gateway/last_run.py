"""Says at the start that the run before ended without a word, when that was, and what the enforcer closed meanwhile.

Nobody could say so at the time: a crash and a kill leave no last line. The enforcer remembers which leases lapsed; it is waited
for a moment, and the alarm does not depend on it. Refuses to know why the run ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.model.event import PartChanged
from gateway.model.incident import LAST_RUN, named
from gateway.model.instant import NS_PER_S, Instant

_PATIENCE_S = 3.0  # the enforcer answers within milliseconds when it is there
_LOOK = "see journalctl -u wardgate, then: wardgate acknowledge"


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """What the enforcer remembers, on boot time (ns): complete from ``since_ns`` on."""

    since_ns: int
    granted_ns: int
    lapsed: tuple[tuple[str, int], ...]


class LastRun:
    """``heard``: the last line of the run before; ``began``: the start of this one."""

    def __init__(self, heard: Instant, began: Instant) -> None:
        self._heard, self._began = heard, began
        self._meanwhile: Meanwhile | None = None
        self._said = asyncio.Event()

    def enforcer_said(self, lapses: object) -> None:
        """What the enforcer answered to ``watch``; the first answer counts."""
        if not self._said.is_set():
            self._meanwhile = meanwhile_of(lapses)
            self._said.set()

    async def tell(self, emit: Callable[[PartChanged], Awaitable[None]]) -> None:
        """Raise the alarm, once."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._said.wait()
        except TimeoutError:
            pass
        await emit(PartChanged(LAST_RUN, up=False, detail=sentence(self._heard, self._began, self._meanwhile)))


def meanwhile_of(lapses: object) -> Meanwhile | None:
    """What a version of the enforcer that remembers says; None for anything else."""
    match lapses:
        case {"since_ns": int(since), "granted_ns": int(granted), "devices": [*devices]}:
            rows = tuple((str(d[0]), d[1]) for d in devices if isinstance(d, list) and len(d) == 2 and type(d[1]) is int)
            return Meanwhile(since, granted, rows)
    return None


def sentence(heard: Instant, began: Instant, meanwhile: Meanwhile | None) -> str:
    """The alarm, with what to do."""
    head = f"Wardgate ended without saying so (crash, kill or power cut), last heard at {heard.utc():%Y-%m-%d %H:%M:%S} UTC"
    rest = "; its proxies and radio stopped with it"
    if heard.boot_id != began.boot_id:
        return f"{head}, before this machine was started again: every lease ended with it{rest}; {_LOOK}"
    head += f", {began.seconds_since(heard):.0f} s before this start"
    return f"{head}; {_closed(heard, meanwhile)}{rest}; {_LOOK}"


def _closed(heard: Instant, meanwhile: Meanwhile | None) -> str:
    if meanwhile is None:
        return "the enforcer does not say which leases ended meanwhile"
    if meanwhile.since_ns > heard.mono_ns:
        return "the enforcer was started again meanwhile and does not know which leases ended"
    lapsed = {name: at for name, at in meanwhile.lapsed if at > heard.mono_ns}
    if not lapsed:
        return "no lease ended meanwhile"
    first = _clock(heard, min(lapsed.values()))
    renewed = f"leases were renewed until {_clock(heard, meanwhile.granted_ns)}, and " if meanwhile.granted_ns else ""
    return f"{renewed}from {first} on the enforcer closed what needs a level, until it is earned again, of {named(lapsed)}"


def _clock(near: Instant, mono_ns: int) -> str:
    """The time of day of another moment of the same boot."""
    return f"{near.plus((mono_ns - near.mono_ns) / NS_PER_S).utc():%H:%M:%S}"
