"""The subcommands ``wardgate reference …`` and ``wardgate cache …``. All ask the running daemon.

Refuses to know what makes a file trustworthy.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.cli_policy import Add, Tools

_FILE_MAX = 1024 * 1024


def register(add: Add, commands: Any, common: argparse.ArgumentParser, tools: Tools) -> None:
    """Add the subcommands."""

    def bound(work: Callable[[argparse.Namespace, Tools], int]) -> Callable[[argparse.Namespace], int]:
        return lambda o: work(o, tools)

    text = "endorsements and reference values"
    reference = commands.add_parser("reference", help=text, description=text, parents=[common]).add_subparsers(required=True)
    add("list", bound(_references), "each device's keys and reference values, and what can be taken back", reference)
    p = add("import", bound(_import), "take a maker's endorsement (JSON); learned values stay, vetoes stand", reference)
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--device", default="", metavar="ID", help="default: the device with the endorsement's UEID")
    p = add("rollback", bound(_rollback), "take the newest import back; vetoes stand", reference)
    p.add_argument("device", nargs="?", default="", metavar="ID")
    devices = tools.devices
    p = add(
        "assign", bound(_assign), "label a device's readings with a patient's token, never a name; without one: nobody's", devices
    )
    p.add_argument("id")
    p.add_argument("token", nargs="?", default="")
    text = "what is cached for a time without the outside world"
    cache = commands.add_parser("cache", help=text, description=text, parents=[common]).add_subparsers(required=True)
    add("list", bound(_cached), "what is cached, and until when it is good", cache)
    p = add("import", bound(_import_cached), "bring in a file that proves itself: a CA's revocation list or certificate", cache)
    p.add_argument("file", type=Path, metavar="FILE")


def _references(o: argparse.Namespace, tools: Tools) -> int:
    found = tools.control(o).ask("GET", "/api/v1/references")
    lines = []
    for d in found["devices"]:
        lines.append(
            f"{d['device']}: {len(d['anchors'])} keys, {len(d['values'])} values; {len(d['replaced'])} imports can be taken back"
        )
        lines += [f"  {a['kind']} of UEID {a['ueid'][:18]}…, said by: {a['provenance']}" for a in d["anchors"]]
        lines += [f"  {v['target']} {v['name']} = {v['hex'][:32]}, said by: {v['provenance']}" for v in d["values"]]
    tools.say(o, found, lines or ["there are no devices"])
    return 0


def _import(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import read_bounded

    text = read_bounded(o.file).decode("utf-8", "replace")
    done = tools.control(o).ask("POST", "/api/v1/references/import", {"endorsement": text, "device_id": o.device})
    tools.say(o, done, [*done["changed"], done["text"]])
    return 0


def _rollback(o: argparse.Namespace, tools: Tools) -> int:
    done = tools.control(o).ask("POST", "/api/v1/references/rollback", {"device_id": o.device})
    tools.say(o, done, [*done["changed"], done["text"]])
    return 0


def _assign(o: argparse.Namespace, tools: Tools) -> int:
    done = tools.control(o).ask("POST", f"/api/v1/devices/{quote(o.id, safe='')}/assign", {"token": o.token})
    tools.say(o, done, [done["text"]])
    return 0


def _cached(o: argparse.Namespace, tools: Tools) -> int:
    found = tools.control(o).ask("GET", "/api/v1/cache")
    lines = [f"{r['kind']:12s} {_until(r)}  {r['name']} ({r['text']})" for r in found["rows"]]
    lines += [f"REVOKED: {text}" for text in found["revoked"]]
    tools.say(o, found, lines or ["nothing is cached"])
    return 0


def _until(row: dict[str, Any]) -> str:
    return f"good until {row['good_until_utc']}" if row["left_s"] > 0 else f"ENDED {row['good_until_utc']}     "


def _import_cached(o: argparse.Namespace, tools: Tools) -> int:
    from gateway.policy_desk import read_bounded

    body = {"file": base64.b64encode(read_bounded(o.file, _FILE_MAX)).decode()}
    done = tools.control(o).ask("POST", "/api/v1/cache/import", body)
    tools.say(o, done, [f"{done['says']}; good until {done['good_until_utc']}", *(f"REVOKED: {text}" for text in done["revoked"])])
    return 0
