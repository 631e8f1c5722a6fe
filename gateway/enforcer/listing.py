"""What the kernel holds, read from ``nft -j list``: the static text's digest, the elements, the leases, the counters.

Pure: JSON in, values out. The digest is over the normalised text (no handles, no counters' values, no elements), so it
changes when a rule, a chain, a set or a policy changes and at no other time. It knows no files and starts no process.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.enforcer.document import SHAPES, Document, Element

TABLES = (("bridge", "wardgate_l2"), ("inet", "wardgate"))
LEASES = ("lvl4", "lvl6")
TIMED = ("glass4", "glass6", "bypass4", "bypass6")  # break-glass: filled by root, emptied by the kernel
DERIVED = ("nd6", "l7_4", "l7_6")  # other keys of port6, via4 and via6
BRIDGE_SETS = ("port4", "port6", "nd6", "dhcp_port")
MET = ("met4", "met6")  # filled by the rules themselves: who was refused lately
_ICMP = {"echo-reply": 0, "destination-unreachable": 3, "echo-request": 8, "time-exceeded": 11, "parameter-problem": 12}
_ICMP6 = {
    "destination-unreachable": 1,
    "packet-too-big": 2,
    "time-exceeded": 3,
    "parameter-problem": 4,
    "echo-request": 128,
    "echo-reply": 129,
}


@dataclass(frozen=True, slots=True)
class KernelLease:
    """A level as the kernel holds it; ``expires_s`` in whole seconds, as nft prints it (rounded down)."""

    level: int
    expires_s: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The two tables as the kernel lists them. ``present`` is false when one is missing."""

    present: bool
    digest: str
    sets: Mapping[str, frozenset[Element]]
    leases: Mapping[str, KernelLease]
    counters: Mapping[str, int]
    glass: Mapping[str, Mapping[Element, int]]  # set -> element -> seconds left
    met: tuple[Element, ...] = ()  # (bridge port, MAC, address) refused in the last minutes


def parse_listing(text: str | bytes) -> Listing:
    """``nft -j list ruleset`` as a Listing; other tables are passed over. Raises ValueError when it is not nft's JSON."""
    ours = [(kind, body) for item in json.loads(text)["nftables"] for kind, body in item.items() if _is_ours(kind, body)]
    tables = {(body["family"], body["name"]) for kind, body in ours if kind == "table"}
    sets: dict[str, frozenset[Element]] = {}
    leases: dict[str, KernelLease] = {}
    glass: dict[str, dict[Element, int]] = {}
    met: set[Element] = set()
    for kind, body in ours:
        if kind not in ("set", "map"):
            continue
        name, elements = body["name"], body.get("elem", [])
        if name in LEASES:
            leases |= {str(key["elem"]["val"]): KernelLease(int(value), key["elem"].get("expires", 0)) for key, value in elements}
        elif name in MET:
            met |= {_element(name, e) for e in elements}
        elif name in TIMED:
            glass[name] = {_element(name, e["elem"]["val"]): e["elem"].get("expires", 0) for e in elements}
        elif kind == "map":
            sets[name] = frozenset((*_element(name, key), value) for key, value in elements)
        else:
            sets[name] = frozenset(_element(name, e) for e in elements)
    counters = {body["name"]: body["packets"] for kind, body in ours if kind == "counter"}
    return Listing(tables == set(TABLES), _digest(ours), sets, leases, counters, glass, tuple(sorted(met, key=str)))


def _is_ours(kind: str, body: Any) -> bool:
    if kind == "metainfo":
        return False
    table = body["name"] if kind == "table" else body["table"]
    return (body["family"], table) in TABLES


def _element(name: str, value: Any) -> Element:
    if isinstance(value, dict) and "elem" in value:
        value = value["elem"]["val"]
    parts = value["concat"] if isinstance(value, dict) else [value]
    if name.startswith("icmp"):
        types = _ICMP if name == "icmp4" else _ICMP6
        parts = [*parts[:2], types.get(parts[2], parts[2])]
    if name == "nd6":
        parts = [*parts[:2], int(str(parts[2]), 0)]
    return tuple(parts)


def _digest(ours: list[tuple[str, Any]]) -> str:
    """SHA-256 over tables, chains, sets, counters by name, and the rules of each chain in their order."""
    named: dict[str, Any] = {}
    for kind, body in ours:
        kept = {key: value for key, value in body.items() if key not in ("handle", "elem", "packets", "bytes")}
        path = f"{body['family']} {body.get('table', '')} {kind} "
        if kind == "rule":
            named.setdefault(path + body["chain"], []).append(kept["expr"])
        else:
            named[path + body["name"]] = kept
    return hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def wanted_sets(document: Document) -> dict[str, frozenset[Element]]:
    """Every set that a document fills, the derived ones included."""
    sets = dict(document.sets)
    sets["nd6"] = frozenset((*e[:2], int(ipaddress.IPv6Address(str(e[2])))) for e in sets["port6"])
    for family in (4, 6):
        sets[f"l7_{family}"] = frozenset(e[:3] for e in sets[f"via{family}"])
    return sets


def differences(listing: Listing, document: Document, limit: int = 100) -> list[str]:
    """By exact set inclusion both ways: what is in the kernel but not in the policy, and the reverse. Empty: equal."""
    found: list[str] = []
    wanted = wanted_sets(document)
    for name in (*SHAPES, *DERIVED):
        held = listing.sets.get(name, frozenset())
        found += [f"{name}: {_shown(e)} is in the kernel and not in the policy" for e in _some(held - wanted[name], limit)]
        found += [f"{name}: {_shown(e)} is in the policy and not in the kernel" for e in _some(wanted[name] - held, limit)]
    caps = document.cap_of()
    for address, lease in listing.leases.items():
        if lease.level > caps.get(address, ("", 0))[1]:
            found.append(f"lease: {address} has level {lease.level}, more than its cap")
    return found[:limit]


def _some(elements: frozenset[Element], limit: int) -> list[Element]:
    return sorted(elements, key=str)[:limit]


def _shown(element: Element) -> str:
    return " . ".join(map(str, element))
