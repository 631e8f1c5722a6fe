"""Sessions of the page, and one-time links to a read-only view. Only SHA-256 of a token is ever stored.

Ages run on boot time, so a session of another boot has ended. Refuses to know passwords.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets

from gateway.clock import Clock
from gateway.errors import RefusedError, UnavailableError
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.view import User
from gateway.store.database import Connection, Database

IDLE_S = 30 * 60  # a screen left on a ward
ABSOLUTE_S = 12 * 3600  # one shift
LINK_S = 30 * 60  # an unused view link
VIEW_USER = User("view-link", "viewer")
_TOUCH_S = 60  # the last use is written at most once a minute: a page with live events must not wear out the disk
_MOST_OF_ONE = 16  # sessions of one user; the oldest ends first


class Sessions:
    """On one database. Raises UnavailableError when the disk does not let it; a full disk ends no session."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock
        self._used: dict[bytes, int] = {}  # last use, newer than what is stored

    async def start(self, user: User) -> str:
        """A new token: 256 bits, opaque."""
        token, now = secrets.token_urlsafe(32), self._clock.now()

        def work(db: Connection) -> None:
            _sweep(db, now)
            row = (_digest(token), user.name, user.role, now.boot_id, now.mono_ns, now.mono_ns)
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)", row)
            surplus = "SELECT token FROM sessions WHERE user = ? ORDER BY started_ns DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM sessions WHERE token IN ({surplus})", (user.name, _MOST_OF_ONE))  # noqa: S608

        await self._db.run(work)
        return token

    async def find(self, token: str) -> User | None:
        """Whose session this is; None when unknown, idle for too long, too old, or of another boot."""
        digest, now = _digest(token), self._clock.now()
        sql = "SELECT user, role, boot_id, started_ns, used_ns FROM sessions WHERE token = ?"
        row = await self._db.run(lambda db: db.execute(sql, (digest,)).fetchone())
        if row is None:
            self._used.pop(digest, None)
            return None
        used_ns = max(row[4], self._used.get(digest, 0))
        if row[2] != now.boot_id or now.mono_ns - row[3] > ABSOLUTE_S * NS_PER_S or now.mono_ns - used_ns > IDLE_S * NS_PER_S:
            with contextlib.suppress(UnavailableError):  # it has ended all the same; the next start sweeps it away
                await self.end(token)
            return None
        self._used[digest] = now.mono_ns
        if now.mono_ns - row[4] > _TOUCH_S * NS_PER_S:
            with contextlib.suppress(UnavailableError):  # kept in memory until the disk has room again
                update = "UPDATE sessions SET used_ns = ? WHERE token = ?"
                await self._db.run(lambda db: db.execute(update, (now.mono_ns, digest)))
        return User(row[0], row[1])

    async def end(self, token: str) -> None:
        """Log out; an unknown token is no error."""
        digest = _digest(token)
        self._used.pop(digest, None)
        await self._db.run(lambda db: db.execute("DELETE FROM sessions WHERE token = ?", (digest,)))

    async def new_link(self) -> str:
        """A one-time link to a read-only view, good for half an hour."""
        token, now = secrets.token_urlsafe(32), self._clock.now()

        def work(db: Connection) -> None:
            _sweep(db, now)
            db.execute("INSERT INTO view_links VALUES (?, ?, ?)", (_digest(token), now.boot_id, now.mono_ns))
            surplus = "SELECT token FROM view_links ORDER BY started_ns DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM view_links WHERE token IN ({surplus})", (_MOST_OF_ONE,))  # noqa: S608

        await self._db.run(work)
        return token

    async def redeem_link(self, link: str) -> str:
        """A read-only session for a link, once. Raises RefusedError when it was used, or is unknown or too old."""
        now = self._clock.now()

        def work(db: Connection) -> int:
            _sweep(db, now)
            return int(db.execute("DELETE FROM view_links WHERE token = ?", (_digest(link),)).rowcount)

        if await self._db.run(work) != 1:
            raise RefusedError("this link was used already, or is too old", "ask for a new one, or log in")
        return await self.start(VIEW_USER)


def end_sessions_of(db: Connection, name: str) -> None:
    """End every session of a user, in the caller's transaction: a role or password changed."""
    db.execute("DELETE FROM sessions WHERE user = ?", (name,))


def _sweep(db: Connection, now: Instant) -> None:
    old = (now.boot_id, now.mono_ns - ABSOLUTE_S * NS_PER_S)
    db.execute("DELETE FROM sessions WHERE boot_id <> ? OR started_ns < ?", old)
    db.execute("DELETE FROM view_links WHERE boot_id <> ? OR started_ns < ?", (now.boot_id, now.mono_ns - LINK_S * NS_PER_S))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
