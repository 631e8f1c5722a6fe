"""What people ask of the gateway beside its devices, with behaviour: a record that filters, a network drawn from a real document.

Knows no disk, no kernel and no TPM.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from gateway.errors import InputError, RefusedError
from gateway.landscape import Ground, landscape
from gateway.model.event import Behaviour
from gateway.model.inquiry import EventPage, EventQuery, RecordCheck
from gateway.model.landscape import Landscape
from gateway.model.premises import Deadline, Identity, KeyCertificate, Versions
from gateway.model.view import EventView, User, WardView
from gateway.relying import proofs
from gateway.tally import Tally
from gateway.web.wording import moment

GROUND = Ground(
    "ward0", "hosp0", "mgmt0", ("10.77.0.1", "fd77::1"),
    {"central": ("10.77.0.100", "fd77::100"), "clients": ("10.77.0.101",)}, (("10.77.0.100", "tcp", 8883),),
)  # fmt: skip
_MONITORING = ["10.77.0.11", "10.77.0.100", "tcp", 6000]
_CONTROL = ["10.77.0.101", "10.77.0.11", "tcp", 502]
_MAINTENANCE = ["10.77.0.101", "10.77.0.11", "tcp", 7000]
_RESULTS = ["10.77.0.12", "10.77.0.100", "tcp", 2576]
_ALARMS = ["10.77.0.12", "10.77.0.100", "tcp", 2575]
DOCUMENT: dict[str, Any] = {
    "version": 1,
    "devices": {
        "pump-1": {"cap": 3, "addresses": ["10.77.0.11"]},
        "monitor-1": {"cap": 2, "addresses": ["10.77.0.12"]},
    },
    "functions": {
        "pump-1": {"control": {"set4": [_CONTROL]}, "maintenance": {"set4": [_MAINTENANCE]}, "monitoring": {"set4": [_MONITORING]}},
        "monitor-1": {"results": {"set4": [_RESULTS]}, "alarms": {"set4": [_ALARMS]}},
    },
    "sets": {
        "port4": [["p-pump-1", "02:57:47:00:00:11", "10.77.0.11"], ["p-mon-1", "02:57:47:00:00:12", "10.77.0.12"]],
        "vital4": [_MONITORING, _ALARMS], "rtl0_4": [_CONTROL], "rtl3_4": [_MAINTENANCE], "rtl2_4": [_RESULTS],
        "via4": [["10.77.0.11", "tcp", 502, 15502]],
    },
}  # fmt: skip
WIRING: dict[str, object] = {
    "kind": "in line", "summary": "in line: 2 ports of ward0, the hospital on hosp0",
    "controls": ("every packet between a device and the hospital",), "leaves": ("a device that is plugged in somewhere else",),
    "ports": ({"name": "p-pump-1", "device": "pump-1", "carrier": True, "isolated": True, "macs": ("02:57:47:00:00:11",)},
              {"name": "p-spare", "device": "", "carrier": False, "isolated": True, "macs": ()}),
    "findings": ({"code": "no-carrier", "severity": "wrong", "subject": "p-spare", "text": "no cable on p-spare",
                  "remedy": "plug it in"},),
}  # fmt: skip


class FakeHouse:
    """``HousePort`` over a fake console's ward and events."""

    def __init__(self, view: Callable[[], WardView], events: Callable[[], Sequence[EventView]]) -> None:
        self._view, self._events = view, events
        self.tally = Tally()
        self.aside: list[tuple[str, str, int]] = []
        self.trouble = ""
        self.document = DOCUMENT
        self.glass: dict[tuple[object, ...], int] | None = {}  # None: the enforcer does not answer
        self.deadlines = [
            Deadline("Certificate of the attestation key", 12 * 86_400.0, "Others refuse what is new.", "2026-12-06T00:00:00Z"),
            Deadline("Certificate for the broker", 0.0, "Everything waits.", "2026-11-20T00:00:00Z", gone=True),
            Deadline("Infusion pump, bed 4", None, "It is attested by this gateway alone."),
        ]  # fmt: skip

    async def find(self, query: EventQuery, limit: int = 100, before: int | None = None) -> EventPage:
        """Newest first."""
        found = [e for e in reversed(self._events()) if (before is None or e.sequence < before) and _fits(e, query)]
        page = tuple(found[:limit])
        return EventPage(page, page[-1].sequence if len(found) > limit else None)

    async def each(self, query: EventQuery) -> AsyncIterator[EventView]:
        """All that fit."""
        for e in (await self.find(query, 10**6)).events:
            yield e

    def record(self) -> RecordCheck:
        """All of it holds, unless a test says otherwise."""
        last = self._events()[-1]
        return RecordCheck(1, last.sequence, last.time_utc, last.sequence, self.trouble)

    def refuse(self, device_id: str, text: str, count: int = 1) -> None:
        """The data path refused something."""
        self.tally.add(Behaviour(device_id, "denied", text, count), self._view().now_ms)

    async def network(self) -> Landscape:
        """Drawn from the document and the ward's levels."""
        view = self._view()
        found = landscape(view, self.document, GROUND, self.tally.lately(view.now_ms), self.glass or {})
        return replace(found, wiring=WIRING, asked=self.glass is not None)

    async def identity(self) -> Identity:
        """A gateway that is enrolled."""
        certificate = KeyCertificate(
            "CN=ward-7-east", "CN=Hospital CA", "5f3a", "2026-01-01T00:00:00Z", "2026-12-06T00:00:00Z", 1_036_800.0
        )
        versions = Versions("0.1.0", "", "checkout", "3.11.2", "6.1.0", (("aiohttp", "3.11.0"), ("cbor2", "6.0.0")))
        return Identity("ward-7-east", "Ward 7 East", "5f" * 32, certificate, "uefi", proofs("uefi"), versions)

    async def offline(self) -> Sequence[Deadline]:
        """What ends."""
        return self.deadlines

    async def retry(self, actor: User, letter_id: int) -> str:
        """The one dead letter there is."""
        return self._act("retry", actor, letter_id)

    async def discard(self, actor: User, letter_id: int) -> str:
        """The same."""
        return self._act("discard", actor, letter_id)

    def _act(self, what: str, actor: User, letter_id: int) -> str:
        if actor.role not in ("biomed", "admin"):
            raise RefusedError(f"a {actor.role} may look, not act", "ask someone who may")
        if letter_id != 1:
            raise InputError("there is no such message any more", "load the page again")
        self.aside.append((what, actor.name, letter_id))
        return f"{what} is done"


def _fits(e: EventView, q: EventQuery) -> bool:
    at = moment(e.time_utc)
    ns = 0 if at is None else int(at.timestamp()) * 10**9
    return (
        q.device_id in ("", e.device_id)
        and (not q.kinds or e.kind in q.kinds)
        and e.severity in q.severities
        and (q.since_ns is None or ns >= q.since_ns)
        and (q.until_ns is None or ns < q.until_ns)
        and q.text.lower() in e.text.lower()
    )
