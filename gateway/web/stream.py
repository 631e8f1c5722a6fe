"""The live view: server-sent events, made once for all who look, at most four times a second.

There are no queues: each stream remembers what it has sent and, whenever it can write again, sends what is different by then.
So a slow screen costs nothing but its own freshness. Refuses to know how parts look.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from gateway import codec
from gateway.errors import RefusedError, UnavailableError
from gateway.model.roles import MAY
from gateway.model.view import DeviceView, WardView
from gateway.ports import ConsolePort
from gateway.web import actions
from gateway.web.desk import DESK, Desk, Visitor, WebSettings, visitor
from gateway.web.present import Card, Deadlines, Ward, card, present
from gateway.web.render import FRAME, Renderer, Slots

log = logging.getLogger("wardgate.web")

_COALESCE_S = 0.25  # at most four pictures a second
_LOOK_S = 1.0  # a picture at least this often while someone looks, also as the sign of life
_CHECK_S = 15.0  # how often a stream asks whether its session still lasts
_WRITE_S = 10.0  # a client that takes longer than this for one message is gone
_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


class Hub:
    """One picture at a time, shared. ``run`` is a task of the application; it works only while someone looks."""

    def __init__(self, console: ConsolePort, renderer: Renderer, settings: WebSettings) -> None:
        self._console, self._settings = console, settings
        self._slots = Slots(renderer)
        self._deadlines = Deadlines()
        self._last: tuple[WardView, Ward, dict[str, str]] | None = None
        self._fresh = asyncio.Condition()
        self._changed = asyncio.Event()
        self._streams: Counter[str] = Counter()
        self.version = 0
        self.closing = False

    @asynccontextmanager
    async def watching(self, session: str) -> AsyncIterator[None]:
        """Count a stream in and out. Raises UnavailableError when there are enough."""
        if self.closing or self._streams.total() >= self._settings.streams or self._streams[session] >= self._settings.streams_each:
            raise UnavailableError("too many live views are open", "close another one, or reload in a minute")
        self._streams[session] += 1
        self._changed.set()
        try:
            yield
        finally:
            self._streams[session] -= 1
            self._streams += Counter()

    async def next(self, seen: int) -> tuple[int, WardView, Ward, dict[str, str]]:
        """The newest picture after version ``seen``. Raises ConnectionError when the server stops."""
        async with self._fresh:
            await self._fresh.wait_for(lambda: self.closing or self.version > seen)
        if self.closing or self._last is None:
            raise ConnectionResetError("the server stops")
        return self.version, *self._last

    def ward(self) -> Ward:
        """The picture now, for a page: same deadlines as the live view, so that a page and its stream agree."""
        return present(self._console.view(), self._deadlines)

    def card(self, device: DeviceView) -> tuple[Card, WardView]:
        """The same for one device."""
        view = self._console.view()
        return card(device, view, self._deadlines), view

    async def run(self) -> None:
        """Make pictures until cancelled; one that fails is missing, and every screen says that the view is lost."""
        end = self._console.subscribe(self._changed.set)
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S if self._streams else None):
                        await self._changed.wait()
                self._changed.clear()
                if self._streams:
                    try:
                        await self._make()
                    except Exception:  # boundary: one bad picture must not end the live view for good
                        log.exception("the live view could not be made")
                await asyncio.sleep(_COALESCE_S)
        finally:
            end()

    async def close(self) -> None:
        """End every stream."""
        self.closing = True
        async with self._fresh:
            self._fresh.notify_all()

    async def _make(self) -> None:
        view = self._console.view()
        ward = present(view, self._deadlines)
        self._last = view, ward, self._slots.of(ward)
        self.version += 1
        async with self._fresh:
            self._fresh.notify_all()


async def live(request: web.Request) -> web.StreamResponse:
    """For the page: parts as HTML, only those that this stream has not sent yet."""
    desk, who = request.app[DESK], visitor(request)
    frame_only = request.query.get("cards") == "none"  # pages without cards
    sent: dict[str, str] = {}
    made: dict[str, tuple[object, str]] = {}
    levels: dict[str, Card] = {}

    def message(view: WardView, ward: Ward, slots: dict[str, str]) -> str:
        parts = {n: html for n, html in slots.items() if sent.get(n) is not html and not (frame_only and n not in FRAME)}
        for name, html in () if frame_only else _actions(desk.renderer, who, view, made).items():
            if sent.get(name) != html:
                parts[name] = html
        sent.update(parts)
        for gone in sent.keys() - slots.keys():
            if "/" in gone and gone.partition("/")[0] not in {c.id for c in ward.cards}:
                del sent[gone]
        order = [[c.id, c.tone, c.level.level] for c in ward.cards]
        said = _announce(levels, ward)
        return json.dumps(
            {
                "now_ms": ward.now_ms, "time": ward.time_utc, "build": desk.renderer.build,
                "title": ward.overview.headline, "say": said, "order": order, "parts": parts,
            },
            separators=(",", ":"), ensure_ascii=False,
        )  # fmt: skip

    return await _stream(request, who, "ward", message)


async def view_stream(request: web.Request) -> web.StreamResponse:
    """For scripts: the whole view as JSON whenever it changed."""
    return await _stream(request, visitor(request), "view", lambda view, _w, _s: json.dumps(codec.to_plain(view)))


async def _stream(
    request: web.Request, who: Visitor, kind: str, message: Callable[[WardView, Ward, dict[str, str]], str]
) -> web.StreamResponse:
    desk = request.app[DESK]
    loop = asyncio.get_running_loop()
    async with desk.hub.watching(who.session or who.user.name):
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        seen, checked = desk.hub.version, loop.time()  # whatever was made before this moment may be old
        # a client, or the server, that goes away ends the stream, and that is no error
        with suppress(ConnectionError, TimeoutError):
            await response.write(b"retry: 1000\n\n")
            while True:
                seen, view, ward, slots = await desk.hub.next(seen)
                if loop.time() - checked > _CHECK_S:
                    checked = loop.time()
                    if not await _lasts(desk, who, request.remote or ""):
                        break
                data = f"event: {kind}\nid: {seen}\ndata: {message(view, ward, slots)}\n\n".encode()
                async with asyncio.timeout(_WRITE_S):
                    await response.write(data)
        return response


async def _lasts(desk: Desk, who: Visitor, source: str) -> bool:
    """Whether who looks may still look: a session or a token ends, the control socket's uid does not."""
    if who.token:
        try:
            await desk.accounts.tokens.find(who.token, source)
        except RefusedError:
            return False
    return not who.session or await desk.accounts.session(who.session) is not None


def _actions(renderer: Renderer, who: Visitor, view: WardView, made: dict[str, tuple[object, str]]) -> dict[str, str]:
    """The actions of each device for this visitor: they depend on the role and the session's token."""
    if not any(who.user.role in roles for roles in MAY.values()):
        return {}
    for d in view.devices:
        offered = actions.offers(d, who.user.role)
        if made.get(d.id, (None,))[0] != offered:
            made[d.id] = offered, renderer.part("actions", d.id, offered, who.csrf)
    return {f"{d.id}/actions": made[d.id][1] for d in view.devices}


def _announce(before: dict[str, Card], ward: Ward) -> str:
    """What a screen reader says: devices whose level or tone changed since this stream's last picture."""
    changes = []
    for c in ward.cards:
        old = before.get(c.id)
        if old is not None and (old.tone, old.level.level) != (c.tone, c.level.level):
            changes.append(f"{c.main.name}: level {c.level.level}, {c.level.verdict}. {c.main.reason}")
    before.clear()
    before.update({c.id: c for c in ward.cards})
    return " ".join(changes[:5])
