"""Named users with roles, the claim code, logins. Implements ``gateway.ports.AccountsPort``.

Every login and every change is in the audit log before it takes effect. Refuses to know what a role may do on the page;
it only knows that an admin changes accounts.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
from collections.abc import Sequence
from typing import cast

from gateway import codec
from gateway.clock import Clock
from gateway.errors import InputError, RefusedError, WardgateError
from gateway.logs import clean
from gateway.model.effect import Record, Severity
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.view import User
from gateway.ports import AuditPort
from gateway.store.database import Connection, Database
from gateway.store.passwords import Passwords, check_password
from gateway.store.sessions import Sessions, end_sessions_of
from gateway.store.throttle import Throttle

ROLES = ("viewer", "clinical", "biomed", "admin")
CLAIM_S = 30 * 60
CLAIM_TRIES = 5  # wrong codes until it is burnt: 5 in 2^40
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # 32 letters, no 0 O 1 I: eight of them are 40 bits
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_CLAIM_REMEDY = "make a new one on the console: wardgate init --new-claim"


class Accounts:
    """On one database. Methods raise RefusedError (not allowed), InputError (cannot be), UnavailableError (the disk)."""

    def __init__(self, database: Database, clock: Clock, audit: AuditPort) -> None:
        self._db, self._clock, self._audit = database, clock, audit
        self._passwords = Passwords()
        self._sessions = Sessions(database, clock)
        self._throttle = Throttle()

    # --- the claim code ---

    async def new_claim(self, actor: str = "root") -> str:
        """A new claim code, XXXX-XXXX; an earlier one is void. It is shown once and only its hash is kept."""
        code = "".join(secrets.choice(ALPHABET) for _ in range(8))
        encoded, now = await self._passwords.hash(code), self._clock.now()
        await self._record("claim-made", f"a claim code was made by {clean(actor, 64)}", actor)
        body = json.dumps(codec.to_plain(now))
        await self._db.run(lambda db: db.execute("INSERT OR REPLACE INTO claim VALUES (1, ?, ?, 0)", (encoded, body)))
        return f"{code[:4]}-{code[4:]}"

    async def claim(self, code: str, user: str, password: str) -> User:
        """With the claim code: create the first admin, or make a known name admin with a new password (a lost one)."""
        name = _name(user)
        check_password(password, name)
        now = self._clock.now()
        encoded, wrong = await self._db.run(lambda db: _charge_claim(db, now))
        if encoded is None:
            raise RefusedError("there is no claim code, or it has expired or was used", _CLAIM_REMEDY)
        right, _ = await self._passwords.matches(encoded, "".join(c for c in code[:64].upper() if c in ALPHABET)[:16])
        if not right:
            left = CLAIM_TRIES - wrong
            if left <= 0:
                await self._db.run(lambda db: db.execute("DELETE FROM claim WHERE code = ?", (encoded,)))
            await self._record("claim-failed", f"a wrong claim code was tried, {left} tries are left", name, Severity.WARNING)
            raise RefusedError(
                "that is not the claim code", f"{left} tries are left" if left > 0 else f"it is void now; {_CLAIM_REMEDY}"
            )
        hashed = await self._passwords.hash(password)
        try:
            await self._before_claim(code, name, password)
        except WardgateError:
            await self._db.run(lambda db: db.execute("UPDATE claim SET wrong = wrong - 1 WHERE code = ?", (encoded,)))
            raise  # it was the right code, and it is good for another try
        await self._record("claimed", f"{name} is admin, by the claim code", name)
        if not await self._db.run(lambda db: _use_claim(db, encoded, name, hashed)):
            raise RefusedError("the claim code was used at the same moment", _CLAIM_REMEDY)
        return User(name, "admin")

    async def _before_claim(self, code: str, name: str, password: str) -> None:
        """What has to succeed elsewhere before a right code is used up here; raise to keep it."""

    async def claimed(self) -> bool:
        """Whether an admin exists."""
        sql = "SELECT 1 FROM users WHERE role = 'admin' LIMIT 1"
        return await self._db.run(lambda db: db.execute(sql).fetchone() is not None)

    # --- logins and sessions ---

    async def login(self, user: str, password: str, source: str) -> User:
        """Check a password. Delays grow for the name and for the source, and end by themselves."""
        name, now_s = user.strip().lower()[:64], self._clock.now().mono_ns / NS_PER_S
        keys = (f"user {name}", f"source {_network(source)}")
        wait_s = max(self._throttle.wait_s(k, now_s) for k in keys)
        if wait_s > 0:
            told = [self._throttle.first_refusal(k) for k in keys]
            if any(told):
                text = (
                    f"logins as {clean(name, 32)} from {clean(source, 64)} are refused for {wait_s:.0f} s: too many wrong passwords"
                )
                await self._record("login-delayed", text, name, Severity.WARNING, source)
            raise RefusedError("too many wrong passwords", f"try again in {int(wait_s) + 1} s, or ask an admin for a new password")
        for k in keys:
            self._throttle.charge(k, now_s)
        try:
            row = await self._db.run(lambda db: _user_row(db, name))
            right, stale = await self._passwords.matches(row[1] if row else None, password)
        except WardgateError:
            for k in keys:
                self._throttle.undo(k)  # nothing was checked
            raise
        if not right or row is None:
            await self._record("login-failed", f"a wrong password for {clean(name, 32)}", name, Severity.WARNING, source)
            raise RefusedError("that name and password do not fit", "try again, or ask an admin to set a new password")
        for k in keys:
            self._throttle.refund(k)
        if stale:
            await self._store_password(name, await self._passwords.hash(password), keep_sessions=True)
        await self._record("login", f"{name} logged in", name, source=source)
        return User(name, row[0])

    async def start_session(self, user: User) -> str:
        """A new session token for a user who has just logged in."""
        return await self._sessions.start(user)

    async def session(self, token: str) -> User | None:
        """Who this session is; None when unknown or ended."""
        return await self._sessions.find(token)

    async def end_session(self, token: str) -> None:
        """Log out."""
        await self._sessions.end(token)

    async def one_time_view(self) -> str:
        """A token for a one-time link to a read-only view."""
        token = await self._sessions.new_link()
        await self._record("view-link", "a one-time link to a read-only view was made", "root")
        return token

    async def redeem_view(self, link: str, source: str = "") -> str:
        """The session token (role viewer) for a one-time link; the link is spent."""
        await self._record("view-link-used", "a one-time link to a read-only view was opened", "view-link", source=source)
        return await self._sessions.redeem_link(link)

    # --- changes, by an admin ---

    async def users(self) -> Sequence[User]:
        """Everyone, by name."""
        rows = await self._db.run(lambda db: db.execute("SELECT name, role FROM users ORDER BY name").fetchall())
        return [User(*r) for r in rows]

    async def add_user(self, actor: User, name: str, password: str, role: str) -> User:
        """Create a user."""
        name, role = _name(name), _role(role)
        _only_admin(actor)
        check_password(password, name)
        if await self._db.run(lambda db: _user_row(db, name)) is not None:
            raise InputError(f"there is a user {name} already", "take another name")
        hashed = await self._passwords.hash(password)
        await self._record("user-added", f"{name} is a new user with the role {role}", actor.name)
        sql = "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        if (await self._db.run(lambda db: db.execute(sql, (name, role, hashed)).rowcount)) != 1:
            raise InputError(f"there is a user {name} already", "take another name")
        return User(name, role)

    async def set_role(self, actor: User, name: str, role: str) -> User:
        """Change a role; ends the user's sessions. The last admin stays one."""
        name, role = _name(name), _role(role)
        _only_admin(actor)
        await self._db.run(lambda db: _keep_one_admin(db, name, role))
        await self._record("role-changed", f"{name} has the role {role} now", actor.name)

        def work(db: Connection) -> None:
            _keep_one_admin(db, name, role)
            db.execute("UPDATE users SET role = ? WHERE name = ?", (role, name))
            end_sessions_of(db, name)

        await self._db.run(work)
        return User(name, role)

    async def set_password(self, actor: User, name: str, password: str) -> None:
        """Set a new password (one's own, or an admin anyone's); ends the user's sessions."""
        name = _name(name)
        if actor.name != name:
            _only_admin(actor)
        check_password(password, name)
        if await self._db.run(lambda db: _user_row(db, name)) is None:
            raise InputError(f"there is no user {name}", "add the user first")
        hashed = await self._passwords.hash(password)
        await self._record("password-changed", f"{name} has a new password", actor.name)
        await self._store_password(name, hashed, keep_sessions=False)

    async def remove_user(self, actor: User, name: str) -> None:
        """Remove a user and end the sessions. The last admin stays."""
        name = _name(name)
        _only_admin(actor)
        await self._db.run(lambda db: _keep_one_admin(db, name, ""))
        await self._record("user-removed", f"{name} is no user any more", actor.name)

        def work(db: Connection) -> None:
            _keep_one_admin(db, name, "")
            db.execute("DELETE FROM users WHERE name = ?", (name,))
            end_sessions_of(db, name)

        await self._db.run(work)

    def close(self) -> None:
        """End the hashing thread. The database is closed by its owner."""
        self._passwords.close()

    async def _store_password(self, name: str, hashed: str, *, keep_sessions: bool) -> None:
        def work(db: Connection) -> None:
            db.execute("UPDATE users SET password = ? WHERE name = ?", (hashed, name))
            if not keep_sessions:
                end_sessions_of(db, name)

        await self._db.run(work)

    async def _record(self, kind: str, text: str, actor: str, severity: Severity = Severity.INFORMATION, source: str = "") -> None:
        body: tuple[tuple[str, object], ...] = (("actor", clean(actor, 64)), ("severity", str(severity)))
        body += (("source", clean(source, 64)),) if source else ()
        await self._audit.append([(self._clock.now(), Record(kind, "", text, body))])


