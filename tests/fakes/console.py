"""A console and accounts with behaviour: a ward of three devices whose levels can be changed, people who can log in.

Commands change the ward as the product's would, so a test sees what a person would see. Knows no engine and no disk.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from gateway.errors import InputError, RefusedError, TooOftenError
from gateway.model.device import DeviceState, next_state
from gateway.model.event import OperatorCommand
from gateway.model.instant import Instant
from gateway.model.metric import Family, Kind, Sample
from gateway.model.observation import Reading
from gateway.model.outbox import CopyView, DeadLetter, OutboxView
from gateway.model.view import (
    TOKEN_ACTOR,
    TOKEN_DAYS_MAX,
    TOKEN_NAME,
    TOKEN_ROLES,
    DeviceView,
    EventView,
    FunctionView,
    GatewayView,
    Outcome,
    PartView,
    TokenView,
    User,
    WardView,
)
from gateway.picture import proposed_view
from tests.fakes.dossiers import FakeDossiers
from tests.fakes.house import FakeHouse
from tests.fakes.policy import FakeHoldings, FakePolicy

PASSWORD = "a sentence to remember"
CLAIM = "ABCD-EFGH"
_PEOPLE = {"admin": ("admin-1",), "biomed": ("bea",), "clinical": ("carl", "cleo"), "viewer": ("vic",)}


def now_ms() -> int:
    """Boot time in milliseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class FakeConsole:
    """``ConsolePort``: ``set_level``, ``put_reading`` and ``change`` move the ward; listeners are told."""

    def __init__(self) -> None:
        self.commands: list[OperatorCommand] = []
        self.password = PASSWORD
        self.policy, self.holdings = FakePolicy(PASSWORD), FakeHoldings()
        self._listeners: list[Callable[[], None]] = []
        self._lease_ends: dict[str, int] = {}
        self._certificate_ends: dict[str, int] = {}
        self._events: list[EventView] = []
        self.house = FakeHouse(self.view, lambda: self._events)
        self.dossiers = FakeDossiers(self)
        self.identity: tuple[str, ...] = ()
        self.mute = False  # nobody is told: what a hung gateway looks like
        self.parts = {
            "tpm": (True, "quotes in 0.3 s"),
            "bluetooth": (True, "one adapter, 1 of 5 links in use"),
            "enforcer": (True, "leases are renewed"),
            "disk": (True, "61 GB free"),
            "uplink": (True, "everything has been delivered"),
            "clock": (True, "authenticated time"),
        }
        started = now_ms() - 7_980_000
        self.devices = {d.id: d for d in _ward(started)}
        self.say("", "information", "Wardgate 0.1.0 started; the ward’s policy is confirmed")
        for d in self.devices.values():
            self.say(d.id, "information", f"{d.id}: level 0 → {d.level}: {d.reason}")
            self.renew(d.id)

    # --- ConsolePort ---

    def view(self) -> WardView:
        """The picture now."""
        now = now_ms()
        devices = tuple(self._timed(d, now) for d in self.devices.values())
        devices += tuple(proposed_view(e, Instant("boot-test", now * 1_000_000, 0)) for e in self.dossiers.seen.values())
        observing = any(d.state == "observing" for d in devices)
        parts = tuple(PartView(n, ok, text) for n, (ok, text) in self.parts.items())
        gateway = GatewayView(
            "ward-7-east", "Ward 7 East", "0.1.0", "observing" if observing else "enforcing", parts, 118, 1204, 798, now,
            datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "authenticated", 0, "5f" * 32,
            *(self.policy.waiting() or ("", None)),
        )  # fmt: skip
        return WardView(now, gateway, devices, tuple(reversed(self._events[-30:])))

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Tell ``listener`` of changes."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def command(self, command: OperatorCommand) -> Outcome:
        """Carry out what the product would: the table of transitions, the password for what changes policy."""
        if command.argument("prepare"):
            return Outcome(True, "nothing is changed", (("identity", self.identity),))
        self.commands.append(command)
        if command.verb == "add":
            return self._add(command)
        if command.verb == "acknowledge":
            self.parts.pop("last-run")
            return Outcome(True, f"last-run: looked at by {command.actor}")
        device = self.devices.get(command.device_id)
        if device is None:
            raise InputError(f"there is no device {command.device_id}", "see device list")
        if command.verb in ("enforce", "observe", "break-glass", "remove", "suspend") and command.secret != self.password:
            raise RefusedError("the password is wrong", "type your own password")
        if command.verb not in ("attest", "break-glass"):
            try:
                state = next_state(DeviceState(device.state), command.verb)
            except ValueError as e:
                raise InputError(str(e), "see the device's state") from None
            self.change(device.id, state=state.value, would_cut=())
        self.say(device.id, "information", f"{command.actor}: {command.verb} {device.id}")
        return Outcome(True, f"{device.name}: {command.verb} is done", (("device_id", device.id),))

    def _add(self, command: OperatorCommand) -> Outcome:
        if command.device_id in self.devices:
            raise InputError(f"there is a device {command.device_id!r} already", "choose another id")
        a = dict(command.arguments)
        self._lease_ends[command.device_id] = self._certificate_ends[command.device_id] = 0
        self.devices[command.device_id] = DeviceView(
            command.device_id, a["name"], a["bus"], a["profile"], a["address"], "proposed", 0, 2, "none", "nobody has accepted it",
            now_ms(), "unknown", None, None, None, None, None, (), (), (),
        )  # fmt: skip
        self.dossiers.seen.pop(a["address"], None)
        self.dossiers.no_evidence.add(command.device_id)
        self.tell()
        return Outcome(True, f"{command.device_id} is proposed")

    async def events(self, limit: int = 50, before: int | None = None) -> Sequence[EventView]:
        """Newest first."""
        return [e for e in reversed(self._events) if before is None or e.sequence < before][:limit]

    async def outbox(self) -> OutboxView:
        """Twelve readings wait, and one dead letter lies there."""
        at = Instant("boot", 1, 1_800_000_000 * 10**9)
        letter = DeadLetter(1, "readings/patch-1", "not authorized (0x87)", at, '{"value":72}', "patch-1", 4)
        return OutboxView(
            "delivers to broker",
            True,
            12,
            1,
            4096,
            3.5,
            100,
            84,
            0,
            4,
            (),
            (letter,),
            syslog=CopyView("copies the audit log to siem.hospital", True, 7, 41.5),
        )

    async def retry_dead_letters(self) -> int:
        """One."""
        return 1

    async def metrics(self) -> Sequence[Family]:
        """Two of them."""
        devices = tuple(Sample(1, (("state", d.state), ("level", str(d.level)))) for d in self.devices.values())
        return [
            Family("wardgate_devices", Kind.GAUGE, "Devices by state and level.", devices),
            Family("wardgate_quotes", Kind.COUNTER, 'Quotes of the TPM: 100 % "ours".', (Sample(798),)),
        ]

    async def bundle(self, device_id: str) -> bytes:
        """Some CBOR."""
        if self.devices[device_id].level == 0:
            raise InputError(f"{device_id} has no certificate", "wait until it has earned a level")
        return bytes.fromhex("a1616101")

    async def explain(self, device_id: str, function: str | None) -> dict[str, object]:
        """A few steps."""
        d = self.devices[device_id]
        return {
            "device": device_id,
            "level": d.level,
            "policy": "9c" * 32,
            "steps": ["token: r = 20", f"level {d.level}"],
            "vetoes": [],
        }

    # --- what a test does to the ward ---

    def set_level(self, device_id: str, level: int, reason: str) -> None:
        """The device has ``level`` from now on; its functions follow."""
        d = self.devices[device_id]
        functions = tuple(self._judged(f, level, reason) for f in d.functions)
        alarms = (f"{device_id}: {reason}; monitoring stays",) if level == 0 else ()
        self.say(device_id, "alarm" if level < d.level else "information", f"{device_id}: level {d.level} → {level}: {reason}")
        self.change(device_id, level=level, reason=reason, since_ms=now_ms(), functions=functions, alarms=alarms,
                    tier="affirming" if level else "contraindicated")  # fmt: skip
        self.renew(device_id)

    @staticmethod
    def _judged(f: FunctionView, level: int, reason: str) -> FunctionView:
        if f.on_loss == "vital":
            return f
        enough = level >= f.required
        why = f"level {level} is enough, it needs {f.required}" if enough else f"needs level {f.required}, has {level}"
        return replace(f, allowed=enough, reason=f"{why}: {reason}")

    def change(self, device_id: str, **fields: object) -> None:
        """Replace fields of a device and tell everyone."""
        self.devices[device_id] = replace(self.devices[device_id], **fields)  # type: ignore[arg-type]
        self.tell()

    def put_reading(
        self, device_id: str, quantity: str, unit: str, value: float | None, absent: str | None = None, age_s: float = 0
    ) -> None:
        """The newest reading of a quantity."""
        at = Instant("boot-test", (now_ms() - round(age_s * 1000)) * 1_000_000, time.time_ns())
        others = tuple(r for r in self.devices[device_id].readings if r.quantity != quantity)
        self.change(device_id, readings=(*others, Reading(quantity, unit, value, absent, at)))

    def renew(self, device_id: str, lease_ms: int = 29_000, certificate_ms: int = 760_000) -> None:
        """A new lease and certificate for a device that has a level."""
        self._lease_ends[device_id], self._certificate_ends[device_id] = now_ms() + lease_ms, now_ms() + certificate_ms

    def say(self, device_id: str, severity: str, text: str) -> None:
        """One more line in the event feed."""
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        kind = "decision" if device_id else "gateway"
        self._events.append(EventView(len(self._events) + 1, at, now_ms() * 1_000_000, kind, severity, device_id, text))
        self.tell()

    def tell(self) -> None:
        """Tell the listeners."""
        for listener in [] if self.mute else self._listeners:
            listener()

    def _timed(self, d: DeviceView, now: int) -> DeviceView:
        trusted = d.level > 0 and d.state in ("enforced", "observing", "service")
        return replace(
            d,
            lease_left_ms=max(0, self._lease_ends[d.id] - now) if trusted else None,
            certificate_left_ms=max(0, self._certificate_ends[d.id] - now) if trusted else None,
            evidence_age_ms=min(now - d.since_ms, 4000) if trusted else None,
        )


