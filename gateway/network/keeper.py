"""Keeps one server (dnsmasq or chronyd) running as its own user, with the files that ``wardgate-network apply`` wrote.

It starts the server when its configuration is there, starts it again when that changes or it dies, and has it read the lists again
when only these change. It has no rights beyond its unit's, and knows nothing of what the files say.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from gateway.errors import InputError

_LOOK_S = 0.5  # policy changes are made by people
_RESTART_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # a server that cannot start waits for an address or a cable
_STOP_S = 3.0
_WITH_US = ("/usr/bin/setpriv", "--pdeathsig", "TERM", "--")  # a server never outlives what keeps it
_SETTLED_S = 20.0  # ran so long: the next failure begins with the short wait again


@dataclass(frozen=True, slots=True)
class Service:
    """A server: its command, the file without which it does not run, and files that it can read again on SIGHUP."""

    name: str
    argv: tuple[str, ...]
    conf: Path
    lists: tuple[Path, ...] = ()


@dataclass
class Keeper:
    """``run`` until SIGTERM or SIGINT. One server at a time; its output is ours."""

    service: Service
    child: subprocess.Popen[bytes] | None = None
    _stop: bool = False
    _failures: int = 0
    _not_before: float = 0.0
    _began: float = 0.0
    _seen: dict[Path, bytes | None] = field(default_factory=dict)

    def run(self) -> int:
        """Keep it; returns 0 when told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        _say("ready")
        while not self._stop:
            self.look()
            time.sleep(_LOOK_S)
        self._end()
        return 0

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def look(self) -> None:
        """One look at the files and the server."""
        files = (self.service.conf, *self.service.lists)
        now = {path: _content(path) for path in files}
        changed = {path for path in files if now[path] != self._seen.get(path)}
        self._seen = now
        if self.child is not None and self.child.poll() is not None:
            self._died()
        if now[self.service.conf] is None:
            self._end()
        elif self.child is None:
            if time.monotonic() >= self._not_before or self.service.conf in changed:
                self._start()
        elif self.service.conf in changed:
            self._end()
            self._start()
        elif changed:
            self.child.send_signal(signal.SIGHUP)

    def _start(self) -> None:
        try:
            self.child = subprocess.Popen(self.service.argv, stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603 - our own command
            self._began = time.monotonic()
        except OSError as e:
            self._wait(f"did not start: {e.strerror}; install it")

    def _died(self) -> None:
        assert self.child is not None  # noqa: S101 - asked before
        code, self.child = self.child.returncode, None
        if time.monotonic() - self._began > _SETTLED_S:
            self._failures = 0
        self._wait(f"ended with {code}; see its lines above")

    def _wait(self, why: str) -> None:
        if self._failures == 0:
            _say(f"{self.service.name} {why}")
        self._not_before = time.monotonic() + _RESTART_S[min(self._failures, len(_RESTART_S) - 1)]
        self._failures += 1

    def _end(self) -> None:
        if self.child is None:
            return
        self.child.terminate()
        try:
            self.child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child = None


def dnsmasq(directory: Path, state: Path) -> Service:
    """dnsmasq with its configuration in ``directory``; leases are kept in ``state``.

    As a DHCP server it insists on CAP_NET_ADMIN, which could empty the firewall. It gets one in a user namespace of its own,
    where it is worth nothing.
    """
    conf, lists = directory / "dnsmasq.conf", (directory / "reservations", directory / "names")
    powerless = ("/usr/bin/unshare", "--user", "--map-current-user", "--keep-caps", "--")
    argv = (*powerless, *_WITH_US, "/usr/sbin/dnsmasq", f"--conf-file={conf}", f"--dhcp-leasefile={state / 'leases'}")
    return Service("dnsmasq", argv, conf, lists)


def chronyd(directory: Path, state: Path, *, set_clock: bool) -> Service:
    """chronyd with its configuration in ``directory``; drift, pid and control socket are in ``state``."""
    conf = directory / "chrony.conf"
    own = (f"driftfile {state / 'drift'}", f"pidfile {state / 'chronyd.pid'}", f"bindcmdaddress {state / 'chronyd.sock'}")
    quiet: Sequence[str] = () if set_clock else ("-x",)
    return Service("chronyd", (*_WITH_US, "/usr/sbin/chronyd", "-d", "-U", "-u", _user(), *quiet, f"include {conf}", *own), conf)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise InputError(f"uid {os.getuid()} has no name", "make the service's user; image/install does") from None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
