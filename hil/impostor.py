"""An attacker with a radio, a process of its own (``python -m hil.impostor --hci PATH --ctl SOCK``).

It takes a wearable's address and name: forges and replays beacons, or accepts connections and answers whatever it is asked
with rubbish, asking for no encryption itself. It knows everything but the keys.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bumble import data_types, gatt, hci
from bumble.core import UUID, AdvertisingData
from bumble.device import Advertisement, Connection, Device
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.transport.common import Transport

from drivers.ble import attestation
from hil import control
from hil.wearable import only_encryption, open_host

COMPANY = 0xFFFF
PER_SECOND = 400  # forgeries: far more than any wearable's advertisements
LISTEN_S = 1.5
_P = Characteristic.Properties
Ask = Callable[[bytes], Awaitable[bytes]]


@dataclass
class Seen:
    """What the gateway did with somebody in a wearable's place."""

    connections: int = 0
    encrypted: int = 0
    challenges: int = 0
    subscriptions: int = 0
    readings: int = 0


async def rubbish(_nonce: bytes) -> bytes:
    """Evidence, says the impostor."""
    return os.urandom(400)


class Pose:
    """A peripheral in a wearable's name, open to everybody. ``evidence`` is what it answers a challenge with."""

    def __init__(self, device: Device, transport: Transport, evidence: Ask = rubbish) -> None:
        self._device, self._transport, self._ask = device, transport, evidence
        self._evidence, self._offset = b"", 0
        self.seen = Seen()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.rate: Characteristic[bytes] = Characteristic(
            gatt.GATT_HEART_RATE_MEASUREMENT_CHARACTERISTIC, _P.NOTIFY, Characteristic.READABLE, b""
        )
        device.pairing_config_factory = _pairs_with_anybody
        device.add_service(Service(gatt.GATT_HEART_RATE_SERVICE, [self.rate]))
        device.add_service(self._attestation())
        device.on(Device.EVENT_CONNECTION, self._connected)

    def _attestation(self) -> Service:
        read, write = Characteristic.READABLE, Characteristic.WRITEABLE
        return Service(
            UUID(attestation.SERVICE_UUID),
            [
                Characteristic(UUID(attestation.CHALLENGE_UUID), _P.WRITE, write, CharacteristicValue(write=self._challenged)),
                Characteristic(UUID(attestation.WINDOW_UUID), _P.WRITE, write, CharacteristicValue(write=self._window)),
                Characteristic(UUID(attestation.EVIDENCE_UUID), _P.READ, read, CharacteristicValue(read=self._read)),
            ],
        )

    def _connected(self, connection: Connection) -> None:
        self.seen.connections += 1
        connection.on(Connection.EVENT_CONNECTION_ENCRYPTION_CHANGE, lambda: self._encrypted(connection))
        task = asyncio.ensure_future(self._send_readings(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _encrypted(self, connection: Connection) -> None:
        self.seen.encrypted += bool(connection.is_encrypted)

    async def _send_readings(self, connection: Connection) -> None:
        """Its own readings, as soon as it can: a heart at 199."""
        while connection in self._device.connections.values():
            subscribed = self._device.gatt_server.subscribers.get(connection, {}).get(self.rate.handle, b"\0\0") != b"\0\0"
            self.seen.subscriptions += subscribed
            self.seen.readings += 1
            await self._device.notify_subscriber(connection, self.rate, b"\x06\xc7", force=True)
            await asyncio.sleep(0.05)

    async def _challenged(self, _connection: Connection, value: bytes) -> None:
        self.seen.challenges += 1
        self._evidence, self._offset = await self._ask(bytes(value)), 0

    async def _window(self, _connection: Connection, value: bytes) -> None:
        self._offset = int.from_bytes(value, "big")

    async def _read(self, _connection: Connection) -> bytes:
        return attestation.window(self._evidence, self._offset) if self._offset < len(self._evidence) else b"\0"

    async def advertise(self) -> None:
        """Be seen in its name."""
        flags = AdvertisingData.Flags.LE_GENERAL_DISCOVERABLE_MODE | AdvertisingData.Flags.BR_EDR_NOT_SUPPORTED
        shown = AdvertisingData([data_types.Flags(flags), data_types.CompleteLocalName(self._device.name[:20])])
        await self._device.start_advertising(
            auto_restart=True, advertising_data=bytes(shown), advertising_interval_min=100, advertising_interval_max=100
        )

    async def leave(self) -> Seen:
        """Off the air."""
        for task in self._tasks:
            task.cancel()
        await self._transport.close()
        return self.seen


def _in_its_name() -> hci.HCI_LE_Set_Advertising_Parameters_Command:
    return hci.HCI_LE_Set_Advertising_Parameters_Command(
        advertising_interval_min=0x4000,
        advertising_interval_max=0x4000,
        advertising_type=hci.HCI_LE_Set_Advertising_Parameters_Command.AdvertisingType.ADV_IND,
        own_address_type=hci.OwnAddressType.RANDOM,
        peer_address_type=0,
        peer_address=hci.Address.ANY,
        advertising_channel_map=7,
        advertising_filter_policy=0,
    )


def _pairs_with_anybody(_: Connection) -> PairingConfig:
    quiet = PairingDelegate(PairingDelegate.NO_OUTPUT_NO_INPUT, *only_encryption())
    return PairingConfig(sc=True, mitm=False, bonding=True, delegate=quiet)


@dataclass
class Impostor:
    """What the bench can tell it to do."""

    hci: Path
    bonds: Path
    pose: Pose | None = None
    _chance: random.Random = field(default_factory=lambda: random.Random(66))

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``beacons`` (address, count), ``pose`` (address, name), ``seen``, ``leave``."""
        match request["do"]:
            case "beacons":
                return await self._beacons(request["address"], int(request["count"]))
            case "pose":
                self.pose = Pose(*await open_host(self.hci, request["name"], request["address"], self.bonds))
                await self.pose.advertise()
                return {}
            case "seen" if self.pose:
                return vars(self.pose.seen)
            case "leave" if self.pose:
                pose, self.pose = self.pose, None
                return vars(await pose.leave())
            case other:
                raise ValueError(f"nothing to do: {other}")

    async def _beacons(self, address: str, count: int) -> dict[str, Any]:
        device, transport = await open_host(self.hci, "", address, self.bonds)
        try:
            heard = await self._record(device, address)
            if not heard:
                raise RuntimeError("no genuine beacon was heard")
            await device.send_sync_command(_in_its_name())
            for n in range(count):
                self._send(device, self._forged(heard, n))
                await asyncio.sleep(1 / PER_SECOND)
        finally:
            await transport.close()
        return {"sent": count, "recorded": len(heard)}

    async def _record(self, device: Device, address: str) -> list[bytes]:
        """What the genuine wearable says meanwhile."""
        heard: list[bytes] = []

        def hear(advertisement: Advertisement) -> None:
            if str(advertisement.address).startswith(address):
                new = [bytes(body) for _, body in advertisement.data.get_all(AdvertisingData.Type.MANUFACTURER_SPECIFIC_DATA)]
                heard.extend(b for b in new if b not in heard)

        device.on(Device.EVENT_ADVERTISEMENT, hear)
        await device.start_scanning(legacy=True, filter_duplicates=False)
        await asyncio.sleep(LISTEN_S)
        await device.stop_scanning()
        return heard

    def _forged(self, heard: list[bytes], n: int) -> bytes:
        """One of seven kinds, no two alike: later counters, other readings, a flipped bit, old recordings, other sizes."""
        base, mac = bytearray(heard[-1]), self._chance.randbytes(8)
        later = (int.from_bytes(base[1:5], "big") + 1 + n).to_bytes(4, "big")
        match n % 7:
            case 0:
                return bytes(base[:1]) + later + bytes(base[5:-8]) + mac
            case 1:
                return bytes(base[:1]) + later + bytes(base[5:])
            case 2:
                return bytes(base[:1]) + b"\xff\xff\xff\xff" + bytes(base[5:-8]) + mac
            case 3:
                return bytes([base[0] & 0xF0 | self._chance.randrange(16)]) + later + bytes(base[5:-8]) + mac
            case 4:
                return bytes(base[:6]) + self._chance.randbytes(2) + bytes(base[8:]) if len(base) > 15 else bytes(base) + mac
            case 5:
                return heard[self._chance.randrange(max(1, len(heard) - 1))][:5] + later[2:] + bytes(base[-8:])
            case _:
                return self._chance.randbytes(self._chance.randrange(1, 24))

    def _send(self, device: Device, payload: bytes) -> None:
        """Put it on the air once, at once: advertising that is enabled again begins with an advertisement."""
        data = bytes(AdvertisingData([data_types.ManufacturerSpecificData(COMPANY, payload)]))
        device.host.send_hci_packet(hci.HCI_LE_Set_Advertising_Data_Command(advertising_data=data))  # nobody waits for the answers
        device.host.send_hci_packet(hci.HCI_LE_Set_Advertising_Enable_Command(advertising_enable=1))


async def serve(ctl: Path, answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """Obey the bench on ``ctl`` until SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for s in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(s, stop.set)
    server = await control.serve(ctl, answer)
    print("ready", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hci", type=Path, required=True, help="the radio's socket")
    parser.add_argument("--ctl", type=Path, required=True, help="where the bench sends commands")
    parser.add_argument("--bonds", type=Path, required=True, help="where it keeps the keys it may come by")
    a = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run(serve(a.ctl, Impostor(a.hci, a.bonds).answer))


if __name__ == "__main__":
    main()
