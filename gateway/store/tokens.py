"""API tokens: names with a role and an end, for machines that ask. Only SHA-256 of a token is ever stored.

A token has a life in days. Its age is the greater of what boot time has counted since it was made (this cannot be turned
back) and, after a reboot, of what wall time says; a wall clock that says it is not made yet does not let it in. Wrong tokens
are delayed by source, apart from logins, and a right one is never delayed. Refuses to know what a role may do.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.clock import Clock
from gateway.errors import InputError, RefusedError, TooOftenError, UnavailableError
from gateway.logs import clean
from gateway.model.effect import Record, Severity
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.view import TOKEN_ACTOR, TOKEN_DAYS, TOKEN_DAYS_MAX, TOKEN_NAME, TOKEN_ROLES, TokenView, User
from gateway.ports import AuditPort
from gateway.store.database import Connection, Database
from gateway.store.throttle import Throttle, network_of

PREFIX = "wgt_"  # so that a scanner for leaked secrets can find one
MOST = 64
_DAY_NS = 86_400 * NS_PER_S
_TOUCH_NS = 3_600 * NS_PER_S  # its age is written at most once an hour: a scrape every 15 s must not wear out the disk
_COLUMNS = "name, role, digest, made_by, made_boot, made_mono_ns, made_utc_ns, lasts_ns, seen_boot, seen_mono_ns, lived_ns"


@dataclass(frozen=True, slots=True)
class _Token:
    name: str
    role: str
    digest: bytes
    made_by: str
    made_boot: str
    made_mono_ns: int
    made_utc_ns: int
    lasts_ns: int
    seen_boot: str
    seen_mono_ns: int
    lived_ns: int

    def lived(self, now: Instant) -> int:
        """Boot time since it was made, at least: what was off, or not looked at before a reboot, is not in it."""
        return self.lived_ns + now.mono_ns - (self.seen_mono_ns if self.seen_boot == now.boot_id else 0)

    def why_not(self, now: Instant) -> str:
        """Why it is not valid now; empty when it is."""
        wall_ns = now.utc_ns - self.made_utc_ns
        if self.lived(now) >= self.lasts_ns or (now.boot_id != self.made_boot and wall_ns >= self.lasts_ns):
            return "expired"
        return "the gateway's clock is behind the day it was made" if now.boot_id != self.made_boot and wall_ns < 0 else ""


class Tokens:
    """On one database. Methods raise RefusedError (not allowed), InputError (cannot be), UnavailableError (the disk)."""

    def __init__(self, database: Database, clock: Clock, audit: AuditPort) -> None:
        self._db, self._clock, self._audit = database, clock, audit
        self._throttle = Throttle()  # its own: wrong tokens never keep a person out
        self._known: dict[bytes, _Token] | None = None
        self.refused = 0

    async def add(self, actor: User, name: str, role: str, days: int = TOKEN_DAYS) -> str:
        """A new token, shown once. Only an admin who is a person makes one."""
        _only_admin(actor)
        if not TOKEN_NAME.fullmatch(name):
            raise InputError("a token's name is 1 to 32 lower-case letters, digits, dots or hyphens", "take another name")
        if role not in TOKEN_ROLES:
            raise InputError(f"a token's role is one of {', '.join(TOKEN_ROLES)}", "take one of them")
        if not 1 <= days <= TOKEN_DAYS_MAX:
            raise InputError(f"a token lasts 1 to {TOKEN_DAYS_MAX} days", "make a new one before it ends")
        known = await self._load()
        if any(t.name == name for t in known.values()):
            raise InputError(f"there is a token {name} already", f"revoke it first: wardgate token revoke {name}")
        if len(known) >= MOST:
            raise RefusedError(f"there are {MOST} tokens", "revoke one that nobody needs")
        secret, now = PREFIX + secrets.token_urlsafe(32), self._clock.now()
        made = _Token(
            name, role, _digest(secret), clean(actor.name, 64), now.boot_id, now.mono_ns, now.utc_ns, days * _DAY_NS,
            now.boot_id, now.mono_ns, 0,
        )  # fmt: skip
        await self._record("token-added", f"{actor.name} made the token {name} with the role {role} for {days} days", actor.name)
        await self._db.run(lambda db: _insert(db, made))
        self._known = None
        return secret

    async def all(self) -> Sequence[TokenView]:
        """Every token, by name; never the secret."""
        now = self._clock.now()
        return [_view(t, now) for t in sorted((await self._load()).values(), key=lambda t: t.name)]

    async def revoke(self, actor: User, name: str) -> None:
        """End a token now."""
        _only_admin(actor)
        if not any(t.name == name for t in (await self._load()).values()):
            raise InputError(f"there is no token {clean(name, 32)}", "see wardgate token list")
        # ends first: a full disk must not keep a leaked token alive
        self._known = {d: t for d, t in (self._known or {}).items() if t.name != name}
        await self._db.run(lambda db: db.execute("DELETE FROM tokens WHERE name = ?", (name,)))
        await self._record("token-revoked", f"{actor.name} revoked the token {name}", actor.name)

    async def find(self, secret: str, source: str) -> User:
        """Whose token this is. Raises RefusedError when it is nobody's or has ended, TooOftenError after too many of those."""
        now = self._clock.now()
        found = (await self._load()).get(_digest(secret))
        why = "this token is unknown or was revoked" if found is None else found.why_not(now)
        if found is not None and not why:
            await self._touch(found, now)
            return User(f"{TOKEN_ACTOR}{found.name}", found.role)
        await self._refuse(f"token {found.name}" if found else "an unknown token", source, now)
        raise RefusedError(f"the token {found.name} is not valid: {why}" if found else why, "make a new one: wardgate token add")

    async def used(self, who: User, what: str, source: str) -> None:
        """Write down that a token changes something, before it does. Raises UnavailableError when that cannot be written."""
        await self._record("token-used", f"{who.name}: {clean(what, 120)}", who.name, Severity.INFORMATION, source)

    async def _refuse(self, what: str, source: str, now: Instant) -> None:
        self.refused += 1
        key, now_s = f"source {network_of(source)}", now.mono_ns / NS_PER_S
        if (wait_s := self._throttle.wait_s(key, now_s)) > 0:
            if self._throttle.first_refusal(key):
                text = f"tokens from {clean(source, 64)} are refused for {wait_s:.0f} s: too many wrong ones"
                await self._record("token-delayed", text, "", Severity.WARNING, source)
            raise TooOftenError("too many wrong tokens", f"try again in {int(wait_s) + 1} s", wait_s)
        self._throttle.charge(key, now_s)
        await self._record("token-refused", f"{what} was refused", "", Severity.WARNING, source)

    async def _load(self) -> dict[bytes, _Token]:
        if self._known is None:
            rows = await self._db.run(lambda db: db.execute(f"SELECT {_COLUMNS} FROM tokens").fetchall())  # noqa: S608 - our names
            self._known = {r[2]: _Token(*r) for r in rows}
        return self._known

    async def _touch(self, token: _Token, now: Instant) -> None:
        """Count its age up now and then, so that a reboot with a clock turned back does not make it young."""
        if token.seen_boot == now.boot_id and now.mono_ns - token.seen_mono_ns < _TOUCH_NS:
            return
        older = replace(token, seen_boot=now.boot_id, seen_mono_ns=now.mono_ns, lived_ns=token.lived(now))
        if self._known is not None and token.digest in self._known:
            self._known[token.digest] = older
        row = (older.seen_boot, older.seen_mono_ns, older.lived_ns, token.name)
        sql = "UPDATE tokens SET seen_boot = ?, seen_mono_ns = ?, lived_ns = ? WHERE name = ?"
        with contextlib.suppress(UnavailableError):  # kept in memory until the disk has room again
            await self._db.run(lambda db: db.execute(sql, row))

    async def _record(self, kind: str, text: str, actor: str, severity: Severity = Severity.INFORMATION, source: str = "") -> None:
        body: tuple[tuple[str, object], ...] = (("actor", clean(actor, 64)), ("severity", str(severity)))
        body += (("source", clean(source, 64)),) if source else ()
        await self._audit.append([(self._clock.now(), Record(kind, "", text, body))])


def _insert(db: Connection, t: _Token) -> None:
    row = tuple(getattr(t, c) for c in _COLUMNS.split(", "))
    sql = f"INSERT INTO tokens ({_COLUMNS}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO NOTHING"  # noqa: S608 - our names
    if db.execute(sql, row).rowcount != 1:
        raise InputError(f"there is a token {t.name} already", "take another name")


def _view(t: _Token, now: Instant) -> TokenView:
    made = Instant(t.made_boot, t.made_mono_ns, t.made_utc_ns)
    left_ns = max(0, t.lasts_ns - t.lived(now))
    if now.boot_id != t.made_boot:
        left_ns = min(left_ns, max(0, t.lasts_ns - (now.utc_ns - t.made_utc_ns)))
    why = t.why_not(now)
    return TokenView(
        t.name, t.role, t.made_by, made.utc().isoformat(timespec="seconds"), left_ns // NS_PER_S if not why else 0, why
    )


def _only_admin(actor: User) -> None:
    if actor.role != "admin" or actor.name.startswith(TOKEN_ACTOR):
        raise RefusedError(f"{actor.name} ({actor.role}) may not; only an admin who is a person changes tokens", "ask an admin")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
