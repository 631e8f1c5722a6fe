"""A ward with a pump's policy, its enforcer and small network programs, for the tests of this folder. Real packets only."""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hil.network import ATTACKER, PUMP, Ward, inside
from hil.process import Process, start

PUMP4, PUMP6, HOSP4, HOSP6, GATE4, GATE6 = "10.77.0.11", "fd77::11", "10.77.0.100", "fd77::100", "10.77.0.1", "fd77::1"
MAINTENANCE, LIMITED, MONITORING, CONTROL, PROXY = 7000, 7001, 6000, 502, 15502
ENFORCER_UID = 61002
_numbers = itertools.count()


def document() -> dict[str, Any]:
    """The pump's policy: control proxied (level 2), maintenance 3, one flow at 1, monitoring vital, echo at 1."""
    sets: dict[str, Any] = {}
    for family, pump, hosp, gate in ((4, PUMP4, HOSP4, GATE4), (6, PUMP6, HOSP6, GATE6)):
        sets |= {
            f"port{family}": [[PUMP.port, PUMP.mac, pump]],
            f"bind{family}": [["ward0", PUMP.mac, pump]],
            f"vital{family}": [[pump, hosp, "tcp", MONITORING], [pump, hosp, "udp", MONITORING]],
            f"rtl0_{family}": [[gate, pump, "tcp", CONTROL]],
            f"rtl1_{family}": [[hosp, pump, "udp", LIMITED]],
            f"rtl2_{family}": [[hosp, pump, "tcp", CONTROL], [hosp, pump, "udp", MAINTENANCE], [pump, hosp, "udp", LIMITED]],
            f"rtl3_{family}": [[hosp, pump, "tcp", MAINTENANCE]],
            f"via{family}": [[pump, "tcp", CONTROL, PROXY]],
        }
    sets |= {"icmp4": [[HOSP4, PUMP4, 8], [PUMP4, HOSP4, 0]], "icmp6": [[HOSP6, PUMP6, 128], [PUMP6, HOSP6, 129]]}
    maintenance = {"set4": [[HOSP4, PUMP4, "tcp", MAINTENANCE]], "set6": [[HOSP6, PUMP6, "tcp", MAINTENANCE]]}
    control = {"set4": [[HOSP4, PUMP4, "tcp", CONTROL]], "via4": [[PUMP4, "tcp", CONTROL]]}
    devices = {"pump-1": {"cap": 3, "addresses": [PUMP4, PUMP6]}}
    functions = {"pump-1": {"maintenance": maintenance, "control": control}}
    return {"version": 1, "devices": devices, "sets": sets, "functions": functions}


class Bench:
    """A ward, loaded, with an enforcer that this test's user may ask."""

    def __init__(self, directory: Path, ward: Ward) -> None:
        self.directory, self.ward = directory, ward
        self.socket, self.alarm, self.console = directory / "e.sock", directory / "alarm.json", directory / "console"
        self.enforcer: Process | None = None

    def start(self, peer_uid: int | None = None) -> Process:
        """Start the enforcer as its own user, with CAP_NET_ADMIN and nothing else."""
        argv = [sys.executable, "-m", "gateway.enforcer.server", "--socket", str(self.socket), "--alarm", str(self.alarm)]
        argv += ["--peer-uid", str(os.getuid() if peer_uid is None else peer_uid), "--policy", str(self.ward.confirmed)]
        argv += ["--console", str(self.console), "--syslog", str(self.directory / "log.sock")]
        self.enforcer = start(
            "enforcer", argv, log_dir=self.directory, netns=self.ward.gateway, uid=ENFORCER_UID, ambient_caps=["net_admin"]
        )
        return self.enforcer

    def ask(self, request: object, timeout_s: float = 10.0) -> dict[str, Any]:
        """One request on its own connection."""
        with self.connected(timeout_s) as s:
            return exchange(s, request)

    @contextmanager
    def connected(self, timeout_s: float = 10.0) -> Iterator[socket.socket]:
        """A connection to the enforcer."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(timeout_s)
            s.connect(str(self.socket))
            yield s

    def grant(self, level: int, ms: int = 30_000) -> None:
        """Give the pump a level."""
        answer = self.ask({"do": "grant", "leases": [{"addresses": [PUMP4, PUMP6], "level": level, "ms": ms}]})
        assert answer["ok"], answer

    def drop(self) -> None:
        """Take the pump's level away."""
        assert self.ask({"do": "drop", "addresses": [PUMP4, PUMP6]})["ok"]

    def state(self) -> dict[str, Any]:
        """The alarm file."""
        value: dict[str, Any] = json.loads(self.alarm.read_text()) if self.alarm.exists() else {"state": "clear", "reasons": {}}
        return value

    @property
    def pump(self) -> str:
        return self.ward.namespace(PUMP)

    @property
    def attacker(self) -> str:
        return self.ward.namespace(ATTACKER)

    def nft(self, text: str) -> None:
        """Change the tables behind the enforcer's back, as an intruder with root would."""
        subprocess.run(["ip", "netns", "exec", self.ward.gateway, "nft", "-f", "-"], input=text.encode(), check=True, timeout=20)


