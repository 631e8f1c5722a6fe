"""Trying a policy, reference values and cached files over the JSON API: who may, what is asked for, what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from aiohttp import ClientResponse

from tests.fakes.console import PASSWORD
from tests.fakes.policy import VITAL
from tests.web.conftest import Door

APPLY, CONFIRM, ROLLBACK = "/api/v1/policy/apply", "/api/v1/policy/confirm", "/api/v1/policy/rollback"
POSTS = (
    APPLY,
    CONFIRM,
    ROLLBACK,
    "/api/v1/references/import",
    "/api/v1/references/rollback",
    "/api/v1/cache/import",
    "/api/v1/devices/pump-1/assign",
)
OPERATOR_GETS = ("/api/v1/references", "/api/v1/cache", "/api/v1/devices/pump-1/learned")


async def post(door: Door, path: str, body: object, **headers: str) -> ClientResponse:
    sent = {"Origin": door.origin, "X-CSRF-Token": door.csrf, **headers}
    return await door.client.post(path, data=json.dumps(body), headers=door.headers(**{"Content-Type": "application/json", **sent}))


async def state(door: Door) -> Any:
    return (await (await door.get("/api/v1/policy")).json())["pending"]


async def test_a_policy_is_shown_tried_and_confirmed(door: Door) -> None:
    bea = await door.as_("bea")
    shown = await (await post(bea, APPLY, {"profile": "cuts", "prepare": True})).json()
    assert shown["vital_cut"] == [VITAL] and shown["difference"]
    assert await state(bea) is None  # showing changes nothing
    asked = {"profile": "cuts", "secret": PASSWORD}
    refused = await post(bea, APPLY, asked)
    assert refused.status == 403 and VITAL in (await refused.json())["error"]
    assert (await post(bea, APPLY, {**asked, "secret": "no", "cut_vital": [VITAL]})).status == 403
    done = await post(bea, APPLY, {**asked, "cut_vital": [VITAL], "minutes": 5})
    assert done.status == 200 and (await done.json())["pending"]["left_s"] == 300
    assert (await state(await door.as_("vic")))["actor"] == "bea"  # everybody sees that something waits
    assert (await post(bea, CONFIRM, {"secret": "no"})).status == 403
    assert (await post(bea, CONFIRM, {"secret": PASSWORD})).status == 200
    assert await state(bea) is None
    assert (await post(bea, ROLLBACK, {"secret": PASSWORD})).status == 200
    assert (await post(bea, ROLLBACK, {"secret": PASSWORD})).status == 403


@pytest.mark.parametrize("path", POSTS)
async def test_only_operators_with_their_own_form_change_anything(door: Door, path: str) -> None:
    body = {"secret": PASSWORD, "profile": "x"}
    for stranger in (await door.as_("vic"), door):
        assert (await post(stranger, path, body)).status in (401, 403)
    bea = await door.as_("bea")
    assert (await post(bea, path, {}, **{"X-CSRF-Token": "00"})).status == 403
    assert (await post(bea, path, {}, Origin="https://evil.example")).status == 403
    assert await state(bea) is None and door.console.holdings.imports == 0


@pytest.mark.parametrize("path", OPERATOR_GETS)
async def test_what_is_held_is_for_operators(door: Door, path: str) -> None:
    assert (await door.get(path)).status == 401
    assert (await (await door.as_("vic")).get(path)).status == 403
    assert (await (await door.as_("bea")).get(path)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"profile": 1},
        {"profile": ""},
        {"profile": "x" * 70_000},
        {"profile": "\ud800"},
        {"profile": "x", "minutes": "ten"},
        {"profile": "x", "minutes": True},
        {"profile": "x", "minutes": float("inf")},
        {"profile": "x", "secret": "x" * 300},
        {"profile": "x", "cut_vital": "all"},
        {"profile": "x", "cut_vital": [1]},
        {"profile": "x", "cut_vital": ["x"] * 1001},
        {"profile": "x", "force": True},
        {"profile": "wrong", "secret": PASSWORD},
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(door: Door, body: object) -> None:
    bea = await door.as_("bea")
    answer = await post(bea, APPLY, body)
    assert answer.status == 400 and (await answer.json())["remedy"]
    assert await state(bea) is None


async def test_a_body_is_bounded_though_a_profile_is_longer_than_a_command(door: Door) -> None:
    bea = await door.as_("bea")
    assert (await post(bea, APPLY, {"profile": "# " + "x" * 60_000, "prepare": True})).status == 200
    assert (await post(bea, APPLY, {"profile": "x" * 200_000, "prepare": True})).status == 413
    assert (await post(bea, "/api/v1/command", {"verb": "attest", "arguments": {"a": "x" * 60_000}})).status == 413


async def test_references_and_files_go_in_and_references_come_back(door: Door) -> None:
    bea = await door.as_("bea")
    assert (await post(bea, "/api/v1/references/import", {"endorsement": "{}"})).status == 200
    assert len((await (await bea.get("/api/v1/references")).json())["devices"][0]["replaced"]) == 1
    assert (await post(bea, "/api/v1/references/rollback", {})).status == 200
    for body in (
        {"endorsement": ""},
        {"endorsement": "no"},
        {"endorsement": "{}", "device_id": "../x"},
        {"endorsement": "{}", "x": 1},
    ):
        assert (await post(bea, "/api/v1/references/import", body)).status == 400
    assert (await post(bea, "/api/v1/references/rollback", {"device_id": 7})).status == 400
    good = base64.b64encode(b"a file").decode()
    assert (await post(bea, "/api/v1/cache/import", {"file": good})).status == 422
    for file in ("", "no base64!", 7, None, base64.b64encode(bytes(1024 * 1024 + 1)).decode()):
        assert (await post(bea, "/api/v1/cache/import", {"file": file})).status == 400
    assert (await bea.get("/api/v1/devices/no-such/learned")).status == 400
