"""The OpenAPI 3.1 document, made from the very table entries that the routes are made of.

Refuses to know how anything is served.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from gateway.model.device import DEVICE_ID
from gateway.web import schema
from gateway.web.contract import JSON, METERS, OPEN, Answer, Route

_PATH = {"id": {"type": "string", "pattern": f"^{DEVICE_ID.pattern}$"}}
_NAME = {"type": "string", "minLength": 1, "maxLength": 64}
_COMMON = {
    400: "The request is not what this route takes.",
    401: "Nobody is logged in, or the token is unknown, revoked or expired.",
    403: "The role may not do this, or the request does not come from the page.",
    404: "There is no such thing here.",
    405: "This route knows another method.",
    408: "The request took too long to arrive.",
    413: "The request is larger than this gateway takes.",
    417: "An expectation other than 100-continue.",
    429: "Too many wrong tokens from this address; Retry-After says when to try again.",
    503: "Something around the gateway is not there now; trying again later is right.",
}


def document(entries: Iterable[Route], gateway: str, version: str) -> dict[str, Any]:
    """The document for these routes. ``gateway``: the gateway's name; ``version``: of the program."""
    kinds: dict[str, type] = {}
    paths: dict[str, Any] = {}
    for route in sorted(entries, key=lambda r: (r.template, r.method)):
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, kinds)
        if route.method == "GET" and route.heads:
            head = _operation(route, kinds)
            head["summary"] += " (its headers only)"
            for answer in head["responses"].values():
                if "content" in answer:
                    del answer["content"]
            paths[route.template]["head"] = head
    schemas: dict[str, Any] = {"Error": schema.ERROR}
    while missing := kinds.keys() - schemas.keys():
        for name in sorted(missing):
            schemas[name] = _resolved(schema.body_of(kinds[name]), kinds)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{gateway}: the API of Wardgate",
            "version": version,
            "summary": "What a gateway between medical devices and the network knows and does.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "An API token: `wardgate token add`."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "__Host-wardgate",
                    "description": "A person's session. What changes something also needs Origin and X-CSRF-Token.",
                },
            },
        },
    }


def _operation(route: Route, kinds: dict[str, type]) -> dict[str, Any]:
    names = re.findall(r"{([a-z_]+)}", route.template)
    parameters = [{"name": n, "in": "path", "required": True, "schema": dict(_PATH.get(n, _NAME))} for n in names]
    parameters += [{"name": q.name, "in": "query", "description": q.text, "schema": dict(q.schema)} for q in route.query]
    found: dict[str, Any] = {"summary": route.summary, "responses": _responses(route, kinds)}
    if parameters:
        found["parameters"] = parameters
    if route.takes is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _resolved(route.takes, kinds)}}}
    found["security"] = [] if route.may == OPEN else [{"session": []}] if route.people else [{"token": []}, {"session": []}]
    if route.may:
        allowed = [r for r in METERS if r in route.may]
        found["description"] = f"Roles: {', '.join(allowed)}.{' People only, no token.' if route.people else ''}"
    return found


def _responses(route: Route, kinds: dict[str, type]) -> dict[str, Any]:
    statuses = {405, 417, 503}
    if route.may:
        statuses |= {401, 403, 429}
    if route.takes is not None:
        statuses |= {400, 403, 408, 413}
    if route.changes:
        statuses |= {403}
    if route.query:
        statuses |= {400}
    if "{" in route.path:
        statuses |= {400, 404}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    said: dict[str, Any] = {str(s): {"description": _COMMON[s], "content": copy.deepcopy(error)} for s in sorted(statuses)}
    return {
        **{str(s): _answer(a, kinds) for s, a in route.answers.items()},
        **{s: v for s, v in said.items() if int(s) not in route.answers},
    }


def _answer(answer: Answer, kinds: dict[str, type]) -> dict[str, Any]:
    content = {t: {} if s is None else {"schema": _resolved(s, kinds)} for t, s in answer.content.items()}
    return {"description": answer.text, **({"content": content} if content else {})}


def _resolved(value: Any, kinds: dict[str, type]) -> Any:
    """A copy without our own marks; each dataclass that it names is noted."""
    if isinstance(value, dict):
        kind = value.get("_kind")
        if kind is not None:
            kinds[kind.__name__] = kind
        return {k: _resolved(v, kinds) for k, v in value.items() if k != "_kind"}
    return [_resolved(v, kinds) for v in value] if isinstance(value, list) else value
