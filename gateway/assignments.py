"""Whose readings a device takes: a token that the site chose, never a name, and from when on.

A reading carries the token that was assigned when it was *taken*, however late it leaves, or none. Where that cannot be told
(another boot of this machine, before the clock of this one) it carries none: a wrong patient is worse than an unknown one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.errors import InputError
from gateway.model.instant import Instant

TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
KEPT = 200  # of one device: half a year of daily changes


@dataclass(frozen=True, slots=True)
class Assigned:
    """From ``boot_id``'s ``from_ns`` on, until the next one of the same device; "" is nobody."""

    device_id: str
    token: str
    boot_id: str
    from_ns: int


class Assignments:
    """In memory; whoever owns it keeps what ``assign`` and ``begin`` return."""

    def __init__(self) -> None:
        self._of: dict[str, list[Assigned]] = {}

    def begin(self, kept: Iterable[Assigned], now: Instant) -> list[Assigned]:
        """Take up what was kept. What is assigned goes on in this boot from now on: returns the new entries."""
        for entry in kept:
            self._of.setdefault(entry.device_id, []).append(entry)
        last = [entries[-1] for entries in self._of.values()]
        return [self._add(e.device_id, e.token, now) for e in last if e.token and e.boot_id != now.boot_id]

    def assign(self, device_id: str, token: str, now: Instant) -> Assigned:
        """From now on. ``token`` "" ends it. Raises InputError for what is no token."""
        if token and not TOKEN.fullmatch(token):
            raise InputError(
                "a token is 1 to 32 letters, digits, . _ or -",
                "take a number of your own for it; a patient's name has no place here",
            )
        return self._add(device_id, token, now)

    def _add(self, device_id: str, token: str, now: Instant) -> Assigned:
        entry = Assigned(device_id, token, now.boot_id, now.mono_ns)
        entries = self._of.setdefault(device_id, [])
        entries.append(entry)
        del entries[:-KEPT]
        return entry

    def at(self, device_id: str, taken: Instant) -> str:
        """The token when a reading was taken; "" for nobody, and when that cannot be told."""
        for entry in reversed(self._of.get(device_id, ())):
            if entry.boot_id == taken.boot_id and entry.from_ns <= taken.mono_ns:
                return entry.token
        return ""

    def current(self, device_id: str) -> str:
        """The token now."""
        entries = self._of.get(device_id)
        return entries[-1].token if entries else ""
