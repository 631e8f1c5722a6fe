"""One wearable: connected, bonded before anything is read, attested, and subscribed to as far as its lease allows.

The bond is decided first: BlueZ pairs by itself when a protected characteristic is touched, so nothing is touched before.
A device with a passkey is bonded with that passkey or not at all. Judges nothing; after doubt it hangs up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.device import BLEDevice
from bleak.exc import BleakError

from drivers.ble import attestation
from drivers.ble.bluez import Bluez
from drivers.ble.readings import PARSERS, Readings
from drivers.ble.sightings import Sightings
from gateway.driver import Assignment, Context
from gateway.errors import DeviceError, UnavailableError, WardgateError
from gateway.model.device import Bond
from gateway.model.event import EvidenceArrived, EvidenceFailed, LinkChanged
from gateway.model.evidence import Channel, ChannelKind, Evidence
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import GattRule

CONNECT_S = 15.0  # a wearable advertises at least once a second; services are discovered in this time too
GATT_S = 5.0  # bleak retries for ever on InProgress, and BlueZ may not answer at all
ATTEST_S = 15.0  # a challenge with all its windows; a nonce is valid for 30 s
LOOK_S = 1.0  # how often the lease is looked at without being told of a change
FLOOR_S, BACKOFF_S, BACKOFF_MAX_S = 0.1, 0.25, 30.0
SEEN_S = 10.0  # an advertisement this old still says that the device is near
GRACE_S = 5.0  # how long after the start a device may be unseen before that is news
BLIND_S = 60.0  # how often a bonded device that was not seen is tried all the same
_BASE = "-0000-1000-8000-00805f9b34fb"
KINDS = {Bond.MITM: ChannelKind.BONDED_MITM, Bond.JUST_WORKS: ChannelKind.BONDED_JUST_WORKS}
BROKEN = (BleakError, UnavailableError, DeviceError, TimeoutError, OSError, EOFError)


class OutOfRangeError(DeviceError):
    """The device was not seen lately."""


@dataclass
class Air:
    """What all links of a session share: the bus, the adapter, who was seen, one connection attempt at a time.

    ``stirred`` is set whenever a link comes up or goes down.
    """

    bluez: Bluez
    adapter: str
    sightings: Sightings
    stirred: asyncio.Event
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Live:
    """One connection. ``proved``: evidence was read over it; ``introduced``: the device knows our name; ``gone``: it ended."""

    client: BleakClient
    air: Air
    bond: Bond
    gone: asyncio.Event
    proved: bool = False
    introduced: bool = False


class Link:
    """The link to one assigned device. ``run`` serves it for a session; bond and readings outlive sessions."""

    def __init__(self, context: Context, assignment: Assignment) -> None:
        self._context = context
        self.assignment = assignment
        self.bond = assignment.device.bond
        self.readings = Readings(context, assignment.device.id)
        self._live: Live | None = None
        self._attesting = asyncio.Lock()
        self._told: tuple[bool, str] | None = None
        self._blind_s = 0.0

    @property
    def up(self) -> bool:
        """Whether there is a link now."""
        return self._live is not None

    @property
    def _id(self) -> str:
        return self.assignment.device.id

    @property
    def _address(self) -> str:
        return self.assignment.device.address

    def _path(self, air: Air) -> str:
        return f"/org/bluez/{air.adapter}/dev_{self._address.replace(':', '_')}"

    async def tell(self, up: bool, detail: str) -> None:
        """Report a change of the link, once."""
        if self._told != (up, detail):
            self._told = (up, detail)
            await self._context.emit(LinkChanged(self._id, up, detail, self.bond if up else None))

    # --- the session ---

    async def run(self, air: Air) -> None:
        """Keep the device connected until cancelled. A wearable that breaks something breaks its own link only."""
        tries, began_s = 0, asyncio.get_running_loop().time()
        while True:
            appeared = air.sightings.appeared(self._address)
            appeared.clear()
            detail = "the link was lost"
            try:
                async with self._connected(air) as live:
                    tries = 0
                    air.stirred.set()
                    await self.tell(True, "")
                    await self._serve(live)
            except OutOfRangeError as e:
                early = self._told is None and asyncio.get_running_loop().time() - began_s < GRACE_S
                detail = "" if early else str(e)
            except BROKEN as e:
                detail = str(e) if isinstance(e, WardgateError) else f"connecting failed ({type(e).__name__})"
            except Exception:
                self._context.log.exception("%s: a fault of ours; the link is made anew", self._id)
                detail = "the link failed"
            tries += 1
            air.stirred.set()
            if detail:
                await self.tell(False, detail)
            # full jitter, cut short when a device that was away comes back
            wait_s = FLOOR_S + random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(tries, 10)))  # noqa: S311
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):  # wait_for may lose a cancellation (bpo-37658)
                    await appeared.wait()
                tries = 0

    @asynccontextmanager
    async def _connected(self, air: Air) -> AsyncIterator[Live]:
        path = self._path(air)
        await self._in_range(air, path)
        gone = asyncio.Event()
        async with air.connecting:
            old_bond = await self._bonded(air, path)
            about = BLEDevice(self._address, None, {"path": path, "props": {"Adapter": f"/org/bluez/{air.adapter}"}})
            client = BleakClient(about, disconnected_callback=lambda _: gone.set(), timeout=CONNECT_S)
            try:
                async with asyncio.timeout(CONNECT_S + GATT_S):  # bleak's own clean-up is not bounded
                    await client.connect()
            except BleakError as e:
                await self._let_go(client)
                if old_bond:
                    raise DeviceError("it ended the link at its bond", "if it was reset, remove the device and add it again") from e
                raise
            except BaseException:
                await self._let_go(client)
                raise
        self._live = live = Live(client, air, self.bond, gone)
        try:
            yield live
        finally:
            self._live = None
            await self._let_go(client)

    async def _in_range(self, air: Air, path: str) -> None:
        """An absent device must not occupy the radio: connect to what was seen lately, else only once in a while."""
        now_s = self._context.clock.now().mono_ns / 1e9
        if air.sightings.seen_within(self._address, SEEN_S, now_s) and await air.bluez.known(path):
            return
        if now_s - self._blind_s > BLIND_S and await air.bluez.known(path):
            self._blind_s = now_s  # BlueZ does not repeat an advertisement that has not changed
            return
        raise OutOfRangeError("out of range", "bring the device near, and check that it is switched on")

    async def _let_go(self, client: BleakClient) -> None:
        # always: a client that is told of its disconnection still holds a D-Bus connection
        try:
            async with asyncio.timeout(GATT_S):
                await client.disconnect()
        except (BleakError, TimeoutError, OSError, EOFError, AssertionError) as e:
            self._context.log.debug("%s: disconnecting: %r", self._id, e)

    # --- the bond ---

    async def _bonded(self, air: Air, path: str) -> bool:
        """Have a bond as good as the assignment wants; whether it was there before. Raises DeviceError."""
        wanted = Bond.NONE if self.assignment.passkey is None else Bond.MITM
        if await air.bluez.paired(path):
            if self.bond is Bond.NONE and wanted is Bond.NONE:
                self.bond = Bond.JUST_WORKS  # whoever made it, nobody vouches for a passkey
            if wanted is Bond.NONE or self.bond is Bond.MITM:
                return True
            await air.bluez.remove(air.adapter, path)
            raise DeviceError("a bond of unknown making was deleted", "nothing to do: the device is bonded again with its passkey")
        self.bond = Bond.NONE
        with air.bluez.agent.pairing(self._address, self.assignment.passkey) as under_way:
            await air.bluez.pair(path)
        if wanted is Bond.MITM and not under_way.entered:
            await air.bluez.remove(air.adapter, path)
            raise DeviceError(
                "bonded without asking for its passkey; the bond was deleted",
                "another device may use this one's address: look for it, or take the passkey away if it has none",
            )
        self.bond = Bond.MITM if under_way.entered else Bond.JUST_WORKS
        return False

    # --- readings ---

    def _allowed(self, now: Instant) -> tuple[TrustLevel, frozenset[str]]:
        """The level now, and the characteristics whose values may be taken at it."""
        lease = self._context.grant(self._id).current(now)
        rules = (r for r in lease.rules if isinstance(r, GattRule) and r.access == "notify" and r.level <= lease.level)
        return lease.level, frozenset(long_uuid(r.characteristic) for r in rules)

    def _notified(self, characteristic: BleakGATTCharacteristic, data: bytearray) -> None:
        now = self._context.clock.now()
        level, allowed = self._allowed(now)
        if characteristic.uuid in allowed:  # what was under way when the lease ended is not taken
            proved = self._live is not None and self._live.proved
            self.readings.take(characteristic.uuid, bytes(data), level if proved else None, now)

    async def _serve(self, live: Live) -> None:
        """Subscribe and unsubscribe as the lease says, until the link is gone."""
        subscribed: set[str] = set()
        gone = asyncio.ensure_future(live.gone.wait())
        try:
            while not gone.done():
                changed = asyncio.ensure_future(self._context.grant(self._id).changed())
                try:
                    await self._subscribe(live.client, subscribed)
                    await asyncio.wait({gone, changed}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        finally:
            gone.cancel()

    async def _subscribe(self, client: BleakClient, subscribed: set[str]) -> None:
        _, allowed = self._allowed(self._context.clock.now())
        allowed &= PARSERS.keys()
        for uuid in subscribed - allowed:
            async with asyncio.timeout(GATT_S):
                await client.stop_notify(uuid)
            subscribed.discard(uuid)
        for uuid in allowed - subscribed:
            if client.services.get_characteristic(uuid) is None:
                continue
            async with asyncio.timeout(GATT_S):
                await client.start_notify(uuid, self._notified)
            subscribed.add(uuid)

    # --- evidence ---

    async def attest(self, media_type: str, nonce: bytes) -> None:
        """Challenge the device over its bonded link; emits EvidenceArrived or EvidenceFailed."""
        live = self._live
        try:
            if live is None:
                raise DeviceError("there is no link to the wearable", "bring it near; it is connected again by itself")
            async with asyncio.timeout(ATTEST_S), self._attesting:
                evidence = await self._collect(live, media_type, nonce)
        except TimeoutError:
            if live is not None:
                live.gone.set()  # an operation that did not end poisons the link
            await self._failed(media_type, f"no answer within {ATTEST_S:.0f} s; the link is made anew")
        except (*BROKEN, WardgateError, AssertionError) as e:
            await self._failed(media_type, str(e) if isinstance(e, WardgateError) else f"the wearable refused ({type(e).__name__})")
        else:
            live.proved = True
            await self._context.emit(EvidenceArrived(evidence))

    async def _failed(self, media_type: str, reason: str) -> None:
        await self._context.emit(EvidenceFailed(self._id, media_type, reason))

    async def _introduce(self, client: BleakClient) -> None:
        """Tell a device that keeps a key for each gateway which one this is; others do not ask."""
        if client.services.get_characteristic(attestation.GATEWAY_UUID) is not None:
            async with asyncio.timeout(GATT_S):
                await client.write_gatt_char(attestation.GATEWAY_UUID, self._context.gateway_id.encode(), response=True)

    async def _collect(self, live: Live, media_type: str, nonce: bytes) -> Evidence:
        client = live.client
        if live.bond not in KINDS or not await live.air.bluez.paired(self._path(live.air)):
            live.gone.set()
            raise DeviceError("the bond is gone", "nothing to do: the device is bonded again")
        if client.services.get_characteristic(attestation.EVIDENCE_UUID) is None:
            raise DeviceError("the wearable has no attestation service", "check its firmware and the profile")
        if not live.introduced:
            await self._introduce(client)
            live.introduced = True
        await client.write_gatt_char(attestation.CHALLENGE_UUID, nonce, response=True)
        collector = attestation.Collector()
        while (offset := collector.next_offset) is not None:
            if offset:
                await client.write_gatt_char(attestation.WINDOW_UUID, offset.to_bytes(2, "big"), response=True)
            collector.feed(bytes(await client.read_gatt_char(attestation.EVIDENCE_UUID)))
        if live is not self._live or live.gone.is_set():
            raise DeviceError("the link ended while evidence was read", "nothing to do: it is asked for again")
        channel = Channel(KINDS[live.bond], self._address)
        return Evidence(self._id, media_type, collector.evidence, nonce, channel, self._context.clock.now(), "ble")


def long_uuid(characteristic: str) -> str:
    """A characteristic's UUID in the long, lower-case form, from a rule's (2A37 or the long form)."""
    text = characteristic.lower()
    return f"0000{text}{_BASE}" if len(text) == 4 else text
