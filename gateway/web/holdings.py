"""Endorsements and reference values, learned flows and cached files over the JSON API.

Refuses to know what is in a file: it carries bounded text and bytes.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from aiohttp import web

from gateway.errors import InputError
from gateway.model.device import DEVICE_ID
from gateway.web import schema
from gateway.web.contract import JSON, OPERATORS, Answer, Route, answers
from gateway.web.desk import DESK, Visitor, visitor
from gateway.web.wire import json_of

_ENDORSEMENT_MAX = 64 * 1024  # characters; ours have a thousand
_FILE_MAX = 1024 * 1024  # bytes; base64 makes a third more of it
_BODY_MAX = 1536 * 1024


async def references(request: web.Request) -> web.Response:
    """Each device's anchors and reference values, and the imports that can be taken back."""
    return web.json_response(dict(await request.app[DESK].console.holdings.references()))


async def import_references(request: web.Request) -> web.Response:
    """A maker's endorsement: ``{"endorsement", "device_id"}``, the id only when its UEID is not known here."""
    who, body = await _asked(request, {"endorsement", "device_id"})
    text, device_id = body.get("endorsement"), _device_id(body.get("device_id", ""))
    if not isinstance(text, str) or not 1 <= len(text) <= _ENDORSEMENT_MAX:
        raise InputError(f"endorsement is text of 1 to {_ENDORSEMENT_MAX} characters", "send the maker's JSON as text")
    return web.json_response(dict(await request.app[DESK].console.holdings.import_references(who.user, text, device_id)))


async def rollback_references(request: web.Request) -> web.Response:
    """Take the newest import back: ``{"device_id"}``, or ``{}`` for whichever device's it is."""
    who, body = await _asked(request, {"device_id"})
    device_id = _device_id(body.get("device_id", ""))
    return web.json_response(dict(await request.app[DESK].console.holdings.rollback_references(who.user, device_id)))


async def cached(request: web.Request) -> web.Response:
    """What is cached, with ``good_until_utc`` and ``left_s``."""
    return web.json_response(dict(await request.app[DESK].console.holdings.cached()))


async def import_cached(request: web.Request) -> web.Response:
    """A file that proves itself: ``{"file"}``, base64."""
    who, body = await _asked(request, {"file"})
    text = body.get("file")
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        raise InputError("file is no base64", "send the file's bytes in base64") from None
    if not 1 <= len(data) <= _FILE_MAX:
        raise InputError(f"file has 1 to {_FILE_MAX} bytes", "send one revocation list or certificate")
    return web.json_response(dict(await request.app[DESK].console.holdings.import_cached(who.user, data)))


async def learned(request: web.Request) -> web.Response:
    """The draft of a profile with the flows that were seen while a device was observed."""
    device_id = _device_id(request.match_info["id"])
    return web.json_response(dict(await request.app[DESK].console.holdings.learned(device_id)))


async def assign(request: web.Request) -> web.Response:
    """Label a device's readings with a patient's token: ``{"token"}``; empty: nobody's."""
    who, body = await _asked(request, {"token"})
    token = body.get("token", "")
    if not isinstance(token, str) or len(token) > _TOKEN_MAX:
        raise InputError(f"token is no text of at most {_TOKEN_MAX} characters", "send a token, or an empty text to end it")
    device_id = _device_id(request.match_info["id"])
    return web.json_response(dict(await request.app[DESK].console.holdings.assign(who.user, device_id, token)))


async def _asked(request: web.Request, known: set[str]) -> tuple[Visitor, dict[str, Any]]:
    """Who asks, and the body. Raises InputError."""
    who = visitor(request)
    body = await json_of(request.clone(client_max_size=_BODY_MAX))
    if unknown := sorted(body.keys() - known):
        raise InputError(f"this request has no {', '.join(unknown)[:100]}", f"send {', '.join(sorted(known))} only")
    return who, body


def _device_id(value: object) -> str:
    if not isinstance(value, str) or (value and not DEVICE_ID.fullmatch(value)):
        raise InputError("a device id is [a-z0-9-]{1,63}", "see the ward for the devices there are")
    return value


_TOKEN_MAX = 32  # as gateway.assignments has it
_ID = schema.text(63, 0, f"^({DEVICE_ID.pattern})?$")
_BASE64 = schema.text(_FILE_MAX * 4 // 3 + 4, 4, "^[A-Za-z0-9+/]*={0,2}$")
_UNPROVEN = {422: Answer("It does not prove itself to this gateway", {JSON: schema.ERROR})}

TABLE: tuple[Route, ...] = (
    Route("GET", "/api/v1/references", references, "Anchors and reference values of each device", OPERATORS,
          answers(schema.OBJECT)),
    Route("POST", "/api/v1/references/import", import_references, "Take a maker's endorsement", OPERATORS,
          {**answers(schema.OBJECT), **_UNPROVEN},
          takes=schema.record({"endorsement": schema.text(_ENDORSEMENT_MAX)}, {"device_id": _ID}), changes=True, people=True),
    Route("POST", "/api/v1/references/rollback", rollback_references, "Take the newest import back", OPERATORS,
          answers(schema.OBJECT), takes=schema.record({}, {"device_id": _ID}), changes=True, people=True),
    Route("GET", "/api/v1/cache", cached, "What is cached, and until when it is good", OPERATORS, answers(schema.OBJECT)),
    Route("POST", "/api/v1/cache/import", import_cached, "Take a file that proves itself", OPERATORS,
          {**answers(schema.OBJECT), **_UNPROVEN}, takes=schema.record({"file": _BASE64}), changes=True, people=True),
    Route("GET", "/api/v1/devices/{id}/learned", learned, "A draft of a profile from what was seen", OPERATORS,
          answers(schema.OBJECT)),
    Route("POST", "/api/v1/devices/{id}/assign", assign, "Label a device's readings with a patient's token", OPERATORS,
          answers(schema.OBJECT), takes=schema.record({}, {"token": schema.text(_TOKEN_MAX, 0)}), changes=True, people=True),
)  # fmt: skip


def routes() -> list[web.RouteDef]:
    """Under /api/v1."""
    return [r.definition() for r in TABLE]
