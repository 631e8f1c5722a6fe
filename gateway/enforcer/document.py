"""The policy document: what ``wardgate-policy`` loads into the kernel and the enforcer reads its caps from.

Canonical JSON in, checked values out; every mistake is reported with its path. It knows what an element may look like
and which elements contradict one another; it knows no profiles, no files and no kernel.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

DOCUMENT_MAX = 32 << 20  # 10,000 devices with three flows each are 5 MB
DEVICES_MAX = 20_000
ELEMENTS_MAX = 400_000
PROBLEMS_MAX = 100  # a person mends that many before trying again
PROFILES_MAX, PROFILE_MAX = 256, 64 << 10  # texts of profiles, characters each; the longest of ours has two thousand
BREAK_GLASS_PROTOCOLS = ("tcp", "udp")

_DEVICE_ID = re.compile(r"[a-z0-9-]{1,63}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")

Element = tuple[str | int, ...]
Check = Callable[[Any], bool]


class DocumentError(Exception):
    """The document is wrong; ``problems`` are (path, what), all that were found (at most PROBLEMS_MAX)."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {what}" for path, what in problems))
        self.problems = problems


@lru_cache(maxsize=65536)
def _version(value: str) -> int:
    """4 or 6 for a canonical address, else 0."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return 0
    usable = not (address.is_multicast or address.is_unspecified or address.is_loopback)
    return address.version if usable and str(address) == value and "%" not in value else 0


def _address(version: int) -> Check:
    return lambda value: isinstance(value, str) and _version(value) == version


def _text(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _number(lowest: int, highest: int) -> Check:
    return lambda value: type(value) is int and lowest <= value <= highest


def _icmp_type(version: int) -> Check:
    """Echo and the errors; never redirects, advertisements or anything else that configures a host."""
    return lambda value: type(value) is int and value in ((0, 3, 8, 11, 12) if version == 4 else (1, 2, 3, 4, 128, 129))


def _one_of(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values


def _shapes() -> dict[str, tuple[Check, ...]]:
    """Every set of the two tables that a document fills, with a check for each field of its elements."""
    port, protocol, tcp = _number(1, 65535), _one_of("tcp", "udp"), _one_of("tcp")
    asks = (_text(_INTERFACE), _text(_MAC))
    shapes: dict[str, tuple[Check, ...]] = {"dhcp_port": asks, "dhcp_bind": asks}
    for family in (4, 6):
        ip = _address(family)
        bound = (_text(_INTERFACE), _text(_MAC), ip)
        flow = (ip, ip, protocol, port)
        shapes |= {f"port{family}": bound, f"bind{family}": bound, f"vital{family}": flow, f"seen{family}": (ip,)}
        shapes |= {f"rtl{level}_{family}": flow for level in range(4)}
        shapes |= {f"via{family}": (ip, tcp, port, _number(1024, 65535)), f"icmp{family}": (ip, ip, _icmp_type(family))}
        shapes |= {f"uplink{family}": (ip, protocol, port)}
    return shapes


SHAPES = _shapes()
_GLASS: dict[str, tuple[Check, ...]] = {
    "set4": SHAPES["vital4"],
    "set6": SHAPES["vital6"],
    "via4": SHAPES["via4"][:3],
    "via6": SHAPES["via6"][:3],
}


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """One device: the highest level it may ever be granted, and its addresses."""

    cap: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A checked document. ``sets`` holds every name of SHAPES; ``functions`` says what break-glass may open.

    Its text also carries ``profiles`` (those that were applied, as TOML by id): the daemon reads them, here they are only bounded.
    """

    document_id: str
    canonical: bytes
    devices: Mapping[str, DeviceEntry]
    sets: Mapping[str, frozenset[Element]]
    functions: Mapping[str, Mapping[str, Mapping[str, frozenset[Element]]]] = field(default_factory=dict)

    def cap_of(self) -> dict[str, tuple[str, int]]:
        """address -> (device, cap)."""
        return {address: (name, entry.cap) for name, entry in self.devices.items() for address in entry.addresses}


