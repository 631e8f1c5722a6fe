"""The JSON API of what the Gateway page shows and does: identity, offline budget, outbox, record, people. The same on both doors.

Refuses to know HTML, and how anything is carried out.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway import codec
from gateway.errors import InputError
from gateway.web.access import check_csrf
from gateway.web.desk import DESK, Visitor, visitor
from gateway.web.people_pages import admin
from gateway.web.wire import json_of

_TEXT_MAX = 256


def routes() -> list[web.RouteDef]:
    """On both doors."""
    return [
        web.get("/api/v1/identity", identity),
        web.get("/api/v1/offline", offline),
        web.get("/api/v1/record", record),
        web.get("/api/v1/users", users),
        web.post("/api/v1/users/{name}/role", appoint),
        web.post("/api/v1/users/{name}/password", replace_password),
        web.post("/api/v1/users/{name}/remove", dismiss),
        web.post("/api/v1/password", own_password),
        web.post("/api/v1/outbox/{id:[0-9]{1,18}}/retry", retry),
        web.post("/api/v1/outbox/{id:[0-9]{1,18}}/discard", discard),
    ]


def page_routes() -> list[web.RouteDef]:
    """On the page's door only: on the console root makes the operator's credential itself."""
    return [web.post("/api/v1/users", admit)]


async def identity(request: web.Request) -> web.Response:
    """Who this gateway is, what its quotes are worth, which versions are installed."""
    visitor(request)
    return web.json_response(codec.to_plain(await request.app[DESK].console.house.identity()))


async def offline(request: web.Request) -> web.Response:
    """What ends, and when, if nothing arrives from outside any more."""
    visitor(request)
    return web.json_response({"deadlines": codec.to_plain(await request.app[DESK].console.house.offline())})


async def record(request: web.Request) -> web.Response:
    """How far the chain of the record was checked since the start."""
    visitor(request)
    check = request.app[DESK].console.house.record()
    return web.json_response({"ok": check.ok, **codec.to_plain(check)})


# --- people ---


async def users(request: web.Request) -> web.Response:
    """Everyone (admin only)."""
    admin(request)
    return web.json_response({"users": codec.to_plain(await request.app[DESK].accounts.users())})


async def admit(request: web.Request) -> web.Response:
    """A new person: ``{"name", "password", "role", "secret"}``; the secret is one's own password."""
    who, body = await _change(request, "name", "password", "role", "secret")
    person = await request.app[DESK].accounts.admit(who.user, body["name"], body["password"], body["role"], body["secret"])
    return web.json_response({"user": person.name, "role": person.role})


async def appoint(request: web.Request) -> web.Response:
    """Another role: ``{"role", "secret", "password"}``; the password only where the new role has none yet."""
    who, body = await _change(request, "role", "secret", "password")
    name = request.match_info["name"]
    person = await request.app[DESK].accounts.appoint(who.user, name, body["role"], body["secret"], body["password"])
    return web.json_response({"user": person.name, "role": person.role})


async def replace_password(request: web.Request) -> web.Response:
    """A new password for somebody: ``{"password", "secret"}``."""
    who, body = await _change(request, "password", "secret")
    await request.app[DESK].accounts.replace_password(who.user, request.match_info["name"], body["password"], body["secret"])
    return web.json_response({"user": request.match_info["name"]})


async def dismiss(request: web.Request) -> web.Response:
    """A person goes: ``{"secret"}``."""
    who, body = await _change(request, "secret")
    await request.app[DESK].accounts.dismiss(who.user, request.match_info["name"], body["secret"])
    return web.json_response({"user": request.match_info["name"]})


async def own_password(request: web.Request) -> web.Response:
    """One's own password: ``{"old", "password"}``; all of one's sessions end."""
    who, desk = _guarded(request), request.app[DESK]
    body = _texts(await json_of(request), ("old", "password"))
    await desk.accounts.change_password(who.user, body["old"], body["password"], request.remote or "")
    return web.json_response({"user": who.user.name})


async def _change(request: web.Request, *names: str) -> tuple[Visitor, dict[str, str]]:
    """An admin, and the fields that are asked for."""
    admin(request)
    return _guarded(request), _texts(await json_of(request), names)


def _guarded(request: web.Request) -> Visitor:
    who = visitor(request)
    if who.session:
        check_csrf(request, request.headers.get("X-CSRF-Token", ""))
    return who


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
    who = _guarded(request)
    text = await request.app[DESK].console.house.retry(who.user, int(request.match_info["id"]))
    return web.json_response({"ok": True, "text": text})


async def discard(request: web.Request) -> web.Response:
    """Forget one message that was kept aside; its readings count as lost."""
    who = _guarded(request)
    text = await request.app[DESK].console.house.discard(who.user, int(request.match_info["id"]))
    return web.json_response({"ok": True, "text": text})
