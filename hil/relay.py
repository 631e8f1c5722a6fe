"""A relay, a process of its own (``python -m hil.relay --near HCI --far HCI …``): wearable to the gateway, gateway to the wearable.

The genuine wearable is out of the gateway's range; the relay stands in its place with its address and name, forwards every nonce
to it over another air, and hands back what it answers, while it sends readings of its own. It has no key of anybody.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bumble import att, core
from bumble.core import UUID
from bumble.device import Connection, Device, Peer

from drivers.ble import attestation
from hil.impostor import Pose, _pairs_with_anybody, serve
from hil.wearable import open_host

CENTRAL = "C0:BA:D0:00:00:01"
PATIENCE_S = 5.0


@dataclass
class Got:
    """What the genuine wearable gave: ``refused`` by ATT error code."""

    connected: int = 0
    forwarded: int = 0
    tokens: int = 0
    paired: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Far:
    """The central that faces the genuine wearable."""

    def __init__(self, device: Device, address: str) -> None:
        self._device, self._address = device, address
        self.got = Got()
        self._peer: Peer | None = None
        self._lock = asyncio.Lock()
        device.pairing_config_factory = _pairs_with_anybody

    async def connect(self) -> None:
        """Connect, and try to be bonded with: whoever has the passkey would be."""
        async with asyncio.timeout(PATIENCE_S):
            connection = await self._device.connect_le(self._address)
        self.got.connected += 1
        self._peer = Peer(connection)
        await self._peer.discover_services()
        for service in self._peer.services:
            await self._peer.discover_characteristics(service=service)
        await self.ask(os.urandom(attestation.NONCE_BYTES))
        await self._pair(connection)

    async def _pair(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await connection.pair()
        except (core.BaseBumbleError, TimeoutError, asyncio.CancelledError) as e:
            self._note(type(e).__name__)
        else:
            self.got.paired += 1

    async def ask(self, nonce: bytes) -> bytes:
        """Forward a nonce; the token, or nothing."""
        if self._peer is None:
            return b""
        self.got.forwarded += 1
        try:
            async with asyncio.timeout(PATIENCE_S), self._lock:
                found = {c.uuid: c for s in self._peer.services for c in s.characteristics}
                await found[UUID(attestation.CHALLENGE_UUID)].write_value(nonce, with_response=True)
                value = bytes(await found[UUID(attestation.EVIDENCE_UUID)].read_value())
        except att.ATT_Error as e:
            self._note(f"{e.error_code:#04x}")
            return b""
        except (core.BaseBumbleError, TimeoutError, KeyError) as e:
            self._note(type(e).__name__)
            return b""
        self.got.tokens += 1
        return value[attestation.HEADER_BYTES :]

    def _note(self, how: str) -> None:
        self.got.refused[how] = self.got.refused.get(how, 0) + 1


async def run(a: argparse.Namespace) -> None:
    """Stand in between until told to stop."""
    far_device, _ = await open_host(a.far, "phone", CENTRAL, a.bonds.with_suffix(".far"))
    far = Far(far_device, a.address)
    await far.connect()
    near = Pose(*await open_host(a.near, a.name, a.address, a.bonds.with_suffix(".near")), evidence=far.ask)
    await near.advertise()

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "ask":
            await far.ask(os.urandom(attestation.NONCE_BYTES))
        return {"near": vars(near.seen), "far": vars(far.got)}

    await serve(a.ctl, answer)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--near", type=Path, required=True, help="the radio that the gateway hears")
    parser.add_argument("--far", type=Path, required=True, help="the radio that the genuine wearable hears")
    parser.add_argument("--ctl", type=Path, required=True, help="where the bench asks what happened")
    parser.add_argument("--bonds", type=Path, required=True, help="where it keeps the keys it may come by")
    parser.add_argument("--address", required=True, help="the wearable's")
    parser.add_argument("--name", required=True, help="the wearable's")
    a = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run(run(a))


if __name__ == "__main__":
    main()
