"""PURE. Which messages a route lets through, and from which level on: by sending application, facility and message^event.

A rule's text is compared part by part with the field as it stands; a rule without ``^`` looks at the field's first part only.
Refuses to know leases: it says which level is needed, or that none would do.
"""

from __future__ import annotations

from collections.abc import Sequence

from drivers.hl7.message import Message
from gateway.model.level import TrustLevel
from gateway.model.profile import Hl7Rule

_USUAL = 512  # bytes of those fields together; what is longer is not kept
_REMEMBERED = 64  # kinds of message whose answer is kept; a sender chooses the fields, so it is bounded


class Filter:
    """The rules of one route."""

    def __init__(self, rules: Sequence[Hl7Rule]) -> None:
        self._rules = [(_parts(r.application), _parts(r.facility), _parts(r.message), r.level) for r in rules]
        self._known: dict[tuple[bytes, bytes, bytes, bytes], TrustLevel | None] = {}

    def needs(self, message: Message) -> TrustLevel | None:
        """The lowest level at which a rule covers ``message``; None: no rule does."""
        key = (message.msh[2], message.msh[3], message.msh[8], message.component)
        if sum(map(len, key)) > _USUAL:
            return self._look(message)
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._look(message)
        return self._known[key]

    def _look(self, message: Message) -> TrustLevel | None:
        application, facility, kind = (message.msh[i].split(message.component) for i in (2, 3, 8))
        levels = [
            level
            for wanted_application, wanted_facility, wanted_kind, level in self._rules
            if _same(wanted_application, application) and _same(wanted_facility, facility) and wanted_kind == kind[:2]
        ]
        return min(levels, default=None)


def _parts(text: str) -> list[bytes]:
    return text.encode().split(b"^")


def _same(wanted: list[bytes], found: list[bytes]) -> bool:
    return found[0] == wanted[0] if len(wanted) == 1 else found == wanted
