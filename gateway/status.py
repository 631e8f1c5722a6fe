"""``wardgate status``: the daemon's picture, and what still holds when the daemon is dead: the enforcer's alarm.

Exit code 0: all well; 10: degraded; 11: something is cut.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.cli_messages import lines as message_lines
from gateway.control import Control
from gateway.errors import UnavailableError

Answer = tuple[Any, list[str], int]


def summarise(control: Control, *, offline: bool, ports: bool) -> Answer:
    """The status as a document, lines and exit code."""
    try:
        view = control.view()
    except UnavailableError as e:
        return _without_daemon(control, str(e))
    code = _code(view)
    g = view["gateway"]
    word = {0: "all well", 10: "degraded", 11: "something is cut"}[code]
    lines = [f"{g['name']} ({g['id']}) {g['version']}: {word}; {g['mode']}; {g['certificates']} certificates, {g['quotes']} quotes"]
    lines += [f"  {'ok ' if p['ok'] else 'NO '} {p['name']}: {p['text']}" for p in g["parts"]]
    lines += [f"  level {d['level']}/{d['needed']} {d['id']} ({d['state']}): {d['reason']}" for d in view["devices"]]
    document: dict[str, Any] = {"status": word, **view}
    if offline:
        document["offline"] = _offline(view)
        lines += [f"  without the outside: {text}" for text in document["offline"]]
    if ports:
        document["listeners"] = listeners()
        lines += [f"  listens: {row['protocol']} {row['address']} port {row['port']}" for row in document["listeners"]]
    return document, lines, code


def outbox(control: Control, *, retry: bool) -> tuple[Any, list[str]]:
    """What still has to leave, as a document and lines; ``retry`` sends dead letters again first."""
    lines: list[str] = []
    if retry:
        number = control.ask("POST", "/api/v1/outbox/retry", {})["retried"]
        lines.append(f"{number} dead letters are sent again")
    v = control.ask("GET", "/api/v1/outbox")
    oldest = "" if v["oldest_s"] is None else f", the oldest for {v['oldest_s']:.0f} s"
    lines += [
        f"the way out: {v['state']}",
        f"waiting: {v['readings']} readings and {v['messages']} messages ({v['bytes'] / 1024:.0f} KiB){oldest}",
        f"readings since the store was made: {v['accepted']} taken in, {v['delivered']} delivered, {v['dead']} refused",
        f"lost to a bound, readings and messages: {v['dropped']}",
    ]
    lines += [
        f"  {d['device_id']}: {d['waiting']} waiting, {d['dropped']} lost" for d in v["devices"] if d["waiting"] or d["dropped"]
    ]
    lines += message_lines(v)
    lines += [f"  dead letter {d['id']}: {d['topic']}, {d['readings']} readings: {d['reason']}" for d in v["dead_letters"]]
    return v, lines


def _code(view: dict[str, Any]) -> int:
    enforced = [d for d in view["devices"] if d["state"] in ("enforced", "service")]
    if any(not f["allowed"] for d in enforced for f in d["functions"]):
        return 11
    degraded = not all(p["ok"] for p in view["gateway"]["parts"]) or any(d["alarms"] for d in view["devices"])
    return 10 if degraded else 0


def _without_daemon(control: Control, what: str) -> Answer:
    alarm = control.enforcer_alarm()
    lines = [f"the daemon is not running: {what}"]
    lines.append(f"the enforcer rings: {alarm}" if alarm else "the enforcer does not ring; leases still held lapse by themselves")
    return {"status": "something is cut", "daemon": False, "alarm": alarm}, lines, 11


def _offline(view: dict[str, Any]) -> list[str]:
    rows = []
    for d in view["devices"]:
        left = d["certificate_left_ms"]
        rows.append(
            f"{d['id']}: attested by this gateway alone; certificate good for {left // 1000} s, renewed here"
            if left
            else f"{d['id']}: no certificate"
        )
    return rows


def listeners() -> list[dict[str, Any]]:
    """What listens in this network namespace, from the live kernel (``ss -Hlntu``)."""
    try:
        out = subprocess.run(["ss", "-Hlntu"], capture_output=True, text=True, check=True, timeout=5).stdout  # noqa: S607
    except (OSError, subprocess.SubprocessError) as e:
        raise UnavailableError(f"the kernel's listeners cannot be read ({type(e).__name__})", "install iproute2") from None
    return _parse(out.splitlines())


def _parse(lines: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for line in lines:
        fields = line.split()
        if len(fields) >= 5 and (m := re.fullmatch(r"(.+):(\d+)", fields[4])):
            rows.append({"protocol": fields[0], "address": m[1], "port": int(m[2])})
    return rows


def read_alarm(path: Path) -> str:
    """What the enforcer rings about, from the file it keeps; an empty string when it does not ring."""
    try:
        reasons = json.loads(path.read_text(encoding="utf-8"))["reasons"]
        return "; ".join(str(r["text"]) for r in reasons.values())
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"the enforcer's alarm file {path} cannot be read"
