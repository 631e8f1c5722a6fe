"""PURE. A Manufacturer Usage Description (RFC 8520, its JSON form) becomes the draft of a profile, in TOML.

MUD says which flows a thing needs; it says nothing of what a patient needs. So a draft leaves open what a person must say
(``on_loss``, the level, the bus, what is attested) and is refused by ``policy check`` until it says so. What these rules
cannot hold is never passed over: it becomes an ``undecided`` entry with the reason, refused as well. Refuses to know signatures.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import InputErrors
from gateway.policy.draft import DraftFlow, Undecided, profile_draft
from gateway.policy.fields import Problems, Table, shown

MAX_BYTES = 256 * 1024  # the largest of a public collection of profiles is a tenth of that
MAX_ENTRIES = 500
CACHE_HOURS = (1, 168)  # RFC 8520, section 3.5
_LISTS = ("ietf-access-control-list:acls", "ietf-access-control-list:access-lists")
_PROTOCOLS = {6: "tcp", 17: "udp"}
_DNS = re.compile(
    r"(?=.{1,253}$)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?"
)
_GROUPS = {
    "manufacturer": "it names all devices of one maker; devices behind this gateway never talk to each other",
    "same-manufacturer": "it names all devices of the same maker; devices behind this gateway never talk to each other",
    "model": "it names all devices of one model; devices behind this gateway never talk to each other",
}
_KNOWN = {
    "mud-version", "mud-url", "mud-signature", "last-update", "cache-validity", "is-supported", "systeminfo", "mfg-name",
    "model-name", "firmware-rev", "software-rev", "documentation", "extensions", "from-device-policy", "to-device-policy",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MudDraft:
    """What came of a file: the profile's draft, the names that ``[peers]`` has to map, and what could not be taken over."""

    url: str
    toml: str
    peers: tuple[str, ...]
    undecided: tuple[Undecided, ...]
    flows: int
    cache_hours: int


@dataclass
class _Reading:
    problems: Problems
    flows: list[DraftFlow] = field(default_factory=list)
    undecided: list[Undecided] = field(default_factory=list)

    def open(self, what: str, why: str) -> None:
        entry = Undecided(what[:120], why[:200])
        if entry not in self.undecided:
            self.undecided.append(entry)


def import_mud(data: bytes, signature: str) -> MudDraft:
    """A MUD file as a draft. ``signature`` is a sentence for the draft's head: by whom it is signed, or that it is not.

    Raises InputErrors, with every mistake and its path, when the file is not what RFC 8520 says.
    """
    problems = Problems()
    top = Table(_json(data), "", problems)
    mud = Table(top.raw("ietf-mud:mud"), "ietf-mud:mud", problems)
    lists = _lists(top, problems)
    reading = _Reading(problems)
    url = _head(mud, reading)
    for policy, from_device in (("from-device-policy", True), ("to-device-policy", False)):
        for name in _names(mud, policy):
            if name not in lists:
                mud.wrong(policy, f"{shown(name)} is no list of this file")
            else:
                _read_list(lists[name], name, from_device, reading)
    top.finish()
    problems.raise_if_any("MUD file")
    return _draft(mud, url, signature, reading)


