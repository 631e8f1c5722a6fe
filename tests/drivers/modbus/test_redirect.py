"""The proxy behind the static tables: clients dial the pump's own addresses, in both families, and the kernel says so."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from drivers.modbus.driver import ModbusDriver
from gateway.model.event import EvidenceArrived, LinkChanged
from gateway.model.evidence import MediaType
from hil import control, process
from hil.network import GATEWAY4, HOSPITAL4, HOSPITAL6, PUMP, Ward, inside
from tests.drivers.modbus.bench import ADDRESS, FINGERPRINT, NONCE, READ, START, STOP, TOKEN, Wire, assignment, profile
from tests.fakes.context import FakeContext

pytestmark = pytest.mark.rig

LISTEN = 15502


def document() -> dict[str, Any]:
    """Control may be dialled at any level, so that this test needs no enforcer: what passes then is the proxy's doing."""
    sets: dict[str, Any] = {}
    for family, pump, hospital, gate in ((4, PUMP.ipv4, HOSPITAL4, GATEWAY4), (6, PUMP.ipv6, HOSPITAL6, "fd77::1")):
        sets |= {
            f"port{family}": [[PUMP.port, PUMP.mac, pump]],
            f"bind{family}": [["ward0", PUMP.mac, pump]],
            f"rtl0_{family}": [[gate, pump, "tcp", 502], [hospital, pump, "tcp", 502]],
            f"via{family}": [[pump, "tcp", 502, LISTEN]],
        }
    return {"version": 1, "devices": {"pump-1": {"cap": 3, "addresses": [PUMP.ipv4, PUMP.ipv6]}}, "sets": sets}


@contextmanager
def ward_with_pump() -> Iterator[tuple[Ward, Path]]:
    with tempfile.TemporaryDirectory(prefix="wg-m-") as name:
        top = Path(name)
        policy = top / "policy"
        policy.mkdir()
        with Ward(f"m{os.getpid() % 1000000:06d}", directory=policy, document=document(), management=False) as ward:
            argv = ["--ctl", str(top / "ctl"), "--key", str(top / "key.pem"), "--central", f"{HOSPITAL4}:6000"]
            command = [sys.executable, "-m", "hil.pump", *argv]
            pump = process.start("pump", command, log_dir=top, netns=ward.namespace(PUMP))
            try:
                yield ward, top / "ctl"
            finally:
                pump.stop()


async def dial(ward: Ward, family: socket.AddressFamily, address: str, port: int) -> Wire:
    """A client in the hospital."""
    with inside(ward.hospital):
        sock = socket.socket(family)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(3):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return Wire(*await asyncio.open_connection(sock=sock))


async def test_clients_dial_the_pump_and_the_proxy_answers() -> None:
    with ward_with_pump() as (ward, ctl), inside(ward.gateway):
        context = FakeContext()
        driver = ModbusDriver(context, {"listen_port": LISTEN})
        driver.assign([assignment(FINGERPRINT, TOKEN)])
        task = asyncio.create_task(driver.run())
        try:
            await context.wait(LinkChanged, lambda e: e.up)
            context.grant("pump-1").set(3, profile().rules)  # type: ignore[arg-type]
            for media_type in (MediaType.MODBUS, MediaType.PSA):
                await driver.attest("pump-1", media_type, NONCE)
            assert len(context.of(EvidenceArrived)) == 2
            for family, address in ((socket.AF_INET, ADDRESS), (socket.AF_INET6, "fd77::11")):
                wire = await dial(ward, family, address, 502)
                assert (await wire.ask(READ))[0] == 3
                assert (await wire.ask(START)) == START
                assert (await wire.ask(bytes.fromhex("0600640001"))).hex() == "8602"
                assert (await wire.ask(STOP)) == STOP
                wire.writer.close()
            assert [w["pdu"] for w in control.ask(ctl, "writes")["writes"]] == [START.hex(), STOP.hex()] * 2
            with pytest.raises((OSError, TimeoutError)):  # the proxy's own port is nobody's to dial
                await (await dial(ward, socket.AF_INET, GATEWAY4, LISTEN)).ask(READ)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
