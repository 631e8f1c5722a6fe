"""Puts a backup back: on the machine it was made on everything goes on; on another it says exactly what has to be done.

Everything is read and checked before anything changes; what was there is kept in a backup of its own, under the same passphrase;
a marker keeps a daemon from running on half a state. The record is never replaced: it goes on with a line about this.
Refuses to lift a veto, to bring back readings, and to pretend that a key of one TPM works in another.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path

from gateway import backup
from gateway.attester import state as tpm_state
from gateway.attester.attester import Attester, present_ak
from gateway.attester.tpm import Tpm
from gateway.config import Config, read_config
from gateway.enforcer.confirm_client import UnansweredError, confirm_sync
from gateway.enforcer.document import EMPTY, Document, DocumentError, parse_document
from gateway.enforcer.files import append_durably, write_atomically
from gateway.errors import EvidenceError, InputError, RefusedError, UnavailableError, WardgateError
from gateway.housekeeping import leave_checkpoint
from gateway.machine_clock import MachineClock
from gateway.model.effect import Record, Severity
from gateway.model.evidence import EvidenceClass
from gateway.only_one import UNFINISHED, only_one
from gateway.policy.difference import difference
from gateway.policy.profile import parse_profile
from gateway.store.audit import AuditLog
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.store.moved import PutIn, devices_of, put_in, take_out

_SHARING = (EvidenceClass.SYMMETRIC, EvidenceClass.BEACON)
DATABASE = "wardgate.sqlite"


@dataclass(frozen=True, slots=True)
class Options:
    """``other``: it is another machine, whatever the TPM says. ``with_paths``: use folders that only the file names."""

    config_path: Path
    file: Path
    passphrase: str
    other: bool = False
    with_paths: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """How a restore ended: what was put back, where the old state lies, what the file lacked, what has to be done now, in order."""

    same_machine: bool
    put: PutIn
    undo: Path | None
    restored: tuple[str, ...]
    changes: tuple[str, ...]
    lacks: tuple[str, ...]
    todo: tuple[str, ...]


def restore(o: Options) -> Done:
    """Carry it out. Raises InputError, EvidenceError (the file), RefusedError (not root), UnavailableError (a daemon, no TPM)."""
    if os.geteuid() != 0:
        raise RefusedError("a restore is for root on the console", "use sudo")
    try:
        with o.file.open("rb") as f:
            contents = backup.read(f, o.passphrase, str(o.file))
    except OSError as e:
        raise InputError(f"{o.file} cannot be read ({e.strerror})", "check the path") from None
    document = _check_deeper(contents)
    _check_paths(o, contents.config)
    state = contents.config.gateway.state
    _make_state(state)
    with only_one(state):
        same = not o.other and asyncio.run(_same_machine(contents))
        return asyncio.run(_carry_out(o, contents, document, same))


def _make_state(state: Path) -> None:
    if not state.exists():
        state.mkdir(parents=True, mode=0o700)
        try:
            daemon = pwd.getpwnam("wardgate")
        except KeyError:
            return
        os.chown(state, daemon.pw_uid, daemon.pw_gid)


# --- before anything changes ---


def _check_deeper(c: backup.Contents) -> Document | None:
    """Profiles, policy and TPM state parse as what they are."""
    import tomllib

    what = ""
    try:
        for name, text in c.files.items():
            what = name
            if name.startswith(backup.PROFILE):
                parse_profile(tomllib.loads(text.decode("utf-8")), c.config.peers)
            elif name in (backup.OPERATORS, backup.TPM_STATE, backup.SHARED_KEYS) and not isinstance(json.loads(text), dict):
                raise ValueError("not an object")  # noqa: TRY301 - told as the others are
        what = backup.CONFIRMED
        return parse_document(c.files[what]) if what in c.files else None
    except (ValueError, DocumentError, WardgateError) as e:
        raise InputError(f"{what} in the backup does not hold together ({e})", "use another file; nothing was changed") from None


def _local(o: Options) -> Config | None:
    """This machine's configuration; None when there is none, or none that can be used: then a restore is what mends it."""
    try:
        return read_config(o.config_path)
    except InputError:
        return None


def _check_paths(o: Options, config: Config) -> None:
    """A file does not choose where root writes: only where this gateway keeps things already, or where all of them do."""
    known = [Config(), *(k for k in (_local(o),) if k is not None)]
    chosen = [("state", config.gateway.state, [k.gateway.state for k in known]),
              ("profiles", config.policy.profiles, [k.policy.profiles for k in known]),
              ("confirmed", config.policy.confirmed, [k.policy.confirmed for k in known])]  # fmt: skip
    for name, path, usual in chosen:
        if path not in usual and not o.with_paths:
            raise InputError(f"the backup keeps its {name} at {path}, this gateway does not", "add --with-paths if that is right")
    for name, path in backup.places(config, o.config_path).items():
        inside = any(path.is_relative_to(d) and ".." not in path.parts for d in (config.gateway.state, o.config_path.parent))
        if name.startswith(("uplink/", backup.TLS)) and not inside:
            raise InputError(f"the backup has {name} at {path}", "move it below the state folder or the configuration's")


