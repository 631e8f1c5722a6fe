"""What only the console may ask, on the control socket: the claim, and new users. Refuses to know who may listen there."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.errors import InputError
from gateway.web.desk import DESK, operator
from gateway.web.wire import json_of


def routes() -> list[web.RouteDef]:
    """Beside those of ``gateway.web.api``, on the control socket only."""
    return [
        web.post("/api/v1/claim", claim),
        web.post("/api/v1/users", add_user),
        web.post("/api/v1/outbox/retry", retry_dead_letters),
    ]


async def claim(request: web.Request) -> web.Response:
    """The first admin: ``{"code", "user", "password"}``."""
    body = await json_of(request)
    user = await request.app[DESK].accounts.claim(_text(body, "code"), _text(body, "user"), _text(body, "password"))
    return web.json_response({"user": user.name, "role": user.role})


async def add_user(request: web.Request) -> web.Response:
    """A user: ``{"name", "password", "role"}``. Whoever asks makes the credential at wardgate-policy itself."""
    who, body = operator(request), await json_of(request)
    name, password, role = (_text(body, key) for key in ("name", "password", "role"))
    user = await request.app[DESK].accounts.add_user(who.user, name, password, role)
    return web.json_response({"user": user.name, "role": user.role})


async def retry_dead_letters(request: web.Request) -> web.Response:
    """Send what the broker refused again."""
    operator(request)
    return web.json_response({"retried": await request.app[DESK].console.retry_dead_letters()})


def _text(body: Any, key: str) -> str:
    value = body.get(key) if isinstance(body, dict) else None
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise InputError(f"{key} is missing or is no text of 1 to 256 characters", "send it")
    return value
