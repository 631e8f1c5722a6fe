"""The BLE driver: follows the system bus and org.bluez, scans, and keeps one link a wearable.

Reports and never judges. When org.bluez goes, its session ends and a new one begins when it is back; when the bus goes,
``run`` raises and is started again by its supervisor. Bonds are BlueZ's and survive both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakError

from drivers.ble import beacon
from drivers.ble.announce import Announcement
from drivers.ble.bluez import CALL_S, Bluez, forget_bleak
from drivers.ble.link import Air, Link
from drivers.ble.listener import Listener
from drivers.ble.sightings import Sightings
from gateway.driver import Assignment, Context
from gateway.errors import InputError, UnavailableError
from gateway.model.event import DeviceSeen, EvidenceFailed, PartChanged
from gateway.model.evidence import MediaType

PART = "bluetooth"
SCAN_S, REST_S = 6.0, 24.0  # once everybody is connected, the radio listens a fifth of the time
WATCH_S = 10.0  # how often a silent org.bluez is asked whether it lives
ANNOUNCING = "bluetooth-announcing"
ANNOUNCE_S, ANNOUNCE_AGAIN_S = 1.0, 30.0  # how often it is looked at; after an adapter refused
AGAIN_S = 2.0  # after a session that could not begin
_MAX_PENDING = 32  # reports of unknown devices that wait for the engine


class BleDriver:
    """``gateway.driver.Driver`` for Bluetooth Low Energy. Settings: ``bus`` (D-Bus address; else the system's), ``adapter``."""

    def __init__(self, context: Context, settings: dict[str, object]) -> None:
        bus, adapter = settings.get("bus"), settings.get("adapter", "hci0")
        if not (bus is None or isinstance(bus, str)) or not isinstance(adapter, str):
            raise InputError("the settings of the ble driver are not texts", "bus = a D-Bus address, adapter = hci0")
        self._context, self._bus_address, self._adapter = context, bus, adapter
        self._links: dict[str, Link] = {}
        self._listeners: dict[str, Listener] = {}
        self._changed, self._stirred = asyncio.Event(), asyncio.Event()
        self._sightings = Sightings()
        self._seen: asyncio.Queue[DeviceSeen] = asyncio.Queue(_MAX_PENDING)
        self._part: tuple[bool, str] | None = None
        self._announcing: bool | None = None

    # --- what the gateway calls ---

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """The devices to serve from now on."""
        links: dict[str, Link] = {}
        for a in assignments:
            old = self._links.get(a.device.id)
            same = old is not None and _key(old.assignment) == _key(a)
            if old is not None and same:
                old.assignment = a
                links[a.device.id] = old
            else:
                links[a.device.id] = Listener(self._context, a) if _only_advertises(a) else Link(self._context, a)
        self._links = links
        self._listeners = {link.assignment.device.address: link for link in links.values() if isinstance(link, Listener)}
        self._sightings.expect(link.assignment.device.address for link in links.values())
        self._changed.set()
        self._stirred.set()

    async def attest(self, device_id: str, media_type: str, nonce: bytes) -> None:
        """Challenge a device over its bonded link; emits EvidenceArrived or EvidenceFailed within ``link.ATTEST_S``."""
        link = self._links.get(device_id)
        if link is None:
            await self._context.emit(EvidenceFailed(device_id, media_type, "the ble driver does not serve this device"))
            return
        await link.attest(media_type, nonce)

    async def run(self) -> None:
        """Serve until cancelled. Raises UnavailableError when the bus is gone."""
        bluez = Bluez(self._context.log, self._bus_address)
        try:
            try:
                await bluez.open()
                await self._follow(bluez)
            except UnavailableError as e:
                await self._down(str(e))
                raise
        finally:
            await bluez.close()

    # --- sessions ---

    async def _follow(self, bluez: Bluez) -> None:
        """One session after another, each as long as org.bluez lives; raises UnavailableError when the bus does not."""
        while not bluez.lost.is_set():
            if bluez.up.is_set():
                await self._session(bluez)
            else:
                await self._down("org.bluez is not running; start bluetooth.service, everything else follows by itself")
                await _any(bluez.lost, bluez.up)
        raise UnavailableError("the D-Bus system bus is gone", "check that dbus.service runs; Wardgate connects again by itself")

    async def _session(self, bluez: Bluez) -> None:
        work = asyncio.create_task(self._work(bluez), name="ble-session")
        try:
            await _any(bluez.lost, bluez.down, task=work)
            ended = work.exception() if work.done() else None
        finally:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # what fails while org.bluez goes away is no news
            await forget_bleak()  # whatever it believed was true of an org.bluez that may be gone
            for link in self._links.values():
                await link.tell(False, "Bluetooth is gone")
        if ended is not None:
            await self._down(_reason(ended))
            await _any(bluez.lost, timeout_s=AGAIN_S)

    async def _work(self, bluez: Bluez) -> None:
        """Everything that needs a living org.bluez; ends only by an error."""
        await bluez.power(self._adapter)
        await bluez.register_agent()
        if self._part is None or not self._part[0]:
            self._part = (True, "")
            await self._context.emit(PartChanged(PART, up=True))
        air = Air(bluez, self._adapter, self._sightings, self._stirred)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scan(bluez), name="ble-scan")
            group.create_task(self._report_seen(), name="ble-seen")
            group.create_task(self._watch_adapter(bluez), name="ble-watch")
            group.create_task(self._announce(bluez), name="ble-announce")
            await self._keep_links(group, air)

    async def _keep_links(self, group: asyncio.TaskGroup, air: Air) -> None:
        """One task a link, as assigned."""
        tasks: dict[Link, asyncio.Task[None]] = {}
        while True:
            self._changed.clear()
            wanted = set(self._links.values())
            for link in tasks.keys() - wanted:
                task = tasks.pop(link)
                task.cancel()
                await asyncio.wait({task})
            for link in wanted - tasks.keys():
                tasks[link] = group.create_task(_serve(link, air), name=f"ble-{link.assignment.device.id}")
            await self._changed.wait()

    async def _down(self, why: str) -> None:
        if self._part != (False, why):
            self._part = (False, why)
            await self._context.emit(PartChanged(PART, up=False, detail=why))

    # --- the air ---

    async def _scan(self, bluez: Bluez) -> None:
        """Listen: all the time while a device of ours is missing, a fifth of it otherwise."""
        while True:
            async with self._listening(bluez):
                await asyncio.sleep(SCAN_S)
                while self._missing():
                    self._stirred.clear()
                    await self._stirred.wait()
            rest_until = asyncio.get_running_loop().time() + REST_S
            while not self._missing() and (left := rest_until - asyncio.get_running_loop().time()) > 0:
                self._stirred.clear()
                await _any(self._stirred, timeout_s=left)

    @contextlib.asynccontextmanager
    async def _listening(self, bluez: Bluez) -> AsyncIterator[None]:
        scanner = BleakScanner(self._advertised, bluez={"adapter": self._adapter})
        async with asyncio.timeout(CALL_S):
            await scanner.start()
        try:
            yield
        finally:
            try:
                if not bluez.lost.is_set():  # on a bus that is gone there is nobody to tell
                    async with asyncio.timeout(CALL_S):  # bleak waits for ever on a daemon that hangs
                        await scanner.stop()
            except (BleakError, TimeoutError, OSError, EOFError) as e:
                self._context.log.debug("scanning did not stop in order: %r", e)

    async def _watch_adapter(self, bluez: Bluez) -> None:
        """A daemon that hangs keeps its name, an adapter that is pulled out or switched off sends nothing: ask."""
        while True:
            await asyncio.sleep(WATCH_S)
            await bluez.power(self._adapter)

    async def _announce(self, bluez: Bluez) -> None:
        """Say on the air which epoch it is, as long as somebody listens; an adapter that cannot is told, and tried again."""
        while True:
            while not self._listeners:  # noqa: ASYNC110 - a device is added once in a while
                await asyncio.sleep(ANNOUNCE_S)
            epoch = self._context.epochs.current(self._context.clock.now())
            announcement = Announcement(beacon.announcement(epoch))
            try:
                await bluez.advertise(self._adapter, announcement)
                await self._told_announcing(True, "")
                while self._listeners:
                    left_s = epoch.until.seconds_since(self._context.clock.now())
                    await asyncio.sleep(min(max(left_s, 0.0) + 0.001, ANNOUNCE_S))
                    if (now := self._context.epochs.current(self._context.clock.now())) is not epoch:
                        epoch = now
                        announcement.show(beacon.announcement(epoch))
            except UnavailableError as e:
                await self._told_announcing(False, str(e))
                await asyncio.sleep(ANNOUNCE_AGAIN_S)
            finally:
                await bluez.silence(self._adapter, announcement)

    async def _told_announcing(self, up: bool, detail: str) -> None:
        if self._announcing is not up:
            self._announcing = up
            await self._context.emit(PartChanged(ANNOUNCING, up=up, detail=detail))

    def _missing(self) -> bool:
        """Whether to listen all the time: somebody is away, or somebody only advertises."""
        return bool(self._listeners) or not all(link.up for link in self._links.values())

    def _advertised(self, device: BLEDevice, data: AdvertisementData) -> None:
        now, address = self._context.clock.now(), device.address.upper()
        if (listener := self._listeners.get(address)) is not None:
            listener.heard(data.manufacturer_data.values(), now)
        seen = self._sightings.saw(address, data.local_name, data.service_uuids, now.mono_ns / 1e9, data.rssi)
        if seen is not None:
            with contextlib.suppress(asyncio.QueueFull):
                self._seen.put_nowait(seen)

    async def _report_seen(self) -> None:
        while True:
            await self._context.emit(await self._seen.get())


