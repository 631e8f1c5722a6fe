"""A host that is plugged into a free port of a real bridge: found, with the place that a binding of it would have."""

from __future__ import annotations

import asyncio

import pytest

from gateway import newcomers
from gateway.enforcer.client import EnforcerClient
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.event import DeviceSeen
from gateway.newcomers import Newcomers
from hil.network import ATTACKER, HOSPITAL4, PUMP, run
from tests.enforcer.ward import PUMP4
from tests.network.test_mistakes import announce, hearing, impostor, speak
from tests.network.ward import Served

MAC, ADDRESS = "02:99:00:00:00:42", "10.77.0.99"


@pytest.mark.rig
async def test_a_host_on_a_free_port_is_found_by_real_frames_and_a_known_device_is_not(
    rig: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "_REST_S", 0.1)
    for name in ("met4", "met6"):
        rig.ward.nft("flush", "set", "bridge", "wardgate_l2", name)
    pump = Device("pump-1", "Pump", Bus.MODBUS, "pump", PUMP4, DeviceState.ENFORCED, Binding(PUMP.port, PUMP.mac, (PUMP4,)))
    client, told = EnforcerClient(rig.bench.socket), asyncio.Queue[DeviceSeen]()
    part = Newcomers(lambda: [pump], lambda: [HOSPITAL4], client, told.put)
    async with hearing(client, part):
        await asyncio.to_thread(announce, rig.bench.attacker, PUMP4)  # the pump's address from elsewhere: a mistake, nobody new
        await asyncio.sleep(1.5)
        assert told.empty()
        with impostor(rig, MAC, ADDRESS) as namespace:
            await asyncio.to_thread(speak, namespace)
            async with asyncio.timeout(5):
                seen = await told.get()
        assert (seen.bus, seen.mac, seen.port, seen.addresses) == (None, MAC, ATTACKER.port, (ADDRESS,))
        assert "arp 10.77.0.200" in seen.hint.split(", ")
    rig.ward.nft("flush", "set", "bridge", "wardgate_l2", "met4")
    run("ip", "-n", rig.ward.gateway, "neigh", "flush", "all")
