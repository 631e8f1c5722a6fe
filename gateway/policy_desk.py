"""``wardgate policy …`` without the daemon: checking files, comparing the kernel with what was confirmed, drafts from MUD files.

Refuses to change anything but by root's wardgate-policy, which checks who asks itself.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.config import Config, read_config
from gateway.errors import InputError, InputErrors, RefusedError, UnavailableError
from gateway.policy.mud import import_mud
from gateway.policy.profile import parse_with_trials
from gateway.policy.trials import try_profile

MAX_PROFILE = 64 * 1024  # as wardgate-policy's bound for the text of one profile
Answer = tuple[Any, list[str], int]


def check_files(files: Sequence[Path], peers: dict[str, tuple[str, ...]]) -> Answer:
    """Check profiles and MUD files and run the profiles' own tests. Exit code 1: a test fails.

    Raises InputErrors with every mistake of every file, each with its file and path.
    """
    problems: list[tuple[str, str]] = []
    rows: list[dict[str, Any]] = []
    ids: dict[str, Path] = {}
    for path in files:
        try:
            row = _check_one(path, peers)
        except InputErrors as e:
            problems += [(f"{path}: {where}" if where else str(path), what) for where, what in e.problems]
        except InputError as e:
            problems.append((str(path), e.what))
        else:
            rows.append(row)
            if row["id"] in ids:
                problems.append((f"{path}: id", f"{row['id']} is also the id of {ids[row['id']]}"))
            ids[row["id"]] = path
    if problems:
        raise InputErrors("policy", tuple(problems))
    failed = [t for row in rows for t in row["tests"] if not t["ok"]]
    lines = [line for row in rows for line in _shown(row)]
    return rows, lines, 1 if failed else 0


def _check_one(path: Path, peers: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    data = read_bounded(path, 4 * MAX_PROFILE)
    if path.suffix == ".json":
        draft = import_mud(data, "not looked at")
        if draft.undecided:
            raise InputErrors("MUD", tuple((u.what, u.why) for u in draft.undecided))
        text = f"a MUD file with {draft.flows} flows; `wardgate policy import-mud {path}` makes a profile's draft of it"
        return {"file": str(path), "id": draft.url, "text": text, "tests": []}
    profile, trials = parse_with_trials(toml_of(path, data), peers)
    tried = try_profile(profile, trials)
    text = f"{profile.name}: {len(profile.functions)} functions, {len(profile.targets)} targets, {len(tried)} tests"
    return {"file": str(path), "id": profile.id, "text": text, "tests": [asdict(t) for t in tried]}


def _shown(row: dict[str, Any]) -> list[str]:
    tests = [f"  {'ok  ' if t['ok'] else 'NO  '}{t['what']}: {t['text']}" for t in row["tests"]]
    return [f"{row['file']}: {row['text']}", *tests]


def read_bounded(path: Path, most: int = MAX_PROFILE) -> bytes:
    """A file's bytes. Raises InputError when it cannot be read or is larger."""
    try:
        with path.open("rb") as f:
            data = f.read(most + 1)
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror})", "check the path") from None
    if len(data) > most:
        raise InputError(f"{path} is larger than {most} bytes", "give the right file")
    return data


def toml_of(path: Path, data: bytes) -> dict[str, Any]:
    """A TOML table. Raises InputError with where it is not TOML."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as e:
        raise InputError(f"{path} is no TOML file ({e})", "mend it") from None


def peers_of(config_path: Path) -> dict[str, tuple[str, ...]]:
    """The site's peers, when there is a configuration."""
    return read_config(config_path).peers if config_path.exists() else {}


def check_live(config: Config, table_file: Path | None = None) -> Answer:
    """The kernel against what was confirmed: the static text's digest, and each set's elements by inclusion both ways.

    The digest is of the installed text as this very kernel lists it, not of what the loader wrote down. Exit code 1: they differ.
    """
    from gateway.enforcer.check import survey
    from gateway.enforcer.load import TABLE_FILE, LoadError, expected_digest

    if os.geteuid() != 0:
        raise RefusedError("only root sees the kernel's tables", "sudo wardgate policy check --live")
    table = table_file or TABLE_FILE
    try:
        found = survey(config.policy.confirmed, table)
        expected = expected_digest(table.read_bytes())
    except LoadError as e:
        raise UnavailableError(e.what, e.remedy) from None
    except OSError as e:
        raise UnavailableError(f"{table} cannot be read ({e.strerror})", "install the appliance again") from None
    differences = list(found["differences"])
    if found["present"] and found["digest"] != expected:
        differences.append(f"the kernel's rules are not those of {table}")
    elements = sum(map(len, found["elements"].values()))
    document = {"ok": not differences, "document": found["document"], "digest": found["digest"], "expected_digest": expected,
                "elements": elements, "differences": differences}  # fmt: skip
    if differences:
        return document, [*(f"NO  {d}" for d in differences), "as root: wardgate-policy load puts the confirmed policy back"], 1
    lines = [f"ok  the static text: {expected}", f"ok  {elements} elements, exactly those of policy {found['document'][:16]}"]
    return document, lines, 0


def import_file(path: Path, signature: Path | None, ca: Path | None) -> tuple[dict[str, Any], list[str], str]:
    """(a document, what a person is told, the draft) of a MUD file. Raises EvidenceError when its signature does not hold."""
    from gateway.mud_signature import MAX_SIGNATURE, verify_signature
    from gateway.policy.mud import MAX_BYTES

    if (signature is None) != (ca is None):
        raise InputError("a signature is checked against a CA", "give both --signature FILE and --ca FILE")
    data = read_bounded(path, MAX_BYTES)
    said, signer = "unsigned: anybody may have written this file", ""
    if signature is not None and ca is not None:
        signer = verify_signature(data, read_bounded(signature, MAX_SIGNATURE), read_bounded(ca), datetime.now(UTC))
        said = f"signed by {signer}"
    draft = import_mud(data, said)
    document = {
        "url": draft.url, "signed_by": signer or None, "unsigned": not signer, "flows": draft.flows, "peers": list(draft.peers),
        "undecided": [asdict(u) for u in draft.undecided], "cache_hours": draft.cache_hours, "draft": draft.toml,
    }  # fmt: skip
    told = [said if signer else said.upper().partition(":")[0] + ":" + said.partition(":")[2]]
    told += [f"[peers] in wardgate.toml must say where {p!r} is" for p in draft.peers]
    told += [f"not taken over: {u.what}: {u.why}" for u in draft.undecided]
    told.append(
        "the draft needs on_loss, required, bus, clinical_class and a target; `wardgate policy check FILE` says what is left"
    )
    return document, told, draft.toml


def ask_root(config: Config, do: str, user: str | None, password: str, **more: Any) -> dict[str, Any]:
    """Ask wardgate-policy: as root on the console, or as an operator with a password. Works with the daemon dead."""
    from gateway.enforcer.confirm_client import confirm_sync

    if not user and os.geteuid() != 0 and do != "status":
        raise RefusedError("a change of what may pass needs an operator", "run it as root, or give --user NAME")
    who = {"user": user, "password": password} if user else {}
    return confirm_sync(config.policy.socket, {"do": do, **who, **more})
