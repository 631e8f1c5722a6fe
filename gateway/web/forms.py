"""A form on a page of its own: what it asks, and what is made of what was typed. Strict and bounded.

Refuses to know what becomes of the answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from gateway.errors import InputError, RefusedError, WardgateError
from gateway.model.view import User
from gateway.web.access import check_csrf
from gateway.web.desk import DESK, Desk, Notice, Visitor, visitor
from gateway.web.wire import form_of, status_of

NAME_MAX, PASSWORD_MAX = 32, 256


@dataclass(frozen=True, slots=True)
class Blank:
    """One thing to fill in. ``kind`` is an input's type; ``fill`` what a browser may fill in by itself."""

    name: str
    label: str
    kind: str = "text"
    hint: str = ""
    value: str = ""
    most: int = 200
    choices: tuple[str, ...] = ()
    required: bool = True
    fill: str = "off"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The whole form. ``back`` is where Cancel leads, and the answer goes when it was carried out."""

    title: str
    lead: str
    button: str
    blanks: tuple[Blank, ...] = ()
    back: str = "/gateway"


OWN_PASSWORD = Blank(
    "secret", "Your own password", "password", "It proves that it is you who changes this.", most=PASSWORD_MAX,
    fill="current-password",
)  # fmt: skip


def new_password(label: str = "New password", *, hint: str = "", required: bool = True) -> Blank:
    """A password to be set."""
    hint = hint or "Twelve characters or more. A sentence that can be remembered is best."
    return Blank("password", label, "password", hint, most=PASSWORD_MAX, required=required, fill="new-password")


def answers(sheet: Sheet, form: Mapping[str, str]) -> dict[str, str]:
    """What was filled in, by name. Raises InputError with what is missing."""
    found = {}
    for b in sheet.blanks:
        value = form.get(b.name, "") if b.kind == "password" else form.get(b.name, "").strip()
        if not value and b.required:
            raise InputError(f"{b.label[:1].lower()}{b.label[1:]} is missing", "fill it in")
        if value and b.choices and value not in b.choices:
            raise InputError(f"{b.label.lower()} is none of {', '.join(b.choices)}", "choose one of them")
        if len(value) > b.most or (b.kind != "password" and not value.isprintable()):
            raise InputError(f"{b.label.lower()} has at most {b.most} printable characters", "make it shorter")
        found[b.name] = value
    return found


def asked(
    request: web.Request, sheet: Sheet, error: WardgateError | None = None, form: Mapping[str, str] | None = None
) -> web.Response:
    """The page with the form; after a mistake filled in again, but for passwords."""
    given = form or {}
    values = {b.name: "" if b.kind == "password" else given.get(b.name, b.value)[: b.most] for b in sheet.blanks}
    html = request.app[DESK].renderer.page("form.html", visitor(request), here="/gateway", sheet=sheet, values=values, error=error)
    return web.Response(text=html, status=status_of(error) if error else 200, content_type="text/html")


Maker = Callable[[web.Request], Awaitable[Sheet]]
Act = Callable[[Desk, User, str, dict[str, str]], Awaitable[str]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def allowed(request: web.Request, may: tuple[str, ...]) -> Visitor:
    """Who is asking, when that role may; raises RefusedError."""
    who = visitor(request)
    if who.user.role not in may:
        raise RefusedError(f"a {who.user.role} may not do this", f"ask someone with the role {' or '.join(may)}")
    return who


def form_page(make: Maker, may: tuple[str, ...]) -> Handler:
    """A handler that shows a form to those who may."""

    async def handler(request: web.Request) -> web.StreamResponse:
        allowed(request, may)
        return asked(request, await make(request))

    return handler


def carried(make: Maker, act: Act, may: tuple[str, ...]) -> Handler:
    """A handler that carries a filled-in form out, and shows it again with what was wrong. ``act`` gets what the path names."""

    async def handler(request: web.Request) -> web.StreamResponse:
        desk, who, form = request.app[DESK], allowed(request, may), await form_of(request)
        check_csrf(request, form.get("csrf", ""))
        sheet = await make(request)
        try:
            text = await act(desk, who.user, next(iter(request.match_info.values()), ""), answers(sheet, form))
        except WardgateError as e:
            return asked(request, sheet, e, form)
        desk.notices.leave(who.session, Notice(True, text))
        return web.Response(status=303, headers={"Location": sheet.back})

    return handler
