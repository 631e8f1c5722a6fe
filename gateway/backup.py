"""What a backup is made of, and how it is read back: configuration, profiles, inventory, people, policy, keys.

Nothing of a patient is in it. Left out: the record (it is exported, and goes on where it is), readings and messages that still
wait (a copy would arrive twice), certificates, bonds (their keys are in the adapter's store); and, where the daemon makes it for
the page, what only root reads: the hashes of those who may confirm policy are kept from it on purpose, or whoever takes the daemon
over could guess at them. The file says what it lacks. Keys that the TPM made or sealed are
in it as they lie on the disk: they open on this very machine and nowhere else. Refuses to change anything.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gateway import __version__, codec
from gateway.config import Config, parse_config
from gateway.errors import InputError, MalformedError, UnavailableError
from gateway.model.instant import Instant
from gateway.sealed_file import MOST, open_sealed, seal
from gateway.store.audit import AuditLog
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.store.moved import Rows, check_rows, take_out

CONFIG, CONFIRMED, OPERATORS, TPM_STATE, SHARED_KEYS = (
    "wardgate.toml",
    "confirmed.json",
    "operators.json",
    "tpm.json",
    "shared-keys.json",
)
UPLINK = ("uplink/ca", "uplink/cert", "uplink/key")
PROFILE, TLS = "profiles/", "tls/"
_MAX_FILE = 48 * 1024 * 1024  # bytes: a confirmed policy of 10,000 devices is 5 MB, 32 are the most it can have


@dataclass(frozen=True, slots=True)
class Contents:
    """A backup that was opened and checked. ``files`` by the names above; ``facts`` as in ``facts_of``."""

    config: Config
    files: Mapping[str, bytes]
    rows: Rows
    facts: Mapping[str, Any]
    digest: str


def places(config: Config, config_path: Path) -> dict[str, Path]:
    """Where each file of a backup lies on this machine; profiles are in a folder and not listed."""
    state, policy = config.gateway.state, config.policy.confirmed
    found = {CONFIG: config_path, CONFIRMED: policy, OPERATORS: policy.parent / OPERATORS}
    found |= {TPM_STATE: state / TPM_STATE, SHARED_KEYS: state / SHARED_KEYS}
    if config.uplink.host:
        found |= dict(zip(UPLINK, (config.uplink.ca, config.uplink.cert, config.uplink.key), strict=True))
    for name, tls in config.tls.items():
        named = (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key))
        found |= {f"{TLS}{name}/{part}": path for part, path in named if path is not None}
    return found


def in_words(names: Iterable[str]) -> list[str]:
    """What a backup lacks, for a person."""
    return ["who may confirm what may pass (operators.json, which only root reads)" if n == OPERATORS else n for n in names]


def unreadable(config: Config, config_path: Path) -> list[str]:
    """What ``collect`` could not read now, by its names."""
    return [name for name, path in _wanted(config, config_path).items() if _refused(path)]


def _refused(path: Path) -> bool:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _wanted(config: Config, config_path: Path) -> dict[str, Path]:
    return {**places(config, config_path), **{PROFILE + p.name: p for p in sorted(config.policy.profiles.glob("*.toml"))}}


async def collect(config: Config, config_path: Path, database: Database, now: Instant, by: str) -> tuple[bytes, list[str]]:
    """The content of a backup, and which files could not be read (the daemon may not read root's). Raises UnavailableError."""
    files: dict[str, bytes] = {}
    unread: list[str] = []
    for name, path in _wanted(config, config_path).items():
        try:
            with path.open("rb") as f:
                files[name] = f.read(_MAX_FILE)
        except FileNotFoundError:
            pass
        except OSError:
            unread.append(name)
    head = await AuditLog(database).head()
    checkpoint = await CertificateCache(database).checkpoint()
    facts = {
        "wardgate": __version__, "gateway": config.gateway.id, "name": config.gateway.name, "by": by, "utc_ns": now.utc_ns,
        "quality": int(now.quality), "audit": [head.sequence, head.hash], "unread": unread,
        "nv_counter": checkpoint.nv_counter if checkpoint else 0,
    }  # fmt: skip
    rows: Rows = await take_out(database)
    return codec.encode({"version": 1, "facts": facts, "files": files, "tables": rows}), unread


def write(file: Path, content: bytes, passphrase: str) -> int:
    """Write a backup, whole or not at all, for its owner only; returns its bytes. Raises InputError when the file exists."""
    if file.exists():
        raise InputError(f"{file} exists already", "name a new file")
    part = file.with_name(f".{file.name}.part")
    pieces = seal(content, passphrase)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            for piece in pieces:
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        part.rename(file)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise UnavailableError(f"{file} cannot be written ({e.strerror})", "name a place with room that you may write to") from None
    return file.stat().st_size


def stream(content: bytes, passphrase: str) -> Iterator[bytes]:
    """The same bytes for a browser. Raises InputError for a passphrase that is too short."""
    return seal(content, passphrase)


def read(file: BinaryIO, passphrase: str, name: str) -> Contents:
    """Open and check a backup completely. Raises InputError; whatever is wrong with it, nothing was changed."""
    content = open_sealed(file, passphrase, name)
    try:
        document = codec.decode(content, MOST)
        facts, files, tables = document["facts"], document["files"], document["tables"]
        good = document["version"] == 1 and set(document) == {"version", "facts", "files", "tables"}
        good = good and isinstance(facts, dict) and all(type(n) is str and type(c) is bytes for n, c in files.items())
        sequence, digest = facts["audit"]
        good = good and type(sequence) is int and type(digest) is bytes and type(facts["nv_counter"]) is int
        good = good and type(facts["unread"]) is list and all(type(n) is str for n in facts["unread"])
    except (MalformedError, KeyError, TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise InputError(f"{name} opens, but its content is not what this version writes", "install the version that made it")
    known = {CONFIG, CONFIRMED, OPERATORS, TPM_STATE, SHARED_KEYS, *UPLINK}
    for entry in (*files, *facts["unread"]):
        if entry not in known and not _is_profile(entry) and not _is_tls(entry):
            raise InputError(f"{name} holds a file {entry[:60]!r} that no backup has", "use another file; nothing was changed")
    if CONFIG not in files:
        raise InputError(f"{name} has no configuration", "use another file; nothing was changed")
    try:
        config = parse_config(files[CONFIG].decode("utf-8"), f"{CONFIG} in {name}")
    except UnicodeDecodeError:
        raise InputError(f"{CONFIG} in {name} is not UTF-8", "use another file; nothing was changed") from None
    return Contents(config, files, check_rows(tables), facts, hashlib.sha256(content).hexdigest())


def _is_tls(entry: str) -> bool:
    return re.fullmatch(r"tls/[A-Za-z0-9_-]{1,64}/(ca|cert|key)", entry) is not None


def _is_profile(entry: str) -> bool:
    return re.fullmatch(r"profiles/[A-Za-z0-9_-]{1,64}\.toml", entry) is not None