class FakeTokens:
    """``TokensPort`` in memory; ``uses`` is what was written down; three wrong tokens, then a wait."""

    def __init__(self) -> None:
        self.known: dict[str, TokenView] = {}
        self.uses: list[str] = []
        self.wrong = 0

    async def add(self, actor: User, name: str, role: str, days: int) -> str:
        """A token."""
        if actor.role != "admin" or actor.name.startswith(TOKEN_ACTOR):
            raise RefusedError("only an admin changes tokens", "ask an admin")
        if role not in TOKEN_ROLES or not 1 <= days <= TOKEN_DAYS_MAX or not TOKEN_NAME.fullmatch(name):
            raise InputError("that cannot be", "take another")
        secret = f"wgt_{secrets.token_urlsafe(32)}"
        self.known[secret] = TokenView(name, role, actor.name, "2027-01-15T08:00:00+00:00", days * 86_400)
        return secret

    async def all(self) -> Sequence[TokenView]:
        """All."""
        return list(self.known.values())

    async def revoke(self, actor: User, name: str) -> None:
        """Gone."""
        self.known = {s: t for s, t in self.known.items() if t.name != name}

    async def find(self, secret: str, source: str) -> User:
        """Whose it is."""
        if (found := self.known.get(secret)) is not None:
            return User(f"{TOKEN_ACTOR}{found.name}", found.role)
        self.wrong += 1
        if self.wrong > 3:
            raise TooOftenError("too many wrong tokens", "try again in 2 s", 1.5)
        raise RefusedError("this token is unknown or was revoked", "make a new one")

    async def used(self, who: User, what: str, source: str) -> None:
        """Remember."""
        self.uses.append(f"{who.name}: {what}")


