"""The composition root: builds every adapter, the engine and the drivers, and runs them in one TaskGroup.

The only file that owns a clock and constructs adapters. Refuses to decide anything.
Over 400 lines because nothing else may construct an adapter: what is built here stays in one place to be read as one list.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import shutil
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import drivers
from gateway import __version__, tls
from gateway.attester import anchors
from gateway.attester.attester import Attester
from gateway.attester.keystore import KeyStore
from gateway.attester.tpm import Health, Tpm
from gateway.bootstrap import load_profiles
from gateway.certificates import Certificates
from gateway.codec import to_plain
from gateway.conductor import Conductor
from gateway.config import Config
from gateway.console import Console, Counters
from gateway.doors import Doors
from gateway.dossiers import Dossiers, Sources
from gateway.drafts import Drafts
from gateway.driver import Assignment, Clock, Driver, Epochs, JournalPort, OutboxPort
from gateway.enforcer.client import EnforcerClient
from gateway.enforcer.confirm_client import confirm
from gateway.engine import Engine
from gateway.epochs import EpochChain
from gateway.errors import UnavailableError, WardgateError
from gateway.free_space import FreeSpace
from gateway.grants import Grant, Grants
from gateway.holdings import Holdings
from gateway.hospital_cable import HospitalCable
from gateway.house import House
from gateway.housekeeping import Housekeeping
from gateway.issuer.leaves import Platform
from gateway.last_run import LastRun
from gateway.lifecycle import Lifecycle
from gateway.logs import configure
from gateway.machine_clock import MachineClock
from gateway.meters import Meters
from gateway.model.device import Bond, Device, DeviceState
from gateway.model.effect import Record
from gateway.model.event import Behaviour, Event, EvidenceFailed, PartChanged, ServiceWindow
from gateway.model.evidence import MediaType
from gateway.model.profile import References
from gateway.newcomers import Newcomers
from gateway.notify import Notify
from gateway.only_one import only_one, refuse_half_restored
from gateway.own_address import OwnAddress
from gateway.people import People
from gateway.screening import screen_for
from gateway.store.audit import AuditLog, Keeping
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.store.follow import Follower
from gateway.store.history import START, History
from gateway.store.inventory import Inventory
from gateway.store.journal import Journal
from gateway.store.outbox import Outbox
from gateway.store.positions import AuditSpool
from gateway.store.runs import SAYS_ITS_END, STOP, Runs
from gateway.store.search import Search
from gateway.store.stock import Stock
from gateway.supervisor import Supervisor
from gateway.uplink.rfc5424 import Sender
from gateway.uplink.syslog import SyslogSender
from gateway.way_out import WayOut
from gateway.wiring_reader import hospital

NONCE_SIZE = 32
log = logging.getLogger("wardgate")


class Keeper:
    """``gateway.conductor.Keeper`` over the inventory."""

    def __init__(self, inventory: Inventory, vetoed: Callable[[], None]) -> None:
        self._inventory, self._vetoed = inventory, vetoed

    async def adopt(self, device_id: str, references: References) -> None:
        """Keep a device's references."""
        await self._inventory.save_references(device_id, references)

    async def keep_veto(self, device_id: str, media_type: str, text: str, raised: bool) -> None:
        """Keep or clear a veto."""
        if raised:
            await self._inventory.raise_veto(device_id, media_type, text)
            self._vetoed()
        else:
            await self._inventory.clear_veto(device_id, media_type)

    async def keep_state(self, device_id: str, state: DeviceState, service: ServiceWindow | None) -> None:
        """Keep a device's state."""
        await self._inventory.keep_state(device_id, state, service)

    async def keep_bond(self, device_id: str, bond: Bond) -> None:
        """Keep a device's bond."""
        await self._inventory.keep_bond(device_id, bond)


