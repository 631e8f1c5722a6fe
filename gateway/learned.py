"""What was seen of observed devices that no function of their profile names, and the draft of a profile made of it.

A device chooses what it sends, so all of it is counted within bounds and proposed, never obeyed: no level, no ``on_loss``,
and a device that talks to more than a real one does is said to. Refuses to know where packets come from and where this is kept.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.model.device import Device
from gateway.model.profile import Profile
from gateway.policy.draft import DraftFlow, Undecided, profile_draft

MAX_FLOWS = 64  # of one device; a real one has three to ten
MAX_COUNT = 10**12

Key = tuple[str, str, int, bool]  # peer, protocol, port, opened by the device


@dataclass
class _Seen:
    flows: dict[Key, list[int]] = field(default_factory=dict)  # packets, and 1 when an opening packet was seen
    others: int = 0  # packets beyond MAX_FLOWS, or without ports
    dirty: bool = False


class Learned:
    """Counts by device. ``note`` takes the enforcer's events; a device that is not in ``addresses`` is not counted."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note(self, event: Mapping[str, Any], addresses: Mapping[str, Sequence[str]]) -> None:
        """Count a ``seen`` event. ``addresses``: those of each observed device."""
        device_id, source, target = (str(event.get(k, "")) for k in ("device", "source", "destination"))
        own = addresses.get(device_id, ())
        count = event.get("count", 1)
        if not own or (source in own) is (target in own) or type(count) is not int or count < 1:
            return
        seen = self._seen.setdefault(device_id, _Seen())
        seen.dirty = True
        key, opened = _key(event, source in own)
        if key is None or (key not in seen.flows and len(seen.flows) >= MAX_FLOWS):
            seen.others = min(seen.others + count, MAX_COUNT)
            return
        kept = seen.flows.setdefault(key, [0, 0])
        kept[0], kept[1] = min(kept[0] + count, MAX_COUNT), kept[1] | opened

    def changed(self) -> list[tuple[str, str]]:
        """(device id, JSON) of what changed since the last call, to be kept."""
        rows = [(i, json.dumps({"flows": [[*k, *v] for k, v in s.flows.items()], "others": s.others}))
                for i, s in self._seen.items() if s.dirty]  # fmt: skip
        for seen in self._seen.values():
            seen.dirty = False
        return rows

    def restore(self, rows: Iterable[tuple[str, str]]) -> None:
        """Take up what ``changed`` gave before a restart; what does not read is forgotten."""
        for device_id, text in rows:
            try:
                body = json.loads(text)
                flows = {(str(p), str(t), int(n), bool(d)): [int(c), int(o)] for p, t, n, d, c, o in body["flows"][:MAX_FLOWS]}
                self._seen.setdefault(device_id, _Seen(flows, int(body["others"])))
            except (ValueError, TypeError, KeyError):
                continue

    def propose(
        self, device: Device, profile: Profile, peers: Mapping[str, Sequence[str]], nearby: Iterable[str]
    ) -> dict[str, Any]:
        """The draft, its flows, and notes for a person. ``nearby``: addresses behind this gateway and its own."""
        seen = self._seen.get(device.id, _Seen())
        named = {(f.peer, str(f.protocol), f.port, f.from_device) for fn in profile.functions for f in fn.flows}
        names = {str(a): n for n in sorted(peers, reverse=True) for a in peers[n]}
        near = frozenset(nearby)
        flows: dict[tuple[str, str, int, bool], DraftFlow] = {}
        undecided: list[Undecided] = []
        for key, (count, opened) in sorted(seen.flows.items(), key=lambda item: -item[1][0]):
            peer, protocol, port, from_device = key
            if key in named:
                continue
            text = f"{count} packets{'' if opened else '; who opens it is a guess'}"
            if peer in near:
                what = f"{peer} {protocol} {port} ({count} packets)"
                undecided.append(
                    Undecided(what, "another device behind this gateway, or the gateway itself: no profile can open that")
                )
            else:
                name = names.get(peer, peer)
                flows.setdefault((name, protocol, port, from_device), DraftFlow(name, protocol, port, from_device, text))
        notes = _notes(device, seen, len(flows))
        head = [f"Learned of {device.id} while it was observed: a proposal, made of what it did, not of what it should do.", *notes]
        toml = profile_draft(f"{device.id[:50]}-learned", device.name, head, list(flows.values()), undecided, str(device.bus))
        rows = [{"peer": f.peer, "protocol": f.protocol, "port": f.port, "opened_by": "device" if f.from_device else "peer",
                 "note": f.note} for f in flows.values()]  # fmt: skip
        return {"device": device.id, "flows": rows, "others": seen.others, "notes": list(notes), "draft": toml}


def _notes(device: Device, seen: _Seen, proposed: int) -> tuple[str, ...]:
    notes = [f"{proposed} flows are proposed that the profile {device.profile} does not name; level and on_loss are yours to say"]
    if len(seen.flows) >= MAX_FLOWS:
        notes.append(f"ATTENTION: more than {MAX_FLOWS} different flows: no real device does that; it scans, or somebody scans it")
    elif seen.others:
        notes.append(f"{seen.others} packets are in none of them (ICMP, broadcasts and the like)")
    return tuple(notes)


def _key(event: Mapping[str, Any], from_device: bool) -> tuple[Key | None, int]:
    """The flow of a packet, and 1 when it opens it. Without an opening packet the lower port is taken for the one that listens."""
    source, target = str(event.get("source", "")), str(event.get("destination", ""))
    protocol, sport, dport = str(event.get("protocol", "")), event.get("source_port", 0), event.get("port", 0)
    peer = target if from_device else source
    if protocol not in ("tcp", "udp") or not _host(peer) or not all(type(p) is int and 1 <= p <= 65535 for p in (sport, dport)):
        return None, 0
    if event.get("opens") is True:
        return (peer, protocol, dport, from_device), 1
    if sport < dport:  # an answer: the other end dialled this packet's source port
        return (peer, protocol, sport, not from_device), 0
    return (peer, protocol, dport, from_device), 0


def _host(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or text.endswith(".255"))
