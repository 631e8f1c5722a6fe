"""The pages: Ward, Device, Events, the questions before an action; and the door: claim, log in, log out, view link.

Every page is complete without JavaScript. Refuses to know how a level came about and whether a command is allowed.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from aiohttp import web

from gateway import codec
from gateway.errors import InputError, RefusedError, UnavailableError, WardgateError
from gateway.model.device import DEVICE_ID
from gateway.model.event import OperatorCommand
from gateway.model.view import DeviceView
from gateway.web import actions
from gateway.web.access import check_csrf, end_session, set_session
from gateway.web.desk import DESK, VISITOR, Desk, Notice, operator, visitor
from gateway.web.stream import live
from gateway.web.wire import NotFoundError, device_of, form_of, number_of, status_of

_NOT_SET = ("unknown", "floor")  # qualities of a clock that nobody set yet
_EVENTS = 100  # on one page of events
_NAME_MAX, _PASSWORD_MAX, _CODE_MAX, _TOKEN_MAX = 64, 256, 64, 128
_ON_LOSS = {"cut": "it is cut", "read_only": "reading stays from level 1 on", "vital": "nothing: it is vital and always on"}


def routes() -> list[web.RouteDef]:
    """Everything that people see."""
    return [
        web.get("/", ward),
        web.get("/live", live, allow_head=False),
        web.get("/events", events),
        web.get("/devices/{id}", device),
        web.get("/devices/{id}/{verb}", ask),
        web.post("/devices/{id}/{verb}", act),
        web.get("/login", login_form),
        web.post("/login", login),
        web.post("/logout", logout),
        web.get("/claim", claim_form),
        web.post("/claim", claim),
        web.get("/view/{token}", view_link, allow_head=False),  # a HEAD must not spend it
        web.get("/static/{name}", asset),
    ]


# --- looking ---


async def ward(request: web.Request) -> web.Response:
    """The Ward page."""
    desk, who = request.app[DESK], visitor(request)
    offered = {d.id: actions.offers(d) if who.operator else () for d in desk.console.view().devices}
    picture = desk.hub.ward()
    for card in picture.cards:
        offered.setdefault(card.id, ())
    page = desk.renderer.page("ward.html", who, here="/", notice=desk.notices.take(who.session), ward=picture, offered=offered)
    return _html(page)


async def events(request: web.Request) -> web.Response:
    """The Events page."""
    desk, who = request.app[DESK], visitor(request)
    rows = list(await desk.console.events(_EVENTS, number_of(request, "before", 0, 10**18 - 1)))
    older = rows[-1].sequence if len(rows) == _EVENTS else None
    return _html(desk.renderer.page("events.html", who, here="/events", events=rows, older=older))


async def device(request: web.Request) -> web.Response:
    """The page of one device."""
    desk, who, found = request.app[DESK], visitor(request), device_of(request)
    picture = desk.hub.ward()
    card = next((c for c in picture.cards if c.id == found.id), None)
    if card is None:
        raise NotFoundError(f"{found.id} has just gone", "go back to the ward")
    steps, details, why_not = await _explained(desk, found)
    page = desk.renderer.page(
        "device.html",
        who,
        notice=desk.notices.take(who.session),
        card=card,
        now_ms=picture.now_ms,
        time_utc=picture.time_utc,
        offered=actions.offers(found) if who.operator else (),
        on_loss={f.name: _ON_LOSS.get(f.on_loss, f.on_loss) for f in found.functions},
        steps=steps,
        details=details,
        why_not=why_not,
    )
    return _html(page)


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


async def asset(request: web.Request) -> web.Response:
    """A static file, from memory; its URL names its content, so a browser may keep it."""
    found = request.app[DESK].renderer.assets.get(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    keep = request.query.get("v") == found.tag
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if keep else "no-cache", "ETag": f'"{found.tag}"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    return web.Response(body=found.body, content_type=found.content_type, charset="utf-8", headers=headers)


# --- acting ---


async def ask(request: web.Request) -> web.Response:
    """What an action asks first."""
    operator(request)
    found = device_of(request)
    return _question(request, found, request.match_info["verb"])


async def act(request: web.Request) -> web.Response:
    """Carry an action out, and go to the device's page to say how it ended."""
    desk, who, found = request.app[DESK], operator(request), device_of(request)
    form = await form_of(request)
    check_csrf(request, form.get("csrf", ""))
    verb = request.match_info["verb"]
    direct = actions.offered(found, verb).direct
    try:
        command = actions.command(who.user, found, verb, form)
        notice = await _carry_out(desk, command)
    except WardgateError as e:
        if not direct:
            return _question(request, found, verb, e, form)
        notice = Notice(False, f"{e.what}; {e.remedy}")
    desk.notices.leave(who.session, notice)
    return _see_other("/" if direct else f"/devices/{found.id}")


async def _carry_out(desk: Desk, command: OperatorCommand) -> Notice:
    outcome = await desk.console.command(command)
    return Notice(outcome.ok, outcome.text)


