"""What every virtual wearable has: a radio, bonding, an attestation service, and a socket by which the bench commands it.

A wearable with a passkey is DisplayOnly and answers challenges only over a link bonded with that passkey; one without
bonds just-works. Knows nothing of what it measures: that is added by ``hil.patch`` and its like.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bumble import att, data_types, gatt, hci
from bumble.core import UUID, AdvertisingData
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.host import Host
from bumble.keys import JsonKeyStore
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.transport import open_transport
from bumble.transport.common import Transport

from drivers.ble import attestation
from hil import control
from hil.gateways import Gateways
from hil.psa import MacSigner, PsaSigner

GARBAGE_BYTES = 1500  # three windows
RADIO_S = 10.0  # patience with a radio that is still starting
_P, _READ, _WRITE = Characteristic.Properties, Characteristic.READABLE, Characteristic.WRITEABLE
_ENCRYPTED_READ = _READ | Characteristic.READ_REQUIRES_ENCRYPTION
_ENCRYPTED_WRITE = _WRITE | Characteristic.WRITE_REQUIRES_ENCRYPTION


class FixedPasskey(PairingDelegate):
    """A label on the housing: the passkey never changes and is shown, not entered."""

    def __init__(self, passkey: int) -> None:
        super().__init__(PairingDelegate.DISPLAY_OUTPUT_ONLY, *only_encryption())
        self._passkey = passkey

    async def generate_passkey(self) -> int:
        """What the label says."""
        return self._passkey


def only_encryption() -> tuple[PairingDelegate.KeyDistribution, PairingDelegate.KeyDistribution]:
    """Keys to distribute: no identity keys, since every address of the bench is static and is the identity."""
    k = PairingDelegate.KeyDistribution.DISTRIBUTE_ENCRYPTION_KEY
    return k, k


async def open_host(hci_path: Path, name: str, address: str, bonds: Path) -> tuple[Device, Transport]:
    """A bumble host on a controller of the air; its bonds survive in the file ``bonds``. Waits for the radio."""
    async with asyncio.timeout(RADIO_S):
        while not os.access(hci_path, os.W_OK):  # noqa: ASYNC110 - a file sets no event
            await asyncio.sleep(0.02)
    transport = await open_transport(f"unix:{hci_path}")
    config = DeviceConfiguration(name=name, address=hci.Address(address), irk=os.urandom(16))
    device = Device(config=config, host=Host(transport.source, transport.sink))
    device.keystore = JsonKeyStore(address, str(bonds))
    await device.power_on()
    return device, transport


@dataclass
class Counts:
    """What a wearable did, for tests."""

    connections: int = 0
    pairings: int = 0
    challenges: int = 0
    notifications: int = 0


@dataclass
class Wearable:
    """One wearable. ``signer`` is its secure element as delivered; ``services`` are what it measures.

    ``gateways``: of a wearable with a device key, which derives keys for each of them.
    """

    device: Device
    signer: PsaSigner | MacSigner
    passkey: int | None
    services: Sequence[Service] = ()
    advertised: Sequence[UUID] = ()
    interval_ms: float = 250.0
    counts: Counts = field(default_factory=Counts)
    mode: str = "honest"  # honest, replay, garbage
    present: bool = True
    gateways: Gateways | None = None

    def __post_init__(self) -> None:
        self._genuine = self.signer.components
        self._evidence = b""
        self._offset = 0
        self._previous = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self.device.pairing_config_factory = self._pairing
        for service in (*self.services, self._attestation()):
            self.device.add_service(service)
        self.device.on(Device.EVENT_CONNECTION, self._connected)

    def _pairing(self, _connection: Connection) -> PairingConfig:
        quiet = PairingDelegate(PairingDelegate.NO_OUTPUT_NO_INPUT, *only_encryption())
        delegate = quiet if self.passkey is None else FixedPasskey(self.passkey)
        return PairingConfig(sc=True, mitm=self.passkey is not None, bonding=True, delegate=delegate)

    def _connected(self, connection: Connection) -> None:
        self.counts.connections += 1
        connection.on(Connection.EVENT_PAIRING, self._paired)
        connection.on(Connection.EVENT_DISCONNECTION, self._disconnected)

    def _disconnected(self, _reason: int) -> None:
        # not bumble's auto_restart: it would bring back a wearable that has vanished
        if self.present:
            task = asyncio.ensure_future(self.advertise())
            self._tasks.add(task)
            task.add_done_callback(self._advertising_again)

    def _advertising_again(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (e := task.exception()) is not None:
            logging.getLogger(__name__).warning("cannot advertise again: %r", e)

    def _paired(self, _keys: object) -> None:
        self.counts.pairings += 1

    # --- attestation ---

    def _attestation(self) -> Service:
        challenge = CharacteristicValue(write=self._on_challenge)
        window = CharacteristicValue(write=self._on_window)
        evidence = CharacteristicValue(read=self._on_read)
        characteristics: list[Characteristic[bytes]] = [
            Characteristic(UUID(attestation.CHALLENGE_UUID), _P.WRITE, _ENCRYPTED_WRITE, challenge),
            Characteristic(UUID(attestation.WINDOW_UUID), _P.WRITE, _ENCRYPTED_WRITE, window),
            Characteristic(UUID(attestation.EVIDENCE_UUID), _P.READ, _ENCRYPTED_READ, evidence),
        ]
        if self.gateways is not None:
            told = {attestation.GATEWAY_UUID: self.gateways.introduce, attestation.EPOCH_UUID: self.gateways.anchor}
            characteristics += [Characteristic(UUID(u), _P.WRITE, _ENCRYPTED_WRITE, self._told(f)) for u, f in told.items()]
        return Service(UUID(attestation.SERVICE_UUID), characteristics)

    def _told(self, take: Callable[[str, bytes], None]) -> CharacteristicValue[bytes]:
        async def write(connection: Connection, value: bytes) -> None:
            await self._authenticated(connection)
            take(str(connection.peer_address), bytes(value))

        return CharacteristicValue(write=write)

    def _token(self, connection: Connection, nonce: bytes) -> bytes:
        if isinstance(self.signer, PsaSigner):
            return self.signer.token(nonce)
        assert self.gateways is not None
        return self.signer.token(nonce, self.gateways.of(str(connection.peer_address)))

    async def trusts(self, connection: Connection) -> bool:
        """Whether the link is encrypted with a key good enough: one made with the passkey, where there is one."""
        assert self.device.keystore is not None
        keys = await self.device.keystore.get(str(connection.peer_address))
        known = keys is not None and keys.ltk is not None and (self.passkey is None or keys.ltk.authenticated)
        return bool(connection.is_encrypted and known)

    async def _authenticated(self, connection: Connection) -> None:
        # bumble calls every encrypted LE link authenticated; only the kind of the bond's key tells
        if not await self.trusts(connection):
            raise att.ATT_Error(att.ATT_INSUFFICIENT_AUTHENTICATION_ERROR)

    async def _on_challenge(self, connection: Connection, value: bytes) -> None:
        await self._authenticated(connection)
        if len(value) != attestation.NONCE_BYTES:
            raise att.ATT_Error(attestation.ERROR_BAD_NONCE)
        self.counts.challenges += 1
        fresh = self._token(connection, bytes(value))
        self._previous = self._previous or self._token(connection, bytes(attestation.NONCE_BYTES))
        self._evidence = {"honest": fresh, "replay": self._previous, "garbage": os.urandom(GARBAGE_BYTES)}[self.mode]
        self._previous = fresh if self.mode == "honest" else self._previous
        self._offset = 0

    async def _on_window(self, connection: Connection, value: bytes) -> None:
        await self._authenticated(connection)
        offset = int.from_bytes(value, "big")
        if len(value) != 2 or offset >= len(self._evidence):
            raise att.ATT_Error(attestation.ERROR_BAD_WINDOW)
        self._offset = offset

    async def _on_read(self, connection: Connection) -> bytes:
        await self._authenticated(connection)
        if not self._evidence:
            raise att.ATT_Error(attestation.ERROR_NOTHING_YET)
        return attestation.window(self._evidence, self._offset)

    # --- presence and commands ---

    async def advertise(self) -> None:
        """Be seen; again after every disconnection."""
        flags = AdvertisingData.Flags.LE_GENERAL_DISCOVERABLE_MODE | AdvertisingData.Flags.BR_EDR_NOT_SUPPORTED
        shown = [data_types.Flags(flags), data_types.CompleteLocalName(self.device.name)]
        if self.advertised:
            shown.insert(1, data_types.CompleteListOf16BitServiceUUIDs(list(self.advertised)))
        await self.device.start_advertising(
            advertising_data=bytes(AdvertisingData(shown)),
            advertising_interval_min=self.interval_ms,
            advertising_interval_max=self.interval_ms,
        )

    async def vanish(self) -> None:
        """Out of range: no advertisement, no link."""
        self.present = False
        await self.device.stop_advertising()
        for connection in list(self.device.connections.values()):
            await connection.disconnect()

    async def appear(self) -> None:
        """Back in range."""
        self.present = True
        await self.advertise()

    def tamper(self) -> None:
        """Other firmware runs now: its measurement changes, its name does not."""
        self.signer.components = tuple(
            replace(c, measurement=bytes(b ^ 0xFF for b in c.measurement)) if c.type == "FW" else c for c in self._genuine
        )

    def restore(self) -> None:
        """The maker's firmware, an honest service."""
        self.signer.components, self.mode = self._genuine, "honest"

    async def forget(self) -> None:
        """Lose all bonds, as after a reset to factory settings."""
        assert self.device.keystore is not None
        await self.device.keystore.delete_all()
        if self.gateways is not None:
            self.gateways.forget()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        match request["do"]:
            case "state" | "counts" | "reference":
                pass
            case "tamper":
                self.tamper()
            case "restore":
                self.restore()
            case "replay" | "garbage":
                self.mode = request["do"]
            case "vanish":
                await self.vanish()
            case "appear":
                await self.appear()
            case "ask-pairing":
                for connection in self.device.connections.values():
                    self.device.request_pairing(connection)
            case "forget":
                await self.forget()
            case "reset":
                await self.vanish()
                await self.forget()
                self.restore()
                self.passkey, self.counts = request.get("passkey"), Counts()
                await self.appear()
            case other:
                raise ValueError(f"no such command: {other}")
        return self._state(str(request.get("gateway", "")))

    def _state(self, gateway: str = "") -> dict[str, Any]:
        links = list(self.device.connections.values())
        subscribed = any(cccd != b"\0\0" for c in self.device.gatt_server.subscribers.values() for cccd in c.values())
        return {
            "connected": bool(links),
            "encrypted": any(c.is_encrypted for c in links),
            "subscribed": subscribed,
            "present": self.present,
            "mode": self.mode,
            **vars(self.counts),
            "reference": self.signer.reference(gateway),
        }

    async def notify(self, characteristic: gatt.Characteristic[bytes], value: bytes) -> None:
        """Send a reading, as notification or indication, to every subscriber whose link it trusts."""
        for connection in list(self.device.connections.values()):
            cccd = self.device.gatt_server.subscribers.get(connection, {}).get(characteristic.handle, b"\0\0")
            if cccd != b"\0\0" and await self.trusts(connection):
                self.counts.notifications += 1
                if characteristic.properties & _P.INDICATE:
                    await self.device.indicate_subscriber(connection, characteristic, value)
                else:
                    await self.device.notify_subscriber(connection, characteristic, value)


