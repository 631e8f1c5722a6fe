"""A proposed device, from an operator's command and the maker's endorsement: checked, with its shared keys set apart; and which
profile may fit a device that was found, with the reasons.

The endorsement is JSON, everything in hex: ``ueid``; ``spki``, or keys shared with this very gateway (``gateway``, ``token-key``,
``beacon-key``); ``implementation-id``; ``components`` and perhaps ``signers`` by type. Refuses to store anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.errors import InputError
from gateway.model.device import Binding, Bus, Device
from gateway.model.event import DeviceSeen, OperatorCommand
from gateway.model.evidence import EvidenceClass
from gateway.model.profile import BEACON_KEY, TOKEN_KEY, GattRule, Profile, Provenance, References, ReferenceValue, TrustAnchor
from gateway.model.sheet import Suggestion

_SHARED = {"token-key": TOKEN_KEY, "beacon-key": BEACON_KEY}
_SERVICES = {  # what a driver's hint says, in words, and the characteristics by which a profile reads it
    "heart-rate": ("a heart rate service", frozenset({"2A37"})),
    "pulse-oximeter": ("a pulse oximeter service", frozenset({"2A5E", "2A5F"})),
}
_BUSES = {Bus.BLE: "Bluetooth", Bus.MODBUS: "Modbus", Bus.HL7: "HL7"}
_FITS = 2  # a service it offers, or its own name; that it can prove something speaks for any profile
_KEY_BYTES = 32  # HKDF-SHA256's output for each use
_MEASURED = (EvidenceClass.ASYMMETRIC, EvidenceClass.SYMMETRIC, EvidenceClass.BEACON)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is to be stored, and where: ``shared`` in the key store and nowhere else, the passkey beside the device."""

    device: Device
    passkey: int | None
    references: References
    shared: Mapping[str, bytes]


def propose(device_id: str, a: Mapping[str, str], profile: Profile, gateway_id: str) -> Proposal:
    """A proposed device from a command's arguments. Raises InputError naming what does not fit."""
    try:
        addresses = tuple(x for x in a.get("addresses", "").split(",") if x)
        binding = Binding(a["port"], a["mac"].lower(), addresses) if a.get("port") or a.get("mac") else None
        device = Device(
            device_id, a.get("name") or device_id, Bus(a.get("bus", "")), a["profile"], a.get("address", ""), binding=binding
        )
        passkey = int(a["passkey"]) if a.get("passkey") else None
    except (ValueError, KeyError) as e:
        raise InputError(f"{device_id}: {e}", "see `wardgate device add --help`") from None
    if device.bus is not Bus.BLE and binding is None:
        raise InputError(f"{device_id}: a wired device needs its port and its MAC address", "give --port and --mac")
    references, shared = read_endorsement(a.get("endorsement", ""), measured_target(profile), gateway_id)
    return Proposal(device, passkey, references, shared)


def refuse_taken(device: Device, others: Collection[Device]) -> None:
    """Raises InputError when an address or the MAC of a proposed device is another one's."""
    for other in others:
        taken = sorted({device.address, *device.ip_addresses} & {other.address, *other.ip_addresses})
        if not taken and device.binding and other.binding and device.binding.mac == other.binding.mac:
            taken = [device.binding.mac]
        if taken:
            raise InputError(
                f"{taken[0]} belongs to {other.name} ({other.id})", f"look at the device's label, or remove {other.id} first"
            )


def measured_target(profile: Profile) -> str:
    """The target that a maker's endorsement is about; "" when the profile has none."""
    return next((t.name for t in profile.targets if t.evidence_class in _MEASURED), "")


def suggest(seen: DeviceSeen, profiles: Mapping[str, Profile]) -> tuple[Suggestion, ...]:
    """The profiles of the device's bus, the best fit first, each with what speaks for it; what a device says proves nothing."""
    may = {seen.bus} if seen.bus else set(Bus) - {Bus.BLE}
    rows = [(*_fit(seen, p), p) for p in profiles.values() if p.bus in may]
    rows.sort(key=lambda r: (-r[0], r[2].name))
    return tuple(_suggestion(p, score, why) for score, why, p in rows)