def _json(data: bytes) -> object:
    if len(data) > MAX_BYTES:
        raise InputErrors("MUD file", (("", f"is larger than {MAX_BYTES} bytes"),))
    try:
        return json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise InputErrors("MUD file", (("", "is not JSON in UTF-8, or says something twice"),)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _head(mud: Table, reading: _Reading) -> str:
    if mud.take("mud-version", int, 1) != 1:
        mud.wrong("mud-version", "only version 1 is known")
    url = mud.take("mud-url", str, "")
    if url and (not url.startswith("https://") or len(url) > 253 or not url.isascii() or not url.isprintable()):
        mud.wrong("mud-url", f"{shown(url)} is no https URL of at most 253 characters")
    mud.take("last-update", str, "")
    if type(mud.raw("is-supported")) is not bool:
        mud.wrong("is-supported", "expected true or false")
    hours = mud.maybe("cache-validity", int, 48)
    if not CACHE_HOURS[0] <= hours <= CACHE_HOURS[1]:
        mud.wrong("cache-validity", f"{hours} is not between {CACHE_HOURS[0]} and {CACHE_HOURS[1]} hours")
    for extension in mud.maybe("extensions", list, []):
        reading.open(f"extension {shown(extension)}", "it is not known here, and may narrow what the lists say")
    for key in _KNOWN:
        mud.raw(key)
    mud.finish()
    return url


def _lists(top: Table, problems: Problems) -> dict[str, Table]:
    """The access lists by name: under RFC 8520's name, or the one that drafts of it used."""
    found: dict[str, Table] = {}
    for key in _LISTS:
        if top.has(key):
            outer = Table(top.raw(key), key, problems)
            for row in outer.tables("acl"):
                name = row.take("name", str, "")
                row.raw("type")
                found.setdefault(name, row)
            outer.finish()
    if not found:
        top.wrong(_LISTS[0], "is missing: there are no access lists")
    return found


def _names(mud: Table, policy: str) -> list[str]:
    outer = Table(mud.raw(policy) or {}, mud.at(policy), mud.problems)
    inner = Table(outer.raw("access-lists") or {}, outer.at("access-lists"), mud.problems)
    return [row.take("name", str, "") for row in inner.tables("access-list")]


def _read_list(row: Table, name: str, from_device: bool, reading: _Reading) -> None:
    aces = Table(row.raw("aces") or {}, row.at("aces"), row.problems)
    entries = aces.tables("ace")
    if len(entries) > MAX_ENTRIES:
        aces.wrong("ace", f"more than {MAX_ENTRIES} entries")
        return
    for index, ace in enumerate(entries):
        what = f"{name[:40]}/{str(ace.raw('name'))[:60]}"
        action = Table(ace.raw("actions"), ace.at("actions"), row.problems).take("forwarding", str, "accept")
        matches = ace.raw("matches")
        ace.finish()
        if action.rpartition(":")[2] != "accept":
            if index != len(entries) - 1 or matches:
                reading.open(what, "it refuses something before others are accepted; here all that no function names is refused")
            continue
        if not isinstance(matches, Mapping):
            reading.open(what, "it accepts everything")
            continue
        _read_ace(matches, what, from_device, reading)


def _read_ace(matches: Mapping[str, Any], what: str, from_device: bool, reading: _Reading) -> None:
    parts = {str(k): v for k, v in matches.items()}
    unknown = sorted(set(parts) - {"ipv4", "ipv6", "tcp", "udp", "ietf-mud:mud"})
    odd = [k for k in parts.values() if not isinstance(k, Mapping)]
    if unknown or odd:
        reading.open(what, f"it matches {', '.join(unknown) or 'in a form'} that the rules here cannot hold")
        return
    transport = _transport(parts)
    if isinstance(transport, str):
        reading.open(what, transport)
        return
    protocol, opened, port = transport
    way = _way(from_device, opened, port)
    peers = list(_peers(parts, from_device))
    for _, why in peers:
        if why or isinstance(way, str):
            reading.open(what, why or str(way))
            return
    if not peers:
        reading.open(what, "it names no peer: any address")
    elif not isinstance(way, str):
        for peer, _ in peers:
            flow = DraftFlow(peer, protocol, way[1], way[0])
            if flow not in reading.flows:
                reading.flows.append(flow)


def _transport(parts: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]] | str:
    """(protocol, who is said to open it, its port matches), or why it cannot be held."""
    numbers = {n for f in ("ipv4", "ipv6") if f in parts and (n := parts[f].get("protocol")) is not None and type(n) is int}
    if any(type(parts[f].get("protocol", 6)) is not int for f in ("ipv4", "ipv6") if f in parts):
        return "its protocol is no number"
    named = {p for p in ("tcp", "udp") if p in parts}
    if len(numbers) > 1 or len(named) > 1:
        return "it contradicts itself about the protocol"
    number = numbers.pop() if numbers else None
    protocol = next(iter(named), "") if number is None else _PROTOCOLS.get(number, "")
    if not protocol:
        return f"protocol {number} has no ports" if number is not None else "it names no protocol: any of them"
    if named and named != {protocol}:
        return "it contradicts itself about the protocol"
    body = dict(parts.get(protocol, {}))
    opened = body.pop("ietf-mud:direction-initiated", body.pop("direction-initiated", ""))
    if opened not in ("", "from-device", "to-device"):
        return f"direction-initiated {shown(opened)} is not known"
    return protocol, str(opened), body


