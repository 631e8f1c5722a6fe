"""Acknowledgements that may still come for messages that nobody waits for: those of which no answer is due at once, and the
application acknowledgements of those that were committed.

Bounded in number and in time. Refuses to know connections.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_EXPECTED = 1_024  # of one connection, 0.4 MB with the longest ids; then no more messages are taken for a while


class _Entry(NamedTuple):
    number: int  # messages of this control id
    until_s: float
    unsure: bool  # nobody has said that it arrived


class Expected:
    """``add`` what was sent, ``take`` what is acknowledged, ``expire`` what nobody said anything of in time."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    @property
    def full(self) -> bool:
        """Whether something has to be acknowledged, or to expire, first."""
        return len(self._entries) >= MAX_EXPECTED

    @property
    def unsure(self) -> int:
        """Messages that may not have arrived, if the connection ends now."""
        return sum(e.number for e in self._entries.values() if e.unsure)

    def add(self, control_id: bytes, until_s: float, *, unsure: bool) -> None:
        """One more was sent. ``unsure``: nobody has said that it arrived."""
        before = self._entries.get(control_id)
        number, also = (before.number, before.unsure) if before else (0, False)
        self._entries[control_id] = _Entry(number + 1, until_s, unsure or also)

    def take(self, control_id: bytes) -> bool:
        """An acknowledgement came; whether it was expected."""
        entry = self._entries.get(control_id)
        if entry is None:
            return False
        if entry.number > 1:
            self._entries[control_id] = entry._replace(number=entry.number - 1)
        else:
            del self._entries[control_id]
        return True

    def expire(self, now_s: float) -> int:
        """Forget what nobody acknowledged in time; returns how many of the unsure that were: they have arrived."""
        over = [(control_id, e) for control_id, e in self._entries.items() if now_s >= e.until_s]
        for control_id, _ in over:
            del self._entries[control_id]
        return sum(e.number for _, e in over if e.unsure)

    def clear(self) -> None:
        """The connection is gone; nothing comes any more."""
        self._entries.clear()
