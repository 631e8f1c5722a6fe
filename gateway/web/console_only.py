"""What only the console may ask, on the control socket: the claim, and new users. Refuses to know who may listen there."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.errors import InputError
from gateway.web import schema
from gateway.web.contract import ADMIN, OPERATORS, Route, answers
from gateway.web.desk import DESK, visitor
from gateway.web.wire import json_of


async def claim(request: web.Request) -> web.Response:
    """The first admin: ``{"code", "user", "password"}``."""
    body = await json_of(request)
    user = await request.app[DESK].accounts.claim(_text(body, "code"), _text(body, "user"), _text(body, "password"))
    return web.json_response({"user": user.name, "role": user.role})


async def add_user(request: web.Request) -> web.Response:
    """A user: ``{"name", "password", "role"}``. Whoever asks makes the credential at wardgate-policy itself."""
    who, body = visitor(request), await json_of(request)
    name, password, role = (_text(body, key) for key in ("name", "password", "role"))
    user = await request.app[DESK].accounts.add_user(who.user, name, password, role)
    return web.json_response({"user": user.name, "role": user.role})


async def retry_dead_letters(request: web.Request) -> web.Response:
    """Send what the broker refused again."""
    return web.json_response({"retried": await request.app[DESK].console.retry_dead_letters()})


def _text(body: Any, key: str) -> str:
    value = body.get(key) if isinstance(body, dict) else None
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise InputError(f"{key} is missing or is no text of 1 to 256 characters", "send it")
    return value


_PERSON = schema.record({"user": schema.WORDS, "role": schema.WORDS})
_SECRET = schema.text(256)
_CLAIM = schema.record({"code": _SECRET, "user": _SECRET, "password": _SECRET})
_USER = schema.record({"name": _SECRET, "password": _SECRET, "role": _SECRET})

TABLE: tuple[Route, ...] = (
    Route("POST", "/api/v1/claim", claim, "The first admin, with the claim code", ADMIN, answers(_PERSON), takes=_CLAIM,
          changes=True),
    Route("POST", "/api/v1/users", add_user, "A new person with a role", ADMIN, answers(_PERSON), takes=_USER, changes=True),
    Route("POST", "/api/v1/outbox/retry", retry_dead_letters, "Send the dead letters again", OPERATORS,
          answers(schema.record({"retried": schema.whole(0, 2**63 - 1)})), changes=True),
)  # fmt: skip


def routes() -> list[web.RouteDef]:
    """Beside those of ``gateway.web.api``, on the control socket only."""
    return [r.definition() for r in TABLE]
