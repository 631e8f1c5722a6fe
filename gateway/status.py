"""``wardgate status``: the daemon's picture, and what still holds when the daemon is dead: the enforcer's alarm.

Exit code 0: all well; 10: degraded; 11: something is cut.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli_messages import lines as message_lines
from gateway.control import Control
from gateway.errors import UnavailableError

if TYPE_CHECKING:
    from gateway.listening import Listener

Answer = tuple[Any, list[str], int]


def summarise(control: Control, *, offline: bool, ports: bool) -> Answer:
    """The status as a document, lines and exit code. The listeners come from the kernel, with the daemon or without."""
    document, lines, code = _summary(control, offline)
    if ports:
        from gateway.flows import kernel_flows
        from gateway.listening import listeners

        rows = listeners(control.config)
        document["listeners"] = [{**asdict(row), "unexpected": row.unexpected} for row in rows]
        lines += [f"  listens: {_listener(row)}" for row in rows]
        flows = kernel_flows()
        document["flows"] = None if flows is None else [asdict(flow) for flow in flows]
        lines += ["  flows: only root reads them from the kernel"] if flows is None else [f"  {flow}" for flow in flows]
    return document, lines, code


def _summary(control: Control, offline: bool) -> Answer:
    try:
        view = control.view()
    except UnavailableError as e:
        return _without_daemon(control, str(e))
    code = _code(view)
    g = view["gateway"]
    word = {0: "all well", 10: "degraded", 11: "something is cut"}[code]
    lines = [f"{g['name']} ({g['id']}) {g['version']}: {word}; {g['mode']}; {g['certificates']} certificates, {g['quotes']} quotes"]
    lines += [f"  {'ok ' if p['ok'] else 'NO '} {p['name']}: {p['text']}" for p in g["parts"]]
    for d in view["devices"]:
        lines.append(f"  level {d['level']}/{d['needed']} {d['id']} ({d['state']}): {d['reason']}")
        lines += [f"    ALARM {text}" for text in d["alarms"]]
    document: dict[str, Any] = {"status": word, **view}
    if offline:
        document["offline"] = control.ask("GET", "/api/v1/offline")["deadlines"]
        lines += [f"  without the outside: {_deadline(d)}" for d in document["offline"]]
    return document, lines, code


def outbox(control: Control, *, retry: bool, one: int | None = None, discard: int | None = None) -> tuple[Any, list[str]]:
    """What still has to leave, as a document and lines; ``retry`` sends dead letters (or ``one``) again first, or forgets one."""
    lines: list[str] = []
    for letter, verb in ((one, "retry"), (discard, "discard")):
        if letter is not None:
            lines.append(str(control.ask("POST", f"/api/v1/outbox/{letter}/{verb}", {})["text"]))
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
    if (copy := v["syslog"]) is not None:
        age = "" if copy["oldest_s"] is None else f", the oldest for {copy['oldest_s']:.0f} s"
        lines.append(f"the record's copy: {copy['state']}; {copy['lines']} lines not confirmed{age}")
    lines += message_lines(v)
    lines += [f"  dead letter {d['id']}: {d['topic']}, {d['readings']} readings: {d['reason']}" for d in v["dead_letters"]]
    return v, lines


def _listener(row: Listener) -> str:
    where = f"{row.protocol} {row.address}{'%' + row.interface if row.interface else ''} port {row.port}"
    if not row.toward_ward:
        return where
    return f"{where}, toward the ward: {row.why or 'NOT EXPECTED; nothing of the policy says so, and the tables refuse it'}"


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


def _deadline(d: dict[str, Any]) -> str:
    if d["left_s"] is None:
        return f"{d['what']}: no end. {d['then']}"
    left = "over" if d["gone"] else f"{d['left_s'] / 86_400:.1f} days left"
    date = f", until {d['ends_utc'][:10]}" if d["ends_utc"] else ""
    return f"{d['what']}: {left}{date}. {d['then']}"


def read_alarm(path: Path) -> str:
    """What the enforcer rings about, from the file it keeps; an empty string when it does not ring."""
    try:
        reasons = json.loads(path.read_text(encoding="utf-8"))["reasons"]
        return "; ".join(str(r["text"]) for r in reasons.values())
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"the enforcer's alarm file {path} cannot be read"