async def live(wearable: Wearable, transport: Transport, ctl: Path, measure: Any) -> None:
    """Advertise, answer the bench on ``ctl`` and run ``measure`` until SIGTERM; ends too when the radio is gone."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(s, stop.set)
    transport.source.terminated.add_done_callback(lambda _: stop.set())
    await wearable.advertise()
    server = await control.serve(ctl, wearable.answer)
    work = asyncio.create_task(measure)
    print("ready", flush=True)
    await stop.wait()
    work.cancel()
    server.close()
    if not transport.source.terminated.done():
        await asyncio.wait({asyncio.create_task(wearable.vanish())}, timeout=1.0)
    await transport.close()


def arguments(about: str, address: str, name: str) -> argparse.ArgumentParser:
    """The command line that every wearable has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--hci", type=Path, required=True, help="the radio's socket")
    parser.add_argument("--ctl", type=Path, required=True, help="where the bench sends commands")
    parser.add_argument("--key", type=Path, required=True, help="its secret key; made when absent")
    parser.add_argument("--passkey", type=int, help="as on the label; without it the wearable bonds just-works")
    parser.add_argument("--address", default=address)
    parser.add_argument("--name", default=name)
    parser.add_argument("--interval-ms", type=float, default=250.0, help="advertising interval")
    return parser
