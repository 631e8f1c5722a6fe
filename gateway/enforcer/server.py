"""``wardgate-enforcer``: the one process that may change the kernel's trust map, and the one that rings.

One loop over a selector, no threads, no asyncio; the standard library and this package only. It grants at most what the
confirmed policy allows and at most thirty seconds, drops at once, and rings when renewals stop or the tables are changed
behind it. It decides no level: it knows addresses, caps and time.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import selectors
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from gateway.enforcer.alarm import Alarm
from gateway.enforcer.caps import Caps
from gateway.enforcer.lapses import Lapses
from gateway.enforcer.leases import LeaseBook
from gateway.enforcer.listen import listen
from gateway.enforcer.netlink import Change, KernelError, TrustMap
from gateway.enforcer.survey import Survey
from gateway.enforcer.told import CommitWatch, PacketLog, Told, sentence
from gateway.enforcer.wire import (
    DropRequest,
    DumpRequest,
    Framer,
    GrantRequest,
    Request,
    ViolationError,
    WatchRequest,
    frame,
    parse_request,
)

_PEERS_MAX = 16  # the daemon needs two; more is a leak or an attack
_BACKLOG_MAX = 1 << 20  # bytes that a peer has not read, beyond the dumps that it asked for; then it is cut off
_TOLD_EVERY_S = 0.25  # logged packets are summed up for so long
_TOLD_MAX = 256  # different ones in that time; more are only counted
_TICK_S = 1.0
_AGAIN_S = 5.0  # while the tables differ from what was confirmed
_COLLECT_EVERY_S = 60.0  # garbage of exceptions; a collection in the middle of a drop would delay it by milliseconds

Event = dict[str, Any]


class Peer:
    """One accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.framer = Framer()
        self.out = bytearray()
        self.allowed = _BACKLOG_MAX
        self.watches = False
        self.closing = False