def canonical(value: object) -> bytes:
    """The bytes that are hashed, stored and compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


EMPTY = {"version": 1, "devices": {}, "sets": {}}


def parse_document(data: bytes) -> Document:
    """Bytes to a document. Raises DocumentError with all mistakes."""
    if len(data) > DOCUMENT_MAX:
        raise DocumentError([("", f"larger than {DOCUMENT_MAX} bytes")])
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise DocumentError([("", f"not a JSON text: {e}")]) from e
    return check_document(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def check_document(value: Any) -> Document:
    """A decoded document, checked. Raises DocumentError with all mistakes."""
    checker = _Checker()
    document = checker.document(value)
    if checker.problems:
        raise DocumentError(checker.problems)
    return document


class _Checker:
    """Collects mistakes on the way."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def wrong(self, path: str, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append((path, what))

    def document(self, value: Any) -> Document:
        top = self._object("", value, {"version", "devices", "sets"}, {"functions", "profiles"})
        if type(top.get("version")) is not int or top.get("version") != 1:
            self.wrong("version", "must be 1")
        devices = self._devices(top.get("devices", {}))
        sets = self._sets(top.get("sets", {}))
        functions = self._functions(top.get("functions", {}), devices)
        self._profiles(top.get("profiles", {}))
        if self.problems:
            return Document("", b"", {}, {})
        self._consistent(devices, sets, functions)
        text = canonical(value)
        return Document(hashlib.sha256(text).hexdigest(), text, devices, sets, functions)

    def _object(self, path: str, value: Any, needed: set[str], allowed: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(path, "must be an object")
            return {}
        for key in sorted(needed - set(value)):
            self.wrong(f"{path}.{key}".lstrip("."), "is missing")
        for key in sorted(set(value) - needed - allowed):
            self.wrong(f"{path}.{key}".lstrip("."), "is not known here")
        return value

    def _devices(self, value: Any) -> dict[str, DeviceEntry]:
        if not isinstance(value, dict) or len(value) > DEVICES_MAX:
            self.wrong("devices", f"must be an object with at most {DEVICES_MAX} devices")
            return {}
        devices: dict[str, DeviceEntry] = {}
        owner: dict[str, str] = {}
        for name, entry in value.items():
            path = f"devices.{name}"
            if not _DEVICE_ID.fullmatch(name):
                self.wrong(path, "a device id is a-z, 0-9 and -, at most 63 characters")
            entry = self._object(path, entry, {"cap", "addresses"}, set())
            if not _number(0, 3)(entry.get("cap")):
                self.wrong(f"{path}.cap", "must be 0 to 3")
            addresses = entry.get("addresses")
            if (
                not isinstance(addresses, list)
                or len(addresses) > 8
                or not all(isinstance(a, str) and _version(a) for a in addresses)
            ):
                self.wrong(f"{path}.addresses", "must be a list of at most 8 canonical IPv4 or IPv6 addresses")
                continue
            for address in addresses:
                if owner.setdefault(address, name) != name:
                    self.wrong(f"{path}.addresses", f"{address} belongs to {owner[address]} too")
            devices[name] = DeviceEntry(entry.get("cap", 0), tuple(addresses))
        return devices

    def _elements(self, path: str, value: Any, shape: tuple[Check, ...]) -> frozenset[Element]:
        if not isinstance(value, list) or len(value) > ELEMENTS_MAX:
            self.wrong(path, f"must be a list of at most {ELEMENTS_MAX} elements")
            return frozenset()
        for index, element in enumerate(value):
            if not isinstance(element, list) or len(element) != len(shape):
                self.wrong(f"{path}[{index}]", f"must be a list of {len(shape)} fields")
            elif bad := [str(n) for n, (test, part) in enumerate(zip(shape, element, strict=True)) if not test(part)]:
                self.wrong(f"{path}[{index}]", f"field {', '.join(bad)} is wrong")
        if self.problems:
            return frozenset()
        elements = frozenset(tuple(element) for element in value)
        if len(elements) != len(value):
            self.wrong(path, "an element occurs twice")
        return elements

    def _sets(self, value: Any) -> dict[str, frozenset[Element]]:
        value = self._object("sets", value, set(), set(SHAPES))
        return {name: self._elements(f"sets.{name}", value.get(name, []), shape) for name, shape in SHAPES.items()}

    def _functions(self, value: Any, devices: Mapping[str, DeviceEntry]) -> dict[str, dict[str, dict[str, frozenset[Element]]]]:
        functions: dict[str, dict[str, dict[str, frozenset[Element]]]] = {}
        for device, named in self._object("functions", value, set(), set(devices)).items():
            if not isinstance(named, dict) or len(named) > 64:
                self.wrong(f"functions.{device}", "must be an object with at most 64 functions")
                continue
            for name, parts in named.items():
                path = f"functions.{device}.{name}"
                if not _NAME.fullmatch(name):
                    self.wrong(path, "a function's name is a-z, 0-9, _ . and -, at most 63 characters")
                parts = self._object(path, parts, set(), set(_GLASS))
                flows = {key: self._elements(f"{path}.{key}", parts.get(key, []), shape) for key, shape in _GLASS.items()}
                functions.setdefault(device, {})[name] = flows
        return functions

    def _profiles(self, value: Any) -> None:
        if not isinstance(value, dict) or len(value) > PROFILES_MAX:
            self.wrong("profiles", f"must be an object with at most {PROFILES_MAX} texts")
            return
        for name, text in value.items():
            if not _DEVICE_ID.fullmatch(name):
                self.wrong(f"profiles.{name[:63]}", "a profile's id is a-z, 0-9 and -, at most 63 characters")
            if not isinstance(text, str) or len(text) > PROFILE_MAX:
                self.wrong(f"profiles.{name[:63]}", f"must be a text of at most {PROFILE_MAX} characters")

    def _consistent(
        self,
        devices: Mapping[str, DeviceEntry],
        sets: Mapping[str, frozenset[Element]],
        functions: Mapping[str, Mapping[str, Mapping[str, frozenset[Element]]]],
    ) -> None:
        """What the fields alone do not show: whom an element is about, and whether two elements contradict."""
        known = {address for entry in devices.values() for address in entry.addresses}
        self._asks(sets)
        for family in (4, 6):
            self._about_devices(family, known, sets)
            self._flows(family, known, sets)
            ways = {element[:3] for element in sets[f"via{family}"]}
            if len(ways) != len(sets[f"via{family}"]):
                self.wrong(f"sets.via{family}", "one port of a device goes to two proxies")
            for element in sets[f"vital{family}"]:
                if element[1:] in ways or (element[0], *element[2:]) in ways:
                    self.wrong(f"sets.vital{family}", f"{element[0]} to {element[1]} port {element[3]} is proxied; vital is direct")
        self._glass(devices, sets, functions)

    def _about_devices(self, family: int, known: set[str], sets: Mapping[str, frozenset[Element]]) -> None:
        for name, place in ((f"port{family}", 2), (f"bind{family}", 2), (f"seen{family}", 0), (f"via{family}", 0)):
            for element in sets[name]:
                local = family == 6 and place == 2 and str(element[2]).startswith("fe80:")
                if element[place] not in known and not local:
                    self.wrong(f"sets.{name}", f"{element[place]} is not an address of a device")
        for name in (f"port{family}", f"bind{family}"):
            if len({element[2] for element in sets[name]}) != len(sets[name]):
                self.wrong(f"sets.{name}", "one address is bound twice")

    def _asks(self, sets: Mapping[str, frozenset[Element]]) -> None:
        """Only a bound device asks for an address, from its own port."""
        for name, bound in (("dhcp_port", "port4"), ("dhcp_bind", "bind4")):
            for element in sets[name] - {e[:2] for e in sets[bound]}:
                self.wrong(f"sets.{name}", f"{element[1]} on {element[0]} is not bound in {bound}")

    def _flows(self, family: int, known: set[str], sets: Mapping[str, frozenset[Element]]) -> None:
        names = (f"vital{family}", f"icmp{family}", *(f"rtl{level}_{family}" for level in range(4)))
        for name in names:
            for element in sets[name]:
                ends = (element[0] in known) + (element[1] in known)
                if ends != 1:
                    what = "no device" if not ends else "two devices; device to device is never forwarded"
                    self.wrong(f"sets.{name}", f"{' '.join(map(str, element))}: names {what}")

    def _glass(
        self,
        devices: Mapping[str, DeviceEntry],
        sets: Mapping[str, frozenset[Element]],
        functions: Mapping[str, Mapping[str, Mapping[str, frozenset[Element]]]],
    ) -> None:
        """Break-glass opens flows of the profile only, and only of that device."""
        profile = {
            family: frozenset().union(sets[f"vital{family}"], *(sets[f"rtl{level}_{family}"] for level in range(4)))
            for family in (4, 6)
        }
        ways = {family: {element[:3] for element in sets[f"via{family}"]} for family in (4, 6)}
        for device, named in functions.items():
            own = devices[device].addresses
            for name, parts in named.items():
                path = f"functions.{device}.{name}"
                for family in (4, 6):
                    flows, direct = parts[f"set{family}"], parts[f"via{family}"]
                    if not flows <= profile[family] or any(f[0] not in own and f[1] not in own for f in flows):
                        self.wrong(f"{path}.set{family}", "names a flow that is not one of this device's in sets")
                    if not direct <= ways[family] or any(way[0] not in own for way in direct):
                        self.wrong(f"{path}.via{family}", f"names a port that is not one of this device's in via{family}")
