"""``wardgate-policy``: root's own tool for the confirmed policy. Checks the operator itself, then acts.

On the console as root it needs no daemon. ``serve`` answers one JSON request a connection on a root-owned socket, for the
page and the command; a peer that is not root must give an operator's name and password each time. It holds the timer of a
policy that was applied and not confirmed: as long as one waits it does not end, and when it must end it undoes it. Standard
library only.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from gateway.enforcer.bounds import REQUEST_S
from gateway.enforcer.confirmed import ConfirmedPolicy
from gateway.enforcer.credentials import CredentialError, Operators
from gateway.enforcer.document import DOCUMENT_MAX, DocumentError, check_document, parse_document
from gateway.enforcer.load import TABLE_FILE, LoadError
from gateway.enforcer.pending import DEFAULT_MINUTES

_REQUEST_MAX = DOCUMENT_MAX + 4096
_RETRY_S = 1.0  # an undoing that the kernel refused is tried again after this
_CUTS_MAX = 1000
_STATE, _CONFIG = Path("/var/lib/wardgate-policy"), Path("/etc/wardgate/wardgate.toml")

Answer = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """The command. Exit 0 done, 1 refused or failed, 2 bad usage or a bad document."""
    arguments = _parser().parse_args(argv)
    directory = arguments.policy.parent if arguments.policy else arguments.state
    network = arguments.network or (_CONFIG if directory == _STATE and _CONFIG.exists() else None)
    policy, operators = ConfirmedPolicy(directory, arguments.table_file, network), Operators(directory)
    try:
        answer = arguments.act(arguments, policy, operators)
    except DocumentError as e:
        for path, what in e.problems:
            _say(f"wardgate-policy: {path}: {what}; mend it and try again")
        return 2
    except (LoadError, CredentialError) as e:
        _say(f"wardgate-policy: {e}")
        return 1
    except OSError as e:
        _say(f"wardgate-policy: {e.filename or 'system'}: {e.strerror or e}; run as root, and look at the disk")
        return 1
    sys.stdout.write(json.dumps(answer, sort_keys=True) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wardgate-policy", description="root's tool for the confirmed policy")
    acts = parser.add_subparsers(required=True, metavar="ACT")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, default=_STATE, help="the directory of the policy")
    common.add_argument("--network", type=Path, help=f"the configuration whose ward follows the policy; default {_CONFIG}")
    common.add_argument("--policy", type=Path, help="the confirmed document's file, instead of --state")
    common.add_argument("--table-file", type=Path, default=TABLE_FILE, help="the static text")

    def act(name: str, text: str, work: Callable[..., Answer]) -> argparse.ArgumentParser:
        sub = acts.add_parser(name, help=text, description=text, parents=[common])
        sub.set_defaults(act=work)
        return sub

    act("load", "load the static text and the confirmed elements (at boot)", lambda _a, p, _o: p.load("root"))
    confirm = act(
        "confirm", "load a document and keep it", lambda a, p, _o: p.confirm("root", parse_document(a.document.read_bytes()))
    )
    confirm.add_argument("--document", type=Path, required=True)
    rollback = act(
        "rollback", "undo what waits, or go back to the previous document", lambda a, p, _o: p.rollback("root", a.cut_vital)
    )
    rollback.add_argument(
        "--cut-vital", action="append", default=[], metavar="DEVICE.FUNCTION", help="a vital flow that this may cut"
    )
    act("keep", "confirm the policy that was applied and waits", lambda _a, p, _o: p.keep("root"))
    act("status", "what is active, and what waits for a confirmation", lambda _a, p, _o: p.status())
    glass = act(
        "break-glass",
        "open one function of one device for some minutes; works with the daemon dead",
        lambda a, p, _o: p.break_glass("root", a.device, a.function, a.minutes, a.reason),
    )
    for flag, kind in (("--device", str), ("--function", str), ("--minutes", int), ("--reason", str)):
        glass.add_argument(flag, type=kind, required=True)
    claim = act("new-claim", "make a code that creates an admin once; prints it, or takes it from standard input", _new_claim)
    claim.add_argument("--stdin", action="store_true")
    serve = act("serve", "answer requests on a socket (or the one that systemd passes)", _serve)
    serve.add_argument("--socket", type=Path, default=Path("/run/wardgate/policy.sock"))
    serve.add_argument("--idle-s", type=float, default=0.0, help="end after so long without a request; 0: never")
    return parser


def _say(text: str) -> None:
    sys.stderr.write("".join(c if c.isprintable() else "?" for c in text) + "\n")


def _new_claim(arguments: argparse.Namespace, _policy: ConfirmedPolicy, operators: Operators) -> Answer:
    code = sys.stdin.readline().strip() if arguments.stdin else secrets.token_hex(8)
    operators.write_claim(code)
    return {} if arguments.stdin else {"claim": code}


def _serve(arguments: argparse.Namespace, policy: ConfirmedPolicy, operators: Operators) -> Answer:
    """One request a connection, one connection at a time: an operator's act is rare and needs no concurrency.

    Between two requests it looks at what waits; a request takes ten seconds at most, so an undoing is late by no more than that.
    """
    listener = _listener(arguments.socket)
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # told to end, it ends between two acts, never within one
    try:
        _undo_overdue(policy)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            listener.settimeout(_patience(policy, arguments.idle_s))
            try:
                connection = _accept(listener)
            except TimeoutError:
                if policy.pending() is None:
                    return {}
                _undo_overdue(policy)
                continue
            with connection:
                _serve_one(connection, policy, operators)
            _undo_overdue(policy)
    finally:
        if policy.pending() is not None:
            policy.abandon("wardgate-policy ended while it waited")


def _accept(listener: socket.socket) -> socket.socket:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        return listener.accept()[0]
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


def _patience(policy: ConfirmedPolicy, idle_s: float) -> float | None:
    """How long to wait for a request: until what waits is over, else the idle time (0: for ever)."""
    waiting = policy.pending()
    return idle_s or None if waiting is None else max(waiting.left_s(), 0.01)


def _undo_overdue(policy: ConfirmedPolicy) -> None:
    if policy.pending() is None:
        return
    try:
        if policy.expire():
            _say("wardgate-policy: a policy was applied and not confirmed; the one before it is active again")
    except (LoadError, OSError) as e:
        _say(f"wardgate-policy: undoing the policy failed and is tried again: {e}")
        time.sleep(_RETRY_S)


def _serve_one(connection: socket.socket, policy: ConfirmedPolicy, operators: Operators) -> None:
    connection.settimeout(REQUEST_S)
    try:
        answer = answer_request(_receive(connection), _peer_uid(connection), policy, operators)
        connection.sendall(json.dumps(answer).encode() + b"\n")
    except OSError as e:
        _say(f"wardgate-policy: a request ended early: {e}")


def _listener(path: Path) -> socket.socket:
    if os.environ.get("LISTEN_FDS") == "1" and os.environ.get("LISTEN_PID") == str(os.getpid()):
        return socket.socket(fileno=3)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(str(path))
    path.chmod(0o666)  # anybody may ask; the credential decides
    listener.listen(8)
    return listener


def _peer_uid(connection: socket.socket) -> int:
    _pid, uid, _gid = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _receive(connection: socket.socket) -> bytes:
    """One line (or everything up to the peer's end), at most _REQUEST_MAX bytes, within REQUEST_S in all."""
    deadline = time.monotonic() + REQUEST_S
    parts: list[bytes] = []
    size = 0
    while True:
        part = connection.recv(1 << 16)
        parts.append(part)
        size += len(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)
        if size > _REQUEST_MAX or time.monotonic() > deadline:
            raise OSError("too long")


def answer_request(data: bytes, uid: int, policy: ConfirmedPolicy, operators: Operators) -> Answer:
    """Check who asks, act, and say how it went. Never raises for what the peer sent."""
    try:
        request = json.loads(data)
        if not isinstance(request, dict):
            return _refusal("not a JSON object", "send one object")
        return {"ok": True, **_act(request, uid, policy, operators)}
    except DocumentError as e:
        return {**_refusal(f"the document has mistakes: {e}", "mend them and try again"), "problems": e.problems}
    except (LoadError, CredentialError) as e:
        return _refusal(e.what, e.remedy)
    except (ValueError, RecursionError):
        return _refusal("not a JSON text", "send one JSON object")
    except OSError as e:
        return _refusal(f"the policy directory cannot be used: {e.strerror}", "look at the disk")


def _act(request: dict[str, Any], uid: int, policy: ConfirmedPolicy, operators: Operators) -> Answer:
    verb = request.get("do")
    if verb == "claim-operator":
        user = _text(request, "user")
        operators.claim(_text(request, "code"), user, _text(request, "password"))
        return {"user": user, "role": "admin"}
    if verb == "status":
        return policy.status()  # its files are world-readable: nothing to protect
    if not isinstance(verb, str) or verb not in _VERBS:
        raise CredentialError("this is not known here", f"ask for one of: claim-operator, {', '.join(_VERBS)}")
    actor, role = ("root", "admin") if uid == 0 and "user" not in request else _operator(request, operators)
    if role == "clinical" and verb != "break-glass":
        raise CredentialError("a clinical role may break glass and change nothing else", "ask someone who is biomed or admin")
    return _VERBS[verb](request, actor, role, policy, operators)


def _operator(request: dict[str, Any], operators: Operators) -> tuple[str, str]:
    user = _text(request, "user")
    return user, operators.check(user, _text(request, "password"))


def _add_operator(request: dict[str, Any], _actor: str, role: str, _policy: ConfirmedPolicy, operators: Operators) -> Answer:
    if role != "admin":
        raise CredentialError("only an admin adds operators", "ask one")
    name, new_role = _text(request, "name"), _text(request, "role")
    operators.put(name, _text(request, "new_password"), new_role)
    return {"user": name, "role": new_role}


def _operator_role(request: dict[str, Any], _actor: str, role: str, _policy: ConfirmedPolicy, operators: Operators) -> Answer:
    """Another role, or none any more (``role`` empty): the credential goes."""
    if role != "admin":
        raise CredentialError("only an admin changes operators", "ask one")
    name, new_role = _text(request, "name"), request.get("role")
    if new_role == "":
        operators.remove(name)
    else:
        operators.set_role(name, _text(request, "role"))
    return {"user": name, "role": new_role}


def _own_password(request: dict[str, Any], actor: str, role: str, _policy: ConfirmedPolicy, operators: Operators) -> Answer:
    operators.put(actor, _text(request, "new_password"), role)
    return {"user": actor, "role": role}


def _break_glass(request: dict[str, Any], actor: str, _role: str, policy: ConfirmedPolicy, _operators: Operators) -> Answer:
    texts = [_text(request, key) for key in ("device", "function", "reason")]
    return policy.break_glass(actor, texts[0], texts[1], request.get("minutes", 0), texts[2])


def _apply(request: dict[str, Any], actor: str, _role: str, policy: ConfirmedPolicy, _operators: Operators) -> Answer:
    document = check_document(request.get("document"))
    return policy.apply(actor, document, request.get("minutes", DEFAULT_MINUTES), _cuts(request))


def _cuts(request: dict[str, Any]) -> list[str]:
    named = request.get("cut_vital", [])
    if not isinstance(named, list) or len(named) > _CUTS_MAX or not all(isinstance(n, str) for n in named):
        raise CredentialError("cut_vital is not a list of names", "send device.function for each vital flow that may be cut")
    return named


_VERBS: dict[str, Callable[[dict[str, Any], str, str, ConfirmedPolicy, Operators], Answer]] = {
    "confirm": lambda r, actor, _role, p, _o: p.confirm(actor, check_document(r.get("document"))),
    "apply": _apply,
    "keep": lambda _r, actor, _role, p, _o: p.keep(actor),
    "rollback": lambda r, actor, _role, p, _o: p.rollback(actor, _cuts(r)),
    "load": lambda _r, actor, _role, p, _o: p.load(actor),
    "break-glass": _break_glass,
    "add-operator": _add_operator,
    "operator-role": _operator_role,
    "own-password": _own_password,
    "who": lambda _r, actor, role, _p, _o: {"user": actor, "role": role},
}


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= 512:
        raise CredentialError(f"{key} is missing or not a text", "send it")
    return value


def _refusal(what: str, remedy: str) -> Answer:
    return {"ok": False, "error": what, "remedy": remedy}


if __name__ == "__main__":
    sys.exit(main())
