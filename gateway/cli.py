"""The ``wardgate`` command: thin, one function a subcommand, each importing what it needs when it is called.

Errors go to stderr as ``wardgate: <what is wrong>; <what to do>``, never as a traceback. Exit 2: usage or bad input;
1: it failed; otherwise as each subcommand says. Refuses to know how anything is done.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import cli_access, cli_device, cli_house, cli_incidents, cli_lifecycle, cli_messages, cli_offline
from gateway.cli_words import password_of, read, say
from gateway.errors import Fault, WardgateError

DEFAULT_CONFIG = Path("/etc/wardgate/wardgate.toml")
Command = Callable[[argparse.Namespace], int]


def run(arguments: Sequence[str]) -> int:
    """Parse and carry out one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except WardgateError as e:
        sys.stderr.write(f"wardgate: {e}\n")
        return 2 if e.fault is Fault.INPUT else 1
    except ModuleNotFoundError as e:
        name = (e.name or "").partition(".")[0]
        if name in ("gateway", "drivers"):
            raise  # a part of ourselves that is missing is a broken installation, not a missing extra
        sys.stderr.write(f"wardgate: this command needs {name}, which is not installed; pip install 'wardgate[appliance]'\n")
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("wardgate: interrupted; run it again\n")
        return 1
    except PermissionError as e:
        sys.stderr.write(f"wardgate: {e.filename or 'a file'} may not be used; run it as root or as the wardgate user\n")
        return 1
    except OSError as e:
        sys.stderr.write(f"wardgate: {e.strerror or e} ({e.filename or 'no file'}); see `wardgate check`\n")
        return 1
    except Exception as e:  # noqa: BLE001 - a bug of ours is told in one line too, with where it is
        where = traceback.extract_tb(e.__traceback__)[-1]
        at = f"{Path(where.filename).name}:{where.lineno}"
        sys.stderr.write(f"wardgate: a fault of its own at {at} ({type(e).__name__}: {e}); please report it with this line\n")
        return 1


def _control(o: argparse.Namespace) -> Any:
    from gateway.config import read_config
    from gateway.control import Control

    return Control(read_config(o.config))


def _status(o: argparse.Namespace) -> int:
    from gateway.status import summarise

    document, lines, code = summarise(_control(o), offline=o.offline, ports=o.ports)
    say(o, document, lines)
    return code


def _outbox(o: argparse.Namespace) -> int:
    from gateway.status import outbox

    document, lines = outbox(_control(o), retry=o.retry, one=o.retry_one, discard=o.discard)
    say(o, document, lines)
    return 0


def _device_list(o: argparse.Namespace) -> int:
    devices = _control(o).view()["devices"]
    say(o, devices, [f"{d['id']:16s} level {d['level']}  {d['state']:10s} {d['name']} — {d['reason']}" for d in devices])
    return 0


def _device_show(o: argparse.Namespace) -> int:
    device = _control(o).device(o.id)
    functions = [
        f"  {'●' if f['allowed'] else '○'} {f['name']:14s} needs {f['required']}, on loss {f['on_loss']}: {f['reason']}"
        for f in device["functions"]
    ]
    head = [
        f"{device['id']}: {device['name']} ({device['bus']}, {device['address']})",
        f"  {device['state']}, level {device['level']}: {device['reason']}",
    ]
    say(o, device, [*head, *functions, *(f"  would be cut: {w}" for w in device["would_cut"])])
    return 0


def _device_command(verb: str) -> Command:
    def command(o: argparse.Namespace) -> int:
        arguments = {k: str(v) for k in ("minutes", "reason", "function", "difference") if (v := getattr(o, k, None)) is not None}
        if getattr(o, "anyway", False):
            arguments["anyway"] = "yes"
        outcome = _control(o).command(verb, o.id, arguments, user=o.user, password=_password(o))
        say(o, outcome, [outcome["text"], *(f"  {line}" for line in outcome["detail"].get("identity", ()))])
        return 0 if outcome["ok"] else 1

    return command