class Enforcer:
    """The loop. ``step`` handles what is ready; ``run`` steps until told to end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._peer_uid: int = arguments.peer_uid
        self._caps = Caps(arguments.policy)
        self._map = TrustMap()
        self._book, self._lapses = LeaseBook(), Lapses()
        self._alarm = Alarm(arguments.alarm, arguments.console, arguments.syslog, self._tell)
        self._selector = selectors.DefaultSelector()
        self._peers: dict[int, Peer] = {}
        self._log, self._commits = PacketLog(), CommitWatch()
        self._told: dict[tuple[str, str, str, str, int, bool], tuple[Told, int]] = {}
        self._told_at = float("inf")
        self._survey = Survey(arguments.policy, arguments.table_file, self._selector)
        self._asked: list[Peer] = []  # want a dump: of a look that begins from now on, never of one that began before they asked
        self._dumps: list[Peer] = []  # get what the look under way finds
        self._check_at = float("inf")  # when to look at the kernel again after a foreign commit
        self._suspicions = 0
        self._listener = listen(arguments.socket, _PEERS_MAX)
        self._listener.setblocking(False)
        for source, ready in (
            (self._listener, self._accept),
            (self._log.socket, self._hear),
            (self._commits.socket, self._committed),
        ):
            self._selector.register(source, selectors.EVENT_READ, ready)
        self._collect_at = 0.0
        self._complain_at, self._unsaid = 0.0, 0
        self.ended = False

    def start(self, timeout_s: float = 30.0) -> None:
        """Take over the leases that the kernel still holds, and look whether its tables are ours."""
        self._judge(self._survey.wait(timeout_s))

    def run(self) -> None:
        """Until ``ended``."""
        while not self.ended:
            self.step()

    def step(self) -> None:
        """Wait for the next thing and handle all that is ready; at most a second."""
        now = time.monotonic()
        soonest = min(self._book.next_end(), self._told_at, self._check_at, now + _TICK_S)
        ready = self._selector.select(max(0.0, soonest - now))
        if not ready and now > self._collect_at:
            self._collect_at = now + _COLLECT_EVERY_S
            gc.collect()
        for key, mask in ready:
            if isinstance(key.data, Peer):
                self._serve(key.data, mask)
            else:
                key.data()
        self._tick(time.monotonic())

    def close(self) -> None:
        """Close everything; leases stay in the kernel until they lapse."""
        for peer in list(self._peers.values()):
            self._cut(peer)
        self._survey.close()
        for source in (self._listener, self._log.socket, self._commits.socket):
            source.close()
        self._map.close()
        self._selector.close()

    def _tick(self, now: float) -> None:
        lapse = self._book.lapse(now)
        if lapse.addresses:
            self._tell({"event": "lapsed", "addresses": list(lapse.addresses[:_TOLD_MAX]), "count": len(lapse.addresses)})
            devices = sorted({self._caps.device_of(address) or address for address in lapse.addresses})[:_TOLD_MAX]
            self._lapses.lapsed(devices)
        if lapse.renewals_stopped:
            text = f"renewals have stopped; {len(devices)} device(s) lost their level: {', '.join(devices[:10])}"
            self._alarm.ring("renewals-stopped", text, devices=devices)
        if now >= self._told_at:
            self._flush_told()
        if (result := self._survey.result()) is not None:
            self._judge(result)
        if (now >= self._check_at or self._asked) and not self._survey.running:
            self._look()
        self._alarm.repeat(now)

    def _look(self) -> None:
        self._check_at = float("inf")
        self._dumps, self._asked = self._asked, []
        self._book.touched.clear()
        self._survey.begin()

    # Peers

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # gone already, or no descriptor free: the peer tries again
            connection, _ = self._listener.accept()
            _pid, uid, _gid = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != self._peer_uid or len(self._peers) >= _PEERS_MAX:
                self._complain(f"a connection by uid {uid} was refused")
                connection.close()
                return
            connection.setblocking(False)
            peer = Peer(connection)
            self._peers[connection.fileno()] = peer
            self._selector.register(connection, selectors.EVENT_READ, peer)

    def _serve(self, peer: Peer, mask: int) -> None:
        if peer.socket.fileno() < 0:
            return  # cut off while others of this round were served
        if mask & selectors.EVENT_WRITE:
            self._write(peer)
        if not mask & selectors.EVENT_READ or peer.closing:
            return
        try:
            data = peer.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._cut(peer)
            return
        try:
            for body in peer.framer.feed(data):
                self._answer(peer, parse_request(body))
        except ViolationError as e:
            self._complain(f"a peer broke the protocol: {e}")
            peer.closing = True
            self._send(peer, _refusal(str(e), "speak the four verbs; the connection is closed"))

    def _answer(self, peer: Peer, request: Request) -> None:
        if peer in self._dumps or peer in self._asked:
            raise ViolationError("the answer to a dump is still under way on this connection")
        match request:
            case GrantRequest():
                self._send(peer, self._grant(request))
            case DropRequest():
                self._send(peer, self._drop(request))
            case DumpRequest():
                self._asked.append(peer)
                if not self._survey.running:
                    self._look()
            case WatchRequest():
                peer.watches = True
                held, lapses = len(self._book), self._lapses.shown()
                self._send(peer, {"ok": True, "ringing": self._alarm.reasons(), "held": held, "lapses": lapses})

    def _complain(self, what: str) -> None:
        """One line a second at most: the journal is nobody's to fill."""
        now = time.monotonic()
        if now < self._complain_at:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} more like this before)" if self._unsaid else ""
        self._complain_at, self._unsaid = now + 1.0, 0
        _line(f"<4>wardgate-enforcer: {what}{more}")

    def _send(self, peer: Peer, value: Event | bytes) -> None:
        peer.out += value if isinstance(value, bytes) else frame(value)
        self._write(peer)

    def _write(self, peer: Peer) -> None:
        try:
            while peer.out:
                sent = peer.socket.send(peer.out[: 1 << 20])
                del peer.out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._cut(peer)
            return
        if not peer.out:
            peer.allowed = _BACKLOG_MAX
        if len(peer.out) > peer.allowed or (peer.closing and not peer.out):
            self._cut(peer)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.out else 0)
        if self._selector.get_key(peer.socket).events != events:
            self._selector.modify(peer.socket, events, peer)

    def _cut(self, peer: Peer) -> None:
        descriptor = peer.socket.fileno()
        if descriptor >= 0:
            self._selector.unregister(peer.socket)
            peer.socket.close()
            self._peers.pop(descriptor, None)
        self._dumps = [other for other in self._dumps if other is not peer]
        self._asked = [other for other in self._asked if other is not peer]

    def _tell(self, event: Event) -> None:
        for peer in [peer for peer in self._peers.values() if peer.watches]:
            self._send(peer, event)

    # The four verbs

    def _grant(self, request: GrantRequest) -> Event:
        for lease in request.leases:
            if (wrong := self._caps.refusal(lease.addresses, lease.level)) is not None:
                return _refusal(wrong, "nothing of this request was granted; look at the confirmed policy")
        changes = [Change(address, lease.level, lease.ms) for lease in request.leases for address in lease.addresses]
        try:
            self._map.apply(changes)
        except KernelError as e:
            return _refusal(str(e), "as root: wardgate-policy load")
        now = time.monotonic()
        for lease in request.leases:
            self._book.grant(lease.addresses, lease.level, lease.ms / 1000, now)
        self._lapses.granted()
        self._alarm.clear("renewals-stopped", "renewals-resumed", "renewals have resumed")
        return {"ok": True, "granted": len(changes)}

    def _drop(self, request: DropRequest) -> Event:
        try:
            self._map.apply([Change(address, 0) for address in request.addresses])
        except KernelError as e:
            return _refusal(str(e), "as root: wardgate-policy load")
        self._book.drop(request.addresses)
        return {"ok": True, "dropped": len(request.addresses)}

    # What the kernel tells

    def _hear(self) -> None:
        for told in self._log.read():
            key = (told.reason, told.saddr, told.daddr, told.protocol, told.dport, told.opens)
            if key in self._told or len(self._told) < _TOLD_MAX:
                self._told[key] = (told, self._told.get(key, (told, 0))[1] + 1)
        if self._told:
            self._told_at = min(self._told_at, time.monotonic() + _TOLD_EVERY_S)

    def _flush_told(self) -> None:
        told, self._told, self._told_at = self._told, {}, float("inf")
        for one, count in told.values():
            event = "seen" if one.reason == "seen" else "denied"
            devices = [d for d in map(self._caps.device_of, (one.saddr, one.daddr)) if d]
            where = {"reason": one.reason, "link": one.link, "source": one.saddr, "destination": one.daddr}
            what = {"protocol": one.protocol, "source_port": one.sport, "port": one.dport, "opens": one.opens}
            self._tell(
                {"event": event, "device": devices[0] if devices else "", "count": count, "text": sentence(one), **where, **what}
            )

    def _committed(self) -> None:
        if any(pid != os.getpid() for pid in self._commits.read()):
            self._check_at = time.monotonic()

    def _judge(self, result: Event) -> None:
        """Compare a survey with what we know; a difference must be seen twice, since a confirmation writes its file last."""
        if not result.get("ok"):
            self._suspicions = 0
            self._alarm.ring("tampered", f"the kernel's tables cannot be read: {result.get('error')}", differences=[])
        leases: dict[str, Any] = result.pop("leases", {})
        self._adopt(leases, time.monotonic())
        asked, self._dumps = self._dumps, []
        dump = frame({**result, "leases": leases}) if asked else b""
        for peer in asked:
            peer.allowed += len(dump)
            self._send(peer, dump)
        differences = list(result.get("differences", []))
        differences += [
            f"lease: {a} holds level {v['level']} that was not granted here" for a, v in leases.items() if self._foreign(a, v)
        ]
        if not differences and result.get("ok"):
            self._suspicions = 0
            self._alarm.clear("tampered", "restored", "the tables are as confirmed again")
        elif differences and self._suspicions:
            self._check_at = time.monotonic() + _AGAIN_S  # what it takes for granted may itself have come late
            self._alarm.ring("tampered", f"the tables were changed: {differences[0]}", differences=differences[:_TOLD_MAX])
        elif differences:
            self._suspicions = 1
            self._check_at = time.monotonic() + 0.7

    def _adopt(self, leases: dict[str, Any], now: float) -> None:
        """At start only: what the kernel holds was granted by an earlier life of this process."""
        if not self._survey.first:
            return
        self._book.adopt(
            {a: (v["level"], v["expires_s"] + 1.0) for a, v in leases.items() if self._caps.refusal((a,), v["level"]) is None}, now
        )
        self._map.believe(leases)

    def _foreign(self, address: str, lease: dict[str, Any]) -> bool:
        """A lease of the listing that we did not grant; one that changed while the listing was read says nothing."""
        stable = address not in self._book.touched and lease["expires_s"] > 0
        return bool(stable and self._book.level_of(address) != lease["level"])


