"""The commands of a gateway's life: ``backup``, ``restore``, ``support-file``, ``audit accept``. Thin; each imports what it needs.

Refuses to know how anything is done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.cli_words import say
from gateway.errors import InputError, RefusedError, WardgateError

Add = Callable[..., argparse.ArgumentParser]


def register(add: Add, audit: Any) -> None:
    """Add the commands; ``audit`` holds the subcommands of ``audit``."""
    p = add("backup", _backup, "configuration, inventory, people and keys in one encrypted file; nothing of a patient")
    p.add_argument("file", type=Path)
    p.add_argument("--passphrase-file", type=Path, help="its first line; default: asked for")
    p = add("restore", _restore, "put a backup back; the daemon must not run, what was there is kept")
    p.add_argument("file", type=Path)
    p.add_argument("--passphrase-file", type=Path)
    p.add_argument("--other-machine", action="store_true", help="it was made on another machine, or this one's TPM is new")
    p.add_argument("--with-paths", action="store_true", help="keep things where the backup says, not where this machine does")
    p = add("support-file", _support_file, "what a supporter needs, without secrets and patients; read it before you send it")
    p.add_argument("file", type=Path)
    p = add("accept", _accept, "go on with a state that is older than the TPM remembers; the reason is recorded", audit)
    p.add_argument("--reason", required=True)


def _backup(o: argparse.Namespace) -> int:
    from gateway.backup import in_words
    from gateway.config import read_config
    from gateway.lifecycle import make_backup

    size, unread = make_backup(read_config(o.config), o.config, o.file, _passphrase(o, twice=True))
    missing = [f"not readable, and so not in it: {', '.join(in_words(unread))}; run it as root"] if unread else []
    lines = [
        f"{o.file}: {size} bytes, encrypted; keep the passphrase elsewhere, there is no way around it",
        "in it: configuration, profiles, inventory, vetoes, people, confirmed policy, keys",
        "not in it: the record (`wardgate audit export`), readings that wait, certificates, Bluetooth bonds",
        *missing,
    ]
    return say(o, {"file": str(o.file), "bytes": size, "unread": unread}, lines)


def _restore(o: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.restore import Options, restore

    done = restore(Options(o.config, o.file, _passphrase(o, twice=False), o.other_machine, o.with_paths))
    where = "this machine: everything goes on" if done.same_machine else "ANOTHER machine: what its TPM held stays there"
    lines = [f"restored, from {where}: {done.put.devices} devices, {done.put.users} people, {', '.join(done.restored)}"]
    lines += [f"still vetoed, and its reference values stay as they are here: {d}" for d in done.put.kept]
    lines += [f"not in this backup, and so as it is here: {what}" for what in done.lacks]
    lines += [f"what may pass: {c}" for c in done.changes]
    lines.append("stayed as it is here: the record, readings that wait, vetoes; everyone logs in again")
    lines += [f"to undo this: wardgate restore {done.undo}   (the same passphrase)"] if done.undo else []
    lines += ["now:", *(f"  {n}. {t}" for n, t in enumerate(done.todo, 1))]
    return say(o, {**asdict(done), "undo": str(done.undo or "")}, lines)


def _support_file(o: argparse.Namespace) -> int:
    from gateway.support import write_support_file

    def view_of(path: Path) -> Any:
        from gateway.config import read_config
        from gateway.control import Control

        try:
            return Control(read_config(path)).view()
        except WardgateError:
            return None

    names = write_support_file(o.config, o.file, view_of(o.config))
    lines = [f"{o.file}: a gzipped tar of {len(names)} texts; MANIFEST.txt says what each is: read it before you send it"]
    return say(o, {"file": str(o.file), "entries": names}, lines)


def _accept(o: argparse.Namespace) -> int:
    from gateway.config import read_config
    from gateway.lifecycle import accept

    if not 3 <= len(o.reason) <= 200 or not o.reason.isprintable():
        raise InputError("a reason has 3 to 200 printable characters", "give --reason")
    found = accept(read_config(o.config), o.reason)
    text = f"accepted, recorded, and a checkpoint is left: {found}" if found else "the state is the newest that the TPM remembers"
    return say(o, {"accepted": bool(found), "found": found}, [text])


def _passphrase(o: argparse.Namespace, *, twice: bool) -> str:
    if o.passphrase_file:
        try:
            return str(o.passphrase_file.read_text(encoding="utf-8").split("\n", 1)[0])
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{o.passphrase_file} cannot be read ({e})", "check the path") from None
    if not sys.stdin.isatty():
        raise RefusedError("there is nobody to ask for the passphrase", "give --passphrase-file FILE")
    import getpass

    first = getpass.getpass("passphrase of the backup: ")
    if twice and getpass.getpass("the same again: ") != first:
        raise InputError("the two passphrases are not the same", "type the same one twice")
    return first
