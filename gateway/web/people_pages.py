"""Named people on the page: who there is, a new one, another role, a new password, gone; and one's own password.

Each change asks for one's own password again: a page that somebody left open changes nobody. Refuses to know how accounts are kept.
"""

from __future__ import annotations

from aiohttp import web

from gateway.errors import InputError, RefusedError, WardgateError
from gateway.model.view import User
from gateway.web.access import check_csrf, end_session
from gateway.web.contract import ADMIN
from gateway.web.desk import DESK, Desk, Visitor, visitor
from gateway.web.forms import (
    NAME_MAX,
    OWN_PASSWORD,
    PASSWORD_MAX,
    Blank,
    Sheet,
    answers,
    asked,
    carried,
    form_page,
    new_password,
)  # fmt: skip
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
        web.get("/gateway/people/add", form_page(_add_sheet, ADMIN)),
        web.post("/gateway/people/add", carried(_add_sheet, _add, ADMIN)),
        web.get("/gateway/people/{name}/role", form_page(_role_sheet, ADMIN)),
        web.post("/gateway/people/{name}/role", carried(_role_sheet, _role, ADMIN)),
        web.get("/gateway/people/{name}/password", form_page(_password_sheet, ADMIN)),
        web.post("/gateway/people/{name}/password", carried(_password_sheet, _password, ADMIN)),
        web.get("/gateway/people/{name}/remove", form_page(_remove_sheet, ADMIN)),
        web.post("/gateway/people/{name}/remove", carried(_remove_sheet, _remove, ADMIN)),
        web.get("/gateway/password", own_form),
        web.post("/gateway/password", own_password),
    ]


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