@contextmanager
def bench(policy: dict[str, Any] | None = None) -> Iterator[Bench]:
    """A ward with the pump's policy and a running enforcer; everything is removed at the end."""
    # Not pytest's own directory: that is 0700, and the enforcer is another user.
    with tempfile.TemporaryDirectory(prefix="wg-test-") as name:
        top = Path(name)
        top.chmod(0o755)
        directory, run = top / "policy", top / "run"
        for place in (directory, run):
            place.mkdir(mode=0o755)
        os.chown(run, ENFORCER_UID, ENFORCER_UID)
        prefix = f"e{os.getpid() % 100000:05d}{'abcdefghijklmnopqrstuvwxyz'[next(_numbers) % 26]}"
        with Ward(prefix, directory=directory, document=policy or document(), management=False) as ward:
            made = Bench(run, ward)
            try:
                made.start()
                yield made
            finally:
                if made.enforcer is not None:
                    made.enforcer.stop()


def exchange(s: socket.socket, request: object) -> dict[str, Any]:
    """Send a request and read one frame."""
    body = json.dumps(request).encode()
    s.sendall(struct.pack(">I", len(body)) + body)
    return read_frame(s)


def read_frame(s: socket.socket) -> dict[str, Any]:
    """One frame; EOFError when the peer closed."""
    (length,) = struct.unpack(">I", _exactly(s, 4))
    value: dict[str, Any] = json.loads(_exactly(s, length))
    return value


def _exactly(s: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = s.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Udp:
    """A receiver in one namespace and a sender in another; ``passes`` says whether a datagram arrives now."""

    def __init__(self, sender: str, receiver: str, source: str, target: str, port: int) -> None:
        with inside(receiver):
            self.receiver = socket.socket(_family(target), socket.SOCK_DGRAM)
            self.receiver.bind((target, port))
        with inside(sender):
            self.sender = socket.socket(_family(target), socket.SOCK_DGRAM)
            self.sender.setsockopt(socket.SOL_SOCKET, 15, 1)  # SO_REUSEPORT: the same flow from several of these
            self.sender.bind((source, 45000 + next(_numbers) % 10000))
        self.sender.setblocking(False)
        self._target, self._count = (target, port), 0

    def passes(self, wait_s: float = 0.6) -> bool:
        """Send (again and again while neighbours are resolved) and say whether one of these datagrams arrived."""
        self._count += 1
        mark = struct.pack("!I", self._count)
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            try:
                self.sender.sendto(mark, self._target)
            except OSError:
                time.sleep(0.01)
            self.receiver.settimeout(0.05)
            try:
                while True:
                    if self.receiver.recv(64) == mark:
                        return True
            except TimeoutError:
                continue
        return False

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()

    def __enter__(self) -> Udp:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Echo:
    """A TCP service that answers every byte with itself, in a thread of its own."""

    def __init__(self, namespace: str, address: str, port: int) -> None:
        with inside(namespace):
            self._listener = socket.create_server((address, port), family=_family(address), reuse_port=False)
        self._listener.settimeout(0.1)
        self.original: list[tuple[str, int]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"echo-{port}")
        self._thread.start()

    def _run(self) -> None:
        open_now: list[socket.socket] = []
        while not self._end.is_set():
            try:
                connection, _ = self._listener.accept()
                self.original.append(_original(connection))
                connection.setblocking(False)
                open_now.append(connection)
                self._listener.settimeout(0.005)
            except TimeoutError:
                pass
            for connection in list(open_now):
                try:
                    if data := connection.recv(4096):
                        connection.send(data)
                    else:
                        raise ConnectionResetError
                except BlockingIOError:
                    pass
                except OSError:
                    connection.close()
                    open_now.remove(connection)
        for connection in open_now:
            connection.close()

    def close(self) -> None:
        self._end.set()
        self._thread.join(5)
        self._listener.close()

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _original(connection: socket.socket) -> tuple[str, int]:
    """SO_ORIGINAL_DST: what the client dialled."""
    try:
        if connection.family == socket.AF_INET6:
            raw = connection.getsockopt(41, 80, 28)
            return socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big")
        raw = connection.getsockopt(socket.SOL_IP, 80, 16)
        return socket.inet_ntoa(raw[4:8]), int.from_bytes(raw[2:4], "big")
    except OSError:
        return "", 0


def dial(namespace: str, address: str, port: int, source: str = "", timeout_s: float = 1.0) -> socket.socket | None:
    """A TCP connection, or None when it does not come about in time."""
    with inside(namespace):
        s = socket.socket(_family(address))
    s.settimeout(timeout_s)
    try:
        if source:
            s.bind((source, 0))
        s.connect((address, port))
    except OSError:
        s.close()
        return None
    return s


def echoes(s: socket.socket, text: bytes, timeout_s: float = 1.0) -> bool:
    """Whether the other end answers."""
    s.settimeout(timeout_s)
    try:
        s.sendall(text)
        got = b""
        while text not in got:
            part = s.recv(4096)
            if not part:
                return False
            got += part
    except OSError:
        return False
    return True
