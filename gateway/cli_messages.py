"""``wardgate message``: stored messages of devices that are kept aside, one by one. Refuses to know what is in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Add = Callable[..., argparse.ArgumentParser]
Ask = Callable[[argparse.Namespace, str, str, dict[str, str]], int]


def lines(view: dict[str, Any]) -> list[str]:
    """The routes and what is kept aside, for ``wardgate outbox``."""
    found = []
    for r in view["routes"]:
        oldest = "" if r["oldest_s"] is None else f", the oldest for {r['oldest_s']:.0f} s"
        full = f", {r['refused']} refused for want of room" if r["refused"] else ""
        aside = f"; {r['aside']} kept aside" if r["aside"] else ""
        gone = f", {r['forgotten']} no longer kept" if r["forgotten"] else ""
        room = f"{r['bytes'] / 1024:.0f} of {r['room'] / 1024:.0f} KiB"
        found.append(f"  messages {r['route']}: {r['waiting']} waiting ({room}){oldest}{full}{aside}{gone}")
    for m in view["kept_aside"]:
        found.append(f"  kept aside {m['id']}: {m['route']}: {m['reason']} ({m['bytes']} bytes)")
    return found


def register(add: Add, commands: Any, common: argparse.ArgumentParser, ask: Ask) -> None:
    """Its subcommands; ``ask(options, verb, device_id, arguments)`` carries out a command of the daemon."""
    p = commands.add_parser("message", help="stored messages that are kept aside", parents=[common])
    within = p.add_subparsers(required=True)
    for verb, text in (
        ("retry", "send a message that is kept aside again, behind those that wait"),
        ("discard", "let go of a message that is kept aside"),
    ):
        p = add(verb, _command(verb, ask), text, within)
        p.add_argument("message", type=int, help="its number, see `wardgate outbox`")
        p.add_argument("--reason", required=True)
        p.add_argument("--user", help="act as this named person (asks for the password)")
        p.add_argument("--password-file", type=Path)


def _command(verb: str, ask: Ask) -> Callable[[argparse.Namespace], int]:
    def command(o: argparse.Namespace) -> int:
        return ask(o, f"{verb}-message", "", {"message": str(o.message), "reason": o.reason})

    return command
