"""What a route of the API is: who may use it, what it takes, what it answers: route, guard and documentation in one entry.

Whoever adds a route writes one ``Route`` into a module's ``TABLE``; there is no other way in, and a test finds one that went
around it. Refuses to know what any route does.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from aiohttp import web

from gateway.errors import RefusedError
from gateway.web.access import check_csrf
from gateway.web.desk import DESK, Visitor, visitor
from gateway.web.schema import Schema

OPEN: tuple[str, ...] = ()  # nobody need be logged in
ADMIN = ("admin",)
OPERATORS = ("biomed", *ADMIN)
CARE = ("clinical", *OPERATORS)
ANYONE = ("viewer", *CARE)  # whoever is logged in
METERS = ("metrics", *ANYONE)  # and a token that may read figures only
JSON = "application/json"
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter of the query; all are optional."""

    name: str
    text: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Answer:
    """One status of a route: what it means, and each content type with its schema (None: bytes or text)."""

    text: str
    content: Mapping[str, Schema | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the API. ``changes``: a session needs its CSRF token, and a token's use is audited first.

    ``people``: no token may use it. ``answers`` are what it says when it succeeds, or fails in a way of its own; the errors
    that every such route has are added by the document.
    """

    method: str
    path: str
    handle: Handle
    summary: str
    may: tuple[str, ...]
    answers: Mapping[int, Answer]
    takes: Schema | None = None
    query: tuple[Query, ...] = ()
    changes: bool = False
    people: bool = False
    heads: bool = True  # a HEAD gets what a GET would

    @property
    def template(self) -> str:
        """The path without the patterns of its parts: ``/a/{id}``."""
        return re.sub(r"{([a-z_]+):(?:[^{}]|{[^{}]*})*}", r"{\1}", self.path)

    def definition(self) -> web.RouteDef:
        """For ``add_routes``: the handler behind its guard; the guard carries this entry as ``entry``."""

        @wraps(self.handle)
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self.may:
                await self._admit(request, visitor(request))
            return await self.handle(request)

        guarded.entry = self  # type: ignore[attr-defined]
        if self.method == "GET":
            return web.get(self.path, guarded, allow_head=self.heads)
        return web.route(self.method, self.path, guarded)

    async def _admit(self, request: web.Request, who: Visitor) -> None:
        role = who.user.role
        if role not in self.may:
            raise RefusedError(f"the role {role} may not do this", f"ask someone with the role {' or '.join(self.may)}")
        if who.token and self.people:
            raise RefusedError("a token may not do this", "log in on the page, or use the command line on the gateway")
        if self.changes and who.session:
            check_csrf(request, request.headers.get("X-CSRF-Token", ""))
        if self.changes and who.token:
            await request.app[DESK].accounts.tokens.used(who.user, f"{self.method} {request.path}", request.remote or "")


def answers(schema: Schema, text: str = "Done") -> dict[int, Answer]:
    """The usual success: 200 with one JSON document."""
    return {200: Answer(text, {JSON: schema})}


def entry_of(route: web.AbstractRoute) -> Route | None:
    """The table entry behind an application's route; None for one that has none."""
    found: Any = getattr(route.handler, "entry", None)
    return found if isinstance(found, Route) else None
