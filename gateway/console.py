"""What people may see and ask of the running gateway: the picture, and commands with their roles and confirmations.

A change of what may pass is confirmed by root's wardgate-policy, which checks the operator's credential itself; this
module only prepares it. Refuses to know HTML and HTTP.
A little over 400 lines: every command a person has is here, beside what it needs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway import __version__, figures
from gateway.clock import Clock
from gateway.conductor import QUEUE, Conductor
from gateway.config import Config
from gateway.confirmed import confirmed_document, with_broker
from gateway.errors import InputError, RefusedError
from gateway.grants import Grants
from gateway.identity import identify, way_back
from gateway.machines import within_a_token
from gateway.model.device import Device, DeviceState, next_state
from gateway.model.event import Configured, OperatorCommand
from gateway.model.incident import INCIDENTS
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.metric import Family
from gateway.model.observation import Observation, Reading
from gateway.model.outbox import OutboxView
from gateway.model.profile import Profile, References
from gateway.model.roles import MAY
from gateway.model.view import TOKEN_ACTOR, DeviceView, EventView, GatewayView, Outcome, PartView, User, WardView
from gateway.picture import device_view, explain, proposed_view
from gateway.policy.compile import Serves, compile_document, document_id
from gateway.policy.difference import difference
from gateway.ports import AccountsPort, AuditPort, DossierPort, HoldingsPort, HousePort, PolicyPort
from gateway.proposal import propose, refuse_taken, without_secrets
from gateway.repair import check_second_person, check_service

_POLICY_VERBS = ("accept", "enforce", "observe", "suspend", "remove")  # they change what the kernel may let pass
_MESSAGE_VERBS = ("retry-message", "discard-message")  # what a receiver refused, or what is too old
_READINGS = 12  # quantities of a device in the picture, each with its newest value
_STALE_S = 60.0  # one that is older than this makes room for another


class InventoryPort(Protocol):
    """What the console needs of the inventory."""

    async def save_device(self, device: Device, passkey: int | None = None) -> None: ...
    async def devices(self) -> Sequence[Device]: ...
    async def references(self) -> Sequence[tuple[str, References]]: ...
    async def save_references(self, device_id: str, references: References) -> None: ...
    async def standing_vetoes(self) -> Sequence[tuple[str, str, str]]: ...
    async def services(self) -> Sequence[Any]: ...
    async def keep_state(self, device_id: str, state: DeviceState) -> None: ...


class KeysPort(Protocol):
    """Keys shared with devices, by use."""

    def of(self, device_id: str) -> Mapping[str, bytes]: ...
    async def keep(self, device_id: str, shared: Mapping[str, bytes]) -> None: ...


class WayOutPort(Protocol):
    """What the console needs of the way out."""

    async def look(self) -> OutboxView: ...
    async def waiting(self) -> int: ...
    async def retry(self) -> int: ...
    async def kept_aside(self, message_id: int) -> str: ...
    async def settle(self, message_id: int, discard: str) -> str: ...


@dataclass(slots=True)
class Counters:
    """What the demo and the page count."""

    certificates: int = 0
    quotes: int = 0
    observations_in: int = 0
    sequence: int = 0
    quoted_at: Instant | None = None


class Console:
    """``gateway.ports.ConsolePort`` over the live engine."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        conductor: Conductor,
        grants: Grants,
        *,
        inventory: InventoryPort,
        keys: KeysPort,
        accounts: AccountsPort,
        audit: AuditPort,
        profiles: Mapping[str, Profile],
        counters: Counters,
        confirm: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
        bundle: Callable[[str], Awaitable[bytes]],
        reassign: Callable[[], Awaitable[None]],
        way_out: WayOutPort,
        ak_sha256: Callable[[], str],
        measured: Callable[[], Iterable[Family]] = tuple,
    ) -> None:
        self._config, self._clock, self._conductor, self._grants = config, clock, conductor, grants
        self._inventory, self._keys, self._accounts, self._audit = inventory, keys, accounts, audit
        self._profiles, self.counters = profiles, counters
        self._confirm, self._bundle, self._reassign, self._ak_sha256 = confirm, bundle, reassign, ak_sha256
        self._way_out, self._waiting = way_out, 0
        self._measured = measured
        self._started = clock.now()
        self._readings: dict[str, dict[str, Reading]] = {}
        self._feed: tuple[EventView, ...] = ()
        self._sequences: dict[str, int] = {}
        self._lock = asyncio.Lock()
        self.house: HousePort
        self.dossiers: DossierPort
        self.policy: PolicyPort  # both are set by app: they need this console to configure
        self.holdings: HoldingsPort

    # --- seeing ---

    def view(self) -> WardView:
        """The picture now."""
        now = self._clock.now()
        engine = self._conductor.engine
        devices: list[DeviceView] = []
        for s in engine.standings.values():
            if s.device.state is DeviceState.RETIRED:
                continue
            lease = self._grants.of(s.id).current(now)
            readings = tuple(self._readings.get(s.id, {}).values())
            devices.append(device_view(s, now, lease.until if lease.level else None, readings, self._sequences.get(s.id)))
        gateway = self._gateway(devices)  # a stranger in radio range changes nothing that is said of the gateway
        devices += [proposed_view(e, now) for e, _ in engine.found().values() if e.bus]
        return WardView(now.mono_ns // 1_000_000, gateway, tuple(devices), self._feed)

    def _gateway(self, devices: Sequence[DeviceView]) -> GatewayView:
        now, g, waiting = self._clock.now(), self._config.gateway, self.policy.waiting()
        parts = tuple(
            PartView(n, ok, detail or ("well" if ok else "gone"))
            for n, (ok, detail) in sorted(self._conductor.engine.parts.items())
        )
        observing = any(d.state in ("observing", "proposed") for d in devices) or not devices
        return GatewayView(
            id=g.id, name=g.name, version=__version__, mode="observing" if observing else "enforcing", parts=parts,
            sequence=self.counters.sequence, certificates=self.counters.certificates, quotes=self.counters.quotes,
            uptime_ms=(now.mono_ns - self._started.mono_ns) // 1_000_000, time_utc=now.utc().isoformat(timespec="seconds"),
            time_quality=TimeQuality(now.quality).name.lower(), outbox_rows=self._waiting, ak_sha256=self._ak_sha256(),
            policy_by=waiting[0] if waiting else "", policy_until_ms=waiting[1] if waiting else None,
        )  # fmt: skip

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after every decision."""
        return self._conductor.listen(listener)

    def observe(self, batch: Sequence[Observation]) -> None:
        """Keep the newest readings of each quantity for the picture."""
        for o in batch:
            kept = self._readings.setdefault(o.device_id, {})
            if o.quantity not in kept and len(kept) >= _READINGS:
                stale = min(kept, key=lambda q: kept[q].taken_at.mono_ns)
                if o.taken_at.mono_ns - kept[stale].taken_at.mono_ns < _STALE_S * NS_PER_S:
                    continue  # a device with more quantities shows the same ones all the time
                del kept[stale]
            kept[o.quantity] = Reading(o.quantity, o.unit, o.value, o.absent, o.taken_at, None if o.level is None else int(o.level))
        self.counters.observations_in += len(batch)

    def certified(self, device_id: str, sequence: int) -> None:
        """A bundle is complete: its sequence is shown."""
        self._sequences[device_id] = sequence

    async def refresh_feed(self) -> None:
        """Read the newest lines of the audit log for the picture."""
        self._feed = tuple(await self._audit.tail(30))
        self._waiting = await self._way_out.waiting()

    async def events(self, limit: int = 50, before: int | None = None) -> Sequence[EventView]:
        """The event feed, newest first."""
        return await self._audit.tail(limit, before)

    async def outbox(self) -> OutboxView:
        """What still has to leave."""
        return await self._way_out.look()

    async def retry_dead_letters(self) -> int:
        """Send what the broker refused again; returns how many messages."""
        return await self._way_out.retry()

    async def metrics(self) -> Sequence[Family]:
        """Figures about the gateway and its ward."""
        now, c, n = self._clock.now(), self._conductor, self.counters
        gateway = figures.Own(
            __version__, now.seconds_since(self._started), *c.waiting(), QUEUE, c.lost_records, n.certificates, n.quotes,
            n.observations_in, None if n.quoted_at is None else now.seconds_since(n.quoted_at),
        )  # fmt: skip
        ward = figures.ward(c.engine, self._grants.levels(now), [a.severity for a in c.alarms.values()])
        return [*figures.own(gateway), *ward, *figures.outbox(await self._way_out.look()), *self._measured()]

    async def bundle(self, device_id: str) -> bytes:
        """The newest complete bundle."""
        return await self._bundle(device_id)

    async def explain(self, device_id: str, function: str | None) -> dict[str, object]:
        """How a level came about."""
        s = self._conductor.engine.standings.get(device_id)
        if s is None:
            raise InputError(f"there is no device {device_id!r}", "see `wardgate device list`")
        if function is not None and function not in {f.name for f in s.profile.functions}:
            raise InputError(
                f"{device_id} has no function {function!r}", f"one of: {', '.join(f.name for f in s.profile.functions)}"
            )
        return explain(s, function, self._clock.now())

    # --- commanding ---

    async def command(self, command: OperatorCommand) -> Outcome:
        """Check the role, confirm what needs confirming, then let the engine decide."""
        if command.actor.startswith(TOKEN_ACTOR):
            within_a_token(command, MAY)
        command = await self._as_person(command)
        allowed = MAY.get(command.verb)
        if allowed is None:
            raise InputError(f"there is no command {command.verb!r}", f"one of: {', '.join(sorted(MAY))}")
        if command.role not in allowed:
            raise RefusedError(
                f"{command.actor} ({command.role}) may not {command.verb}", f"ask someone who is {' or '.join(allowed)}"
            )
        async with self._lock:
            await self._conductor.drained()
            if command.verb == "add":
                return await self._add(command)
            if command.verb == "break-glass":
                return await self._break_glass(command)
            if command.verb == "acknowledge":
                return await self._acknowledge(command)
            if command.verb in _MESSAGE_VERBS:
                return await self._settle_message(command)
            device, before = await self._device(command.device_id), self._clock.now()
            if command.verb in _POLICY_VERBS and not (command.verb == "accept" and device.state is DeviceState.SERVICE):
                return await self._change_state(command, device)
            done = await self._within_state(command, device)
        if command.verb == "attest" and not command.argument("prepare"):
            return await self.dossiers.attested(device.id, before)  # outside the lock: others need not wait for a device
        return done

    async def _as_person(self, command: OperatorCommand) -> OperatorCommand:
        name = command.argument("as")
        if not name:
            return command
        if command.role != "admin":
            raise RefusedError("only the console may act for a named person", "log in as that person")
        user: User = await self._accounts.login(name, command.secret, "console")
        kept = tuple((k, v) for k, v in command.arguments if k != "as")
        return replace(command, actor=user.name, role=user.role, arguments=kept)

    async def _device(self, device_id: str) -> Device:
        for d in await self._inventory.devices():
            if d.id == device_id:
                return d
        raise InputError(f"there is no device {device_id!r}", "see `wardgate device list`")

    async def _change_state(self, command: OperatorCommand, device: Device) -> Outcome:
        changed = replace(device, state=_next(device, command.verb))
        known = await self._identity(command, device) if command.verb == "accept" else ()
        devices = [changed if d.id == device.id else d for d in await self._inventory.devices()]
        document = self.compile(devices)
        if command.argument("prepare"):
            text = (
                f"{command.verb} {device.id}: {'; '.join(difference(self._confirmed(), document)) or 'no change of what may pass'}"
            )
            detail = (
                ("document", json.dumps(document)),
                ("difference", difference(self._confirmed(), document)),
                ("identity", known),
            )
            return Outcome(True, text, detail)
        behind = await self._confirmed_by(command, document)
        await self._inventory.keep_state(device.id, changed.state)  # the state alone: a bond may have been made meanwhile
        if changed.state is DeviceState.RETIRED and self._keys.of(device.id):
            await self._keys.keep(device.id, {})
        await self._conductor.emit(replace(command, secret=""))
        await self.configure(command.actor, adopt_first=command.verb == "enforce")
        text = f"{device.id} is now {changed.state}{way_back(command.verb, device.id)}"
        text += f"; the ward's network is behind: {'; '.join(behind)}" if behind else ""
        return Outcome(True, text, (("state", changed.state.value), ("identity", known)))

    async def _identity(self, command: OperatorCommand, device: Device) -> tuple[str, ...]:
        """What tells this device from others; RefusedError when it looks like another one, unless that is meant."""
        references = dict(await self._inventory.references())
        return identify(device, await self._inventory.devices(), references, anyway=bool(command.argument("anyway")))

    async def _within_state(self, command: OperatorCommand, device: Device) -> Outcome:
        if command.argument("prepare"):
            return Outcome(True, "nothing to confirm")
        if command.verb in ("service", "accept", "undo"):
            _next(device, command.verb)
        if command.verb == "service":
            check_service(command)
        if command.verb == "accept" and (s := self._conductor.engine.standings.get(device.id)):
            check_second_person(s, command)
        await self._conductor.emit(replace(command, secret=""))
        return Outcome(True, f"{command.verb} {device.id}: done")

    async def _confirmed_by(self, command: OperatorCommand, document: Mapping[str, Any]) -> Sequence[str]:
        """Root's loader has this document already, or takes it on the operator's own credential. Returns what could not follow."""
        if document_id(document) == document_id(self._confirmed()):
            return ()
        if not command.secret:
            raise RefusedError("this changes what may pass, so it is confirmed with your password", "give your password")
        answer = await self._confirm({"do": "confirm", "user": command.actor, "password": command.secret, "document": document})
        return [str(line) for line in answer.get("network", ())]

    async def _break_glass(self, command: OperatorCommand) -> Outcome:
        device = await self._device(command.device_id)
        minutes, reason = int(float(command.argument("minutes", "0"))), command.argument("reason")
        body = {
            "do": "break-glass", "user": command.actor, "password": command.secret, "device": device.id,
            "function": command.argument("function"), "minutes": minutes, "reason": reason,
        }  # fmt: skip
        await self._confirm(body)
        await self._conductor.emit(replace(command, secret=""))
        return Outcome(True, f"{device.id} {command.argument('function')} is open for {command.argument('minutes')} min")

    async def _acknowledge(self, command: OperatorCommand) -> Outcome:
        """What befell the gateway itself was looked at: it is told no longer, and the record says by whom."""
        told = [part for part in INCIDENTS if part in self._conductor.engine.parts]
        if not told:
            raise InputError("nothing waits to be looked at", "see `wardgate status`")
        if not command.argument("prepare"):
            await self._conductor.emit(replace(command, secret="", device_id=""))
        return Outcome(True, f"{' and '.join(told)}: looked at by {command.actor}; the record keeps it")

    async def _settle_message(self, command: OperatorCommand) -> Outcome:
        """A stored message that is kept aside goes again, or goes: the record of who said so, and why, comes first."""
        number, reason = command.argument("message"), command.argument("reason")
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise InputError(f"{number[:20]!r} is no number of a message", "see `wardgate outbox`")
        if not 3 <= len(reason) <= 200:
            raise InputError("this needs a reason of 3 to 200 characters", "give --reason")
        route = await self._way_out.kept_aside(int(number))
        if command.argument("prepare"):
            return Outcome(True, "nothing to confirm")
        await self._conductor.emit(replace(command, secret="", device_id=route.partition("/")[0]))
        await self._conductor.drained()
        again = command.verb == "retry-message"
        await self._way_out.settle(int(number), "" if again else f"{command.actor}: {reason}")
        return Outcome(True, f"message {number} of {route} {'is sent again' if again else 'is let go'}", (("route", route),))

    async def _add(self, command: OperatorCommand) -> Outcome:
        a = dict(command.arguments)
        if any(d.id == command.device_id and d.state is not DeviceState.RETIRED for d in await self._inventory.devices()):
            raise InputError(f"there is a device {command.device_id!r} already", "choose another id, or remove that one")
        if a.get("profile") not in self._profiles:
            raise InputError(
                f"there is no profile {a.get('profile')!r}", f"one of: {', '.join(sorted(self._profiles)) or 'none loaded'}"
            )
        if a.get("prepare"):
            return Outcome(True, "nothing to confirm")
        made = propose(command.device_id, a, self._profiles[a["profile"]], self._config.gateway.id)
        device = made.device
        refuse_taken(device, [d for d in await self._inventory.devices() if d.state is not DeviceState.RETIRED])
        if made.shared:
            await self._keys.keep(device.id, made.shared)
        await self._inventory.save_device(device, made.passkey)
        await self._inventory.save_references(device.id, made.references)
        await self._conductor.emit(without_secrets(command))
        await self.configure(command.actor)
        return Outcome(True, f"{device.id} is proposed; `wardgate device accept {device.id}` lets it be observed")

    # --- configuration ---

    def compile(
        self, devices: Sequence[Device], profiles: Mapping[str, Profile] | None = None, texts: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The policy document for these devices. ``texts``: the profiles that were applied; None: those that are in force."""
        kept = [d for d in devices if d.state is not DeviceState.RETIRED]
        network = self._config.network
        serves = Serves(network.services.offers, network.services.dhcp)
        document = compile_document(kept, profiles or self._profiles, network.addresses, network.ward, serves=serves)
        applied = self._confirmed().get("profiles") if texts is None else texts
        document |= {"profiles": dict(applied)} if applied else {}
        return with_broker(document, self._config.way_out)

    async def compiled(self, profiles: Mapping[str, Profile], texts: Mapping[str, str]) -> dict[str, Any]:
        """The document for the ward as it is, with these profiles."""
        return self.compile(await self._inventory.devices(), profiles, texts)

    def _confirmed(self) -> dict[str, Any]:
        return confirmed_document(self._config.policy.confirmed)

    async def configure(self, actor: str = "", adopt_first: bool = False) -> None:
        """Feed the engine and the drivers what is stored now."""
        if adopt_first:
            await self._conductor.drained()
        event = Configured(
            profiles=tuple(self._profiles.values()),
            devices=tuple(
                d for d in await self._inventory.devices() if d.profile in self._profiles and d.state is not DeviceState.RETIRED
            ),
            references=tuple((d, r.with_secrets(self._keys.of(d))) for d, r in await self._inventory.references()),
            timing=self._config.timing,
            vetoes=tuple(await self._inventory.standing_vetoes()),
            services=tuple(await self._inventory.services()),
            actor=actor,
        )
        await self._conductor.emit(event)
        await self._reassign()


def _next(device: Device, verb: str) -> DeviceState:
    try:
        return next_state(device.state, verb)
    except ValueError as e:
        remedy = "see `wardgate device show`"
        if verb == "undo":  # what somebody tries who has accepted the wrong device
            remedy = f"undo ends a repair; a device accepted by mistake goes with `wardgate device remove {device.id}`"
        raise RefusedError(f"{device.id}: {e}", remedy) from None