def _charge_claim(db: Connection, now: Instant) -> tuple[str | None, int]:
    """The hash of the code and how many wrong tries there are, this one counted in advance; None when there is no valid code."""
    row = db.execute("SELECT code, at, wrong FROM claim").fetchone()
    if row is None:
        return None, 0
    if row[2] >= CLAIM_TRIES or _expired(cast(Instant, codec.from_plain(Instant, json.loads(row[1]))), now):
        db.execute("DELETE FROM claim")
        return None, 0
    db.execute("UPDATE claim SET wrong = wrong + 1")
    return row[0], row[2] + 1


def _expired(at: Instant, now: Instant) -> bool:
    """On boot time; after a reboot on wall time, where going backwards counts as expired too, and so does a clock not set."""
    if now.boot_id != at.boot_id and min(at.quality, now.quality) < TimeQuality.RTC:
        return True
    age_ns = now.mono_ns - at.mono_ns if now.boot_id == at.boot_id else now.utc_ns - at.utc_ns
    return not 0 <= age_ns <= CLAIM_S * NS_PER_S


def _use_claim(db: Connection, encoded: str, name: str, hashed: str) -> bool:
    if db.execute("DELETE FROM claim WHERE code = ?", (encoded,)).rowcount != 1:
        return False
    sql = "INSERT INTO users VALUES (?, 'admin', ?) ON CONFLICT (name) DO UPDATE SET role = 'admin', password = excluded.password"
    db.execute(sql, (name, hashed))
    end_sessions_of(db, name)
    return True