class FakeAccounts:
    """``Accounts``: in memory, with the product's rules: one claim code, refused after three wrong passwords, links used once."""

    def __init__(self, claimed: bool = True) -> None:
        self.code: str | None = None if claimed else CLAIM
        self.people = (
            {
                n: (PASSWORD, r)
                for n, r in (("admin-1", "admin"), ("bea", "biomed"), ("carl", "clinical"), ("cleo", "clinical"), ("vic", "viewer"))
            }
            if claimed
            else {}
        )
        self.sessions: dict[str, User] = {}
        self.tokens = FakeTokens()
        self.links: set[str] = set()
        self.wrong: dict[str, int] = {}

    async def claim(self, code: str, user: str, password: str) -> User:
        """The first admin."""
        if len(password) < 12:
            raise InputError("a password has 12 to 256 characters", "take a sentence that you can remember")
        if self.code is None or code.upper() != self.code:
            raise RefusedError("that is not the claim code", "4 tries are left")
        self.code = None
        self.people[user] = (password, "admin")
        return User(user, "admin")

    async def login(self, user: str, password: str, source: str, doing: str = "logged in") -> User:
        """Three wrong passwords, then a wait."""
        await asyncio.sleep(0)
        if self.wrong.get(user, 0) >= 3:
            raise RefusedError("too many wrong passwords", "try again in 30 s")
        if self.people.get(user, ("",))[0] != password:
            self.wrong[user] = self.wrong.get(user, 0) + 1
            raise RefusedError("that name and password do not fit", "try again, or ask an admin to set a new password")
        return User(user, self.people[user][1])

    async def start_session(self, user: User) -> str:
        """A token."""
        token = secrets.token_urlsafe(32)
        self.sessions[token] = user
        return token

    async def session(self, token: str) -> User | None:
        """Who it is."""
        return self.sessions.get(token)

    async def end_session(self, token: str) -> None:
        """Log out."""
        self.sessions.pop(token, None)

    async def claimed(self) -> bool:
        """Whether someone owns it."""
        return any(role == "admin" for _, role in self.people.values())

    async def add_user(self, actor: User, name: str, password: str, role: str) -> User:
        """Another person."""
        self.people[name] = (password, role)
        return User(name, role)

    async def users(self) -> list[User]:
        """Everyone."""
        return [User(n, r) for n, (_, r) in sorted(self.people.items())]

    async def admit(self, actor: User, name: str, password: str, role: str, secret: str) -> User:
        """Another person, by an admin who shows the password."""
        await self.login(actor.name, secret, "test")
        if name in self.people:
            raise InputError(f"there is a user {name} already", "take another name")
        return await self.add_user(actor, name, password, role)

    async def appoint(self, actor: User, name: str, role: str, secret: str, password: str = "") -> User:
        """Another role."""
        await self.login(actor.name, secret, "test")
        if [n for n, (_, r) in self.people.items() if r == "admin"] == [name]:
            raise RefusedError(f"{name} is the last admin", "make someone else admin first")
        self.people[name] = (password or self.people[name][0], role)
        return User(name, role)

    async def replace_password(self, actor: User, name: str, password: str, secret: str) -> None:
        """A new password."""
        await self.login(actor.name, secret, "test")
        self.people[name] = (password, self.people[name][1])

    async def change_password(self, actor: User, old: str, new: str, source: str) -> None:
        """One's own."""
        await self.login(actor.name, old, source)
        self.people[actor.name] = (new, self.people[actor.name][1])
        self.sessions = {t: u for t, u in self.sessions.items() if u.name != actor.name}

    async def dismiss(self, actor: User, name: str, secret: str) -> None:
        """Gone."""
        await self.login(actor.name, secret, "test")
        if [n for n, (_, r) in self.people.items() if r == "admin"] == [name]:
            raise RefusedError(f"{name} is the last admin", "make someone else admin first")
        del self.people[name]

    async def one_time_view(self, actor: str = "root") -> str:
        """A link's token."""
        token = secrets.token_urlsafe(32)
        self.links.add(token)
        return token

    async def redeem_view(self, link: str, source: str = "") -> str:
        """Once."""
        if link not in self.links:
            raise RefusedError("this link was used, has expired or never was", "ask for a new one")
        self.links.remove(link)
        return await self.start_session(User("view-link", "viewer"))


