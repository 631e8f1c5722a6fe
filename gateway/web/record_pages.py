"""The Events page: the record by device, kind, severity, time and text, a page at a time, and how far the record was checked.

Everything is in the address, so that a view can be kept and sent. Refuses to know how lines are found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby

from aiohttp import web

from gateway.errors import InputError
from gateway.model.inquiry import EventPage, RecordCheck
from gateway.model.view import EventView, WardView
from gateway.web import wording
from gateway.web.asking import GROUP_OF, GROUPS, address, given, query_of
from gateway.web.desk import DESK, visitor
from gateway.web.wire import number_of, status_of

_PAGE = 100
_BEFORE_MAX = 10**18 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One line: ``device_id`` empty when it is about no device that is there."""

    sequence: int
    time_utc: str
    severity: str
    group: str
    device_id: str
    device_name: str
    text: str


def routes() -> list[web.RouteDef]:
    """The page."""
    return [web.get("/events", events)]


async def events(request: web.Request) -> web.Response:
    """The Events page."""
    desk, who, asked = request.app[DESK], visitor(request), given(request)
    view, house = desk.console.view(), desk.console.house
    error, page, before = None, EventPage((), None), None
    try:
        before = number_of(request, "before", 0, _BEFORE_MAX)
        page = await house.find(query_of(request), _PAGE, before)
    except InputError as e:
        error = e
    html = desk.renderer.page(
        "events.html", who, here="/events", asked=asked, error=error, groups=tuple(GROUPS), devices=view.devices,
        days=days(page.events, view), shown=len(page.events), complete=page.complete, ranges=_ranges(view, asked),
        newest=address("/events", asked) if before is not None else "",
        older=address("/events", asked, before=page.older) if page.older is not None else "",
        files=[(word, address(f"/api/v1/events.{suffix}", asked)) for word, suffix in (("CSV", "csv"), ("JSON lines", "jsonl"))],
        narrowed=any(asked.values()), proof=proof(house.record()),
    )  # fmt: skip
    return web.Response(text=html, status=status_of(error) if error else 200, content_type="text/html")


def days(lines: Iterable[EventView], view: WardView) -> list[tuple[str, list[Row]]]:
    """(day, its lines), in the order given."""
    names = {d.id: d.name for d in view.devices}
    rows = [_row(e, names) for e in lines]
    return [(wording.day(day), list(group)) for day, group in groupby(rows, lambda r: r.time_utc[:10])]


def proof(check: RecordCheck) -> tuple[bool, str]:
    """Whether all is well, and the sentence."""
    if check.trouble:
        return (
            False,
            f"The record does not hold: {check.trouble}. Keep the file as it is, and compare it with an export or a backup.",
        )
    if not check.last:
        return True, "The record is being checked."
    rest = f"; {check.head - check.last} newer lines follow" if check.head > check.last else ""
    until = f"{wording.day(check.last_utc[:10])}, {check.last_utc[11:19]} UTC"
    older = "" if check.first <= 1 else f" Lines before {check.first} are checked by wardgate audit verify."
    return (
        True,
        f"The record verifies up to line {check.last}, written {until}{rest}. Each line is bound to the one before it.{older}",
    )


def _row(e: EventView, names: dict[str, str]) -> Row:
    text = e.text.replace(f"{e.device_id}: ", "", 1) if e.device_id else e.text
    name = names.get(e.device_id, e.device_id)
    group, device_id = GROUP_OF.get(e.kind, e.kind), e.device_id if e.device_id in names else ""
    return Row(e.sequence, e.time_utc, e.severity, group, device_id, name, text)


def _ranges(view: WardView, asked: dict[str, str]) -> list[tuple[str, str]]:
    """Links to the ranges that people want most; the rest of the question stays."""
    now = wording.moment(view.gateway.time_utc)
    if now is None:
        return []
    return [
        (word, address("/events", {**asked, "from": (now - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M"), "to": ""}))
        for word, hours in (("last hour", 1), ("last day", 24), ("last week", 168))
    ]
