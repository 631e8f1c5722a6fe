"""``wardgate acknowledge``: a person has looked at what befell the gateway itself. Refuses to know what it was."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Add = Callable[..., argparse.ArgumentParser]
Ask = Callable[[argparse.Namespace, str, str, dict[str, str]], int]


def register(add: Add, ask: Ask) -> None:
    """Its subcommand; ``ask(options, verb, device_id, arguments)`` carries out a command of the daemon."""
    text = "you have looked at the alarm about the last run or a standstill: it ends; the record keeps it, and your name"
    p = add("acknowledge", lambda o: ask(o, "acknowledge", "", {}), text)
    p.add_argument("--user", help="act as this named person (asks for the password)")
    p.add_argument("--password-file", type=Path)