def _ward(started: int) -> list[DeviceView]:
    good = "good evidence of token"
    return [
        DeviceView(
            "patch-1", "Heart-rate patch, bed 4", "ble", "Heart-rate patch", "C0:00:00:00:00:01", "enforced", 3, 2, "affirming",
            good, started, "up", None, None, 118, None, None,
            (FunctionView("readings", 2, True, "cut", f"level 3 is enough, it needs 2: {good}"),),
            (), (),
        ),
        DeviceView(
            "pump-1", "Infusion pump, bed 4", "modbus", "Infusion pump", "10.77.0.11", "enforced", 3, 3, "affirming",
            "good evidence of configuration and token", started, "up", None, None, 118, None, None,
            (
                FunctionView("control", 2, True, "cut", f"level 3 is enough, it needs 2: {good}"),
                FunctionView("maintenance", 3, True, "cut", f"level 3 is enough, it needs 3: {good}"),
                FunctionView("monitoring", 0, True, "vital", "vital: it needs no level and is never cut"),
            ),
            (), (),
        ),
        DeviceView(
            "monitor-1", "Bedside monitor, bed 2", "hl7", "Bedside monitor", "10.77.0.12", "enforced", 2, 2, "warning",
            "good evidence of identity", started, "up", None, None, 117, None, None,
            (
                FunctionView("results", 2, True, "read_only", f"level 2 is enough, it needs 2: {good}"),
                FunctionView("alarms", 0, True, "vital", "vital: it needs no level and is never cut"),
            ),
            (), (),
        ),
    ]  # fmt: skip
