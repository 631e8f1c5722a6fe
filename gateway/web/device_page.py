"""The page of one device: how it stands, why, and what can be done; the questions before an action; its certificate and label.

Every page is complete without JavaScript. Refuses to know how a level came about and whether a command is allowed.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway import codec
from gateway.errors import InputError, UnavailableError, WardgateError
from gateway.model.event import OperatorCommand
from gateway.model.sheet import Examination, Sheet
from gateway.model.view import DeviceView
from gateway.web import actions
from gateway.web.access import check_csrf
from gateway.web.adding import progress
from gateway.web.chart import RANGES, Chart, chart_of
from gateway.web.desk import DESK, Desk, Notice, Visitor, permitted, visitor
from gateway.web.label import device_label
from gateway.web.present import Card, Ward
from gateway.web.telling import Told, tell
from gateway.web.wire import NotFoundError, device_of, form_of, html, number_of, see_other, status_of, upload_of

_DOUBT = "ATTENTION: "  # how the gateway begins what speaks against a device


def routes() -> list[web.RouteDef]:
    """Everything under /devices."""
    return [
        web.get("/devices/{id}", device),
        web.get("/devices/{id}/label", label),
        web.post("/devices/{id}/verify", verify),
        web.get("/devices/{id}/{verb}", ask),
        web.post("/devices/{id}/{verb}", act),
    ]


# --- looking ---


async def device(request: web.Request) -> web.Response:
    """The page of one device; of one that was only seen, the page that adds it."""
    found = device_of(request)
    if actions.found_only(found):
        return see_other(f"/add/{found.id}")
    return await _page(request, found)


async def verify(request: web.Request) -> web.Response:
    """The device's page with its certificate examined, against the certificate in the form or the one kept here."""
    desk, found = request.app[DESK], device_of(request)
    form = await upload_of(request)
    check_csrf(request, form.get("csrf", ""))
    try:
        examination = await desk.console.dossiers.verify(found.id, form.get("anchor", "").encode())
    except WardgateError as e:
        return await _page(request, found, unverified=f"{e.what}; {e.remedy}", status=status_of(e))
    return await _page(request, found, examination=examination)


async def label(request: web.Request) -> web.Response:
    """The label to print: nothing secret is on it."""
    desk, found = request.app[DESK], device_of(request)
    made = device_label(f"https://{request.host}", found, desk.console.view().gateway)
    return html(desk.renderer.page("label.html", visitor(request), label=made))


async def _page(
    request: web.Request,
    found: DeviceView,
    examination: Examination | None = None,
    unverified: str = "",
    status: int = 200,
) -> web.Response:
    desk, who = request.app[DESK], visitor(request)
    picture, card = _card(desk, found)
    sheet, told, why_not = await _told(desk, found, card)
    offered = actions.offers(found, who.user.role)
    steps, details, unexplained = await _explained(desk, found)
    page = desk.renderer.page(
        "device.html", who,
        notice=desk.notices.take(who.session) if _navigates(request) else None,
        card=card, now_ms=picture.now_ms, time_utc=picture.time_utc,
        offered=offered, told=told, why_not=why_not, sheet=sheet,
        progress=progress(sheet) if sheet else (),
        chart=await _chart(request, desk, found, picture.time_utc), ranges=RANGES,
        opener=bool(sheet and sheet.service and sheet.service.actor == who.user.name),
        examination=examination, unverified=unverified,
        steps=steps, details=details, unexplained=unexplained,
    )  # fmt: skip
    return html(page, status)


def _navigates(request: web.Request) -> bool:
    """Whether a person gets to see this answer; a part fetched in the background must not use up what is said once."""
    return request.headers.get("Sec-Fetch-Dest", "document") == "document"


def _card(desk: Desk, found: DeviceView) -> tuple[Ward, Card]:
    picture = desk.hub.ward()
    card = next((c for c in picture.cards if c.id == found.id), None)
    if card is None:
        raise NotFoundError(f"{found.id} has just gone", "go back to the ward")
    return picture, card


async def _told(desk: Desk, found: DeviceView, card: Card) -> tuple[Sheet | None, Told | None, str]:
    """(the sheet, the same in words, why there is none): a disk that refuses takes the details away and not the page."""
    try:
        sheet = await desk.console.dossiers.sheet(found.id)
    except (InputError, UnavailableError) as e:
        return None, None, f"{e.what}; {e.remedy}"
    return sheet, tell(sheet, {f.name: (f.mark, f.word) for f in card.functions}), ""


