"""The JSON API of one device and of those found: the same that their pages show and do.

Refuses to know HTML.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway import codec
from gateway.errors import InputError
from gateway.model.sheet import Examination, LevelHistory, Sheet
from gateway.web import schema
from gateway.web.contract import ANYONE, Query, Route, answers
from gateway.web.desk import DESK
from gateway.web.label import device_label
from gateway.web.wire import device_of, json_of, number_of


async def sheet(request: web.Request) -> web.Response:
    """Everything about one device."""
    return _json(await request.app[DESK].console.dossiers.sheet(device_of(request).id))


async def levels(request: web.Request) -> web.Response:
    """Its levels of the last ``hours`` (1 to 168, else 24), oldest first; null where nobody knows."""
    hours = number_of(request, "hours", 1, 168) or 24
    return _json(await request.app[DESK].console.dossiers.levels(device_of(request).id, hours))


async def verify(request: web.Request) -> web.Response:
    """Its newest certificate, examined against the anchor kept here or, with POST, against ``{"anchor": PEM}``."""
    device, anchor = device_of(request), ""
    if request.method == "POST":
        body = await json_of(request)
        anchor = body.get("anchor", "")
        if body.keys() != {"anchor"} or not isinstance(anchor, str):
            raise InputError("an examination takes an anchor and nothing else", 'send {"anchor": "-----BEGIN CERTIFICATE-----…"}')
    return _json(await request.app[DESK].console.dossiers.verify(device.id, anchor.encode()))


async def label(request: web.Request) -> web.Response:
    """What is printed for a device; ``page`` is the address of the gateway's page, else the one of this request."""
    page = request.query.get("page") or f"https://{request.host}"
    return _json(device_label(page, device_of(request), request.app[DESK].console.view().gateway))


async def found(request: web.Request) -> web.Response:
    """What was seen and not added, with the profiles that may fit."""
    return web.json_response({"found": codec.to_plain(tuple(request.app[DESK].console.dossiers.found()))})


async def profiles(request: web.Request) -> web.Response:
    """The profiles that are loaded: what a device can be added with."""
    rows = [
        {"id": p.id, "name": p.name, "bus": p.bus.value, "clinical_class": p.clinical_class}
        for p in request.app[DESK].console.dossiers.profiles()
    ]
    return web.json_response({"profiles": rows})


def _json(value: Any) -> web.Response:
    return web.json_response(codec.to_plain(value))


_HOURS = Query("hours", "How far back, 24 unless told", schema.whole(1, 168))
_PAGE = Query("page", "The address of the gateway's page", schema.text(200))
_EXAMINED = answers(schema.named(Examination))

TABLE: tuple[Route, ...] = (
    Route("GET", "/api/v1/devices/{id}", sheet, "Everything about one device", ANYONE, answers(schema.named(Sheet))),
    Route("GET", "/api/v1/devices/{id}/levels", levels, "Its levels over time", ANYONE, answers(schema.named(LevelHistory)),
          query=(_HOURS,)),
    Route("GET", "/api/v1/devices/{id}/label", label, "What is printed for it", ANYONE, answers(schema.OBJECT), query=(_PAGE,)),
    Route("GET", "/api/v1/devices/{id}/verify", verify, "Its newest certificate, examined", ANYONE, _EXAMINED),
    Route("POST", "/api/v1/devices/{id}/verify", verify, "The same against an anchor that is sent", ANYONE, _EXAMINED,
          takes=schema.record({"anchor": schema.text(16_000)}), changes=True),
    Route("GET", "/api/v1/found", found, "What was seen and not added", ANYONE, answers(schema.OBJECT)),
    Route("GET", "/api/v1/profiles", profiles, "The profiles that are loaded", ANYONE, answers(schema.OBJECT)),
)  # fmt: skip


def routes() -> list[web.RouteDef]:
    """Beside those of ``gateway.web.api``."""
    return [r.definition() for r in TABLE]
