"""Named people on the page: who there is, a new one, another role, a new password, gone; and one's own password.

Each change asks for one's own password again: a page that somebody left open changes nobody. Refuses to know how accounts are kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.errors import InputError, RefusedError, WardgateError
from gateway.model.view import User
from gateway.web.access import check_csrf, end_session
from gateway.web.desk import DESK, Desk, Notice, Visitor, visitor
from gateway.web.forms import NAME_MAX, OWN_PASSWORD, PASSWORD_MAX, Blank, Sheet, answers, asked, new_password
from gateway.web.wire import NotFoundError, form_of

ROLES = ("viewer", "clinical", "biomed", "admin")
ROLE_WORDS = {
    "viewer": "looks",
    "clinical": "looks, attests, breaks glass",
    "biomed": "changes devices",
    "admin": "changes devices and people",
}
_HINT = "; ".join(f"{role}: {word}" for role, word in ROLE_WORDS.items())
_BACK = "/gateway#people"


def routes() -> list[web.RouteDef]:
    """Each form, and what carries it out."""
    return [
        web.get("/gateway/people/add", form_page(_add_sheet)),
        web.post("/gateway/people/add", carried(_add_sheet, _add)),
        web.get("/gateway/people/{name}/role", form_page(_role_sheet)),
        web.post("/gateway/people/{name}/role", carried(_role_sheet, _role)),
        web.get("/gateway/people/{name}/password", form_page(_password_sheet)),
        web.post("/gateway/people/{name}/password", carried(_password_sheet, _password)),
        web.get("/gateway/people/{name}/remove", form_page(_remove_sheet)),
        web.post("/gateway/people/{name}/remove", carried(_remove_sheet, _remove)),
        web.get("/gateway/password", own_form),
        web.post("/gateway/password", own_password),
    ]


def admin(request: web.Request) -> Visitor:
    """Who is asking, when that is an admin; raises RefusedError."""
    who = visitor(request)
    if who.user.role != "admin":
        raise RefusedError(f"a {who.user.role} changes no accounts", "ask someone with the role admin")
    return who


# --- the forms ---

Maker = Callable[[web.Request], Awaitable[Sheet]]
Act = Callable[[Desk, User, str, dict[str, str]], Awaitable[str]]


def form_page(make: Maker) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that shows a form to an admin."""

    async def handler(request: web.Request) -> web.StreamResponse:
        admin(request)
        return asked(request, await make(request))

    return handler


def carried(make: Maker, act: Act) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that carries a filled-in form out, and shows it again with what was wrong."""

    async def handler(request: web.Request) -> web.StreamResponse:
        desk, who, form = request.app[DESK], admin(request), await form_of(request)
        check_csrf(request, form.get("csrf", ""))
        sheet = await make(request)
        try:
            text = await act(desk, who.user, request.match_info.get("name", ""), answers(sheet, form))
        except WardgateError as e:
            return asked(request, sheet, e, form)
        desk.notices.leave(who.session, Notice(True, text))
        return web.Response(status=303, headers={"Location": sheet.back})

    return handler


async def _known(request: web.Request) -> User:
    name = request.match_info["name"]
    for user in await request.app[DESK].accounts.users():
        if user.name == name:
            return user
    raise NotFoundError("there is no such user", "see the list on the Gateway page")


async def _add_sheet(_: web.Request) -> Sheet:
    blanks = (
        Blank("name", "Name", hint="Small letters, digits, dots and hyphens.", most=NAME_MAX),
        Blank("role", "Role", hint=_HINT, choices=ROLES, value="viewer"),
        new_password("A first password for them", hint="Twelve characters or more; they change it on this page."),
        OWN_PASSWORD,
    )
    return Sheet("Add a person", "Everyone has a name of their own: the record says who did what.", "Add", blanks, _BACK)


async def _add(desk: Desk, actor: User, _: str, a: dict[str, str]) -> str:
    person = await desk.accounts.admit(actor, a["name"], a["password"], a["role"], a["secret"])
    return f"{person.name} is {person.role} now."


async def _role_sheet(request: web.Request) -> Sheet:
    person = await _known(request)
    hint = "Only needed when a viewer gets a role that changes something: what may pass is confirmed with it."
    blanks = (
        Blank("role", "Role", hint=_HINT, choices=ROLES, value=person.role),
        new_password(f"A new password for {person.name}", hint=hint, required=False),
        OWN_PASSWORD,
    )
    lead = f"{person.name} is {person.role} now. Their open sessions end."
    return Sheet(f"Another role for {person.name}", lead, "Change the role", blanks, _BACK)


async def _role(desk: Desk, actor: User, name: str, a: dict[str, str]) -> str:
    person = await desk.accounts.appoint(actor, name, a["role"], a["secret"], a["password"])
    return f"{person.name} is {person.role} now."


async def _password_sheet(request: web.Request) -> Sheet:
    person = await _known(request)
    lead = "For somebody who has lost theirs. Their open sessions end; tell them the new one in person."
    return Sheet(f"A new password for {person.name}", lead, "Set the password", (new_password(), OWN_PASSWORD), _BACK)


async def _password(desk: Desk, actor: User, name: str, a: dict[str, str]) -> str:
    await desk.accounts.replace_password(actor, name, a["password"], a["secret"])
    return f"{name} has a new password."


async def _remove_sheet(request: web.Request) -> Sheet:
    person = await _known(request)
    lead = f"{person.name} ({person.role}) can no longer log in or confirm anything. What they did stays in the record."
    return Sheet(f"Remove {person.name}", lead, "Remove", (OWN_PASSWORD,), _BACK)


async def _remove(desk: Desk, actor: User, name: str, a: dict[str, str]) -> str:
    await desk.accounts.dismiss(actor, name, a["secret"])
    return f"{name} is no user any more."


# --- one's own password ---

_OLD = Blank("old", "Password until now", "password", most=PASSWORD_MAX, fill="current-password")
_AGAIN = Blank("again", "New password, once more", "password", most=PASSWORD_MAX, fill="new-password")
_LEAD = "All your sessions end; log in again with the new one."
_OWN = Sheet("Your password", _LEAD, "Change it", (_OLD, new_password(), _AGAIN), "/gateway")


async def own_form(request: web.Request) -> web.StreamResponse:
    """The form for one's own password."""
    _person(visitor(request))
    return asked(request, _OWN)


async def own_password(request: web.Request) -> web.StreamResponse:
    """Change one's own password; every session of it ends."""
    desk, who, form = request.app[DESK], visitor(request), await form_of(request)
    check_csrf(request, form.get("csrf", ""))
    _person(who)
    try:
        a = answers(_OWN, form)
        if a["password"] != a["again"]:
            raise InputError("the two new passwords are not the same", "type the same one twice")
        await desk.accounts.change_password(who.user, a["old"], a["password"], request.remote or "")
    except WardgateError as e:
        return asked(request, _OWN, e, form)
    response = web.Response(status=303, headers={"Location": "/login"})
    end_session(response)
    return response


def _person(who: Visitor) -> None:
    if who.user.name == "view-link":
        raise RefusedError("a read-only view has no password", "log in as a person")
