"""The commands about the gateway itself: the record by filter, the network as it is now, identity, and people.

Each asks the running daemon, as the page does. Where an operator's credential changes, root asks wardgate-policy itself: the
daemon never could in root's name. Refuses to know how anything is found out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from gateway.cli_words import password_of, say

Add = Callable[..., argparse.ArgumentParser]
_ROLES = ("viewer", "clinical", "biomed", "admin")


def register(add: Add, users: Any) -> None:
    """Add the commands; ``users`` are the subcommands of ``wardgate user``."""
    p = add("events", _events, "the record for people: filtered, newest first, or as a file")
    p.add_argument("--device", default="")
    p.add_argument("--kind", default="", help="levels, alarms, refused, devices, people, gateway, or one kind of line")
    p.add_argument("--severity", default="", choices=("information", "warning", "alarm"), help="at least this loud")
    p.add_argument("--from", dest="since", default="", metavar="TIME", help="ISO 8601, UTC")
    p.add_argument("--to", dest="until", default="", metavar="TIME")
    p.add_argument("--text", default="", help="what the line says")
    p.add_argument("--limit", type=int, default=50, help="1 to 500")
    p.add_argument("--before", type=int, help="lines before this number: the next page")
    p.add_argument("--export", choices=("csv", "jsonl"), help="everything that fits, to stdout")
    add("network", _network, "who may talk to whom now, and what was refused in the last hour")
    add("identity", _identity, "who this gateway is, what its quotes prove, which versions are installed")
    add("list", _user_list, "everyone, with their roles", users)
    p = add("role", _user_role, "another role; open sessions end", users)
    p.add_argument("name")
    p.add_argument("--role", required=True, choices=_ROLES)
    p.add_argument("--password-file", help="a new password too: needed when a viewer gets a role that confirms something")
    p = add("password", _user_password, "a new password for somebody who lost theirs", users)
    p.add_argument("name")
    p.add_argument("--password-file")
    add("remove", _user_remove, "a person goes; what they did stays in the record", users).add_argument("name")


def _control(o: argparse.Namespace) -> Any:
    from gateway.config import read_config
    from gateway.control import Control

    return Control(read_config(o.config))


def _events(o: argparse.Namespace) -> int:
    asked = {"device": o.device, "kind": o.kind, "severity": o.severity, "from": o.since, "to": o.until, "text": o.text}
    query = {k: v for k, v in asked.items() if v}
    control = _control(o)
    if o.export:
        control.copy(f"/api/v1/events.{o.export}?{urlencode(query)}", sys.stdout.buffer)
        return 0
    more = {"limit": o.limit} | ({"before": o.before} if o.before is not None else {})
    page = control.ask("GET", f"/api/v1/events?{urlencode(query | more)}")
    lines = [f"{e['sequence']:>8} {e['time_utc'][:19]} {e['severity'][:5]:5} {e['text']}" for e in page["events"]]
    if page["older"] is not None:
        lines.append(f"older: --before {page['older']}{'' if page['complete'] else ' (the search stopped at its bound)'}")
    record = control.ask("GET", "/api/v1/record")
    lines.append(record["trouble"] or f"the record verifies up to line {record['last']}, from line {record['first']} on")
    return say(o, {**page, "record": record}, lines)


def _network(o: argparse.Namespace) -> int:
    land = _control(o).ask("GET", "/api/v1/network")
    hosts = {h["id"]: ", ".join(h["names"]) or h["id"] for h in land["hosts"]}
    lines = [land["trouble"]] if land["trouble"] else []
    for spot in land["spots"]:
        lines.append(f"{spot['id']}: {spot['name']}, level {spot['level']}, {spot['place']}")
        lines += [f"  {lane['function']:14} {_flow(lane, hosts)}: {lane['word']}" for lane in spot["lanes"]]
    lines += [f"the gateway itself: {_flow(lane, hosts)}: {lane['word']}" for lane in land["own"]]
    lines += [f"refused {r['count']} times: {r['device_id'] or 'nobody known'}: {r['text']}" for r in land["refused"]]
    if wiring := land["wiring"]:
        lines += [f"wiring: {wiring['summary']}", *(f"  does not control {x}" for x in wiring["leaves"])]
        lines += [f"  {f['text']}; {f['remedy']}" for f in wiring["findings"]]
    return say(o, land, lines)


def _flow(lane: dict[str, Any], hosts: dict[str, str]) -> str:
    peer = hosts.get(lane["peer"], lane["peer"]) or "the gateway"
    return f"{lane['protocol']} {lane['port'] or ''} {'to' if lane['from_device'] else 'from'} {peer}"


def _identity(o: argparse.Namespace) -> int:
    who = _control(o).ask("GET", "/api/v1/identity")
    c, v = who["certificate"], who["versions"]
    certified = f"{c['subject']}, by {c['issuer']}, until {c['not_after'][:10]}" if c else "not certified: run `wardgate enrol`"
    lines = [
        f"{who['name']} ({who['id']})",
        f"  attestation key {who['ak_sha256']}",
        f"  {certified}",
        f"  version {v['current']}" + (f", before it {v['previous']}" if v["previous"] else ""),
        *(f"  {s}" for s in who["statements"]),
    ]
    return say(o, who, lines)


# --- people ---


def _user_list(o: argparse.Namespace) -> int:
    users = _control(o).ask("GET", "/api/v1/users")["users"]
    return say(o, users, [f"{u['name']:32} {u['role']}" for u in users])


def _user_role(o: argparse.Namespace) -> int:
    control, password = _control(o), password_of(o.name, o.password_file) if o.password_file else ""
    was = _role_of(control, o.name)
    _credential(o, {"do": "add-operator", "name": o.name, "new_password": password, "role": o.role} if password
                else {"do": "operator-role", "name": o.name, "role": o.role}, o.role, was, bool(password))  # fmt: skip
    answer = control.ask("POST", f"/api/v1/users/{quote(o.name)}/role", {"role": o.role, "password": password})
    return say(o, answer, [f"{o.name} is {o.role}"])


def _user_password(o: argparse.Namespace) -> int:
    control, password = _control(o), password_of(o.name, o.password_file, "new password of")
    role = _role_of(control, o.name)
    _credential(o, {"do": "add-operator", "name": o.name, "new_password": password, "role": role}, role, "", True)
    answer = control.ask("POST", f"/api/v1/users/{quote(o.name)}/password", {"password": password})
    return say(o, answer, [f"{o.name} has a new password"])


def _user_remove(o: argparse.Namespace) -> int:
    control = _control(o)
    _credential(o, {"do": "operator-role", "name": o.name, "role": ""}, "", _role_of(control, o.name), False)
    answer = control.ask("POST", f"/api/v1/users/{quote(o.name)}/remove", {})
    return say(o, answer, [f"{o.name} is no user any more"])


def _role_of(control: Any, name: str) -> str:
    from gateway.errors import InputError

    for user in control.ask("GET", "/api/v1/users")["users"]:
        if user["name"] == name:
            return str(user["role"])
    raise InputError(f"there is no user {name}", "see `wardgate user list`")


def _credential(o: argparse.Namespace, request: dict[str, Any], role: str, was: str, password: bool) -> None:
    """Root keeps the operator's credential in step, before the daemon is asked: a refusal there changes nothing anywhere."""
    from gateway.config import read_config
    from gateway.enforcer.confirm_client import confirm_sync
    from gateway.enforcer.credentials import ROLES
    from gateway.errors import InputError

    if os.geteuid() != 0:
        return
    if role in ROLES and not password and was not in ROLES:
        raise InputError(f"as {role}, {o.name} confirms what may pass with a password, and needs a new one", "give --password-file")
    if role not in ROLES:
        if was not in ROLES:
            return
        request = {**request, "do": "operator-role", "role": ""}
    confirm_sync(read_config(o.config).policy.socket, request)