def _suggestion(p: Profile, score: int, why: list[str]) -> Suggestion:
    measured = any(t.evidence_class in _MEASURED for t in p.targets)
    beacon_only = bool(p.targets) and all(t.evidence_class is EvidenceClass.BEACON for t in p.targets)
    why = why or [f"it is for {_BUSES[p.bus]} devices; nothing else speaks for it"]
    return Suggestion(p.id, p.name, p.clinical_class, score >= _FITS, tuple(why), p.bus is Bus.BLE and not beacon_only, measured)


def _fit(seen: DeviceSeen, p: Profile) -> tuple[int, list[str]]:
    """How well a profile fits, and why in sentences."""
    score, why = 0, []
    hints = {h.strip() for h in seen.hint.split(",") if h.strip()}
    used = {r.characteristic.upper() for r in p.rules if isinstance(r, GattRule)}
    for hint in sorted(hints & _SERVICES.keys()):
        word, characteristics = _SERVICES[hint]
        if used & characteristics:
            score += 4
            why.append(f"it offers {word}, which this profile reads")
    opened = [f for function in p.functions for f in function.flows if f.from_device]
    if called := sorted(hints & {f"{f.protocol} {f.peer} {f.port}" for f in opened}):
        protocol, peer, port = called[0].split()
        score += 4
        why.append(f"it calls {peer} at {protocol} port {port}, as this profile lets it")
    elif sought := sorted(hints & {f"arp {f.peer}" for f in opened}):
        score += 4
        why.append(f"it looks for {sought[0].removeprefix('arp ')}, which this profile lets it call")
    if "attestation" in hints and any(t.evidence_class in (EvidenceClass.ASYMMETRIC, EvidenceClass.SYMMETRIC) for t in p.targets):
        score += 1
        why.append("it can prove what it runs, as this profile asks")
    words = {w for w in re.split(r"[^a-z0-9]+", p.name.casefold()) if len(w) >= 4}
    said = sorted(words & set(re.split(r"[^a-z0-9]+", seen.name.casefold())))
    if said:
        score += 2
        why.append(f"it calls itself {', '.join(said)} (a name alone proves nothing)")
    return score, why


def without_secrets(command: OperatorCommand) -> OperatorCommand:
    """The command as the record keeps it: no password, no passkey, no shared key."""
    kept = []
    for name, value in command.arguments:
        if name == "endorsement":
            value = json.dumps({k: v for k, v in _json(value).items() if k not in _SHARED}) if value else ""
        if name != "passkey":
            kept.append((name, value))
    return replace(command, secret="", arguments=tuple(kept))


def read_endorsement(text: str, target: str, gateway_id: str | None) -> tuple[References, dict[str, bytes]]:
    """Anchors with reference values, and the shared keys by use. ``gateway_id`` None: for any gateway. Raises InputError."""
    if not text:
        return References(), {}
    data = _json(text)
    try:
        ueid = bytes.fromhex(data["ueid"])
        anchors = [TrustAnchor(ueid, bytes.fromhex(data["spki"]))] if "spki" in data else []
        shared = {use: bytes.fromhex(data[name]) for name, use in _SHARED.items() if name in data}
        anchors += [TrustAnchor(ueid, b"", shared=use) for use in shared]
        named = {"implementation-id": data["implementation-id"], **{f"component:{k}": v for k, v in data["components"].items()}}
        named |= {f"signer:{k}": v for k, v in data.get("signers", {}).items()}
        values = tuple(ReferenceValue(target, n, bytes.fromhex(v), Provenance.MAKER, countersigned=True) for n, v in named.items())
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        # never the text of the error alone: it may repeat what stood in place of a key
        raise InputError(
            f"the endorsement does not parse ({type(e).__name__})",
            "ask the maker for ueid, spki or this gateway's keys, implementation-id, components",
        ) from None
    if not anchors:
        raise InputError("the endorsement holds no key", "ask the maker for spki, or for this gateway's token-key or beacon-key")
    if any(len(key) != _KEY_BYTES for key in shared.values()):
        raise InputError(f"a key shared with a device is {_KEY_BYTES} bytes", "ask the maker for keys made for this gateway")
    if shared and gateway_id is not None and data.get("gateway") != gateway_id:
        made_for = str(data.get("gateway", "nobody"))[:63]
        raise InputError(f"the endorsement's keys were made for gateway {made_for!r}, not {gateway_id!r}", "ask for this gateway's")
    return References(tuple(anchors), values), shared


def _json(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise InputError("the endorsement is no JSON object", "give the file that the maker sent")
    return data
