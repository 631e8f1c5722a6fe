"""One wearable that only advertises: bonded once, told the epoch at each start of the gateway, then heard and never connected to.

What is heard in its name is checked before it counts: the window refuses what is old, ``Assignment.screen`` what the wearable
did not make. Forgeries are counted, cost a hash, and change nothing. When nothing authentic is heard the bond is used again: the
wearable may have restarted, or slept through too many epochs. Judges nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from drivers.ble import attestation
from drivers.ble.beacon import Beacon, StaleError, Window, announcement, parse_beacon, quantities
from drivers.ble.link import BACKOFF_MAX_S, BACKOFF_S, BROKEN, FLOOR_S, GATT_S, KINDS, Air, Link, Live, OutOfRangeError
from gateway.driver import Assignment, Context
from gateway.errors import DeviceError, EvidenceError, WardgateError
from gateway.model.device import Bond
from gateway.model.epoch import Epoch
from gateway.model.event import Behaviour, EvidenceArrived
from gateway.model.evidence import Channel, Evidence, MediaType
from gateway.model.instant import NS_PER_S, Instant

SILENT_S = 10.0  # nothing authentic for this long: the link counts as down, and the wearable is told the epoch again
WAIT_S = 15.0  # how long a challenge waits for a beacon; a nonce is valid for 30 s
LOOK_S = 1.0
TELL_S = 2.0  # forgeries are counted, and told at most this often
MAX_ADVERTS = 4  # manufacturer data of one advertisement that are looked at: BlueZ keeps one entry a company
FORGED, STALE = "beacon-forged", "beacon-stale"
_TEXTS = {FORGED: "beacons that it did not make were ignored", STALE: "beacons of an old epoch or counter were ignored"}


class Listener(Link):
    """Fed by the scanner with ``heard``. ``run`` hands the epoch over and watches for silence."""

    def __init__(self, context: Context, assignment: Assignment) -> None:
        super().__init__(context, assignment)
        self._window = Window()
        self._recent: deque[Epoch] = deque(maxlen=2)  # this epoch and the one before
        self._seen: set[bytes] = set()
        self._chain: int | None = None
        self._audible = False
        self._heard_ns = 0
        self._newest: tuple[Evidence, Epoch] | None = None
        self._came = asyncio.Event()
        self._counts = dict.fromkeys(_TEXTS, 0)

    @property
    def up(self) -> bool:
        """Whether it is heard."""
        return self._audible

    # --- what is heard ---

    def heard(self, adverts: Iterable[bytes], now: Instant) -> None:
        """Take the manufacturer data of one advertisement in this device's name."""
        seen, self._seen = self._seen, set()
        for payload, _ in zip(adverts, range(MAX_ADVERTS), strict=False):
            self._seen.add(payload)
            known = payload in seen or payload == self._window.payload  # BlueZ shows the same advertisement many times
            if not known and self._chain is not None:  # before it was told our epoch it can only say old things
                self._take(payload, now)

    def _take(self, payload: bytes, now: Instant) -> None:
        try:
            beacon = parse_beacon(payload)
            epoch = self._window.place(beacon, self._epochs(now))
            (self.assignment.screen or _nobody)(epoch.id + payload)
        except EvidenceError as e:
            self._counts[STALE if isinstance(e, StaleError) else FORGED] += 1
        else:
            self._window.accept(beacon, epoch)
            self._accepted(beacon, epoch, now)

    def _epochs(self, now: Instant) -> tuple[Epoch, ...]:
        """This epoch and the last: a wearable follows an announcement with its next advertisement or two."""
        epoch = self._context.epochs.current(now)
        if not self._recent or self._recent[0] is not epoch:
            if self._recent and self._recent[0].chain != epoch.chain:
                self._recent.clear()
            self._recent.appendleft(epoch)
        return tuple(self._recent)

    def _accepted(self, beacon: Beacon, epoch: Epoch, now: Instant) -> None:
        self._heard_ns = now.mono_ns
        channel = Channel(KINDS[self.bond], self._address) if self.bond in KINDS else None
        if channel is not None:  # the chain was handed over this bond, and the readings are under the same MAC
            evidence = Evidence(self._id, MediaType.BEACON, epoch.id + beacon.payload, b"", channel, now, "ble")
            self._newest = (evidence, epoch)
        level, allowed = self._allowed(now)
        values = [q for characteristic, q in quantities(beacon.readings) if characteristic in allowed]
        self.readings.take_quantities(values, level if self._audible else None, now)
        self._came.set()

    # --- the session ---

    async def run(self, air: Air) -> None:
        """Tell the wearable the epoch over its bond, then listen until it is silent; for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_counts())
            await self._keep(air)

    async def _keep(self, air: Air) -> None:
        tries = 0
        while True:
            try:
                async with self._connected(air) as live:
                    await self._hand_over(live)
                tries = 0
                await self._listen()
                detail = "no beacon is heard; it is told the epoch again when it is near"
            except OutOfRangeError as e:
                detail = str(e)
            except BROKEN as e:
                detail = str(e) if isinstance(e, WardgateError) else f"connecting failed ({type(e).__name__})"
            except Exception:
                self._context.log.exception("%s: a fault of ours; it is tried again", self._id)
                detail = "the link failed"
            tries += 1
            self._audible = False
            air.stirred.set()
            await self.tell(False, detail)
            wait_s = FLOOR_S + random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(tries, 10)))  # noqa: S311
            appeared = air.sightings.appeared(self._address)
            appeared.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await appeared.wait()
                tries = 0

    async def _hand_over(self, live: Live) -> None:
        """Say who we are and which epoch it is."""
        if live.bond is Bond.NONE or not await live.air.bluez.paired(self._path(live.air)):
            raise DeviceError("the bond is gone", "nothing to do: the device is bonded again")
        if live.client.services.get_characteristic(attestation.EPOCH_UUID) is None:
            raise DeviceError("the wearable takes no epoch", "check its firmware and the profile")
        await self._introduce(live.client)
        epoch = self._context.epochs.current(self._context.clock.now())
        async with asyncio.timeout(GATT_S):
            await live.client.write_gatt_char(attestation.EPOCH_UUID, announcement(epoch), response=True)
        self._chain = epoch.chain

    async def _listen(self) -> None:
        """Until nothing authentic was heard for ``SILENT_S``, or the chain the wearable knows is over."""
        since, self._audible = self._context.clock.now().mono_ns, False
        while True:
            now = self._context.clock.now()
            if self._heard_ns > since and not self._audible:
                self._audible = True
                await self.tell(True, "")
            if self._context.epochs.current(now).chain != self._chain:
                return
            if now.mono_ns - max(since, self._heard_ns) > SILENT_S * NS_PER_S:
                return
            self._came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._came.wait()

    async def _tell_counts(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            for code, count in self._counts.items():
                if count:
                    self._counts[code] = 0
                    await self._context.emit(Behaviour(self._id, code, _TEXTS[code], count))

    # --- evidence ---

    async def attest(self, media_type: str, nonce: bytes) -> None:
        """Hand over a beacon of the epoch ``nonce`` or a later one, each once; emits EvidenceArrived or EvidenceFailed."""
        asked = next((e for e in self._epochs(self._context.clock.now()) if e.id == nonce), None)
        if media_type != MediaType.BEACON or asked is None:
            await self._failed(media_type, "this device proves itself by beacons of the current epoch only")
            return
        try:
            async with asyncio.timeout(WAIT_S):
                while self._newest is None or _order(self._newest[1]) < _order(asked):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            await self._failed(media_type, f"no beacon was heard within {WAIT_S:.0f} s")
            return
        evidence, self._newest = replace(self._newest[0], nonce=nonce), None
        await self._context.emit(EvidenceArrived(evidence))


def _nobody(_: bytes) -> None:
    raise EvidenceError("nobody vouches for this device's beacons", "check its profile")


def _order(epoch: Epoch) -> tuple[int, int]:
    return epoch.chain, epoch.number
