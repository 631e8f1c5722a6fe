"""API tokens on the page: a new one, shown once; and ending one. Refuses to know how tokens are kept."""

from __future__ import annotations

from aiohttp import web

from gateway.errors import WardgateError
from gateway.model.view import TOKEN_DAYS, TOKEN_ROLES, User
from gateway.web.access import check_csrf
from gateway.web.contract import ADMIN
from gateway.web.desk import DESK, Desk
from gateway.web.forms import OWN_PASSWORD, Blank, Sheet, allowed, answers, asked, carried, form_page
from gateway.web.wire import NotFoundError, form_of

_BACK = "/gateway#tokens"
_HINT = "metrics reads the figures and nothing else; the others are those of people, without what needs a person."


def routes() -> list[web.RouteDef]:
    """Both forms, and what carries them out."""
    return [
        web.get("/gateway/tokens/add", form_page(_add_sheet, ADMIN)),
        web.post("/gateway/tokens/add", add),
        web.get("/gateway/tokens/{name}/revoke", form_page(_revoke_sheet, ADMIN)),
        web.post("/gateway/tokens/{name}/revoke", carried(_revoke_sheet, _revoke, ADMIN)),
    ]


async def _add_sheet(_: web.Request) -> Sheet:
    blanks = (
        Blank("name", "Name", hint="What it is for: small letters, digits, dots and hyphens.", most=32),
        Blank("role", "Role", hint=_HINT, choices=TOKEN_ROLES, value=TOKEN_ROLES[0]),
        Blank("days", "Lasts for days", "number", value=str(TOKEN_DAYS), most=3),
        OWN_PASSWORD,
    )
    lead = "For a program that asks this gateway. It is shown once, on the next page."
    return Sheet("A new API token", lead, "Make it", blanks, _BACK)


async def add(request: web.Request) -> web.Response:
    """Make a token and show it, this once."""
    desk, who, form = request.app[DESK], allowed(request, ADMIN), await form_of(request)
    check_csrf(request, form.get("csrf", ""))
    sheet = await _add_sheet(request)
    try:
        a = answers(sheet, form)
        days = int(a["days"]) if a["days"].isascii() and a["days"].isdigit() else 0
        await desk.accounts.login(who.user.name, a["secret"], request.remote or "", "confirmed a token with the password")
        secret = await desk.accounts.tokens.add(who.user, a["name"], a["role"], days)
    except WardgateError as e:
        return asked(request, sheet, e, form)
    html = desk.renderer.page("token.html", who, here="/gateway", name=a["name"], role=a["role"], days=days, secret=secret)
    return web.Response(text=html, content_type="text/html")


async def _revoke_sheet(request: web.Request) -> Sheet:
    name = request.match_info["name"]
    token = next((t for t in await request.app[DESK].accounts.tokens.all() if t.name == name), None)
    if token is None:
        raise NotFoundError("there is no such token", "see the list on the Gateway page")
    lead = f"Made by {token.made_by}, with the role {token.role}. Whatever uses it is refused from now on."
    return Sheet(f"End the token {token.name}", lead, "End it", (), _BACK)


async def _revoke(desk: Desk, actor: User, name: str, _: dict[str, str]) -> str:
    await desk.accounts.tokens.revoke(actor, name)
    return f"The token {name} has ended."
