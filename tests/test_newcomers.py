"""Hosts that nobody accepted: told once with where they are and what they call, whatever they make up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import newcomers
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.event import DeviceSeen
from gateway.newcomers import Newcomers, strangers
from gateway.sightings import MOST_OF_A_PORT
from tests.fakes.met import Met

PUMP = Device(
    "pump-1", "Pump", Bus.MODBUS, "pump", "10.77.0.11", DeviceState.ENFORCED, Binding("p-1", "02:00:00:00:00:01", ("10.77.0.11",))
)
NEW, OTHER, OWN, CENTRAL = "02:00:00:00:00:19", "02:00:00:00:00:20", "02:00:00:00:00:fe", "10.20.0.10"


@asynccontextmanager
async def running(kernel: Met) -> AsyncIterator[tuple[Newcomers, list[DeviceSeen]]]:
    told: list[DeviceSeen] = []

    async def tell(seen: DeviceSeen) -> None:
        told.append(seen)

    part = Newcomers(lambda: [PUMP], lambda: [CENTRAL], kernel, tell, lambda: [OWN])  # type: ignore[arg-type]
    task = asyncio.create_task(part.run())
    yield part, told
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "_REST_S", 0.05)


def denied(source: str = "10.77.0.19", reason: str = "unbound", **more: Any) -> dict[str, Any]:
    return {"event": "denied", "reason": reason, "source": source, "link": "p-3", "count": 1, **more}


async def test_nothing_is_asked_while_nobody_new_speaks() -> None:
    kernel = Met()
    async with running(kernel) as (part, told):
        for event in (denied(reason="level"), denied(reason="lateral"), {"event": "denied"}):
            part.heard(event)
        await asyncio.sleep(0.2)
    assert (kernel.asked, told) == (0, [])


async def test_a_host_is_told_once_with_its_place_its_addresses_and_what_it_calls() -> None:
    kernel = Met()
    kernel.met = [
        ["p-3", NEW, "fe80::19"],
        ["p-3", NEW, "fd00::19"],
        ["p-3", NEW, "10.77.0.19"],
        ["p-1", PUMP.binding.mac, "10.9.9.9"],
    ]  # type: ignore[union-attr]
    async with running(kernel) as (part, told):
        part.heard(denied(protocol="udp", destination="10.77.0.1", port=53, opens=False))
        part.heard(denied(protocol="tcp", destination=CENTRAL, port=2575, opens=True))
        part.heard(denied(protocol="arp", destination="10.77.0.19", port=0, opens=False))
        part.heard(denied(protocol="arp", destination="10.77.0.1", port=0, opens=False))
        await asyncio.sleep(0.2)
        part.heard(denied())
        await asyncio.sleep(0.2)
    assert kernel.asked == 2
    assert told == [
        DeviceSeen(
            None, NEW, "unnamed", f"tcp {CENTRAL} 2575, arp 10.77.0.1", port="p-3", mac=NEW, addresses=("10.77.0.19", "fd00::19")
        )
    ]


async def test_one_without_an_address_is_told_again_when_it_has_one_and_later_that_it_is_still_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Met()
    kernel.met = [["p-3", NEW, "0.0.0.0"]]
    async with running(kernel) as (part, told):
        part.heard(denied("0.0.0.0"))
        await asyncio.sleep(0.15)
        kernel.met.append(["p-3", NEW, "10.77.0.19"])
        part.heard(denied())
        await asyncio.sleep(0.15)
        assert [s.addresses for s in told] == [(), ("10.77.0.19",)]
        monkeypatch.setattr(newcomers, "_AGAIN_S", 0.0)
        part.heard(denied())
        await asyncio.sleep(0.15)
        assert len(told) == 3


async def test_an_enforcer_that_is_away_is_asked_again() -> None:
    kernel = Met()
    kernel.met, kernel.away = [["p-3", NEW, "10.77.0.19"]], True
    async with running(kernel) as (part, told):
        part.heard(denied())
        await asyncio.sleep(0.15)
        assert told == []
        kernel.away = False
        await asyncio.sleep(0.15)
        assert [s.mac for s in told] == [NEW]
        kernel.met = None
        part.heard(denied())
        await asyncio.sleep(0.15)
        assert len(told) == 1


async def test_made_up_macs_are_told_as_far_as_a_port_goes_and_another_port_is_not_hurt(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Met()
    kernel.met = [["p-3", f"02:00:00:01:{i >> 8:02x}:{i & 255:02x}", f"10.1.{i >> 8}.{i & 255}"] for i in range(1000)]
    async with running(kernel) as (part, told):
        for i in range(5_000):
            part.heard(denied(f"10.{i & 255}.{i >> 8}.9", protocol="tcp", destination=f"10.0.{i & 255}.1", port=i, opens=True))
        await asyncio.sleep(0.3)
        assert len(told) == MOST_OF_A_PORT
        kernel.met = [["p-3", f"02:00:00:02:{i >> 8:02x}:{i & 255:02x}", "10.1.0.1"] for i in range(1000)] + [
            ["p-4", OTHER, "10.2.0.1"]
        ]
        part.heard(denied())
        await asyncio.sleep(0.3)
        assert [s.mac for s in told[MOST_OF_A_PORT:]] == [OTHER]
        assert len(part._calls) <= 256
        monkeypatch.setattr(newcomers, "_FORGOTTEN_S", 0.0)
        part.heard(denied())
        await asyncio.sleep(0.3)
        assert len(told) > MOST_OF_A_PORT + 1
        assert len(part._hosts) == MOST_OF_A_PORT + 1


def test_a_mistake_with_a_known_device_or_a_cable_is_no_newcomer() -> None:
    bound = "02:00:00:00:00:01"
    assert strangers([("p-9", bound, "10.77.0.11")], [PUMP], [], []) == {}  # on a wrong port
    assert strangers([("p-3", NEW, "10.77.0.11")], [PUMP], [], []) == {}  # an address used twice
    assert strangers([("p-3", NEW, CENTRAL), ("p-3", OTHER, "10.20.0.99")], [PUMP], [CENTRAL], []) == {}  # the hospital's cable
    assert strangers([("p-3", OWN, "10.77.0.1"), ("p-3", NEW, "10.77.0.19")], [PUMP], [], [OWN]) == {}  # our own
    assert strangers([("p-3", NEW, "224.0.0.1"), ("p-3", NEW, "169.254.3.4")], [PUMP], [], []) == {("p-3", NEW): ()}


@given(st.lists(st.tuples(st.sampled_from(["p-1", "p-2"]), st.sampled_from([NEW, OTHER]), st.ip_addresses().map(str)), max_size=40))
def test_whatever_is_refused_each_host_is_one_and_its_addresses_are_few_and_its_own(rows: list[tuple[str, str, str]]) -> None:
    found = strangers(rows, [], [], [])
    assert set(found) == {(port, mac) for port, mac, _ in rows}
    for (port, mac), addresses in found.items():
        assert len(addresses) <= 8
        assert {(port, mac, a) for a in addresses} <= set(rows)
        assert list(addresses) == sorted(addresses, key=lambda a: (":" in a, a))