async def _chart(request: web.Request, desk: Desk, found: DeviceView, now_utc: str) -> Chart | None:
    asked = number_of(request, "hours", 1, max(RANGES))
    hours = asked if asked in RANGES else RANGES[0]
    try:
        history = await desk.console.dossiers.levels(found.id, hours)
    except (InputError, UnavailableError):
        return None
    return chart_of(history, found.needed, now_utc)


async def _explained(desk: Desk, found: DeviceView) -> tuple[list[str], list[tuple[str, Any]], str]:
    """(steps, everything else, why there is nothing)."""
    try:
        told = codec.to_plain(await desk.console.explain(found.id, None))
    except (InputError, UnavailableError) as e:
        return [], [], f"{e.what}; {e.remedy}"
    steps = [str(s) for s in told.pop("steps", [])]
    shown = {"device", "state", "level", "reason", "functions", "type"}  # already on the page
    details = [(k.replace("_", " "), v if isinstance(v, (list, dict)) else str(v)) for k, v in told.items() if k not in shown and v]
    return steps, details, "Nothing has been decided about this device yet."


# --- acting ---


async def ask(request: web.Request) -> web.Response:
    """What an action asks first."""
    verb, found = request.match_info["verb"], device_of(request)
    if verb == "verify":  # the address of an examination, loaded again
        return see_other(f"/devices/{found.id}")
    permitted(request, verb)
    if verb == "add" and actions.found_only(found):
        return see_other(f"/add/{found.id}")
    return await _question(request, found, verb)


async def act(request: web.Request) -> web.Response:
    """Carry an action out, and go to the device's page to say how it ended."""
    verb = request.match_info["verb"]
    desk, who, found = request.app[DESK], permitted(request, verb), device_of(request)
    form = await form_of(request)
    check_csrf(request, form.get("csrf", ""))
    direct = actions.offered(found, verb, who.user.role).direct
    try:
        command = actions.command(who.user, found, verb, form)
        notice = await _carry_out(desk, command)
    except WardgateError as e:
        if not direct:
            return await _question(request, found, verb, e, form)
        notice = Notice(False, f"{e.what}; {e.remedy}")
    desk.notices.leave(who.session, notice)
    to_ward = (direct and "here" not in form) or verb == "remove"
    return see_other("/" if to_ward else f"/devices/{found.id}")


async def _carry_out(desk: Desk, command: OperatorCommand) -> Notice:
    outcome = await desk.console.command(command)
    return Notice(outcome.ok, outcome.text)


async def _identity(desk: Desk, who: Visitor, found: DeviceView) -> tuple[str, ...]:
    """What tells a device from others, a line each; what speaks against it comes first. Nothing is changed by asking."""
    asked = OperatorCommand(who.user.name, who.user.role, "accept", found.id, (("anyway", "yes"), ("prepare", "yes")))
    known = dict((await desk.console.command(asked)).detail).get("identity", ())
    return tuple(str(line) for line in known) if isinstance(known, (tuple, list)) else ()


async def _question(
    request: web.Request,
    found: DeviceView,
    verb: str,
    error: WardgateError | None = None,
    form: dict[str, str] | None = None,
) -> web.Response:
    desk, who = request.app[DESK], visitor(request)
    q = actions.question(found, verb, who.user.role)
    given = form or {}
    fields = [
        {"name": f.name, "label": f.label, "kind": f.kind, "hint": f.hint, "most": f.most, "choices": f.choices,
         "value": "" if f.kind == "password" else given.get(f.name, f.value)}
        for f in q.fields
    ]  # fmt: skip
    sheet = await desk.console.dossiers.sheet(found.id) if q.compare else None
    identity = await _identity(desk, who, found) if verb == "accept" and not q.compare else ()
    lists = (*q.lists, *((("warning" if line.startswith(_DOUBT) else "information"), line) for line in identity))
    page = desk.renderer.page(
        "act.html", who, title=q.title, lead=q.lead, lists=lists, doubtful=any(mark == "warning" for mark, _ in lists),
        fields=fields, button=q.button, device_id=found.id,
        error=error, told=tell(sheet, {}) if sheet else None, difference_id=sheet.difference_id if sheet else "",
        ticked=set(given), opener=bool(sheet and sheet.service and sheet.service.actor == who.user.name),
    )  # fmt: skip
    return html(page, status_of(error) if error else 200)
