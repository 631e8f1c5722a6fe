"""Two stories of attackers with a cable: one who goes sideways, one who wears a device's address.

Real frames from real ports. Whether one passed is said by sniffers at the other ends, which see every frame there; each
attempt carries a token of its own, and each sniffer must have heard honest traffic, or its silence proves nothing.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from hil import frames as f
from hil.bench import Bench
from hil.network import ATTACKER, GATEWAY4, GATEWAY6, HOSPITAL4, HOSPITAL6, MONITOR, PUMP, Position, inside, run
from hil.scenarios import boot_offset_ns, check, flows, level_changes, trusted

_SETTLE_S = 0.4  # what passed has arrived by then: a frame takes less than a millisecond here
_PORTS = {PUMP.name: (502, 7000, 6000, 80), MONITOR.name: (2575, 2576, 22, 80)}
_GROUPS = ("01:00:5e:00:00:fb", "33:33:00:00:00:01", "01:80:c2:00:00:0e")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One frame that should get nowhere, who sends it, and how it would be known elsewhere."""

    what: str
    sender: str
    frame: bytes
    token: bytes


class Sniffer:
    """Every frame that a host's interface receives, kept until the end of the ``with``."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.frames: list[bytes] = []
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._socket.bind(("eth0", 3))
        self._socket.settimeout(0.1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sniffer-{namespace}")

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                data, where = self._socket.recvfrom(2048)
            except TimeoutError:
                continue
            if where[2] != socket.PACKET_OUTGOING:
                self.frames.append(data)

    @property
    def dropped(self) -> int:
        """Frames that came faster than they were read (PACKET_STATISTICS)."""
        return int(struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1])

    def __enter__(self) -> Sniffer:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.set()
        self._thread.join(5)
        self._socket.close()


@contextmanager
def _sniffers(bench: Bench, names: Sequence[str]) -> Iterator[dict[str, Sniffer]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Sniffer(bench.ns(name))) for name in names}


def _send(bench: Bench, attempts: Sequence[Attempt]) -> None:
    """Put every frame on its sender's wire, and give what passes the time to arrive."""
    for sender in sorted({a.sender for a in attempts}):
        with inside(bench.ns(sender)):
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with s:
            s.bind(("eth0", 0))
            for attempt in attempts:
                if attempt.sender == sender:
                    s.send(attempt.frame)
                    time.sleep(0.002)
    time.sleep(_SETTLE_S)


def _ward_mac(bench: Bench) -> str:
    return run("ip", "netns", "exec", bench.ns("gw"), "cat", "/sys/class/net/ward0/address").strip()


def _hospital_mac(bench: Bench) -> str:
    return run("ip", "netns", "exec", bench.ns("gw"), "cat", "/sys/class/net/hosp0/address").strip()


_numbers = itertools.count(1)


def _token() -> bytes:
    """Sixteen octets that nothing else on this bench sends."""
    return b"wardgate" + struct.pack(">Q", 0x57A1_0000_0000_0000 + next(_numbers))


def _sequence(token: bytes) -> int:
    return 0x57A10000 + int.from_bytes(token[-2:], "big")


def _probes(source: str, target: str, ports: Sequence[int]) -> Iterator[tuple[str, bytes, bytes]]:
    """(what, IP packet, token) of everything that a host may try toward another: echo, UDP and TCP."""
    token = _token()
    yield f"echo {source} → {target}", f.echo(source, target, token), token
    for port in ports:
        token = _token()
        yield f"udp {source} → {target}:{port}", f.udp(source, target, 45000, port, token), token
        token = _token()
        sequence = _sequence(token)
        yield f"tcp {source} → {target}:{port}", f.tcp(source, target, 45001, port, sequence), struct.pack(">I", sequence)


def _marked(what: str, sender: str, frame: bytes) -> Attempt:
    """A frame whose content cannot carry a token has it behind its end, where a bridge leaves it."""
    token = _token()
    return Attempt(what, sender, frame + token, token)


