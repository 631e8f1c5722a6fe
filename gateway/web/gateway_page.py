"""The Gateway page: who this gateway is, how its parts are, what ends offline, what waits to leave, who may do what.

Refuses to know how any of it is found out or carried out.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from gateway.errors import UnavailableError, WardgateError
from gateway.model.incident import INCIDENTS
from gateway.model.outbox import OutboxView
from gateway.model.premises import Deadline
from gateway.web import wording
from gateway.web.access import check_csrf
from gateway.web.contract import CARE
from gateway.web.desk import DESK, Desk, Notice, operator, visitor
from gateway.web.forms import Sheet, asked
from gateway.web.lifecycle import LIFE
from gateway.web.people_pages import ROLE_WORDS
from gateway.web.policy_pages import shown
from gateway.web.record_pages import proof
from gateway.web.wire import NotFoundError, form_of

_SOON_S = 30 * 86_400.0  # what ends within a month is marked


@dataclass(frozen=True, slots=True)
class Ends:
    """One line of the offline budget in words; ``mark``: would (does not end), allowed, warning (soon), cut (over)."""

    what: str
    when: str
    date: str
    then: str
    mark: str


def routes() -> list[web.RouteDef]:
    """The page, and what becomes of messages that were kept aside."""
    return [
        web.get("/gateway", gateway),
        web.post("/gateway/outbox/{id}/retry", retry),
        web.get("/gateway/outbox/{id}/discard", ask_discard),
        web.post("/gateway/outbox/{id}/discard", discard),
    ]


async def gateway(request: web.Request) -> web.Response:
    """The Gateway page. A part that cannot be had says so; the others are shown."""
    desk, who = request.app[DESK], visitor(request)
    house, ward = desk.console.house, desk.hub.ward()
    admin = who.user.role == "admin"
    html = desk.renderer.page(
        "gateway.html", who, here="/gateway", notice=desk.notices.take(who.session), overview=ward.overview,
        view=desk.console.view().gateway, identity=await house.identity(), record=proof(house.record()), check=house.record(),
        ends=await _ends(desk), outbox=await _outbox(desk), people=await desk.accounts.users() if admin else (),
        role_words=ROLE_WORDS, operator=who.operator, admin=admin, person=who.user.name != "view-link",
        now_ms=ward.now_ms, policy=shown(await desk.console.policy.state()), files=LIFE in request.app,
        tokens=await desk.accounts.tokens.all() if admin else (),
        cares=who.user.role in CARE, incidents=any(p.name in INCIDENTS for p in desk.console.view().gateway.parts),
    )  # fmt: skip
    return web.Response(text=html, content_type="text/html")


async def _ends(desk: Desk) -> list[Ends]:
    try:
        found = await desk.console.house.offline()
    except UnavailableError as e:
        return [Ends("This list", "not known", "", f"{e.what}; {e.remedy}", "warning")]
    lasting = [d for d in found if d.left_s is None]
    rows = [_end(d) for d in found if d.left_s is not None]
    if lasting:
        names = wording.listing([d.what for d in lasting])
        rows.append(Ends(names, "no end", "", lasting[0].then, "allowed"))
    return rows


def _end(d: Deadline) -> Ends:
    if d.gone:
        return Ends(d.what, "over", d.ends_utc, d.then, "cut")
    left = d.left_s or 0.0
    days = int(left // 86_400)
    when = f"{days} days" if days > 2 else wording.duration(int(left * 1000))
    return Ends(d.what, when, d.ends_utc, d.then, "warning" if left < _SOON_S else "allowed")


async def _outbox(desk: Desk) -> OutboxView | None:
    try:
        return await desk.console.outbox()
    except UnavailableError:
        return None


# --- messages that were kept aside ---


async def retry(request: web.Request) -> web.Response:
    """Send one again."""
    return await _done(request, again=True)


async def ask_discard(request: web.Request) -> web.Response:
    """Ask before one is forgotten."""
    operator(request)
    return asked(request, await _sheet(request))


async def discard(request: web.Request) -> web.Response:
    """Forget one."""
    return await _done(request, again=False)


async def _sheet(request: web.Request) -> Sheet:
    outbox = await request.app[DESK].console.outbox()
    letter = next((x for x in outbox.dead_letters if x.id == _letter(request)), None)
    if letter is None:
        raise NotFoundError("there is no such message any more", "go back to the Gateway page")
    what = f"{letter.readings} readings are in it; they count as lost then." if letter.readings else "No readings are in it."
    lead = f"{letter.topic}: the broker refused it ({letter.reason}). {what} Nothing brings it back."
    return Sheet("Discard a message", lead, "Discard it", (), "/gateway#outbox")


async def _done(request: web.Request, *, again: bool) -> web.Response:
    desk, who = request.app[DESK], operator(request)
    check_csrf(request, (await form_of(request)).get("csrf", ""))
    house, letter = desk.console.house, _letter(request)
    try:
        notice = Notice(True, await (house.retry(who.user, letter) if again else house.discard(who.user, letter)))
    except WardgateError as e:
        notice = Notice(False, f"{e.what}; {e.remedy}")
    desk.notices.leave(who.session, notice)
    return web.Response(status=303, headers={"Location": "/gateway#outbox"})


def _letter(request: web.Request) -> int:
    text = request.match_info["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise NotFoundError("there is no such message", "go back to the Gateway page")
    return int(text)
