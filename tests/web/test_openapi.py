"""The OpenAPI document is valid, names every route, and tells the truth: generated requests, right and wrong, get what it says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway import codec
from gateway.model import view as view_module
from gateway.model.outbox import OutboxView
from gateway.web import console_only, schema
from gateway.web.access import COOKIE, csrf_token
from gateway.web.contract import entry_of
from gateway.web.desk import WebSettings
from gateway.web.openapi import document
from gateway.web.server import build, build_control
from tests.fakes.console import FakeAccounts, FakeConsole
from tests.web.conftest import Door

EXAMPLES = 6  # of each operation, right and wrong: about a thousand requests in all
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
ENDLESS = "/api/v1/events/stream"  # never ends; tests/web/test_api.py reads it


def _document(app: web.Application) -> dict[str, Any]:
    entries = {id(e): e for r in app.router.routes() if (e := entry_of(r)) is not None}
    return document(entries.values(), "Ward 7 East", "0.1.0")


def _page() -> web.Application:
    return build(FakeConsole(), FakeAccounts())


def _control(settings: WebSettings | None = None) -> web.Application:
    app = build_control(FakeConsole(), FakeAccounts(claimed=False), settings)
    app.add_routes(console_only.routes())
    return app


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_the_document_is_whole() -> None:
    found = _document(_control())
    json.dumps(found)  # nothing of ours is left in it
    assert found["openapi"] == "3.1.0"
    for reference in _references(found):
        assert reference.removeprefix("#/components/schemas/") in found["components"]["schemas"], reference
    for kind in found["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(kind)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert any(s.startswith("2") for s in operation["responses"]), f"{method} {path}"
            assert operation["security"] or path == "/api/v1/health", f"{method} {path} is open"


async def test_the_gateway_serves_it_and_it_names_every_route(door: Door) -> None:
    vic = await door.as_("vic")
    served = await (await vic.get("/api/v1/openapi.json")).json()
    there = {
        (r.method.lower(), r.resource.canonical)
        for r in door.client.server.app.router.routes()
        if r.resource is not None and r.resource.canonical.startswith(("/api/", "/metrics"))
    }
    assert {(m, p) for p, methods in served["paths"].items() for m in methods} == there


@pytest.mark.parametrize(
    "value", [FakeConsole().view(), asyncio.run(FakeConsole().outbox()), view_module.TokenView("a", "viewer", "b", "c", 1)]
)
def test_a_model_and_its_schema_agree(value: object) -> None:
    schemas = _document(_page())["components"]["schemas"]
    whole = {"$ref": f"#/components/schemas/{type(value).__name__}", "components": {"schemas": schemas}}
    plain = codec.to_plain(value)
    jsonschema.validate(plain, whole)
    for field in plain:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in plain.items() if k != field}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "more": 1}, whole)


def test_schemas_of_annotations() -> None:
    assert schema.of(tuple[int, str])["prefixItems"] == [{"type": "integer"}, {"type": "string"}]
    assert schema.of(dict[str, float | None])["additionalProperties"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert schema.of(OutboxView)["_kind"] is OutboxView
    with pytest.raises(TypeError):
        schema.of(complex)


@contextmanager
def _served(app: web.Application) -> Iterator[str]:
    """The application on a real port, in a thread with its own loop: schemathesis is synchronous."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def serve() -> None:
        async with TestServer(app) as server:
            address.append(str(server.make_url("")).rstrip("/"))
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()
        loop.close()


def _exercise(base: str, found: dict[str, Any], headers: dict[str, str]) -> set[tuple[str, str, int]]:
    """Generated requests for every operation; what came back, by operation and status."""
    api_schema = schemathesis.openapi.from_dict(found)
    api_schema.config.update(base_url=base)
    api_schema.config.checks.negative_data_rejection.expected_statuses = ["4XX"]
    api_schema.config.generation.update(with_security_parameters=False)
    seen: set[tuple[str, str, int]] = set()
    with requests.Session() as session:
        for result in api_schema.get_all_operations():
            operation = result.ok()
            if operation.path == ENDLESS:
                continue
            cases = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE)]
            if operation.body or operation.query or operation.path_parameters:
                cases.append(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))

            @settings(
                max_examples=EXAMPLES * len(cases), deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=st.one_of(cases))
            def check(case: schemathesis.Case) -> None:
                answer = case.call_and_validate(session=session, headers=headers, checks=CHECKS, timeout=10)
                seen.add((case.method, case.operation.path, answer.status_code))

            check()
    return seen


def test_the_pages_api_keeps_its_word() -> None:
    accounts = FakeAccounts()
    session = asyncio.run(_session(accounts))
    app = build(FakeConsole(), accounts)
    with _served(app) as base:
        headers = {"Cookie": f"{COOKIE}={session}", "Origin": base, "X-CSRF-Token": csrf_token(session)}
        seen = _exercise(base, _document(app), headers)
    _well_exercised(seen)


def test_the_control_sockets_api_keeps_its_word() -> None:
    app = _control(WebSettings(uids=frozenset({-1})))  # -1: no unix socket
    with _served(app) as base:
        seen = _exercise(base, _document(app), {})
    _well_exercised(seen)
    assert {p for _, p, _ in seen} >= {r.path for r in console_only.TABLE}


def _well_exercised(seen: set[tuple[str, str, int]]) -> None:
    assert {s for _, _, s in seen} >= {200, 400, 404}, "otherwise this tests nothing"
    assert any(s == 200 for _, p, s in seen if p == "/api/v1/tokens")


async def _session(accounts: FakeAccounts) -> str:
    return await accounts.start_session(await accounts.login("admin-1", accounts.people["admin-1"][0], "test"))