def _ask(o: argparse.Namespace, verb: str, device_id: str, arguments: dict[str, str]) -> int:
    """Carry out a command of the daemon, as the person who is named."""
    outcome = _control(o).command(verb, device_id, arguments, user=o.user, password=_password(o))
    say(o, outcome, [outcome["text"]])
    return 0 if outcome["ok"] else 1


def _device_add(o: argparse.Namespace) -> int:
    arguments = {
        "name": o.name or o.id, "bus": o.bus, "profile": o.profile, "address": o.address, "port": o.port or "", "mac": o.mac or "",
        "addresses": ",".join(o.ip or ([o.address] if o.bus != "ble" else [])), "passkey": o.passkey or "",
        "endorsement": read(o.endorsement).decode("utf-8", "strict") if o.endorsement else "",
    }  # fmt: skip
    return _ask(o, "add", o.id, arguments)


def _user_add(o: argparse.Namespace) -> int:
    from gateway.config import read_config
    from gateway.enforcer.confirm_client import confirm_sync

    control, password = _control(o), password_of(o.name, o.password_file)
    answer = control.ask("POST", "/api/v1/users", {"name": o.name, "password": password, "role": o.role})
    if os.geteuid() == 0 and o.role in ("clinical", "biomed", "admin"):
        request = {"do": "add-operator", "name": o.name, "new_password": password, "role": o.role}
        confirm_sync(read_config(o.config).policy.socket, request)
    say(o, answer, [f"{o.name} is {o.role}"])
    return 0


def _claim(o: argparse.Namespace) -> int:
    body = {"code": o.code, "user": o.user, "password": password_of(o.user, o.password_file)}
    answer = _control(o).ask("POST", "/api/v1/claim", body)
    say(o, answer, [f"{o.user} is admin"])
    return 0


def _explain(o: argparse.Namespace) -> int:
    document = _control(o).explain(o.device, o.function)
    lines = [f"{document['device']}: level {document['level']} ({document['state']}): {document['reason']}"]
    lines += [f"  {s}" for s in document["steps"]] + [f"  veto: {v}" for v in document["vetoes"]]
    lines += [
        f"  {f['name']}: {'allowed' if f['allowed'] else 'not allowed'}, needs level {f['required']}: {f['reason']}"
        for f in document["functions"]
    ]
    say(o, document, [*lines, f"  policy {document['policy']}"])
    return 0


def _break_glass(o: argparse.Namespace) -> int:
    from gateway.bootstrap import break_glass
    from gateway.config import read_config

    if os.geteuid() == 0:
        document, lines = break_glass(read_config(o.config), o.device, o.function, o.reason, o.minutes)
        say(o, document, lines)
        return 0
    o.id = o.device
    return _device_command("break-glass")(o)


# --- small things ---


@dataclass(frozen=True)
class _Tools:
    """What the other modules of commands are lent (``cli_device.Tools``)."""

    person: Callable[[argparse.ArgumentParser], None]
    control = staticmethod(lambda o: _control(o))
    say = staticmethod(lambda o, document, lines: say(o, document, lines))
    read = staticmethod(lambda path: read(path))
    command = staticmethod(lambda verb: _device_command(verb))


def _password(o: argparse.Namespace) -> str:
    return password_of(o.user, o.password_file) if o.user else ""


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document on stdout")
    common.add_argument("--config", type=Path, default=argparse.SUPPRESS, help=f"default {DEFAULT_CONFIG}")
    parser = argparse.ArgumentParser(prog="wardgate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"default {DEFAULT_CONFIG}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, function: Command, text: str, within: Any = commands) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = within.add_parser(name, help=text, description=text, parents=[common])
        p.set_defaults(command=function)
        return p

    cli_offline.register(add)
    _daemon_commands(add, commands, common)
    cli_access.register(add, commands, common, _control, say)
    return parser


