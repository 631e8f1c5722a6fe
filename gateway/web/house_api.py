"""The JSON API of what the Gateway page shows and does: identity, offline budget, outbox, record, people. The same on both doors.

Refuses to know HTML, and how anything is carried out.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway import codec
from gateway.errors import InputError
from gateway.model.premises import Deadline, Identity
from gateway.model.view import User
from gateway.web import schema
from gateway.web.contract import ADMIN, ANYONE, OPERATORS, Route, answers
from gateway.web.desk import DESK, visitor
from gateway.web.wire import json_of

_TEXT_MAX = 256


async def identity(request: web.Request) -> web.Response:
    """Who this gateway is, what its quotes are worth, which versions are installed."""
    return web.json_response(codec.to_plain(await request.app[DESK].console.house.identity()))


async def offline(request: web.Request) -> web.Response:
    """What ends, and when, if nothing arrives from outside any more."""
    return web.json_response({"deadlines": codec.to_plain(await request.app[DESK].console.house.offline())})


async def record(request: web.Request) -> web.Response:
    """How far the chain of the record was checked since the start."""
    check = request.app[DESK].console.house.record()
    return web.json_response({"ok": check.ok, **codec.to_plain(check)})


# --- people ---


async def users(request: web.Request) -> web.Response:
    """Everyone (admin only)."""
    return web.json_response({"users": codec.to_plain(await request.app[DESK].accounts.users())})


async def admit(request: web.Request) -> web.Response:
    """A new person: ``{"name", "password", "role", "secret"}``; the secret is one's own password."""
    who, body = (
        visitor(request),
        _texts(
            await json_of(request),
            (
                "name",
                "password",
                "role",
                "secret",
            ),
        ),
    )
    person = await request.app[DESK].accounts.admit(who.user, body["name"], body["password"], body["role"], body["secret"])
    return web.json_response({"user": person.name, "role": person.role})


async def appoint(request: web.Request) -> web.Response:
    """Another role: ``{"role", "secret", "password"}``; the password only where the new role has none yet."""
    who, body = (
        visitor(request),
        _texts(
            await json_of(request),
            (
                "role",
                "secret",
                "password",
            ),
        ),
    )
    name = request.match_info["name"]
    person = await request.app[DESK].accounts.appoint(who.user, name, body["role"], body["secret"], body["password"])
    return web.json_response({"user": person.name, "role": person.role})


async def replace_password(request: web.Request) -> web.Response:
    """A new password for somebody: ``{"password", "secret"}``."""
    who, body = (
        visitor(request),
        _texts(
            await json_of(request),
            (
                "password",
                "secret",
            ),
        ),
    )
    await request.app[DESK].accounts.replace_password(who.user, request.match_info["name"], body["password"], body["secret"])
    return web.json_response({"user": request.match_info["name"]})


async def dismiss(request: web.Request) -> web.Response:
    """A person goes: ``{"secret"}``."""
    who, body = visitor(request), _texts(await json_of(request), ("secret",))
    await request.app[DESK].accounts.dismiss(who.user, request.match_info["name"], body["secret"])
    return web.json_response({"user": request.match_info["name"]})


async def own_password(request: web.Request) -> web.Response:
    """One's own password: ``{"old", "password"}``; all of one's sessions end."""
    who, desk = visitor(request), request.app[DESK]
    body = _texts(await json_of(request), ("old", "password"))
    await desk.accounts.change_password(who.user, body["old"], body["password"], request.remote or "")
    return web.json_response({"user": who.user.name})


