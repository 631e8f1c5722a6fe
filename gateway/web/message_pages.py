"""Promised messages of devices that are kept aside, on the page: send one again, or let it go, by name and with a reason.

Refuses to know what is in them.
"""

from __future__ import annotations

from aiohttp import web

from gateway.errors import RefusedError
from gateway.model.event import OperatorCommand
from gateway.model.outbox import AsideMessage
from gateway.model.view import User
from gateway.web.contract import OPERATORS
from gateway.web.desk import DESK, Desk
from gateway.web.forms import Act, Blank, Maker, Sheet, carried, form_page
from gateway.web.wire import NotFoundError

_REASON = Blank("reason", "Reason", hint="It goes into the record under your name.", most=200)
_WORDS = {
    "retry": ("Send a message again", "Send it again", "It goes behind those that wait."),
    "discard": ("Let a message go", "Let it go", "Nothing brings it back."),
}


def routes() -> list[web.RouteDef]:
    """Both forms, and what carries them out."""
    found = []
    for verb in _WORDS:
        path, make = f"/gateway/messages/{{id}}/{verb}", _sheet(verb)
        found += [web.get(path, form_page(make, OPERATORS)), web.post(path, carried(make, _act(verb), OPERATORS))]
    return found


def _sheet(verb: str) -> Maker:
    title, button, more = _WORDS[verb]

    async def make(request: web.Request) -> Sheet:
        m = await _known(request)
        lead = f"{m.route}: {m.reason} ({m.bytes} bytes). {more}"
        return Sheet(title, lead, button, (_REASON,), "/gateway#outbox")

    return make


def _act(verb: str) -> Act:
    async def act(desk: Desk, actor: User, number: str, a: dict[str, str]) -> str:
        arguments = (("message", number), ("reason", a["reason"]))
        outcome = await desk.console.command(OperatorCommand(actor.name, actor.role, f"{verb}-message", "", arguments))
        if not outcome.ok:
            raise RefusedError(outcome.text, "load the Gateway page again")
        return f"{outcome.text[:1].upper()}{outcome.text[1:]}."

    return act


async def _known(request: web.Request) -> AsideMessage:
    number = request.match_info["id"]
    for m in (await request.app[DESK].console.outbox()).kept_aside:
        if str(m.id) == number:
            return m
    raise NotFoundError("there is no such message any more", "go back to the Gateway page")
