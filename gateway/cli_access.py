"""The subcommands about access by machines: ``wardgate token add``, ``list``, ``revoke``. All ask the running daemon.

Refuses to know how a token is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

Add = Callable[..., argparse.ArgumentParser]
Say = Callable[[argparse.Namespace, Any, list[str]], int]


def register(
    add: Add, commands: Any, common: argparse.ArgumentParser, control: Callable[[argparse.Namespace], Any], say: Say
) -> None:
    """Add the subcommands. ``control(options)`` is the daemon's client, ``say(options, document, lines)`` prints."""

    def token_add(o: argparse.Namespace) -> int:
        made = control(o).ask("POST", "/api/v1/tokens", {"name": o.name, "role": o.role, "days": o.days})
        lines = [
            made["token"],
            f"{o.name} may do what the role {o.role} may, for {o.days} days. This is shown once; only its hash is kept.",
            "It is sent as: Authorization: Bearer TOKEN",
        ]
        say(o, made, lines)
        return 0

    def token_list(o: argparse.Namespace) -> int:
        found = control(o).ask("GET", "/api/v1/tokens")["tokens"]
        lines = [f"{t['name']:32s} {t['role']:9s} {_left(t):24s} made by {t['made_by']} on {t['made_utc'][:10]}" for t in found]
        say(o, found, lines or ["there are no tokens"])
        return 0

    def token_revoke(o: argparse.Namespace) -> int:
        say(o, control(o).ask("DELETE", f"/api/v1/tokens/{quote(o.name, safe='')}"), [f"{o.name} is revoked"])
        return 0

    tokens = commands.add_parser("token", help="API tokens: access for machines", parents=[common]).add_subparsers(required=True)
    p = add("add", token_add, "a new token, shown once", tokens)
    p.add_argument("name")
    p.add_argument(
        "--role", required=True, choices=("metrics", "viewer", "clinical", "biomed", "admin"), help="metrics: /metrics and no more"
    )
    p.add_argument("--days", type=int, default=90, help="how long it lasts, at most 366; default 90")
    add("list", token_list, "all tokens, never their secrets", tokens)
    add("revoke", token_revoke, "end a token now", tokens).add_argument("name")


def _left(token: dict[str, Any]) -> str:
    if token["why_not"]:
        return str(token["why_not"])
    days = token["left_s"] // 86_400
    return f"{days} days left" if days else f"{token['left_s'] // 3600} h left"