def _texts(body: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    if unknown := body.keys() - set(names):
        raise InputError(f"there is no field {sorted(unknown)[0][:40]!r}", f"send {', '.join(names)}")
    for name, value in body.items():
        if not isinstance(value, str) or len(value) > _TEXT_MAX:
            raise InputError(f"{name} is no text of at most {_TEXT_MAX} characters", "send it as text")
    return {name: body.get(name, "") for name in names}


# --- what the broker refused ---


async def retry(request: web.Request) -> web.Response:
    """Send one message that was kept aside again."""
    who = visitor(request)
    text = await request.app[DESK].console.house.retry(who.user, _letter(request))
    return web.json_response({"ok": True, "text": text})


async def discard(request: web.Request) -> web.Response:
    """Forget one message that was kept aside; its readings count as lost."""
    who = visitor(request)
    text = await request.app[DESK].console.house.discard(who.user, _letter(request))
    return web.json_response({"ok": True, "text": text})


def _letter(request: web.Request) -> int:
    text = request.match_info["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InputError("a message's number is a whole number", "see the outbox for the messages there are")
    return int(text)


_SECRET, _MAYBE = schema.text(_TEXT_MAX), schema.text(_TEXT_MAX, 0)
_ROLE = schema.text(16)
_PERSON = answers(schema.record({"user": schema.WORDS, "role": schema.WORDS}))
_NAMED = answers(schema.record({"user": schema.WORDS}))
_DONE = answers(schema.record({"ok": schema.FLAG, "text": schema.WORDS}))
_RECORD = schema.record({
    "ok": schema.FLAG, "type": schema.WORDS, "first": schema.PLACE, "last": schema.PLACE, "last_utc": schema.WORDS,
    "head": schema.PLACE, "trouble": schema.WORDS,
})  # fmt: skip

TABLE: tuple[Route, ...] = (
    Route("GET", "/api/v1/identity", identity, "Who this gateway is, and what its quotes prove", ANYONE,
          answers(schema.named(Identity))),
    Route("GET", "/api/v1/offline", offline, "What ends if nothing from outside arrives any more", ANYONE,
          answers(schema.record({"deadlines": schema.many(schema.named(Deadline))}))),
    Route("GET", "/api/v1/record", record, "How far the record was checked", ANYONE, answers(_RECORD)),
    Route("GET", "/api/v1/users", users, "Everyone", ADMIN, answers(schema.record({"users": schema.many(schema.named(User))})),
          people=True),
    Route("POST", "/api/v1/users/{name}/role", appoint, "Another role for a person", ADMIN, _PERSON,
          takes=schema.record({"role": _ROLE}, {"secret": _MAYBE, "password": _MAYBE}), changes=True, people=True),
    Route("POST", "/api/v1/users/{name}/password", replace_password, "A new password for a person", ADMIN, _NAMED,
          takes=schema.record({"password": _SECRET}, {"secret": _MAYBE}), changes=True, people=True),
    Route("POST", "/api/v1/users/{name}/remove", dismiss, "A person goes", ADMIN, _NAMED,
          takes=schema.record({}, {"secret": _MAYBE}), changes=True, people=True),
    Route("POST", "/api/v1/password", own_password, "One's own password; all of one's sessions end", ANYONE, _NAMED,
          takes=schema.record({"old": _SECRET, "password": _SECRET}), changes=True, people=True),
    Route("POST", "/api/v1/outbox/{id}/retry", retry, "Send a message that was kept aside again", OPERATORS, _DONE,
          changes=True, people=True),
    Route("POST", "/api/v1/outbox/{id}/discard", discard, "Forget a message that was kept aside", OPERATORS, _DONE,
          changes=True, people=True),
)  # fmt: skip
# On the page's door only: on the console root makes the operator's credential itself.
PAGE_TABLE: tuple[Route, ...] = (
    Route("POST", "/api/v1/users", admit, "A new person", ADMIN, _PERSON,
          takes=schema.record({"name": _SECRET, "password": _SECRET, "role": _ROLE}, {"secret": _MAYBE}), changes=True,
          people=True),
)  # fmt: skip


def routes() -> list[web.RouteDef]:
    """On both doors."""
    return [r.definition() for r in TABLE]


def page_routes() -> list[web.RouteDef]:
    """On the page's door only."""
    return [r.definition() for r in PAGE_TABLE]