def _question(
    request: web.Request,
    found: DeviceView,
    verb: str,
    error: WardgateError | None = None,
    form: dict[str, str] | None = None,
) -> web.Response:
    q = actions.question(found, verb)
    given = form or {}
    fields = [
        {"name": f.name, "label": f.label, "kind": f.kind, "hint": f.hint, "most": f.most, "choices": f.choices,
         "value": "" if f.kind == "password" else given.get(f.name, f.value)}
        for f in q.fields
    ]  # fmt: skip
    page = request.app[DESK].renderer.page(
        "act.html", visitor(request), title=q.title, lead=q.lead, lists=q.lists, fields=fields, button=q.button,
        device_id=found.id, error=error,
    )  # fmt: skip
    return _html(page, status_of(error) if error else 200)


# --- the door ---


async def login_form(request: web.Request) -> web.StreamResponse:
    """The login page; before anyone owns the gateway, the claim page."""
    if VISITOR in request:
        return _see_other(_onward(request.query.get("next", "/")))
    if not await request.app[DESK].accounts.claimed():
        return _see_other("/claim")
    return _login_page(request, _onward(request.query.get("next", "/")))


async def login(request: web.Request) -> web.StreamResponse:
    """Check a name and a password."""
    desk = request.app[DESK]
    form = await form_of(request)
    onward, name = _onward(form.get("next", "/")), form.get("user", "")
    try:
        _bounded(form, {"user": _NAME_MAX, "password": _PASSWORD_MAX})
        user = await desk.accounts.login(name, form["password"], request.remote or "")
        token = await desk.accounts.start_session(user)
    except WardgateError as e:
        return _login_page(request, onward, e, name[:_NAME_MAX])
    return _enter(onward, token)


async def logout(request: web.Request) -> web.StreamResponse:
    """End the session, here and in the browser."""
    who = visitor(request)
    check_csrf(request, (await form_of(request)).get("csrf", ""))
    await request.app[DESK].accounts.end_session(who.session)
    response = _see_other("/login")
    end_session(response)
    return response


async def claim_form(request: web.Request) -> web.Response:
    """The claim page: with a code someone becomes administrator."""
    return await _claim_page(request)


async def claim(request: web.Request) -> web.StreamResponse:
    """Use a claim code."""
    accounts = request.app[DESK].accounts
    form = await form_of(request)
    try:
        _bounded(form, {"code": _CODE_MAX, "user": _NAME_MAX, "password": _PASSWORD_MAX, "again": _PASSWORD_MAX})
        if form["password"] != form["again"]:
            raise InputError("the two passwords are not the same", "type the same one twice")
        token = await accounts.start_session(await accounts.claim(form["code"], form["user"], form["password"]))
    except WardgateError as e:
        return await _claim_page(request, e, form)
    return _enter("/", token)


async def view_link(request: web.Request) -> web.StreamResponse:
    """Spend a one-time link. The next page comes by a refresh: along a redirect from afar no Strict cookie is sent."""
    desk = request.app[DESK]
    token = request.match_info["token"]
    if len(token) > _TOKEN_MAX:
        raise RefusedError("this link is not one of ours", "ask for a new one")
    session = await desk.accounts.redeem_view(token, request.remote or "")
    text = "You may look at everything and change nothing."
    response = _html(desk.renderer.page("note.html", None, title="Read-only view", text=text, word="Open the ward", onward="/"))
    set_session(response, session)
    return response


def _login_page(request: web.Request, onward: str, error: WardgateError | None = None, name: str = "") -> web.Response:
    desk = request.app[DESK]
    g = desk.console.view().gateway
    unset = g.time_quality in _NOT_SET
    page = desk.renderer.page("login.html", None, gateway_name=g.name, next=onward, error=error, user_name=name, clock_unset=unset)
    return _html(page, status_of(error) if error else 200)


async def _claim_page(request: web.Request, error: WardgateError | None = None, form: dict[str, str] | None = None) -> web.Response:
    desk, given = request.app[DESK], form or {}
    g = desk.console.view().gateway
    page = desk.renderer.page(
        "claim.html", None, gateway_name=g.name, claimed=await desk.accounts.claimed(), error=error,
        clock_unset=g.time_quality in _NOT_SET, code=given.get("code", "")[:_CODE_MAX], user_name=given.get("user", "")[:_NAME_MAX],
    )  # fmt: skip
    return _html(page, status_of(error) if error else 200)


def _bounded(form: dict[str, str], most: dict[str, int]) -> None:
    for name, length in most.items():
        if not form.get(name):
            raise InputError(f"the {'password' if name == 'again' else name} is missing", "fill in every field")
        if len(form[name]) > length:
            raise InputError(f"the {name} is longer than {length} characters", "make it shorter")


def _enter(onward: str, token: str) -> web.Response:
    response = _see_other(onward)
    set_session(response, token)
    return response


def _onward(path: str) -> str:
    """A path of ours to go to after the login; anything else is the ward. Never another site."""
    parts = path.split("/")
    if path == "/events" or (len(parts) == 3 and parts[:2] == ["", "devices"] and DEVICE_ID.fullmatch(parts[2])):
        return quote(path)
    return "/"


def _see_other(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


def _html(page: str, status: int = 200) -> web.Response:
    return web.Response(text=page, status=status, content_type="text/html")
