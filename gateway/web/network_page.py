"""The Network page: who may talk to whom now, as a picture and as a table, how it is wired, and what was refused lately.

Refuses to know what is allowed, and draws only what it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway import codec
from gateway.model.landscape import Landscape
from gateway.web import schema, wording
from gateway.web.contract import ANYONE, Route, answers
from gateway.web.desk import DESK, visitor
from gateway.web.drawing import draw, flow_of, names_of


def routes() -> list[web.RouteDef]:
    """The page, and the same for scripts."""
    return [web.get("/network", network), *api_routes()]


def api_routes() -> list[web.RouteDef]:
    """For scripts, on both doors."""
    return [r.definition() for r in TABLE]


async def network(request: web.Request) -> web.Response:
    """The Network page."""
    desk, who = request.app[DESK], visitor(request)
    land = await desk.console.house.network()
    ward = desk.hub.ward()
    tones = {c.id: c.tone for c in ward.cards}
    order = list(tones)
    spots = sorted(land.spots, key=lambda s: order.index(s.id) if s.id in tones else len(order))
    rows = [(spot, lane, flow_of(lane, land)) for spot in spots for lane in spot.lanes]
    html = desk.renderer.page(
        "network.html", who, here="/network", land=land, drawing=draw(land, tones), rows=rows, now_ms=land.since_ms,
        names={h.id: names_of(h) for h in land.hosts}, own=[(lane, flow_of(lane, land)) for lane in land.own],
        wiring=wiring_of(land.wiring), devices={s.id: s.name for s in land.spots}, level_words=wording.LEVEL_WORDS,
    )  # fmt: skip
    return web.Response(text=html, content_type="text/html")


async def as_json(request: web.Request) -> web.Response:
    """Devices, hosts, each flow with how it passes, what was refused, and the wiring."""
    land: Landscape = await request.app[DESK].console.house.network()
    return web.json_response(codec.to_plain(land))


def wiring_of(found: Mapping[str, object] | None) -> dict[str, Any] | None:
    """The wiring document with nothing missing that the page needs; None when nobody could look."""
    if found is None:
        return None
    empty: dict[str, Any] = {"kind": "", "summary": "", "controls": (), "leaves": (), "ports": (), "findings": ()}
    return {**empty, **found}


TABLE: tuple[Route, ...] = (
    Route("GET", "/api/v1/network", as_json, "Who may talk to whom now, and what was refused lately", ANYONE,
          answers(schema.named(Landscape))),
)  # fmt: skip