def _refusal(what: str, remedy: str) -> Event:
    return {"ok": False, "error": what, "remedy": remedy}


def _line(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(argv: list[str] | None = None) -> int:
    """The process. Prints ``ready`` when it can be used; SIGTERM ends it, leases stay."""
    parser = argparse.ArgumentParser(prog="wardgate-enforcer", description="grants leases to the kernel, drops them, rings")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--peer-uid", type=int, required=True, help="the only user that may connect")
    parser.add_argument("--policy", type=Path, required=True, help="the confirmed document; static.json lies beside it")
    parser.add_argument("--table-file", type=Path, help="the static text, to tell when it is not the one that was loaded")
    parser.add_argument("--alarm", type=Path, help="write the alarm's state to this file")
    parser.add_argument("--console", type=Path, default=Path("/dev/console"), help="where the bell rings")
    parser.add_argument("--syslog", type=Path, default=Path("/dev/log"), help="the syslog socket")
    try:
        enforcer = Enforcer(parser.parse_args(argv))
    except OSError as e:
        _line(
            f"<3>wardgate-enforcer: {e.filename or 'netlink'}: {e.strerror or e}; it needs CAP_NET_ADMIN and its socket's directory"
        )
        return 1

    def end(_number: int, _frame: object) -> None:
        enforcer.ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    gc.disable()  # collected when idle, see Enforcer.step
    enforcer.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        enforcer.run()
    finally:
        enforcer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