async def _same_machine(c: backup.Contents) -> bool:
    """Whether this TPM holds the attestation key that the backup knows. Raises UnavailableError when the TPM cannot say."""
    held = json.loads(c.files.get(backup.TPM_STATE, b"{}")).get("ak_public", "")
    if not held:
        return False
    tpm = Tpm(c.config.tpm.tcti)
    try:
        return bool(await present_ak(tpm) == held)
    except UnavailableError as e:
        what = f"the TPM does not say whether this is the machine that the backup was made on ({e.what})"
        raise UnavailableError(what, "mend the TPM first, or add --other-machine; nothing was changed") from None
    finally:
        await tpm.close()


# --- the change ---


async def _carry_out(o: Options, c: backup.Contents, document: Document | None, same: bool) -> Done:
    config, clock = c.config, MachineClock()
    state = config.gateway.state
    owner = (state.stat().st_uid, state.stat().st_gid)
    tpm = Tpm(config.tpm.tcti)
    database = Database(state / DATABASE)
    try:
        await _check_counter(tpm, c, state, same)
        await database.open()
        undo = await _keep_old(o, c, database, clock)
        (state / UNFINISHED).write_text("a restore is under way\n", encoding="ascii")
        try:
            changes = _confirm(config, document)
        except RefusedError:
            (state / UNFINISHED).unlink()  # the kernel took nothing of it, and nothing else was touched
            raise
        put = await put_in(database, c.rows, (clock.now(), _line(c, same)), same_machine=same)
        restored = _put_files(o, c, same, owner)
        todo = await _settle(tpm, database, c, clock, same)
        (state / UNFINISHED).unlink()
    finally:
        await database.close()
        await tpm.close()
    for path in state.iterdir():
        if path.name.startswith(DATABASE):
            os.chown(path, *owner)
    lacks = backup.in_words(c.facts["unread"])
    return Done(same, put, undo, tuple(restored), tuple(changes), tuple(lacks), (*_todo(o, c, same), *todo))


async def _check_counter(tpm: Tpm, c: backup.Contents, state: Path, same: bool) -> None:
    """A file from this machine cannot know of more checkpoints than its TPM. Raises EvidenceError."""
    if not same:
        return
    known = tpm_state.parse(c.files[backup.TPM_STATE]) if not (state / tpm_state.STATE_FILE).exists() else tpm_state.load(state)
    counter = await Attester.counter_of(tpm, known)
    if c.facts["nv_counter"] > counter:
        raise EvidenceError(
            f"the backup knows {c.facts['nv_counter']} checkpoints and this TPM only {counter}",
            "its counter was made anew; add --other-machine; nothing was changed",
        )


async def _keep_old(o: Options, c: backup.Contents, database: Database, clock: MachineClock) -> Path | None:
    """What is here now, as a backup under the same passphrase; None on an empty machine."""
    now, config = clock.now(), _local(o)
    content, _ = await backup.collect(config or c.config, o.config_path, database, now, "restore")
    if not o.config_path.exists() and not any((await take_out(database)).values()):
        return None
    folder, stamp = database.path.parent, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now.utc_ns / 1e9))
    number = next(n for n in range(1, 10_000) if not (folder / f"before-restore-{stamp}-{n}.backup").exists())
    undo = folder / f"before-restore-{stamp}-{number}.backup"
    backup.write(undo, content, o.passphrase)
    return undo


def _line(c: backup.Contents, same: bool) -> Record:
    sequence, digest = c.facts["audit"]
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(c.facts["utc_ns"] / 1e9))
    whose = "this machine" if same else f"another machine ({c.facts['gateway']})"
    body = (
        ("actor", "root"), ("severity", Severity.WARNING.value), ("backup", c.digest), ("made", made), ("same_machine", same),
        ("audit_sequence", sequence), ("audit_hash", digest.hex()), ("nv_counter", c.facts["nv_counter"]),
    )  # fmt: skip
    return Record("restored-backup", "", f"root restored a backup of {whose}, made {made} at line {sequence} of its record", body)


