"""The JSON API, the same on HTTPS and on the control socket.

Refuses to know HTML.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from gateway import codec
from gateway.errors import InputError, RefusedError
from gateway.model.device import DEVICE_ID
from gateway.model.event import OperatorCommand
from gateway.web.access import check_csrf
from gateway.web.asking import query_of
from gateway.web.desk import DESK, VISITOR, operator, permitted, visitor
from gateway.web.stream import view_stream
from gateway.web.wire import device_of, json_of, number_of

_VERB = re.compile(r"[a-z][a-z-]{0,31}")
_ARGUMENT = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ARGUMENTS, _VALUE_MAX, _SECRET_MAX = 16, 4096, 256
_BEFORE_MAX = 10**18 - 1


def routes() -> list[web.RouteDef]:
    """Everything under /api/v1."""
    return [
        web.get("/api/v1/health", health),
        web.get("/api/v1/session", session),
        web.get("/api/v1/view", view),
        web.get("/api/v1/events", events),
        web.get("/api/v1/events/stream", view_stream, allow_head=False),
        web.get("/api/v1/outbox", outbox),
        web.post("/api/v1/command", command),
        web.get("/api/v1/devices/{id}/bundle", bundle),
        web.get("/api/v1/explain/{id}", explain),
        web.post("/api/v1/view-link", view_link),
    ]


async def health(request: web.Request) -> web.Response:
    """Whether the daemon answers and its parts are well; the parts themselves only for those who may know."""
    gateway = request.app[DESK].console.view().gateway
    body: dict[str, Any] = {"ok": all(p.ok for p in gateway.parts)}
    if VISITOR in request:
        body |= {"mode": gateway.mode, "parts": codec.to_plain(gateway.parts), "version": gateway.version}
    return web.json_response(body)


async def session(request: web.Request) -> web.Response:
    """Who is asking, and the CSRF token that a POST of this session needs."""
    who = visitor(request)
    return web.json_response({"user": who.user.name, "role": who.user.role, "csrf": who.csrf})


async def view(request: web.Request) -> web.Response:
    """The whole picture."""
    return web.json_response(codec.to_plain(request.app[DESK].console.view()))


async def events(request: web.Request) -> web.Response:
    """Lines of the record, newest first: ``limit`` up to 500, ``before`` a sequence number, and the question of ``asking``.

    ``older`` is the next ``before``, null where the record ends; ``complete`` is false where the search stopped at its bound.
    """
    limit = number_of(request, "limit", 1, 500) or 50
    before = number_of(request, "before", 0, _BEFORE_MAX)
    found = await request.app[DESK].console.house.find(query_of(request), limit, before)
    return web.json_response(codec.to_plain(found))


async def outbox(request: web.Request) -> web.Response:
    """What still has to leave, what was delivered, lost or refused; what is in a dead letter, only for operators."""
    found = codec.to_plain(await request.app[DESK].console.outbox())
    if visitor(request).user.role not in ("biomed", "admin"):
        for letter in found["dead_letters"]:
            letter["body"] = ""
    return web.json_response(found)


async def command(request: web.Request) -> web.Response:
    """Carry out a command: ``{"verb", "device_id", "arguments", "secret"}``, the last three optional."""
    who = visitor(request)
    if who.session:
        check_csrf(request, request.headers.get("X-CSRF-Token", ""))
    wanted = _command(await json_of(request), who.user.name, who.user.role)
    permitted(request, wanted.verb)
    outcome = await request.app[DESK].console.command(wanted)
    body = {"ok": outcome.ok, "text": outcome.text, "detail": codec.to_plain(dict(outcome.detail))}
    return web.json_response(body, status=200 if outcome.ok else 409)


async def bundle(request: web.Request) -> web.Response:
    """The newest complete conformity certificate bundle, as one file."""
    device = device_of(request)
    body = await request.app[DESK].console.bundle(device.id)
    headers = {"Content-Disposition": f'attachment; filename="{device.id}.bundle"'}
    return web.Response(body=body, content_type="application/cbor", headers=headers)


async def explain(request: web.Request) -> web.Response:
    """How the level came about."""
    device = device_of(request)
    function = request.query.get("function")
    if function is not None and function not in {f.name for f in device.functions}:
        names = ", ".join(f.name for f in device.functions) or "none"
        raise InputError(f"{device.id} has no such function", f"it has: {names}")
    return web.json_response(codec.to_plain(await request.app[DESK].console.explain(device.id, function)))


async def view_link(request: web.Request) -> web.Response:
    """A one-time link to a read-only view (admin only)."""
    who = operator(request)
    if who.user.role != "admin":
        raise RefusedError("only an admin gives view links", "ask an admin")
    if who.session:
        check_csrf(request, request.headers.get("X-CSRF-Token", ""))
    return web.json_response({"path": f"/view/{await request.app[DESK].accounts.one_time_view()}"})


def _command(body: dict[str, Any], actor: str, role: str) -> OperatorCommand:
    unknown = body.keys() - {"verb", "device_id", "arguments", "secret"}
    if unknown:
        raise InputError(f"a command has no {', '.join(sorted(unknown))[:100]}", "send verb, device_id, arguments and secret only")
    verb, device_id, secret = (body.get(k, "") for k in ("verb", "device_id", "secret"))
    if not (isinstance(verb, str) and _VERB.fullmatch(verb)):
        raise InputError("a verb is a lower-case word", 'for example {"verb": "attest", "device_id": "pump-1"}')
    if not (isinstance(device_id, str) and (not device_id or DEVICE_ID.fullmatch(device_id))):
        raise InputError("a device id is [a-z0-9-]{1,63}", "see the ward for the devices there are")
    if not (isinstance(secret, str) and len(secret) <= _SECRET_MAX):
        raise InputError(f"a secret is text of at most {_SECRET_MAX} characters", "send less")
    return OperatorCommand(actor, role, verb, device_id, _arguments(body.get("arguments", {})), secret)


def _arguments(given: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, dict) or len(given) > _ARGUMENTS:
        raise InputError(f"arguments are an object of at most {_ARGUMENTS} names", "send fewer")
    pairs = []
    for name, value in sorted(given.items()):
        if not _ARGUMENT.fullmatch(name):
            raise InputError("an argument's name is a lower-case word", "see the command's help")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise InputError(f"argument {name} is text or a number", "send it as text")
        text = str(value)
        if len(text) > _VALUE_MAX or "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(f"argument {name} is at most {_VALUE_MAX} characters of text", "send less")
        pairs.append((name, text))
    return tuple(pairs)
