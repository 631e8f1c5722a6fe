"""The JSON API, the same on HTTPS and on the control socket.

Refuses to know HTML.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from gateway import codec
from gateway.errors import InputError
from gateway.logs import clean
from gateway.model.device import DEVICE_ID
from gateway.model.event import OperatorCommand
from gateway.model.inquiry import EventPage
from gateway.model.outbox import OutboxView
from gateway.model.view import TOKEN_DAYS, TOKEN_DAYS_MAX, TOKEN_NAME, TOKEN_ROLES, PartView, TokenView, WardView
from gateway.web import schema
from gateway.web.asking import QUERY, query_of
from gateway.web.contract import ADMIN, ANYONE, CARE, JSON, METERS, OPEN, Answer, Query, Route, answers, entry_of
from gateway.web.desk import DESK, VISITOR, permitted, visitor
from gateway.web.exposition import OPENMETRICS, PLAIN, exposition, negotiate
from gateway.web.openapi import document
from gateway.web.stream import view_stream
from gateway.web.wire import NotFoundError, device_of, json_of, number_of

_VERB = re.compile(r"[a-z][a-z-]{0,31}")
_ARGUMENT = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ARGUMENTS, _VALUE_MAX, _SECRET_MAX = 16, 4096, 256
_BEFORE_MAX = 10**18 - 1


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
    link = await request.app[DESK].accounts.one_time_view(visitor(request).user.name)
    return web.json_response({"path": f"/view/{link}"})


async def tokens(request: web.Request) -> web.Response:
    """All API tokens, without their secrets."""
    return web.json_response({"tokens": codec.to_plain(await request.app[DESK].accounts.tokens.all())})


async def add_token(request: web.Request) -> web.Response:
    """A new API token: ``{"name", "role", "days"}``; the answer is the only place where it is ever shown."""
    body = await json_of(request)
    name, role, days = body.get("name"), body.get("role"), body.get("days", TOKEN_DAYS)
    if unknown := body.keys() - {"name", "role", "days"}:
        raise InputError(f"a token has no {', '.join(sorted(unknown))[:100]}", "send name, role and days only")
    if not isinstance(name, str) or not isinstance(role, str) or type(days) is not int:
        raise InputError("name and role are text, days is a whole number", 'for example {"name": "scraper", "role": "metrics"}')
    secret = await request.app[DESK].accounts.tokens.add(visitor(request).user, name, role, days)
    return web.json_response({"name": name, "role": role, "days": days, "token": secret})


async def revoke_token(request: web.Request) -> web.Response:
    """End an API token now."""
    name = request.match_info["name"]
    if name not in {t.name for t in await request.app[DESK].accounts.tokens.all()}:
        raise NotFoundError(f"there is no token {clean(name, 32)}", "see wardgate token list")
    await request.app[DESK].accounts.tokens.revoke(visitor(request).user, name)
    return web.json_response({"revoked": name})


async def metrics(request: web.Request) -> web.Response:
    """Figures for Prometheus; nothing about a patient."""
    content_type = negotiate(request.headers.get("Accept", ""))
    text = exposition(await request.app[DESK].console.metrics(), content_type)
    return web.Response(body=text.encode(), headers={"Content-Type": content_type})


async def openapi(request: web.Request) -> web.Response:
    """This API's own description."""
    entries = {id(e): e for r in request.app.router.routes() if (e := entry_of(r)) is not None}
    gateway = request.app[DESK].console.view().gateway
    return web.json_response(document(entries.values(), gateway.name, gateway.version))


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


