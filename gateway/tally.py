"""PURE. What was refused in the last hour, counted: the Network page shows it while the record writes one line a minute.

Bounded: a flood of different refusals pushes out the oldest. Refuses to know who counts and why it was refused.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.model.event import Behaviour
from gateway.model.landscape import Refused

_KINDS = 500  # different refusals held
_TEXT = 200
KEPT_MS = 3_600_000


class Tally:
    """Counts by device and sentence."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], Refused] = OrderedDict()

    def add(self, event: Behaviour, now_ms: int) -> None:
        """Count one more. What passed because its device is only observed was not refused."""
        if event.code == "seen":
            return
        key = (event.device_id, event.text[:_TEXT])
        old = self._seen.pop(key, None)
        count = (old.count if old and now_ms - old.last_ms <= KEPT_MS else 0) + max(1, event.count)
        self._seen[key] = Refused(*key, count, now_ms)
        while len(self._seen) > _KINDS:
            self._seen.popitem(last=False)

    def lately(self, now_ms: int) -> tuple[Refused, ...]:
        """Everything refused within the hour, the newest first."""
        return tuple(r for r in reversed(self._seen.values()) if now_ms - r.last_ms <= KEPT_MS)
