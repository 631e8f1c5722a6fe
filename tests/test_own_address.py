"""Somebody else with this gateway's address: asked once, told once, and a flood costs one question every so often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import own_address
from gateway.model.event import PartChanged
from gateway.own_address import OwnAddress, macs_of
from tests.fakes.met import Met

OWN, MAC = "10.0.0.1", "02:00:00:00:00:66"


@asynccontextmanager
async def running(kernel: Met, own_macs: frozenset[str] = frozenset()) -> AsyncIterator[tuple[OwnAddress, list[PartChanged]]]:
    told: list[PartChanged] = []
    part = OwnAddress([OWN, "fd00:0::1"], kernel, told.append, lambda: own_macs)  # type: ignore[arg-type]
    task = asyncio.create_task(part.run())
    yield part, told
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_address, "_AGAIN_S", 0.2)
    monkeypatch.setattr(own_address, "_REST_S", 0.1)


def denied(source: str = OWN, reason: str = "unbound") -> dict[str, Any]:
    return {"event": "denied", "reason": reason, "source": source, "link": "p-3", "count": 1}


async def test_nothing_is_asked_while_nobody_does_it() -> None:
    kernel = Met()
    async with running(kernel) as (part, told):
        for event in (denied("10.0.0.9"), denied(reason="level"), {"event": "denied"}, denied("")):
            part.heard(event)
        await asyncio.sleep(0.4)
    assert (kernel.asked, told) == (0, [])


@pytest.mark.parametrize("address", [OWN, "fd00::1"])
async def test_it_is_told_once_with_who_and_what_to_do_and_once_when_it_ends(address: str) -> None:
    kernel = Met()
    kernel.met = [["p-1", "02:00:00:00:00:01", "10.0.0.9"], ["p-3", MAC, address]]
    async with running(kernel) as (part, told):
        part.heard(denied(address))
        await asyncio.sleep(0.7)
        assert [t.up for t in told] == [False]
        assert told[0].detail == (
            f"{address} is this gateway's own, and {MAC} behind p-3 uses it too; give that station another address, or unplug it: "
            "devices that share a switch with it may take it for the gateway"
        )
        kernel.met = []
        await asyncio.sleep(0.5)
        assert [t.up for t in told] == [False, True]
        asked = kernel.asked
        await asyncio.sleep(0.4)
        assert kernel.asked == asked, "quiet again"


async def test_a_flood_of_frames_costs_one_question_every_so_often() -> None:
    kernel = Met()
    kernel.met = [["p-3", MAC, OWN]]
    async with running(kernel) as (part, told):
        for _ in range(100):
            part.heard(denied())
            await asyncio.sleep(0.005)
    assert len(told) == 1
    assert kernel.asked <= 8


async def test_our_own_frames_in_a_loop_are_no_other_station() -> None:
    kernel = Met()
    kernel.met = [["p-3", MAC, OWN]]
    async with running(kernel, frozenset({MAC})) as (part, told):
        part.heard(denied())
        await asyncio.sleep(0.3)
    assert (kernel.asked, told) == (1, [])


async def test_who_hides_among_a_thousand_others_is_told_by_the_port() -> None:
    kernel = Met()
    kernel.met = [["p-3", f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", "10.0.0.9"] for n in range(1024)]
    async with running(kernel) as (part, told):
        part.heard(denied())
        await asyncio.sleep(0.05)
    assert "a station behind p-3 uses it too" in told[0].detail


async def test_an_enforcer_that_is_away_is_asked_again() -> None:
    kernel = Met()
    kernel.away, kernel.met = True, [["p-3", MAC, OWN]]
    async with running(kernel) as (part, told):
        part.heard(denied())
        await asyncio.sleep(0.25)
        assert told == []
        kernel.away = False
        await asyncio.sleep(0.25)
    assert [t.up for t in told] == [False]


def test_our_macs_are_read_from_the_kernel(tmp_path: Path) -> None:
    for name, text in (("eth0", f"{MAC}\n"), ("odd", "\xff")):
        place = tmp_path / "sys/class/net" / name
        place.mkdir(parents=True)
        (place / "address").write_text(text, encoding="latin-1")
    (tmp_path / "sys/class/net/gone").mkdir()
    assert macs_of(tmp_path) == {MAC}


async def test_an_enforcer_that_does_not_say_whom_it_refused_ends_no_alarm() -> None:
    kernel = Met()
    kernel.met = [["p-3", MAC, OWN]]
    async with running(kernel) as (part, told):
        part.heard(denied())
        await asyncio.sleep(0.15)
        assert [t.up for t in told] == [False]
        kernel.met = None
        await asyncio.sleep(0.8)
        assert [t.up for t in told] == [False]
        kernel.met = []
        await asyncio.sleep(0.8)
        assert [t.up for t in told] == [False, True]