_COMMAND = schema.record(
    {"verb": schema.text(32, pattern=f"^{_VERB.pattern}$")},
    {
        "device_id": schema.text(63, 0, f"^({DEVICE_ID.pattern})?$"),
        "arguments": {
            "type": "object",
            "maxProperties": _ARGUMENTS,
            "propertyNames": {"pattern": f"^{_ARGUMENT.pattern}$"},
            "additionalProperties": {"anyOf": [schema.text(_VALUE_MAX, 0), {"type": "number"}]},
        },
        "secret": schema.text(_SECRET_MAX, 0),
    },
)
_OUTCOME = schema.record({"ok": schema.FLAG, "text": schema.WORDS, "detail": {"type": "object"}})
_PART = schema.named(PartView)
_HEALTH = schema.record({"ok": schema.FLAG}, {"mode": schema.WORDS, "parts": schema.many(_PART), "version": schema.WORDS})
_ROLE = schema.choice(*TOKEN_ROLES)
_NEW_TOKEN = schema.record(
    {"name": schema.text(32, pattern=f"^{TOKEN_NAME.pattern}$"), "role": _ROLE}, {"days": schema.whole(1, TOKEN_DAYS_MAX)}
)
_TOKEN = schema.record({"name": schema.WORDS, "role": _ROLE, "days": schema.whole(1, TOKEN_DAYS_MAX), "token": schema.WORDS})
_LIMIT = Query("limit", "How many, 50 unless told", schema.whole(1, 500))
_BEFORE = Query("before", "Only events before this sequence number", schema.whole(0, _BEFORE_MAX))
_FUNCTION = Query("function", "Only this function of the device", schema.text(64))

TABLE: tuple[Route, ...] = (
    Route("GET", "/api/v1/health", health, "Whether the gateway answers and is well", OPEN, answers(_HEALTH)),
    Route("GET", "/api/v1/openapi.json", openapi, "This document", ANYONE, answers({"type": "object"})),
    Route("GET", "/api/v1/session", session, "Who is asking", METERS,
          answers(schema.record({"user": schema.WORDS, "role": schema.WORDS, "csrf": schema.WORDS}))),
    Route("GET", "/api/v1/view", view, "The whole picture", ANYONE, answers(schema.named(WardView))),
    Route("GET", "/api/v1/events", events, "The event feed, newest first", ANYONE, answers(schema.named(EventPage)),
          query=(_LIMIT, _BEFORE, *QUERY)),
    Route("GET", "/api/v1/events/stream", view_stream, "The picture whenever it changed, as server-sent events", ANYONE,
          {200: Answer("Events of type view, each with the whole picture", {"text/event-stream": None})}, heads=False),
    Route("GET", "/api/v1/outbox", outbox, "What still has to leave", ANYONE, answers(schema.named(OutboxView))),
    Route("POST", "/api/v1/command", command, "Carry out a command; each verb has its own roles", CARE,
          {**answers(_OUTCOME), 409: Answer("It was not carried out", {JSON: _OUTCOME})}, takes=_COMMAND, changes=True),
    Route("GET", "/api/v1/devices/{id}/bundle", bundle, "The newest complete conformity certificate bundle", ANYONE,
          {200: Answer("One file for `wardgate verify`", {"application/cbor": None})}),
    Route("GET", "/api/v1/explain/{id}", explain, "How a device's level came about", ANYONE, answers({"type": "object"}),
          query=(_FUNCTION,)),
    Route("POST", "/api/v1/view-link", view_link, "A one-time link to a read-only view", ADMIN,
          answers(schema.record({"path": schema.WORDS})), changes=True, people=True),
    Route("GET", "/api/v1/tokens", tokens, "All API tokens, never their secrets", ADMIN,
          answers(schema.record({"tokens": schema.many(schema.named(TokenView))}))),
    Route("POST", "/api/v1/tokens", add_token, "A new API token, shown once", ADMIN, answers(_TOKEN), takes=_NEW_TOKEN,
          changes=True, people=True),
    Route("DELETE", "/api/v1/tokens/{name}", revoke_token, "End an API token now", ADMIN,
          answers(schema.record({"revoked": schema.WORDS})), changes=True, people=True),
    Route("GET", "/metrics", metrics, "Figures for Prometheus", METERS,
          {200: Answer("The text format, or OpenMetrics when asked for", {PLAIN: None, OPENMETRICS: None})}),
)  # fmt: skip


def routes() -> list[web.RouteDef]:
    """Everything under /api/v1, and the figures."""
    return [r.definition() for r in TABLE]
