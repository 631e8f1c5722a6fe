"""The JSON API: what scripts see, what they may ask, and how they are told no."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.errors import UnavailableError
from gateway.model.event import OperatorCommand
from tests.web.conftest import Door


async def test_the_view_is_the_whole_picture(door: Door) -> None:
    door.console.put_reading("patch-1", "MDC_ECG_HEART_RATE", "/min", 72)
    body = await (await (await door.as_("vic")).get("/api/v1/view")).json()
    assert {d["id"]: d["level"] for d in body["devices"]} == {"patch-1": 3, "pump-1": 3, "monitor-1": 2}
    assert body["gateway"]["parts"][0]["name"] == "tpm"
    assert body["devices"][0]["readings"][0]["value"] == 72


async def test_a_command_reaches_the_console_with_its_actor(door: Door) -> None:
    body = {"verb": "service", "device_id": "pump-1", "arguments": {"minutes": 30, "reason": "new pump head"}, "secret": "s"}
    answer = await (await door.as_("bea")).command(body)
    assert answer.status == 200
    assert (await answer.json())["ok"] is True
    expected = OperatorCommand("bea", "biomed", "service", "pump-1", (("minutes", "30"), ("reason", "new pump head")), "s")
    assert door.console.commands == [expected]


@pytest.mark.parametrize(
    "body",
    [
        [],
        "attest",
        {},
        {"verb": "ATTEST"},
        {"verb": "attest", "device_id": "../etc"},
        {"verb": "attest", "device_id": 7},
        {"verb": "attest", "actor": "root"},
        {"verb": "attest", "arguments": []},
        {"verb": "attest", "arguments": {"a b": "c"}},
        {"verb": "attest", "arguments": {"a": {"b": 1}}},
        {"verb": "attest", "arguments": {"a": None}},
        {"verb": "attest", "arguments": {"a": True}},
        {"verb": "attest", "arguments": {"a": "\ud800"}},
        {"verb": "attest", "arguments": {f"a{i}": "" for i in range(17)}},
        {"verb": "attest", "secret": "x" * 257},
    ],
)
async def test_a_command_that_is_not_one_is_refused_with_a_remedy(door: Door, body: object) -> None:
    answer = await (await door.as_("admin-1")).command(body)
    assert answer.status == 400
    told = await answer.json()
    assert told["error"]
    assert told["remedy"]
    assert door.console.commands == []


async def test_the_consoles_refusals_have_their_status(door: Door) -> None:
    ada = await door.as_("admin-1")
    assert (await ada.command({"verb": "attest", "device_id": "nobody"})).status == 400
    refused = await ada.command({"verb": "observe", "device_id": "pump-1", "secret": "wrong"})
    assert (refused.status, (await refused.json())["error"]) == (403, "the password is wrong")

    async def gone(command: OperatorCommand) -> None:
        raise UnavailableError("the disk is full", "free some space")

    door.console.command = gone  # type: ignore[method-assign, assignment]
    assert (await ada.command({"verb": "attest", "device_id": "pump-1"})).status == 503


async def test_bodies_are_bounded_and_strict(door: Door) -> None:
    ada = await door.as_("admin-1")
    headers = ada.headers(Origin=ada.origin, **{"X-CSRF-Token": ada.csrf})
    for body, kind, status in (
        (b"{" + b" " * 20_000 + b"}", "application/json", 413),
        (b'{"verb": "attest", "verb": "enforce"}', "application/json", 400),
        (b'{"verb": "attest", "arguments": {"a": NaN}}', "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"verb": "attest"}', "text/plain", 400),
    ):
        answer = await door.client.post("/api/v1/command", data=body, headers={**headers, "Content-Type": kind})
        assert answer.status == status, body[:30]
        assert (await answer.json())["remedy"]
    assert door.console.commands == []


async def test_bundles_and_explanations_are_per_device(door: Door) -> None:
    vic = await door.as_("vic")
    bundle = await vic.get("/api/v1/devices/pump-1/bundle")
    assert (bundle.content_type, await bundle.read()) == ("application/cbor", bytes.fromhex("a1616101"))
    assert bundle.headers["Content-Disposition"] == 'attachment; filename="pump-1.bundle"'
    assert (await vic.get("/api/v1/devices/nobody/bundle")).status == 404
    door.console.set_level("pump-1", 0, "it was changed")
    assert (await vic.get("/api/v1/devices/pump-1/bundle")).status == 400
    told = await (await vic.get("/api/v1/explain/pump-1?function=control")).json()
    assert told["steps"][-1] == "level 0"
    assert (await vic.get("/api/v1/explain/pump-1?function=nothing")).status == 400


async def test_events_are_limited_and_paged(door: Door) -> None:
    ada = await door.as_("admin-1")
    first = (await (await ada.get("/api/v1/events?limit=2")).json())["events"]
    assert [e["sequence"] for e in first] == [4, 3]
    then = (await (await ada.get("/api/v1/events?limit=2&before=3")).json())["events"]
    assert [e["sequence"] for e in then] == [2, 1]
    for query in ("limit=0", "limit=501", "limit=-1", "limit=x", "before=9999999999999999999", "limit=%D9%A1"):
        assert (await ada.get(f"/api/v1/events?{query}")).status == 400, query


async def test_health_tells_strangers_no_more_than_whether_it_is_well(door: Door) -> None:
    assert await (await door.get("/api/v1/health")).json() == {"ok": True}
    door.console.parts["disk"] = (False, "full")
    assert await (await door.get("/api/v1/health")).json() == {"ok": False}
    assert (await (await (await door.as_("vic")).get("/api/v1/health")).json())["parts"][3]["text"] == "full"


async def _next(content, kind: str) -> dict:
    async with asyncio.timeout(5):
        while True:
            line = await content.readline()
            assert line, "the stream ended"
            if line == f"event: {kind}\n".encode():
                await content.readline()
                return json.loads((await content.readline()).removeprefix(b"data: "))


async def test_the_view_streams_to_scripts(door: Door) -> None:
    stream = await (await door.as_("vic")).get("/api/v1/events/stream")
    assert stream.content_type == "text/event-stream"
    assert (await _next(stream.content, "view"))["devices"][1]["level"] == 3
    door.console.set_level("pump-1", 0, "it was changed")
    assert (await _next(stream.content, "view"))["devices"][1]["level"] == 0
    stream.close()


async def test_the_pages_stream_sends_only_what_changed_and_at_most_four_times_a_second(door: Door) -> None:
    stream = await (await door.as_("admin-1")).get("/live")
    whole = await _next(stream.content, "ward")
    assert {"headline", "parts", "events", "pump-1/level", "pump-1/actions"} <= whole["parts"].keys()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for i in range(40):
        door.console.put_reading("patch-1", "MDC_ECG_HEART_RATE", "/min", 60 + i)
        await asyncio.sleep(0.01)
    seen = [await _next(stream.content, "ward")]
    while "99" not in seen[-1]["parts"].get("patch-1/readings", ""):
        seen.append(await _next(stream.content, "ward"))
    assert len(seen) <= (loop.time() - began) / 0.25 + 1
    assert all(p["parts"].keys() <= {"patch-1/readings", "pump-1/clocks", "patch-1/clocks", "monitor-1/clocks"} for p in seen)
    stream.close()


async def test_a_fall_is_announced_once(door: Door) -> None:
    stream = await (await door.as_("vic")).get("/live")
    assert (await _next(stream.content, "ward"))["say"] == ""
    door.console.set_level("pump-1", 0, "it was changed")
    fallen = await _next(stream.content, "ward")
    assert fallen["say"].startswith("Infusion pump, bed 4: level 0, cut.")
    assert fallen["order"][0] == ["pump-1", "cut", 0]
    assert (await _next(stream.content, "ward"))["say"] == ""
    stream.close()


async def test_streams_are_counted_and_given_back(door: Door) -> None:
    vic = await door.as_("vic")
    streams = [await vic.get("/api/v1/events/stream") for _ in range(8)]
    assert (await vic.get("/api/v1/events/stream")).status == 503
    for stream in streams:
        stream.close()
    async with asyncio.timeout(5):
        while (again := await vic.get("/api/v1/events/stream")).status == 503:  # noqa: ASYNC110 - until it notices
            await asyncio.sleep(0.1)
    assert again.status == 200
    again.close()


async def test_the_outbox_is_shown_and_patients_data_in_it_only_to_operators(door: Door) -> None:
    for name, body in (("vic", ""), ("bea", '{"value":72}')):
        seen = await (await (await door.as_(name)).get("/api/v1/outbox")).json()
        assert (seen["readings"], seen["delivered"], seen["dropped"], seen["state"]) == (12, 84, 0, "delivers to broker")
        assert seen["dead_letters"][0]["reason"] == "not authorized (0x87)"
        assert seen["dead_letters"][0]["body"] == body


async def test_dead_letters_are_sent_again_from_the_console_only(door: Door) -> None:
    await door.as_("admin-1")
    answer = await door.client.post("/api/v1/outbox/retry", json={})
    assert answer.status in (401, 403, 404)
