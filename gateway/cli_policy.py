"""The subcommands of ``wardgate policy``: files are checked and drafted, a change is tried, confirmed or undone.

What changes what may pass goes to root's wardgate-policy, with root's own uid or a person's password. Refuses to know how
any of it is done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import InputError

Add = Callable[..., argparse.ArgumentParser]
_DEFAULT_MINUTES = 10.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What ``cli`` lends: printing, the daemon's client, a person's password and flags, and the place of ``device`` commands."""

    say: Callable[[argparse.Namespace, Any, Sequence[str]], int]
    control: Callable[[argparse.Namespace], Any]
    password: Callable[[argparse.Namespace], str]
    person: Callable[[argparse.ArgumentParser], None]
    devices: Any


def register(add: Add, commands: Any, common: argparse.ArgumentParser, tools: Tools) -> None:
    """Add the subcommands."""

    def bound(work: Callable[[argparse.Namespace, Tools], int]) -> Callable[[argparse.Namespace], int]:
        return lambda o: work(o, tools)

    policy = commands.add_parser("policy", help="profiles and what they mean", parents=[common]).add_subparsers(required=True)
    p = add("check", bound(_check), "check profiles and MUD files, all mistakes at once, and run the profiles' own tests", policy)
    p.add_argument("files", nargs="*", type=Path, metavar="FILE")
    p.add_argument("--live", action="store_true", help="also compare the kernel with what was confirmed (as root)")
    p = add("import-mud", bound(_import_mud), "make a profile's draft of a maker's MUD file (RFC 8520)", policy)
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--signature", type=Path, metavar="FILE", help="its detached signature (.p7s)")
    p.add_argument("--ca", type=Path, metavar="FILE", help="the CA certificate (PEM) that the signer must lead to")
    p = add("learn", bound(_learn), "make a profile's draft of the flows that were seen while a device was observed", policy)
    p.add_argument("id")
    add("failures", bound(_failures), "for each function, what passes and who alarms when a part is gone", policy)
    p = add("apply", bound(_apply), "try a profile: active at once, undone by itself unless it is confirmed", policy)
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--minutes", type=float, default=_DEFAULT_MINUTES, help=f"default {_DEFAULT_MINUTES:g}")
    _cut_vital(p)
    p.add_argument("--dry-run", action="store_true", help="only show what it would change")
    tools.person(p)
    tools.person(add("confirm", bound(_confirm), "keep what was applied", policy))
    p = add("rollback", bound(_rollback), "undo what was applied, or go back to the policy before", policy)
    _cut_vital(p)
    tools.person(p)
    tools.person(add("pending", bound(_pending), "what was applied and waits for its confirmation", policy))


def _cut_vital(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--cut-vital", action="append", default=[], metavar="DEVICE.FUNCTION", help="a vital flow that may be cut; repeat"
    )


def _config(o: argparse.Namespace) -> Any:
    from gateway.config import read_config

    return read_config(o.config)


def _check(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import check_files, check_live, peers_of

    if not o.files and not o.live:
        raise InputError("there is nothing to check", "name files, or give --live")
    document, lines, code = check_files(o.files, peers_of(o.config))
    if o.live:
        live, more, live_code = check_live(_config(o))
        document, lines, code = {"files": document, "live": live}, [*lines, *more], max(code, live_code)
    tools.say(o, document, lines)
    return code


def _import_mud(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import import_file

    document, told, toml = import_file(o.file, o.signature, o.ca)
    if o.json:
        tools.say(o, document, ())
        return 0
    sys.stdout.write(toml)
    sys.stderr.write("".join(f"{line}\n" for line in told))
    return 0


def _learn(o: argparse.Namespace, tools: Tools) -> int:
    from urllib.parse import quote

    found = tools.control(o).ask("GET", f"/api/v1/devices/{quote(o.id, safe='')}/learned")
    if o.json:
        tools.say(o, found, ())
        return 0
    sys.stdout.write(found["draft"])
    sys.stderr.write("".join(f"{line}\n" for line in found["notes"]))
    return 0


def _failures(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.bootstrap import failures

    document, lines = failures(_config(o))
    tools.say(o, document, lines)
    return 0


def _apply(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import ask_root, read_bounded

    config, data = _config(o), read_bounded(o.file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{o.file} is not UTF-8", "give a profile in TOML") from None
    prepared = tools.control(o).ask("POST", "/api/v1/policy/apply", {"profile": text, "prepare": True})
    document = prepared.pop("document")
    lines = [*prepared["difference"], *(f"VITAL, would be cut: {name}" for name in prepared["vital_cut"])]
    if o.dry_run:
        tools.say(o, prepared, lines or ["no change of what may pass"])
        return 0
    if not o.json:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    more = {"document": document, "minutes": o.minutes, "cut_vital": o.cut_vital}
    answer = ask_root(config, "apply", o.user, tools.password(o), **more)
    told = f"active now; it goes back by itself in {o.minutes:g} min unless you confirm it: wardgate policy confirm"
    tools.say(o, {**prepared, "pending": answer["pending"]}, [told])
    return 0


def _confirm(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import ask_root

    answer = ask_root(_config(o), "keep", o.user, tools.password(o))
    tools.say(o, answer, ["confirmed: it stays, also after a restart; the way back is wardgate policy rollback"])
    return 0


def _rollback(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import ask_root

    answer = ask_root(_config(o), "rollback", o.user, tools.password(o), cut_vital=o.cut_vital)
    tools.say(
        o, answer, ["undone: the policy before it is active" if "undone" in answer else "the policy before this one is active"]
    )
    return 0


def _pending(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import ask_root

    answer = ask_root(_config(o), "status", None, "")
    waiting = answer["pending"]
    text = "nothing waits" if waiting is None else f"{waiting['actor']} applied a policy; {waiting['left_s']:.0f} s left"
    tools.say(o, answer, [text])
    return 0