def _kind(packet: bytes) -> int:
    return f.IPV6 if packet[0] >> 4 == 6 else f.IPV4


def _pairs(one: Position, other: Position) -> tuple[tuple[str, str], ...]:
    return (one.ipv4, other.ipv4), (one.ipv6, other.ipv6)


# --- sideways ---


def _sideways(sender: Position, victim: Position, gate: str) -> Iterator[Attempt]:
    """From one port toward another device: to its own MAC, to everybody, and through the router."""
    for source, target in _pairs(sender, victim):
        for what, packet, token in _probes(source, target, _PORTS[victim.name]):
            kind = _kind(packet)
            for way, mac in (("bridged", victim.mac), ("broadcast", f.BROADCAST), ("routed", gate)):
                yield Attempt(f"{what}, {way}", sender.name, f.ethernet(sender.mac, mac, kind, packet), token)
            inner = f.ethernet(sender.mac, victim.mac, f.VLAN, f.tagged(5, kind, packet))
            yield Attempt(f"{what}, tagged", sender.name, inner, token)
    token = _token()
    routed = f.ip(sender.ipv4, GATEWAY4, f.UDP, token, options=f.loose_route(victim.ipv4))
    yield Attempt(f"source route to {victim.ipv4}", sender.name, f.ethernet(sender.mac, gate, f.IPV4, routed), token)
    ask = f.arp(1, sender.mac, sender.ipv4, "00:00:00:00:00:00", victim.ipv4)
    for mac in (f.BROADCAST, victim.mac):
        yield _marked(f"arp for {victim.ipv4}", sender.name, f.ethernet(sender.mac, mac, f.ARP, ask))
    solicit = f.neighbour(False, sender.ipv6, "ff02::1", victim.ipv6, sender.mac)
    yield _marked(f"nd for {victim.ipv6}", sender.name, f.ethernet(sender.mac, "33:33:00:00:00:01", f.IPV6, solicit))
    for mac in (victim.mac, f.BROADCAST, *_GROUPS):
        token = _token()
        yield Attempt(f"a foreign frame to {mac}", sender.name, f.ethernet(sender.mac, mac, f.LOCAL, token), token)