def _put_files(o: Options, c: backup.Contents, same: bool, owner: tuple[int, int]) -> list[str]:
    """Configuration, profiles, credentials, keys; each whole or not at all. Returns what was written."""
    done = []
    for name, path in backup.places(c.config, o.config_path).items():
        if name not in c.files or name == backup.CONFIRMED or (name in (backup.TPM_STATE, backup.SHARED_KEYS) and not same):
            continue
        if name == backup.TPM_STATE and path.exists():
            continue  # what this machine knows of its TPM is newer: it may have been enrolled since
        private = name != backup.CONFIG and not name.endswith(("/ca", "/cert"))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, c.files[name], 0o600 if private else 0o644)
        if path.is_relative_to(c.config.gateway.state):
            os.chown(path, *owner)
        done.append(name)
    folder = c.config.policy.profiles
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {n.removeprefix(backup.PROFILE): t for n, t in c.files.items() if n.startswith(backup.PROFILE)}
    for path in folder.glob("*.toml"):
        if path.name not in wanted:
            path.unlink()  # it is in the backup of the old state
    for name, text in wanted.items():
        write_atomically(folder / name, text, 0o644)
    return [*done, f"{len(wanted)} profiles"]


def _confirm(config: Config, document: Document | None) -> list[str]:
    """Make the file's policy the confirmed one, through root's own loader if it answers. Returns what may pass now."""
    if document is None:
        return []
    path = config.policy.confirmed
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(EMPTY)
    new = json.loads(document.canonical)
    if old == new:
        return []
    changes = difference(old, new)
    try:
        confirm_sync(config.policy.socket, {"do": "confirm", "document": new})
    except UnansweredError:
        raise  # it may be at work this very moment: writing its files under it would lose one of the two
    except UnavailableError:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            write_atomically(path.parent / "previous.json", path.read_bytes(), 0o644)
        write_atomically(path, document.canonical, 0o644)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"act": "restore", "actor": "root", "at_utc": at, "document": document.document_id}
        append_durably(path.parent / "audit.log", json.dumps(line, sort_keys=True).encode(), 0o600)
        changes.append("wardgate-policy did not answer: `wardgate-policy load` (or the next boot) puts this into the kernel")
    return changes


async def _settle(tpm: Tpm, database: Database, c: backup.Contents, clock: MachineClock, same: bool) -> list[str]:
    """A new checkpoint, so that every older copy of this state is found out from now on."""
    if not same:
        return []
    try:
        attester = Attester(tpm, c.config.gateway.state, pcrs=c.config.tpm.pcrs)
        await leave_checkpoint(AuditLog(database), CertificateCache(database), attester, clock.now())
    except WardgateError as e:
        return [f'wardgate audit accept --reason "restored"   (no checkpoint could be left: {e.what})']
    return []


# --- what a person has to do ---


def _todo(o: Options, c: backup.Contents, same: bool) -> list[str]:
    """In order; nothing on the same machine but what the file did not carry."""
    import tomllib

    steps: list[str] = []
    profiles = {
        n: parse_profile(tomllib.loads(t.decode()), c.config.peers) for n, t in c.files.items() if n.startswith(backup.PROFILE)
    }
    by_id = {p.id: p for p in profiles.values()}
    devices = [d for d in devices_of(c.rows) if d.profile in by_id and d.state != "retired"]
    if not same:
        if not (c.config.gateway.state / tpm_state.STATE_FILE).exists():
            steps.append("wardgate init   (makes this machine's own keys; the configuration stays)")
        steps.append(
            "wardgate enrol --ca URL   (this TPM has another attestation key: until then nobody can check its certificates)"
        )
        sharing = [d.id for d in devices if any(t.evidence_class in _SHARING for t in by_id[d.profile].targets)]
        if sharing:
            who = f"get an endorsement for gateway {c.config.gateway.id} from whoever holds the device keys"
            steps.append(
                f"{', '.join(sharing)}: the keys they share with the old gateway were sealed by its TPM; {who},"
                " then `wardgate device remove` and `device add` each with it"
            )
        bonded = [d.id for d in devices if d.bus == "ble"]
        if bonded:
            steps.append(f"{', '.join(bonded)}: pair again; the passkeys are known here, the bonds stayed in the old adapter")
        steps.append(
            f"switch the old machine off, once its outbox is empty (`wardgate outbox` there): both are {c.config.gateway.id}"
        )
    if backup.OPERATORS not in c.files:
        here = backup.places(c.config, o.config_path)[backup.OPERATORS].exists()
        why = "those who could here still can, with their old passwords; this makes one who can" if here else "nobody can yet"
        steps.append(f"wardgate init --new-claim   (the backup does not say who may confirm policy: {why})")
    return [*steps, "systemctl start wardgate && wardgate check"]