def _way(from_device: bool, opened: str, body: dict[str, Any]) -> tuple[bool, int] | str:
    """(opened by the device, the listening port), or why not. The list's direction and the port's side say who listens."""
    unknown = sorted(set(body) - {"source-port", "destination-port"})
    if unknown:
        return f"it matches {', '.join(unknown)} of the transport header, which the rules here cannot hold"
    if len(body) != 1:
        return "it names no port: any of them" if not body else "it names both ports; a flow here has the listening one only"
    side, value = next(iter(body.items()))
    port = _port(value)
    if isinstance(port, str):
        return port
    # From the device to a peer's port, or back from it: the device opened. The other two: the peer did.
    by_device = (side == "destination-port") is from_device
    if opened and (opened == "from-device") is not by_device:
        return f"direction-initiated {opened} contradicts the port that it names"
    return by_device, port


def _port(value: Any) -> int | str:
    if isinstance(value, int):
        value = {"operator": "eq", "port": value}
    if not isinstance(value, Mapping):
        return "its port is in a form that is not known"
    if value.get("operator", "eq") == "eq" and set(value) <= {"operator", "port"}:
        port = value.get("port")
    elif value.get("lower-port") == value.get("upper-port") and set(value) <= {"lower-port", "upper-port"}:
        port = value.get("lower-port")
    else:
        return "it names a range of ports; name each port that is used"
    return port if type(port) is int and 1 <= port <= 65535 else "its port is no number from 1 to 65535"


def _peers(parts: Mapping[str, Any], from_device: bool) -> Iterator[tuple[str, str]]:
    """(peer, "") for each that can be named, ("", why) for one that cannot."""
    ahead, end = ("destination", "dst") if from_device else ("source", "src")
    for family in ("ipv4", "ipv6"):
        for key, value in dict(parts.get(family, {})).items():
            if key == "protocol":
                continue
            if key in (f"ietf-acldns:{end}-dnsname", f"{end}-dnsname"):
                yield _name(value)
            elif key == f"{ahead}-{family}-network":
                yield _network(value)
            else:
                yield "", f"it matches {key[:60]}, which the rules here cannot hold"
    for key, value in dict(parts.get("ietf-mud:mud", {})).items():
        if key in _GROUPS:
            yield "", _GROUPS[key]
        elif key == "controller" and isinstance(value, str) and 1 <= len(value) <= 253 and value.isprintable():
            yield value, ""
        elif key in ("my-controller", "local-networks"):
            yield key, ""  # a name that the site gives addresses to, host by host, or nothing passes
        elif key == "direction-initiated":
            yield "", "direction-initiated stands beside the transport header; its place is within"
        else:
            yield "", f"it matches {key[:60]}, which is not known here"


def _name(value: Any) -> tuple[str, str]:
    if isinstance(value, str) and _DNS.fullmatch(value):
        return value.rstrip(".").lower(), ""
    return "", f"{shown(value)} is no host name"


def _network(value: Any) -> tuple[str, str]:
    try:
        network = ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        return "", f"{shown(value)} is no network"
    if network.num_addresses != 1:
        return "", f"{network} is more than one host; name the hosts"
    return str(network.network_address), ""


def _draft(mud: Table, url: str, signature: str, reading: _Reading) -> MudDraft:
    maker, model = (str(mud.raw(k) or "")[:60] for k in ("mfg-name", "model-name"))
    name = " ".join(x for x in (maker, model) if x) or str(mud.raw("systeminfo") or "a thing")[:60]
    head = [f"From the MUD file {url}", f"Signature: {signature}", f"Last update: {str(mud.raw('last-update'))[:40]}"]
    if mud.raw("is-supported") is False:
        head.append("Its maker no longer supports this device.")
    hours = int(mud.raw("cache-validity") or 48)
    identity = re.sub(r"[^a-z0-9]+", "-", url.rpartition("/")[2].removesuffix(".json").lower()).strip("-")[:63] or "thing"
    toml = profile_draft(identity, name, head, reading.flows, reading.undecided)
    return MudDraft(url, toml, names_of(reading.flows), tuple(reading.undecided), len(reading.flows), hours)


def names_of(flows: Sequence[DraftFlow]) -> tuple[str, ...]:
    """The peers that are names: the site's ``[peers]`` has to give them addresses."""
    found: dict[str, None] = {}
    for flow in flows:
        try:
            ipaddress.ip_address(flow.peer)
        except ValueError:
            found[flow.peer] = None
    return tuple(found)