def lateral_movement(bench: Bench) -> tuple[dict[str, float], str]:
    """Two trusted devices and a stranger try to reach one another, by bridge and by router: no frame arrives, none is answered."""
    trusted(bench)
    began, gate = time.monotonic_ns() + boot_offset_ns(), _ward_mac(bench)
    honest = [a for a in _honest(gate, _hospital_mac(bench)) if a.sender == "hosp"]
    devices = (PUMP, MONITOR)
    attempts = [a for s in (*devices, ATTACKER) for v in devices if s is not v for a in _sideways(s, v, gate)]
    denied = bench.counter("denied") + bench.counter("lateral") + bench.counter("unbound")
    with _sniffers(bench, [p.name for p in (*devices, ATTACKER)]) as heard:
        _send(bench, [*attempts, *honest])
        passed = _passed(attempts, heard, [p.name for p in devices])
        _trustworthy(heard, [p.name for p in devices], honest)
    refused = bench.counter("denied") + bench.counter("lateral") + bench.counter("unbound") - denied
    check(not passed, f"{len(passed)} of {len(attempts)} passed, first: {passed[:3]}")
    check(refused >= len(attempts) // 2, f"of {len(attempts)} attempts the kernel counted only {refused} as refused")
    _unharmed(bench, began)
    text = f"{len(attempts)} frames between devices, bridged, broadcast, tagged, routed, IPv4, IPv6; {refused} counted as refused"
    return {"attempts": float(len(attempts)), "passed": float(len(passed))}, text


def _passed(attempts: Sequence[Attempt], heard: dict[str, Sniffer], victims: Sequence[str]) -> list[str]:
    """What of it a victim received (by token), or the sender got an answer to (a SYN-ACK, an echo's data)."""
    found = []
    for attempt in attempts:
        ends = [n for n in victims if n != attempt.sender]
        arrived = any(attempt.token in frame for n in ends for frame in heard[n].frames)
        if arrived or (attempt.sender in heard and _answered(attempt, heard[attempt.sender].frames)):
            found.append(attempt.what)
    return found


def _answered(attempt: Attempt, frames: Sequence[bytes]) -> bool:
    if len(attempt.token) == 4:  # TCP: acknowledged is the sequence number plus one, in a segment with SYN and ACK
        wanted = struct.pack(">I", int.from_bytes(attempt.token, "big") + 1)
        return any(_syn_ack(frame) == wanted for frame in frames)
    return len(attempt.token) == 16 and any(attempt.token in frame and _echo_reply(frame) for frame in frames)


def _transport(frame: bytes) -> tuple[int, bytes]:
    """(protocol, what follows the IP header); (0, b"") when it is no IP packet."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == f.IPV4:
        return frame[23], frame[14 + 4 * (frame[14] & 15) :]
    return (frame[20], frame[54:]) if kind == f.IPV6 else (0, b"")


def _syn_ack(frame: bytes) -> bytes:
    protocol, body = _transport(frame)
    return body[8:12] if protocol == f.TCP and len(body) >= 14 and body[13] & f.SYN_ACK == f.SYN_ACK else b""


def _echo_reply(frame: bytes) -> bool:
    protocol, body = _transport(frame)
    return (protocol, body[:1]) in ((f.ICMP, b"\x00"), (f.ICMPV6, b"\x81"))


def _honest(gate: str, outer: str) -> list[Attempt]:
    """What must arrive, by the same means: maintenance opens a connection to the pump, and the pump one to its central station."""
    made = []
    for hospital, pump in ((HOSPITAL4, PUMP.ipv4), (HOSPITAL6, PUMP.ipv6)):
        for sender, mac, to, source, target, port in (
            ("hosp", "02:57:47:00:01:00", outer, hospital, pump, 7000),
            (PUMP.name, PUMP.mac, gate, pump, hospital, 6000),
        ):
            sequence = _sequence(_token())
            packet = f.tcp(source, target, 45002, port, sequence)
            frame = f.ethernet(mac, to, _kind(packet), packet)
            made.append(Attempt(f"honest tcp {source} → {target}:{port}", sender, frame, struct.pack(">I", sequence)))
    return made


def _trustworthy(heard: dict[str, Sniffer], ends: Sequence[str], honest: Sequence[Attempt]) -> None:
    """A sniffer that misses honest traffic, or loses frames, proves nothing by its silence."""
    for name in ends:
        check(bool(heard[name].frames), f"the sniffer at {name} heard no honest traffic either")
        check(not heard[name].dropped, f"the sniffer at {name} missed frames")
    noticed = _passed(honest, heard, ends)
    check(len(noticed) == len(honest), f"of {len(honest)} honest connections only {noticed} were noticed")


def _unharmed(bench: Bench, began_ns: int) -> None:
    """What an attacker did cost nobody a level or a flow."""
    changed = level_changes(bench, began_ns)
    check(not changed, f"levels changed: {', '.join(changed)}")
    for who in ("maintenance", "central", "control", "hl7-receiver"):
        flows(bench, who)


# --- in another's name ---


def _posing(victim: Position, gate: str, mac: str) -> Iterator[Attempt]:
    """From the stranger's port, as a device: to the hospital on every flow the device has, and to the gateway itself."""
    for source, peer, gateway in ((victim.ipv4, HOSPITAL4, GATEWAY4), (victim.ipv6, HOSPITAL6, GATEWAY6)):
        for target, ports in ((peer, (6000, 2575, 2576, 9999)), (gateway, (53, 67, 123, 502, 8443, 15502, 15575))):
            for what, packet, token in _probes(source, target, ports):
                yield Attempt(f"{what} from {mac}", ATTACKER.name, f.ethernet(mac, gate, _kind(packet), packet), token)
    for operation in (1, 2):
        claim = f.arp(operation, mac, victim.ipv4, f.BROADCAST, victim.ipv4)
        yield _marked(f"arp: {victim.ipv4} is at {mac}", ATTACKER.name, f.ethernet(mac, f.BROADCAST, f.ARP, claim))
    for target in ("33:33:00:00:00:01", gate):
        claim = f.neighbour(True, victim.ipv6, "ff02::1", victim.ipv6, mac)
        yield _marked(f"nd: {victim.ipv6} is at {mac}", ATTACKER.name, f.ethernet(mac, target, f.IPV6, claim))
    for group in _GROUPS:
        yield _marked(f"a bridge's own frame from {mac}", ATTACKER.name, f.ethernet(mac, group, f.LLDP, b"\0" * 46))


def _from_outside(device: Position, other: Position, gate: str) -> Iterator[Attempt]:
    """From the hospital's side, as a device of the ward, toward another and toward the gateway's own services."""
    for source, target, gateway in ((device.ipv4, other.ipv4, GATEWAY4), (device.ipv6, other.ipv6, GATEWAY6)):
        for to, ports in ((target, _PORTS[other.name]), (gateway, (15502, 15575, 8443))):
            for what, packet, token in _probes(source, to, ports):
                yield Attempt(
                    f"{what} from the hospital", "hosp", f.ethernet("02:57:47:00:01:00", gate, _kind(packet), packet), token
                )


def spoofed_address(bench: Bench) -> tuple[dict[str, float], str]:
    """A stranger with a device's IP, with its MAC too, and a hospital host with a device's IP: nothing passes, nobody is harmed."""
    trusted(bench)
    began, gate, outer = time.monotonic_ns() + boot_offset_ns(), _ward_mac(bench), _hospital_mac(bench)
    honest = _honest(gate, outer)
    attempts = [a for v in (PUMP, MONITOR) for mac in (ATTACKER.mac, v.mac) for a in _posing(v, gate, mac)]
    attempts += [a for d, o in ((PUMP, MONITOR), (MONITOR, PUMP)) for a in _from_outside(d, o, outer)]
    bench.ask("central", "reset")
    everybody = [PUMP.name, MONITOR.name, "hosp", ATTACKER.name]
    with _sniffers(bench, everybody) as heard:
        _send(bench, [*attempts, *honest])
        passed = _passed(attempts, heard, [PUMP.name, MONITOR.name, "hosp"])
        _trustworthy(heard, [PUMP.name, MONITOR.name, "hosp"], honest)
    stolen = [frame for frame in heard[ATTACKER.name].frames if frame[:6] in (f.mac(PUMP.mac), f.mac(MONITOR.mac))]
    check(not passed, f"{len(passed)} of {len(attempts)} passed, first: {passed[:3]}")
    check(not stolen, f"{len(stolen)} frames for a device went to the stranger's port")
    _neighbours(bench)
    gap = float(bench.ask("central", "state")["longest_gap_ms"])
    check(gap < 500, f"monitoring paused for {gap:.0f} ms")
    _unharmed(bench, began)
    text = f"{len(attempts)} frames in two devices' names, from another port and from outside; monitoring paused {gap:.0f} ms"
    return {"attempts": float(len(attempts)), "passed": float(len(passed)), "monitoring_gap_ms": gap}, text


def _neighbours(bench: Bench) -> None:
    """Each device's address still leads to its own MAC, and each MAC to its own port."""
    table = run("ip", "-n", bench.ns("gw"), "neigh", "show", "dev", "ward0").splitlines()
    bridge = run("bridge", "-n", bench.ns("gw"), "fdb", "show", "br", "ward0").splitlines()
    for device in (PUMP, MONITOR):
        wrong = [line for line in table if line.split(" ")[0] in (device.ipv4, device.ipv6) and "lladdr" in line]
        wrong = [line for line in wrong if device.mac not in line]
        check(not wrong, f"a neighbour entry was stolen: {wrong}")
        moved = [line for line in bridge if device.mac in line and ATTACKER.port in line]
        check(not moved, f"a MAC moved to the stranger's port: {moved}")