def _only_advertises(a: Assignment) -> bool:
    """Whether a device proves itself by beacons alone."""
    return bool(a.profile.targets) and all(t.media_type == MediaType.BEACON for t in a.profile.targets)


def _key(a: Assignment) -> tuple[str, int | None, bool]:
    """What a link is made for; with another it is another link."""
    return a.device.address, a.passkey, _only_advertises(a)


async def _serve(link: Link, air: Air) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(link.readings.deliver())
        group.create_task(link.run(air))


async def _any(*events: asyncio.Event, task: asyncio.Task[None] | None = None, timeout_s: float | None = None) -> None:
    """Wait until one of the events is set, or the task is done, or the time is up."""
    waits = [asyncio.ensure_future(e.wait()) for e in events]
    try:
        await asyncio.wait([*waits, *([task] if task else [])], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for w in waits:
            w.cancel()


def _reason(e: BaseException) -> str:
    """Why a session ended, in one sentence."""
    if isinstance(e, BaseExceptionGroup):
        return _reason(e.exceptions[0])
    if isinstance(e, UnavailableError):
        return str(e)
    if isinstance(e, (BleakError, TimeoutError)):
        return f"the Bluetooth adapter does not work ({type(e).__name__}); see `journalctl -u bluetooth`"
    return f"the Bluetooth session ended ({type(e).__name__}); it is begun again"
