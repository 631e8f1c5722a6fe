"""Who may confirm a policy: named operators with scrypt hashes in a root-only file, one claim code for the first.

Checked by root's own process, so that a compromised daemon cannot confirm in an operator's name. Failures are counted
on disk, since the process lives for one request. It knows no policy and no socket.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.enforcer.files import write_atomically

ROLES = ("biomed", "admin")
CLAIM_VALID_S = 3600  # long enough to unpack the box, short enough that a label found later is worthless
PASSWORD_MIN = 10
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 15, 8, 1  # 32 MiB and 0.1 s a try
_SCRYPT_MEMORY = 64 << 20
_TRIES, _LOCK_S = 5, 60.0  # five tries a minute, for each user and for the claim code
_BUILD_S = 1_795_478_400  # 2026-11-24: a clock that says less is not set
_USER = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_USERS_MAX = 1000


class CredentialError(Exception):
    """The credential does not hold; ``remedy`` is the next step. Never says which part was wrong."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


class Operators:
    """The operators of one policy directory. The claim and the lock end on boot time: setting the clock changes neither."""

    def __init__(self, directory: Path) -> None:
        self._operators = directory / "operators.json"
        self._claim = directory / "claim.json"
        self._attempts = directory / "attempts.json"

    def write_claim(self, code: str, valid_s: float = CLAIM_VALID_S) -> None:
        """Make ``code`` good for creating one admin, once. Replaces an earlier one. At least 8 characters."""
        if len(code) < 8:
            raise CredentialError("the claim code is too short", "use at least 8 characters")
        claim = {"scrypt": _hash(code), "boot": _boot_id(), "until_s": _boot_s() + valid_s, "expires_utc": time.time() + valid_s}
        write_atomically(self._claim, json.dumps(claim).encode(), 0o600)

    def claim(self, code: str, user: str, password: str) -> None:
        """Create an admin with the claim code, which is then used up. Raises CredentialError."""
        self._count("claim code")
        claim = _read(self._claim)
        if not claim or _expired(claim) or not _matches(claim["scrypt"], code):
            raise CredentialError(
                "the claim code is wrong, used or expired", "make a new one on the console: wardgate init --new-claim"
            )
        self.put(user, password, "admin")
        self._claim.unlink(missing_ok=True)
        self._forgive("claim code")

    def put(self, user: str, password: str, role: str) -> None:
        """Create or change an operator. Raises CredentialError for a bad name, role or password."""
        if not _USER.fullmatch(user):
            raise CredentialError(
                "a user name is a-z, 0-9, . _ -, begins with a letter and has at most 32 characters", "choose another"
            )
        if role not in ROLES:
            raise CredentialError(f"a policy operator's role is {' or '.join(ROLES)}", "choose one of them")
        if not PASSWORD_MIN <= len(password) <= 256:
            raise CredentialError(f"a password has {PASSWORD_MIN} to 256 characters", "choose a longer one")
        operators = _read(self._operators)
        if user not in operators and len(operators) >= _USERS_MAX:
            raise CredentialError("too many operators", "remove one")
        operators[user] = {"scrypt": _hash(password), "role": role}
        write_atomically(self._operators, json.dumps(operators, sort_keys=True).encode(), 0o600)

    def check(self, user: str, password: str) -> str:
        """The operator's role. Raises CredentialError; the same error for an unknown user and a wrong password."""
        self._count(user)
        entry = _read(self._operators).get(user)
        if not _matches(entry["scrypt"] if entry else _NOBODY, password) or not entry:
            raise CredentialError("user or password is wrong", "try again, or reset it on the console")
        self._forgive(user)
        return str(entry["role"])

    def _count(self, who: str) -> None:
        """Count a try before it is made; refuse when there were too many. Bounded: old entries go."""
        who = who if _USER.fullmatch(who) or who == "claim code" else "somebody"
        now = _boot_s()
        tries = {name: [t for t in times if 0 <= now - t < _LOCK_S] for name, times in _read(self._attempts).items()}
        if len(tries.get(who, [])) >= _TRIES:
            raise CredentialError("too many tries", f"wait {_LOCK_S:.0f} seconds")
        if who not in tries and len(tries) >= _USERS_MAX:
            who = "somebody"
        tries.setdefault(who, []).append(now)
        write_atomically(self._attempts, json.dumps({n: t for n, t in tries.items() if t}).encode(), 0o600)

    def _forgive(self, who: str) -> None:
        tries = _read(self._attempts)
        if tries.pop(who, None) is not None:
            write_atomically(self._attempts, json.dumps(tries).encode(), 0o600)


def _expired(claim: Mapping[str, Any]) -> bool:
    """On boot time; after a reboot on wall time, where a clock that was not set then, or is not now, counts as expired."""
    if claim.get("boot") == _boot_id():
        return _boot_s() > float(claim["until_s"])
    now = time.time()
    return not _BUILD_S < now <= float(claim["expires_utc"]) <= now + CLAIM_VALID_S


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


_NOBODY = f"{'00' * 16}:{'00' * 32}"


def _hash(secret: str) -> str:
    salt = os.urandom(16)
    return f"{salt.hex()}:{_scrypt(secret, salt).hex()}"


def _matches(stored: str, secret: str) -> bool:
    salt, _, digest = stored.partition(":")
    return hmac.compare_digest(_scrypt(secret, bytes.fromhex(salt)), bytes.fromhex(digest))


def _scrypt(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        secret.encode("utf-8", "surrogatepass"), salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, maxmem=_SCRYPT_MEMORY, dklen=32
    )


def _read(path: Path) -> dict[str, Any]:
    """A root-owned JSON file; {} when absent. A broken one raises: nobody gets in by breaking it."""
    try:
        value: Mapping[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise CredentialError(f"{path} is broken", "restore it from a backup, or make a new claim on the console") from e
    return dict(value)
