"""What befell the gateway itself, on the page: somebody has looked at it, by name. Refuses to know what it was."""

from __future__ import annotations

from aiohttp import web

from gateway.model.event import OperatorCommand
from gateway.model.incident import INCIDENTS
from gateway.model.view import User
from gateway.web import wording
from gateway.web.contract import CARE
from gateway.web.desk import DESK, Desk
from gateway.web.forms import Maker, Sheet, carried, form_page
from gateway.web.wire import NotFoundError


def routes() -> list[web.RouteDef]:
    """The form, and what carries it out."""
    make: Maker = _sheet
    path = "/gateway/acknowledge"
    return [web.get(path, form_page(make, CARE)), web.post(path, carried(make, _act, CARE))]


async def _sheet(request: web.Request) -> Sheet:
    told = [p.text for p in request.app[DESK].console.view().gateway.parts if p.name in INCIDENTS]
    if not told:
        raise NotFoundError("nothing waits to be looked at", "go back to the Gateway page")
    lead = " ".join(wording.sentence(text) for text in told)
    return Sheet("You have looked at this", f"{lead} The alarm ends; the record keeps it, and your name.", "I have looked at it")


async def _act(desk: Desk, actor: User, _: str, answers: dict[str, str]) -> str:
    outcome = await desk.console.command(OperatorCommand(actor.name, actor.role, "acknowledge"))
    return f"{wording.sentence(outcome.text)}"