def _user_row(db: Connection, name: str) -> tuple[str, str] | None:
    row = db.execute("SELECT role, password FROM users WHERE name = ?", (name,)).fetchone()
    return (row[0], row[1]) if row else None


def _keep_one_admin(db: Connection, name: str, role: str) -> None:
    row = _user_row(db, name)
    if row is None:
        raise InputError(f"there is no user {name}", "the Gateway page lists all users")
    others = db.execute("SELECT count(*) FROM users WHERE role = 'admin' AND name <> ?", (name,)).fetchone()[0]
    if row[0] == "admin" and role != "admin" and others == 0:
        raise RefusedError(f"{name} is the last admin", "make someone else admin first")


def _only_admin(actor: User) -> None:
    if actor.role != "admin":
        raise RefusedError(f"{actor.name} is {actor.role}; only an admin changes accounts", "ask an admin")


def _name(name: str) -> str:
    name = name.strip().lower()
    if not _NAME.fullmatch(name) or name in ("root", "view-link"):
        raise InputError("a user name is 1 to 32 letters, digits, dots or hyphens, and not root", "take another name")
    return name


def _role(role: str) -> str:
    if role not in ROLES:
        raise InputError(f"a role is one of {', '.join(ROLES)}", "take one of them")
    return role


def _network(source: str) -> str:
    """One key for what one attacker has: an IPv4 address, an IPv6 /64."""
    try:
        address = ipaddress.ip_address(source.split("%")[0])
    except ValueError:
        return clean(source, 64)
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
