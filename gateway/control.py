"""How the command line reaches the daemon: JSON over HTTP on a Unix socket. The peer's uid is the actor.

When a change of the confirmed policy needs an operator, root on the console confirms it here, with root's own
wardgate-policy: the daemon never could. Refuses to know what the answers mean.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any, BinaryIO
from urllib.parse import quote

from gateway.config import Config
from gateway.enforcer.bounds import ANSWER_S
from gateway.errors import InputError, RefusedError, UnavailableError

_TIMEOUT_S = 30.0
_ACT_S = ANSWER_S + _TIMEOUT_S  # what the daemon may wait for wardgate-policy itself, and its own time on top


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, answer_s: float = _TIMEOUT_S) -> None:
        super().__init__("wardgate", timeout=answer_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)
        self.sock.settimeout(self.timeout)


class Control:
    """A client of ``/run/wardgate/control.sock``. Every method raises UnavailableError when the daemon is not there."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._path = str(config.gateway.run / "control.sock")

    def view(self) -> dict[str, Any]:
        """The whole picture."""
        return dict(self.ask("GET", "/api/v1/view"))

    def device(self, device_id: str) -> dict[str, Any]:
        """One device; raises InputError for an unknown one."""
        for d in self.view()["devices"]:
            if d["id"] == device_id:
                return dict(d)
        raise InputError(f"there is no device {device_id}", "see `wardgate device list`")

    def explain(self, device_id: str, function: str | None) -> dict[str, Any]:
        """How a level came about."""
        tail = f"?function={quote(function)}" if function else ""
        return dict(self.ask("GET", f"/api/v1/explain/{quote(device_id)}{tail}"))

    def bundle(self, device_id: str) -> bytes:
        """The newest complete conformity certificate bundle."""
        status, body = self._exchange("GET", f"/api/v1/devices/{quote(device_id)}/bundle", None)
        if status != 200:
            self._raise(status, body)
        return body

    def command(
        self, verb: str, device_id: str, arguments: dict[str, str], user: str | None = None, password: str = ""
    ) -> dict[str, Any]:
        """Carry out a command, as ``user`` when given. Root confirms a changed policy itself."""
        body: dict[str, Any] = {"verb": verb, "device_id": device_id, "arguments": dict(arguments)}
        if user:
            body["arguments"]["as"] = user
            body["secret"] = password
        behind: list[str] = []
        if os.geteuid() == 0 and not user:
            prepared = self.ask("POST", "/api/v1/command", {**body, "arguments": {**body["arguments"], "prepare": "yes"}})
            detail = dict(prepared.get("detail") or {})
            if "document" in detail:
                behind = self._confirm(json.loads(detail["document"]))
        outcome = dict(self.ask("POST", "/api/v1/command", body))
        if behind:
            outcome["text"] = f"{outcome['text']}; the ward's network is behind: {'; '.join(behind)}"
        return outcome

    def enforcer_alarm(self) -> str:
        """What the enforcer rings about; it needs no daemon."""
        from gateway.status import read_alarm

        return read_alarm(self.config.enforcer.alarm)

    def _confirm(self, document: dict[str, Any]) -> list[str]:
        from gateway.enforcer.confirm_client import confirm_sync

        answer = confirm_sync(self.config.policy.socket, {"do": "confirm", "document": document})
        return [str(line) for line in answer.get("network", ())]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request; returns the JSON answer, raises the error that came back."""
        status, answer = self._exchange(method, path, body)
        if status != 200:
            self._raise(status, answer)
        return json.loads(answer)

    def copy(self, path: str, out: BinaryIO) -> None:
        """Write a file of any length to ``out`` as it arrives."""
        connection = _Connection(self._path)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != 200:
                self._raise(response.status, response.read(1 << 20))
            while piece := response.read(1 << 16):
                out.write(piece)
        except (FileNotFoundError, ConnectionError, TimeoutError, http.client.HTTPException) as e:
            raise UnavailableError(f"the daemon does not answer on {self._path} ({type(e).__name__})", "look at its log") from None
        finally:
            connection.close()

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = _Connection(self._path, _TIMEOUT_S if method == "GET" else _ACT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            response = connection.getresponse()
            return response.status, response.read(16 * 1024 * 1024)
        except TimeoutError:
            what = "" if method == "GET" else "; what was asked may be done already, or be done yet"
            raise UnavailableError(
                f"the daemon has not answered within {connection.timeout:g} s{what}", "wardgate status; look before you ask again"
            ) from None
        except (FileNotFoundError, ConnectionError, http.client.HTTPException) as e:
            raise UnavailableError(
                f"the daemon does not answer on {self._path} ({type(e).__name__})", "start it: systemctl start wardgate"
            ) from None
        except PermissionError:
            raise RefusedError(f"you may not use {self._path}", "run it as root or as the wardgate user") from None
        finally:
            connection.close()

    @staticmethod
    def _raise(status: int, body: bytes) -> None:
        try:
            answer = json.loads(body)
            what, remedy = str(answer["error"]), str(answer["remedy"])
        except (ValueError, KeyError, TypeError):
            what, remedy = f"the daemon answered {status}", "see its log"
        if status == 503:
            raise UnavailableError(what, remedy)
        if status in (401, 403, 409, 429):
            raise RefusedError(what, remedy)
        raise InputError(what, remedy)
