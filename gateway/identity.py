"""Who a proposed device says it is, and what speaks against its being the one that is meant: the wrong device, accepted.

Compares claims (address, port, MAC) and keys with those of all other devices. Refuses to know where they are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from gateway.errors import RefusedError
from gateway.model.device import Device, DeviceState
from gateway.model.profile import References

_OBJECTS = {"object:0": "maker", "object:1": "product", "object:2": "version"}  # Modbus device identification, 43/14


def identify(device: Device, others: Sequence[Device], references: Mapping[str, References], *, anyway: bool) -> tuple[str, ...]:
    """What a person compares before accepting. Raises RefusedError when another device looks the same, unless that is meant."""
    found = doubts(device, others, references)
    if found and not anyway:
        raise RefusedError(
            f"{device.id} may be the wrong device: {'; '.join(found)}",
            f"compare it with its label; remove the wrong one, or `wardgate device accept {device.id} --anyway`",
        )
    warnings = tuple(f"ATTENTION: {text}" for text in found)
    return (*warnings, *identity_of(device, references.get(device.id, References())))


def way_back(verb: str, device_id: str) -> str:
    """How to get back from where a command led, for those that are given by mistake."""
    if verb == "accept":
        return f"; not the right one? `wardgate device remove {device_id}` takes it off the network at once"
    if verb == "remove":
        return f": nothing of it passes; `wardgate device add {device_id}` proposes it again, and what stood against it stands"
    return ""


def identity_of(device: Device, references: References) -> tuple[str, ...]:
    """What a person compares with the device's label before accepting it, a line each."""
    lines = [f"name: {device.name}", f"bus and address: {device.bus}, {device.address}", f"profile: {device.profile}"]
    if device.binding:
        lines += [f"port: {device.binding.port}", f"MAC: {device.binding.mac}", f"IP: {', '.join(device.binding.addresses)}"]
    for anchor in dict.fromkeys((a.instance, a.spki) for a in references.anchors):
        key = f"key SHA-256 {hashlib.sha256(anchor[1]).hexdigest()[:16]}…" if anchor[1] else "a key shared with this gateway"
        lines.append(f"UEID: {anchor[0].hex()}, {key}")
    for value in references.values:
        if value.name in _OBJECTS:
            lines.append(f"{_OBJECTS[value.name]}: {_text(value.value)}")
        elif value.name == "implementation-id":
            lines.append(f"implementation: {value.value.hex()[:32]}…")
    if not references.anchors:
        lines.append("no endorsement: nothing but its port and address says that it is this one")
    return tuple(lines)


def doubts(device: Device, others: Sequence[Device], references: Mapping[str, References]) -> tuple[str, ...]:
    """What another device that is still here has too; empty when nothing is."""
    mine = references.get(device.id, References())
    found: list[str] = []
    for other in others:
        if other.id != device.id and other.state is not DeviceState.RETIRED:
            same = [*_same_claims(device, other), *_same_keys(mine, references.get(other.id, References()))]
            found += [f"{what} is that of {other.id} ({other.name}, {other.state})" for what in same]
    return tuple(found)


def _same_claims(one: Device, other: Device) -> Iterator[str]:
    if one.address == other.address:
        yield f"its address {one.address}"
    if one.binding and other.binding:
        if one.binding.port == other.binding.port:
            yield f"its port {one.binding.port}"
        if one.binding.mac == other.binding.mac:
            yield f"its MAC {one.binding.mac}"
        for address in one.binding.addresses:
            if address in other.binding.addresses and address != one.address:
                yield f"its address {address}"


def _same_keys(one: References, other: References) -> Iterator[str]:
    for instance in {a.instance for a in one.anchors} & {a.instance for a in other.anchors}:
        yield f"its UEID {instance.hex()[:18]}…"
    if {a.spki for a in one.anchors if a.spki} & {a.spki for a in other.anchors}:
        yield "its key"


def _text(value: bytes) -> str:
    """What a device says of itself is hostile: printable, and short."""
    return "".join(c if c.isprintable() else "?" for c in value.decode("utf-8", "replace"))[:64]