def _daemon_commands(add: Callable[..., argparse.ArgumentParser], commands: Any, common: argparse.ArgumentParser) -> None:
    def person(p: argparse.ArgumentParser) -> None:
        p.add_argument("--user", help="act as this named person (asks for the password)")
        p.add_argument("--password-file", type=Path)

    p = add("status", _status, "the gateway and its devices")
    p.add_argument("--offline", action="store_true", help="the offline budget")
    p.add_argument("--ports", action="store_true", help="listeners and flows from the live kernel")
    p = add("outbox", _outbox, "what still has to leave, what was lost, what the broker refuses")
    p.add_argument("--retry", action="store_true", help="send the dead letters again")
    p.add_argument("--retry-one", type=int, metavar="ID", help="send this dead letter again")
    p.add_argument("--discard", type=int, metavar="ID", help="forget this dead letter; its readings count as lost")
    cli_messages.register(add, commands, common, _ask)
    cli_incidents.register(add, _ask)
    devices = commands.add_parser("device", help="the inventory and its states", parents=[common]).add_subparsers(required=True)
    add("list", _device_list, "all devices", devices)
    add("show", _device_show, "one device", devices).add_argument("id")
    p = add("add", _device_add, "propose a device; it gets nothing until it is accepted", devices)
    p.add_argument("id")
    p.add_argument("--bus", required=True, choices=("ble", "modbus", "hl7"))
    p.add_argument("--profile", required=True)
    p.add_argument("--address", required=True, help="BLE address, or the IP address it keeps")
    p.add_argument("--name")
    p.add_argument("--port", help="the gateway's port it is plugged into")
    p.add_argument("--mac")
    p.add_argument("--ip", action="append", help="all its IP addresses; default --address")
    p.add_argument("--passkey", help="printed on a wearable's label")
    p.add_argument("--endorsement", help="the maker's endorsement (JSON): key, identity, measurements")
    person(p)
    for verb in ("remove", "attest", "undo", "enforce", "observe", "suspend"):
        p = add(verb, _device_command(verb), f"{verb} a device", devices)
        p.add_argument("id")
        person(p)
    p = add(
        "service",
        _device_command("service"),
        "a repair begins: monitoring stays, the difference is accepted by a second person",
        devices,
    )
    p.add_argument("id")
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--reason", required=True)
    person(p)
    cli_device.register(add, devices, _Tools(person))
    p = add("explain", _explain, "how the level came about, step by step")
    p.add_argument("device")
    p.add_argument("function", nargs="?")
    p = add("break-glass", _break_glass, "open one function's flows for a limited time; as root it needs no daemon")
    p.add_argument("device")
    p.add_argument("function")
    p.add_argument("--reason", required=True)
    p.add_argument("--minutes", type=int, required=True)
    person(p)
    users = commands.add_parser("user", help="named people", parents=[common]).add_subparsers(required=True)
    p = add("add", _user_add, "a new user with a role", users)
    p.add_argument("name")
    p.add_argument("--role", required=True, choices=("viewer", "clinical", "biomed", "admin"))
    p.add_argument("--password-file", type=Path)
    cli_house.register(add, users)
    p = add("claim", _claim, "the first admin, with the claim code; the page does the same")
    p.add_argument("code")
    p.add_argument("--user", default="admin")
    p.add_argument("--password-file", type=Path)
    audit = commands.add_parser("audit", help="the record", parents=[common]).add_subparsers(required=True)
    add("verify", cli_offline.audit_verify, "check the hash chain of the audit log", audit)
    add("export", cli_offline.audit_export, "the audit log as JSON lines", audit)
    cli_lifecycle.register(add, audit)
    from gateway import cli_holdings, cli_policy

    tools = cli_policy.Tools(say, _control, _password, person, devices)
    cli_policy.register(add, commands, common, tools)
    cli_holdings.register(add, commands, common, tools)
