"""Argon2id, one hash at a time, off the event loop. Refuses to know whose password it is.

One at a time, because each takes 32 MiB: an appliance with 200 MiB must not be pushed over by twenty logins at once.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from gateway.errors import InputError, RefusedError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

SHORTEST = 12  # characters, no composition rules (NIST SP 800-63B, section 3.1.1.2)
LONGEST = 256
_MOST_WAITING = 8  # about a second of work; who comes later is told to try again
_TIME_COST, _MEMORY_KIB, _LANES = 3, 32 * 1024, 1  # above OWASP's floor (19 MiB, 2, 1); 60 ms on a PC, 250 ms on a Pi 4


class Passwords:
    """Hashes and checks. ``close`` ends its thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="argon2")
        self._waiting = 0
        self._hasher: PasswordHasher | None = None
        self._nobody = ""

    async def hash(self, secret: str) -> str:
        """The encoded Argon2id hash. Raises RefusedError when too many wait."""
        return await self._in_turn(lambda: self._argon2().hash(_normal(secret)))

    async def matches(self, encoded: str | None, secret: str) -> tuple[bool, bool]:
        """(right, needs a new hash). With None it takes the same time and is wrong: names cannot be found out by timing."""
        return await self._in_turn(lambda: self._check(encoded, _normal(secret)))

    def close(self) -> None:
        """End the thread."""
        self._worker.shutdown(wait=True)

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if self._waiting >= _MOST_WAITING:
            raise RefusedError("too many passwords are being checked", "try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._waiting -= 1

    def _check(self, encoded: str | None, secret: str) -> tuple[bool, bool]:
        from argon2.exceptions import InvalidHashError, VerificationError

        argon2 = self._argon2()
        try:
            argon2.verify(encoded or self._nobody, secret)
        except (VerificationError, InvalidHashError):
            return False, False
        return encoded is not None, encoded is not None and argon2.check_needs_rehash(encoded)

    def _argon2(self) -> PasswordHasher:
        if self._hasher is None:
            from argon2 import PasswordHasher

            self._hasher = PasswordHasher(time_cost=_TIME_COST, memory_cost=_MEMORY_KIB, parallelism=_LANES)
            self._nobody = self._hasher.hash("nobody has this password")
        return self._hasher


def check_password(password: str, name: str) -> None:
    """Raise InputError unless it can be someone's password."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(f"a password has {SHORTEST} to {LONGEST} characters", "take a sentence that you can remember")
    if _normal(password).casefold() == name.casefold() or len(set(password)) < 4:
        raise InputError("that password is too easy to guess", "take a sentence that you can remember")


def _normal(secret: str) -> str:
    """One form for what different keyboards type (NIST SP 800-63B, section 3.1.1.2); a lone surrogate becomes U+FFFD."""
    return unicodedata.normalize("NFKC", secret[:LONGEST].encode("utf-8", "replace").decode())
