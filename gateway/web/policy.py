"""Changes of policy over the JSON API: what is in force, trying a profile, confirming it, going back.

Every change is checked by root's wardgate-policy with the person's own password. Refuses to know what a profile says.
"""

from __future__ import annotations

import math
from typing import Any

from aiohttp import web

from gateway.errors import InputError
from gateway.web.access import check_csrf
from gateway.web.desk import DESK, Visitor, operator, visitor
from gateway.web.wire import json_of

PROFILE_BYTES = 128 * 1024  # the text of a profile has 64 KiB at most; JSON's escapes make it longer
_PROFILE_MAX, _SECRET_MAX, _CUTS_MAX = 64 * 1024, 256, 1000
_DEFAULT_MINUTES = 10.0


def routes() -> list[web.RouteDef]:
    """Under /api/v1/policy."""
    return [
        web.get("/api/v1/policy", state),
        web.post("/api/v1/policy/apply", apply),
        web.post("/api/v1/policy/confirm", confirm),
        web.post("/api/v1/policy/rollback", rollback),
    ]


async def state(request: web.Request) -> web.Response:
    """The profiles in force; ``pending`` (null, or who applied what, with ``left_s``); whether there is a ``previous`` policy."""
    visitor(request)
    return web.json_response(dict(await request.app[DESK].console.policy.state()))


async def apply(request: web.Request) -> web.Response:
    """Try a profile: ``{"profile", "minutes", "cut_vital", "secret"}``, or with ``"prepare": true`` only what it would change."""
    who, body = await _asked(request, {"profile", "minutes", "cut_vital", "secret", "prepare"})
    text = _text(body, "profile", _PROFILE_MAX)
    if not text:
        raise InputError("the profile is missing", "send its TOML text as profile")
    policy = request.app[DESK].console.policy
    if body.get("prepare") is True:
        return web.json_response(dict(await policy.prepare(text)))
    minutes = body.get("minutes", _DEFAULT_MINUTES)
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not math.isfinite(minutes):
        raise InputError("minutes is a number", "say for how many minutes it is tried")
    done = await policy.apply(who.user, _text(body, "secret", _SECRET_MAX), text, float(minutes), _cuts(body))
    return web.json_response(dict(done))


async def confirm(request: web.Request) -> web.Response:
    """Confirm what waits: ``{"secret"}``."""
    who, body = await _asked(request, {"secret"})
    return web.json_response(dict(await request.app[DESK].console.policy.confirm(who.user, _text(body, "secret", _SECRET_MAX))))


async def rollback(request: web.Request) -> web.Response:
    """Undo what waits, or go back to the policy before: ``{"secret", "cut_vital"}``."""
    who, body = await _asked(request, {"secret", "cut_vital"})
    secret = _text(body, "secret", _SECRET_MAX)
    return web.json_response(dict(await request.app[DESK].console.policy.rollback(who.user, secret, _cuts(body))))


async def _asked(request: web.Request, known: set[str]) -> tuple[Visitor, dict[str, Any]]:
    """An operator's request with its body. Raises RefusedError or InputError."""
    who = operator(request)
    if who.session:
        check_csrf(request, request.headers.get("X-CSRF-Token", ""))
    body = await json_of(request.clone(client_max_size=PROFILE_BYTES))
    if unknown := sorted(body.keys() - known):
        raise InputError(f"this request has no {', '.join(unknown)[:100]}", f"send {', '.join(sorted(known))} only")
    return who, body


def _text(body: dict[str, Any], key: str, most: int) -> str:
    value = body.get(key, "")
    if not isinstance(value, str) or len(value) > most or any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(f"{key} is text of at most {most} characters", "send less")
    return value


def _cuts(body: dict[str, Any]) -> list[str]:
    named = body.get("cut_vital", [])
    if not isinstance(named, list) or len(named) > _CUTS_MAX or not all(isinstance(n, str) and len(n) <= 200 for n in named):
        raise InputError("cut_vital is a list of names", "send device.function for each vital flow that may be cut")
    return named