class DriverContext:
    """``gateway.driver.Context`` for one driver."""

    def __init__(self, app: App, name: str) -> None:
        self._app = app
        self.clock: Clock = app.clock
        self.outbox: OutboxPort = app.readings
        self.journal: JournalPort = app.journal
        self.gateway_id = app.config.gateway.id
        self.epochs: Epochs = app.epochs
        self.log = logging.getLogger(f"wardgate.{name}")

    async def emit(self, event: Event) -> None:
        """To the engine."""
        await self._app.conductor.emit(event)

    async def decided(self) -> None:
        """All that was emitted before has been decided."""
        await self._app.conductor.decided()

    def grant(self, device_id: str) -> Grant:
        """The device's lease."""
        return self._app.grants.of(device_id)

    def tls(self, purpose: str) -> ssl.SSLContext:
        """The context of ``[tls.<purpose>]``; raises InputError naming what is wrong with it."""
        return tls.context(purpose, self._app.config.tls)


class App:
    """Everything, built but not yet running."""

    def __init__(self, config: Config, path: Path) -> None:
        self.config, self.clock, self._path = config, MachineClock(), path
        self.profiles = load_profiles(config)
        self.database = Database(config.gateway.state / "wardgate.sqlite")
        self.audit, self.inventory = AuditLog(self.database), Inventory(self.database)
        self.accounts = People(self.database, self.clock, self.audit)
        self.accounts.ask_policy = self._confirm
        self.outbox, self.cache = Outbox(self.database, self.clock), CertificateCache(self.database)
        self.journal = Journal(self.database)
        self.tpm = Tpm(config.tpm.tcti)
        self.attester = Attester(self.tpm, config.gateway.state, pcrs=config.tpm.pcrs)
        self.keys = KeyStore(self.tpm, config.gateway.state, config.gateway.id)
        self.epochs = EpochChain(config.timing.epoch_s, secrets.token_bytes)
        self.enforcer = EnforcerClient(config.enforcer.socket)
        self.grants, self.counters, self.meters = Grants(), Counters(), Meters()
        self.drivers: dict[str, Driver] = {}
        self.certificates = self._certificates()
        self.housekeeping = Housekeeping(
            self.audit, self.cache, self.attester, self.clock, keeping(config), lambda e: self.conductor.emit(e)
        )
        self.readings = WayOut(
            config, self.outbox, self.journal, self.clock, certificate=self.certificates.at, told=self.tell,
            vouch=lambda spki: self.attester.register_software_key("uplink", spki),
            subject=lambda device_id, at: self.holdings.assignments.at(device_id, at),
        )  # fmt: skip
        self.conductor = Conductor(
            Engine(), self.clock, audit=self.audit, enforcer=self.enforcer, grants=self.grants,
            keeper=Keeper(self.inventory, self.housekeeping.soon), certifier=self.certificates, attest=self.attest,
            draw_nonce=self._draw_nonce, announce=self.readings.announce, measure=self.meters.decided,
        )  # fmt: skip
        self.console = Console(
            config, self.clock, self.conductor, self.grants, inventory=self.inventory, keys=self.keys, accounts=self.accounts,
            audit=self.audit, profiles=self.profiles, counters=self.counters, confirm=self._confirm,
            bundle=self.certificates.bundle, reassign=self.assign, way_out=self.readings,
            ak_sha256=lambda: _sha256(self.attester.ak_spki()), measured=self.meters.families,
        )  # fmt: skip
        self.console.dossiers = Dossiers(self.conductor, self.clock, Sources(
            self.console.view, History(self.database), self.outbox.counts, self.certificates.bundle, self.profiles,
            config.gateway.state / anchors.NAME,
        ))  # fmt: skip
        self.console.policy = self.drafts = Drafts(
            config, self.profiles, compiled=self.console.compiled, ask=self._confirm, emit=self.conductor.emit,
            configure=self.console.configure,
        )  # fmt: skip
        self.console.holdings = self.holdings = Holdings(
            config, self.clock, inventory=self.inventory, stock=Stock(self.database), cache=self.cache, keys=self.keys,
            profiles=self.profiles, chain=self.attester.ak_chain, emit=self.conductor.emit, configure=self.console.configure,
        )  # fmt: skip
        self.readings.watch = self.console.observe
        self.follower = Follower(self.audit, lambda what: self.tell(PartChanged("record", up=False, detail=what)))
        self.console.house = house = House(
            config, self.clock, view=self.console.view, search=Search(self.database), follower=self.follower, audit=self.audit,
            attester=self.attester, way_out=self.readings, enforcer=self.enforcer,
        )  # fmt: skip
        self.conductor.witness = house.witness
        self.own_address = OwnAddress(config.network.addresses, self.enforcer, self.tell)
        self.newcomers = Newcomers(self._devices, partial(hospital, config), self.enforcer, self.conductor.emit)
        self.syslog = self._syslog()
        self.readings.copied = self.syslog.look if self.syslog else None
        self.last_run: LastRun | None = None  # set while the run before has to be told of
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()

    def _syslog(self) -> SyslogSender | None:
        if not self.config.syslog.host:
            return None
        settings, spool = self.config.syslog, AuditSpool(self.database, self.audit, "syslog")
        who = Sender(self.config.gateway.id, __version__, settings.facility, settings.enterprise)
        return SyslogSender(settings, who, spool, self.clock, told=self.tell)

    def _certificates(self) -> Certificates:
        gateway, build = self.config.gateway, f"wardgate {__version__}"
        return Certificates(
            self.attester,
            self.cache,
            self.counters,
            build=build,
            platform=Platform(gateway.id, build, gateway.root_of_measurement),
            certified=lambda d, n: self.console.certified(d, n),
            part=self.tell,
        )

    # --- what parts call ---

    def tell(self, event: Event) -> None:
        """Emit from where nobody can wait."""
        self._spawn(self.conductor.emit(event))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def attest(self, device_id: str, media_type: str, nonce: bytes) -> None:
        """Ask the device's driver for evidence."""
        s = self.conductor.engine.standings.get(device_id)
        driver = self.drivers.get(s.device.bus.value) if s else None
        if driver is None:
            await self.conductor.emit(EvidenceFailed(device_id, media_type, "no driver serves it"))
            return
        await driver.attest(device_id, media_type, nonce)

    async def assign(self) -> None:
        """Hand every driver the devices it serves, as the engine knows them now."""
        await self.conductor.drained()
        for name, driver in self.drivers.items():
            mine = [s for s in self.conductor.engine.standings.values() if s.device.bus.value == name and s.live]
            served = [(s, await self.inventory.passkey(s.id)) for s in mine]
            driver.assign([Assignment(s.device, s.profile, passkey, self._screen(s.id)) for s, passkey in served])

    def _screen(self, device_id: str) -> Callable[[bytes], None] | None:
        return screen_for(device_id, lambda: self.conductor.engine.standings)

    def _draw_nonce(self, media_type: str) -> bytes:
        """What evidence must answer: random bytes, or the epoch that beacons are made in."""
        return self.epochs.current(self.clock.now()).id if media_type == MediaType.BEACON else secrets.token_bytes(NONCE_SIZE)

    async def _confirm(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return await confirm(self.config.policy.socket, request)

    def _tpm_changed(self, health: Health) -> None:
        self.tell(PartChanged("tpm", up=health.up, detail=health.detail))
        if health.up and not self.keys.is_open and "keys" in self.conductor.engine.parts:
            self._spawn(self._open_keys(again=True))

    async def _open_keys(self, again: bool = False) -> None:
        """Without the keys that devices share with this gateway, their evidence is nobody's: no trust, and no harm."""
        try:
            await self.keys.open()
        except WardgateError as e:
            await self.conductor.emit(PartChanged("keys", up=False, detail=str(e)))
            return
        if again:
            await self.conductor.emit(PartChanged("keys", up=True, detail="the key store is open"))
            await self.console.configure()

    # --- running ---

    async def run(self) -> None:
        """Open everything, run until ``stopping`` is set, close everything; leases are left to outlive a restart."""
        damage = await self.database.open()
        await self.certificates.open()
        if damage:
            log.error("%s", damage)
            self.tell(PartChanged("disk", up=False, detail=damage))
        self.attester.on_change(self._tpm_changed)
        try:
            async with asyncio.TaskGroup() as group:
                await self._start(group)
                group.create_task(_stop_when(self.stopping), name="stop")
        except* _Stopped:
            pass
        finally:
            await self._close()

    async def _start(self, group: asyncio.TaskGroup) -> None:
        await self._record_start()
        if self.last_run is not None:
            group.create_task(self.last_run.tell(self.conductor.emit), name="last-run")
        supervisor = Supervisor(group, self._task_told)
        supervisor.keep("engine", self.conductor.decide)
        supervisor.keep("record", self.conductor.carry)
        supervisor.keep("tpm", self.tpm.watch)
        supervisor.keep("enforcer", self._watch_enforcer)
        supervisor.keep("feed", self._feed)
        supervisor.keep("record-check", self.follower.run)
        supervisor.keep("meters", self.meters.run)
        supervisor.keep("policy", self.drafts.watch)
        supervisor.keep("seen", self._keep_seen)
        supervisor.keep("own-address", self.own_address.run)
        supervisor.keep("newcomers", self.newcomers.run)
        if self.config.network.addresses:  # none: wireless only, and nothing of a ward goes over it
            supervisor.keep("hospital-cable", HospitalCable(self.config.network.uplink, self.tell, self.readings.cable).run)
        supervisor.keep("free-space", FreeSpace(self.config.gateway.state, self.tell).run)
        supervisor.keep("housekeeping", self.housekeeping.run)
        await self.holdings.open()  # before a reading leaves: it is labelled with whose it is
        self.readings.start(supervisor)
        if self.syslog is not None:
            supervisor.keep("syslog", self.syslog.run)
        for name, settings in self.config.drivers.items():
            self.drivers[name] = drivers.load(name)(DriverContext(self, name), dict(settings))
        await self.conductor.emit(PartChanged("disk", up=True, detail="the record is being written"))
        await self._open_keys()
        await self.console.configure()
        for name, driver in self.drivers.items():
            supervisor.keep(f"driver-{name}", driver.run)
        life = Lifecycle(
            self.config, self._path, self.database, self.clock, keeping(self.config), lambda: to_plain(self.console.view())
        )
        doors = Doors(self.config, self.console, self.accounts, self.attester, self.clock, life)
        await doors.open()
        group.create_task(doors.until(self.stopping), name="doors")
        sys.stdout.write(f"ready {self.config.gateway.id} {__version__}\n")
        sys.stdout.flush()
        notify = Notify()
        notify.ready(f"{self.config.gateway.name} is running")
        group.create_task(notify.beat(), name="watchdog")
        _keep_what_is_there()
        log.info(
            "%s is running: %d devices, %d profiles",
            self.config.gateway.name,
            len(self.conductor.engine.standings),
            len(self.profiles),
        )

    async def _record_start(self) -> None:
        """The first line of this run: what was before it nobody can vouch for. A disk that refuses is told by others."""
        began = self.clock.now()
        try:
            if (before := await Runs(self.database, self.audit).unfinished()) is not None:
                self.last_run = LastRun(before.heard, began)
            await self.audit.append([(began, Record(START, "", f"Wardgate {__version__} starts", (SAYS_ITS_END,)))])
        except WardgateError as e:
            log.warning("the start is not on record: %s", e)

    async def _record_stop(self) -> None:
        """The last line, when somebody asked us to end: without it the next start raises an alarm."""
        if self.stopping.is_set():
            await self.audit.append([(self.clock.now(), Record(STOP, "", f"Wardgate {__version__} stops", ()))])

    async def _task_told(self, name: str, up: bool, detail: str) -> None:
        if name.startswith("driver-"):
            await self.conductor.emit(PartChanged(name.removeprefix("driver-"), up=up, detail=detail))

    async def _watch_enforcer(self) -> None:
        """Say whether the enforcer is there, and what it saw; raises UnavailableError when it goes, to be started again."""
        try:
            async for event in self.enforcer.watch():
                await self._enforcer_says(event)
        except UnavailableError as e:
            await self.conductor.emit(PartChanged("enforcer", up=False, detail=str(e)))
            raise

    async def _enforcer_says(self, event: Mapping[str, Any]) -> None:
        kind = str(event.get("event", ""))
        if kind in ("denied", "seen"):
            self.meters.packets(event)
        if kind == "watching":
            await self.conductor.emit(PartChanged("enforcer", up=True, detail="leases reach the kernel"))
            if self.last_run is not None:
                self.last_run.enforcer_said(event.get("lapses"))
        elif kind in ("tampered", "restored"):
            await self.conductor.emit(PartChanged("rules", up=kind == "restored", detail=str(event.get("text", ""))))
        elif kind == "seen":
            self._seen(event)
        elif kind == "denied":
            self.own_address.heard(event)
            self.newcomers.heard(event)
            await self.conductor.emit(Behaviour(str(event["device"]), "denied", str(event["text"]), int(event["count"])))

    def _devices(self) -> Sequence[Device]:
        return [s.device for s in self.conductor.engine.standings.values()]

    def _seen(self, event: Mapping[str, Any]) -> None:
        s = self.conductor.engine.standings.get(str(event.get("device", "")))
        if s is not None and s.device.state is DeviceState.OBSERVING:
            self.holdings.learned_flows.note(event, {s.id: s.device.ip_addresses})

    async def _keep_seen(self) -> None:
        while True:
            await asyncio.sleep(10)  # what is lost in a crash is seen again
            await self.holdings.save_seen()

    async def _feed(self) -> None:
        while True:
            try:
                await self.console.refresh_feed()
            except WardgateError as e:
                log.debug("feed: %s", e)
            await asyncio.sleep(0.5)

    async def _close(self) -> None:
        closers: tuple[Callable[[], Awaitable[None]], ...] = (
            self.enforcer.close, self.readings.close, self.journal.close, self.conductor.close, self._record_stop, self.audit.close,
            self.tpm.close, self.database.close,
        )  # fmt: skip
        for close in closers:
            try:
                await close()
            except WardgateError as e:
                log.warning("while closing: %s", e)


def keeping(config: Config) -> Keeping:
    """How much of the record is kept: what the configuration says, and never more than a quarter of the disk."""
    disk = shutil.disk_usage(config.gateway.state).total
    return Keeping(most_bytes=min(config.record.keep_mib * 2**20, disk // 4))


class _Stopped(Exception):
    """Not an error: someone asked us to end."""


def _keep_what_is_there() -> None:
    """All code and configuration stay for good: looked at by every full collection, they stop the loop for 40 to 60 ms on a PC."""
    gc.collect()
    gc.freeze()


async def _stop_when(stopping: asyncio.Event) -> None:
    await stopping.wait()
    raise _Stopped


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


async def _serve(config: Config, path: Path) -> None:
    with only_one(config.gateway.state):
        refuse_half_restored(config.gateway.state)
        app = App(config, path)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, app.stopping.set)
        await app.run()


def serve(config: Config, path: Path) -> int:
    """Run the daemon, configured by what was read from ``path``, until SIGTERM."""
    configure()
    try:
        asyncio.run(_serve(config, path))
    except ExceptionGroup as group:
        known, unknown = group.split(WardgateError)
        if known is None or unknown is not None:
            raise
        raise _first(known) from None
    return 0


def _first(group: BaseException) -> BaseException:
    """The first fault inside nested groups: one line for a person."""
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group
