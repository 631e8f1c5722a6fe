"""What this gateway holds beside its policy: endorsements and reference values, flows that were seen, files that prove themselves.

An import replaces what makers said and nothing that was learned or countersigned here; going back is the same the other way
round. Neither touches a veto. Refuses to judge: whatever is imported, a device has to prove it anew.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from cryptography import x509

from gateway.assignments import KEPT, Assigned, Assignments
from gateway.clock import Clock
from gateway.config import Config
from gateway.errors import InputError, RefusedError, UnavailableError
from gateway.learned import Learned
from gateway.model.device import Device, DeviceState
from gateway.model.event import Event, OperatorCommand
from gateway.model.profile import Profile, Provenance, References, TrustAnchor
from gateway.model.view import User
from gateway.pki.files import load_crl, verify_file
from gateway.proposal import measured_target, read_endorsement
from gateway.store.cache import CertificateCache
from gateway.store.inventory import Inventory
from gateway.store.stock import CachedFile, Stock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SharedKeys(Protocol):
    """Keys shared with devices, by use."""

    def of(self, device_id: str) -> Mapping[str, bytes]: ...


class Holdings:
    """``gateway.ports.HoldingsPort``."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        inventory: Inventory,
        stock: Stock,
        cache: CertificateCache,
        keys: SharedKeys,
        profiles: Mapping[str, Profile],
        chain: Callable[[], Sequence[bytes]],
        emit: Callable[[Event], Awaitable[None]],
        configure: Callable[[str], Awaitable[None]],
    ) -> None:
        self._config, self._clock, self._inventory, self._stock, self._cache = config, clock, inventory, stock, cache
        self._keys, self._profiles, self._chain, self._emit, self._configure = keys, profiles, chain, emit, configure
        self.learned_flows, self.assignments = Learned(), Assignments()

    # --- endorsements and reference values ---

    async def references(self) -> dict[str, Any]:
        """Of each device: its anchors, its values with their provenance, and how many imports can be taken back."""
        kept = dict(await self._inventory.references())
        versions = await self._stock.reference_versions()
        rows = []
        for device in await self._devices():
            found = kept.get(device.id, References())
            back = [{"by": v.actor, "at_utc": _iso(v.at.utc_ns)} for v in versions if v.device_id == device.id]
            rows.append({"device": device.id, **_shown(found), "replaced": back})
        return {"devices": rows}

    async def import_references(self, who: User, text: str, device_id: str) -> dict[str, Any]:
        """Take a maker's endorsement (JSON) for the device that it names by UEID, or for ``device_id``. Raises InputError."""
        kept = dict(await self._inventory.references())
        device = await self._meant(text, device_id, kept)
        profile = self._profiles.get(device.profile)
        target = measured_target(profile) if profile else ""
        if not target:
            raise InputError(
                f"{device.id} attests nothing that a maker measures", "its fingerprint is learned while it is observed"
            )
        new, shared = read_endorsement(text, target, self._config.gateway.id)
        if shared and dict(self._keys.of(device.id)) != shared:
            raise RefusedError(
                f"the endorsement brings {device.id} another key shared with this gateway",
                "remove the device and add it again with this endorsement: a new key is a new device",
            )
        now = kept.get(device.id, References())
        merged = merge_makers(now, new)
        if merged == now:
            return {"device": device.id, "changed": [], "text": f"{device.id} has these reference values already"}
        await self._stock.replace_references(device.id, merged, who.name, self._clock.now())
        return await self._changed(who, device.id, "imported reference values for", now, merged)

    async def rollback_references(self, who: User, device_id: str) -> dict[str, Any]:
        """Take the newest import back: of a device, or "": of any. What stands against a device stands."""
        if device_id:
            await self._device(device_id)
        before = dict(await self._inventory.references())
        whose = await self._stock.rollback_references(device_id, merge_makers)
        after = dict(await self._inventory.references())
        verb = "took back the newest reference values of"
        return await self._changed(who, whose, verb, before.get(whose, References()), after[whose])

    async def _changed(self, who: User, device_id: str, verb: str, before: References, after: References) -> dict[str, Any]:
        await self._emit(OperatorCommand(who.name, who.role, verb, device_id))
        await self._configure(who.name)
        lines = list(_differences(before, after))
        text = f"{device_id}: {len(lines)} changes; its next evidence is compared with these, and a veto falls by new evidence only"
        return {"device": device_id, "changed": lines, "text": text}

    async def _meant(self, text: str, device_id: str, kept: Mapping[str, References]) -> Device:
        ueid = _ueid(text)
        if device_id:
            return await self._device(device_id)
        found = [d for d in await self._devices() if any(a.instance == ueid for a in kept.get(d.id, References()).anchors)]
        if len(found) != 1:
            who = ", ".join(d.id for d in found) or "no device"
            raise InputError(
                f"the endorsement is for UEID {ueid.hex()[:18]}…, which {who} here has", "name the device: --device ID"
            )
        return found[0]

    async def _devices(self) -> list[Device]:
        return [d for d in await self._inventory.devices() if d.state is not DeviceState.RETIRED]

    async def _device(self, device_id: str) -> Device:
        for device in await self._devices():
            if device.id == device_id:
                return device
        raise InputError(f"there is no device {device_id!r}", "see `wardgate device list`")

    # --- flows that were seen ---

    async def open(self) -> None:
        """Take up what was seen and assigned before the restart."""
        self.learned_flows.restore(await self._stock.seen())
        kept = [Assigned(*row) for row in await self._stock.assignments()]
        await self._keep_assigned(self.assignments.begin(kept, self._clock.now()))

    # --- whose readings a device takes ---

    async def assign(self, who: User, device_id: str, token: str) -> dict[str, Any]:
        """Label a device's readings with a token from now on; "" ends it. The record says that it was done, not the token."""
        device = await self._device(device_id)
        await self._keep_assigned([self.assignments.assign(device.id, token, self._clock.now())])
        verb = "assigned a patient's token to" if token else "ended the assignment of"
        await self._emit(OperatorCommand(who.name, who.role, verb, device.id))
        text = (
            f"readings of {device.id} are labelled {token} from now on"
            if token
            else f"readings of {device.id} are nobody's from now on"
        )
        return {"device": device.id, "token": token, "text": text}

    async def _keep_assigned(self, entries: Sequence[Assigned]) -> None:
        await self._stock.save_assignments([(e.device_id, e.token, e.boot_id, e.from_ns) for e in entries], KEPT)

    async def save_seen(self) -> None:
        """Keep what was seen since the last call."""
        if rows := self.learned_flows.changed():
            await self._stock.save_seen(rows)

    async def learned(self, device_id: str) -> dict[str, Any]:
        """The draft of a profile with the flows that were seen while a device was observed. Raises InputError."""
        device = await self._device(device_id)
        if not device.ip_addresses:
            raise InputError(f"{device_id} has no network flows", "a wireless device's profile names its characteristics")
        profile = self._profiles.get(device.profile)
        if profile is None:
            raise InputError(f"{device_id} has the profile {device.profile}, which is not loaded", "see `wardgate policy check`")
        near = [a for d in await self._devices() if d.id != device_id for a in d.ip_addresses]
        return self.learned_flows.propose(device, profile, self._config.peers, [*near, *self._config.network.addresses])

    # --- files that prove themselves ---

    async def cached(self) -> dict[str, Any]:
        """What is cached, each with until when it is good, and what a revocation list takes away."""
        now = self._clock.now().utc()
        rows = []
        for c in await self._cache.certificates():
            rows.append(_row("certificate", c.device_id, c.ear_expires_ns, now, f"sequence {c.ear_sequence}"))
            if c.bundle_expires_ns is not None:
                rows.append(_row("bundle", c.device_id, c.bundle_expires_ns, now, f"sequence {c.bundle_sequence}"))
        files = await self._stock.files()
        rows += [_row(f.kind, f.name, f.good_until_ns, now, f"of {_iso(f.issued_ns)[:10]}") for f in files]
        return {"rows": rows, "revoked": list(_revoked(files, self._own()))}

    async def import_cached(self, who: User, data: bytes) -> dict[str, Any]:
        """Take a file that proves itself. Raises EvidenceError when it does not, InputError when it is older than the one here."""
        proven = verify_file(data, self._anchors(await self._stock.files()), self._clock.now().utc())
        await self._stock.put_file(CachedFile(proven.kind, proven.name, data, proven.issued_ns, proven.good_until_ns))
        await self._emit(OperatorCommand(who.name, who.role, f"brought in a file: {proven.says}"))
        revoked = list(_revoked(await self._stock.files(), self._own()))
        return {"kind": proven.kind, "name": proven.name, "good_until_utc": _iso(proven.good_until_ns), "says": proven.says,
                "revoked": revoked}  # fmt: skip

    def _own(self) -> list[x509.Certificate]:
        own = [x509.load_der_x509_certificate(der) for der in self._chain()]
        return own + _pem(self._config.uplink.cert.read_bytes() if _readable(self._config.uplink.cert) else b"")

    def _anchors(self, files: Sequence[CachedFile]) -> list[x509.Certificate]:
        """CAs that are trusted here already: above this gateway's own key, the uplink's, and those brought in before."""
        found = [x509.load_der_x509_certificate(der) for der in list(self._chain())[1:]]
        if _readable(self._config.uplink.ca):
            found += _pem(self._config.uplink.ca.read_bytes())
        return found + [c for f in files if f.kind == "ca" for c in _any(f.body)]


def merge_makers(now: References, new: References) -> References:
    """What makers say in ``new``, and all that was learned or countersigned here in ``now``."""
    anchors = [a for a in new.anchors if a.provenance is Provenance.MAKER]
    anchors += [a for a in now.anchors if a.provenance is not Provenance.MAKER]
    values = [v for v in new.values if v.provenance is Provenance.MAKER]
    values += [v for v in now.values if v.provenance is not Provenance.MAKER]
    return References(tuple(anchors), tuple(values))


def _shown(references: References) -> dict[str, Any]:
    values = [
        {
            "target": v.target,
            "name": v.name,
            "hex": v.value.hex(),
            "provenance": str(v.provenance),
            "countersigned": v.countersigned,
        }
        for v in references.values
    ]
    return {"anchors": [_anchor(a) for a in references.anchors], "values": values}


def _anchor(anchor: TrustAnchor) -> dict[str, Any]:
    return {"ueid": anchor.instance.hex(), "provenance": str(anchor.provenance), "kind": anchor.shared or "public key"}


def _differences(before: References, after: References) -> Sequence[str]:
    lines = []
    for verb, one, other in (("new", after, before), ("gone", before, after)):
        lines += [f"{verb}: {v.target} {v.name} = {v.value.hex()[:32]}" for v in one.values if v not in other.values]
        lines += [f"{verb}: the key of UEID {a.instance.hex()[:18]}…" for a in one.anchors if a not in other.anchors]
    return lines


def _ueid(text: str) -> bytes:
    try:
        return bytes.fromhex(json.loads(text)["ueid"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            "the endorsement does not parse: it has no ueid in hex", "give the JSON file that the maker sent"
        ) from None


def _revoked(files: Sequence[CachedFile], own: Sequence[x509.Certificate]) -> Sequence[str]:
    found = []
    for file in files:
        crl = load_crl(file.body) if file.kind == "crl" else None
        for certificate in own if crl is not None else ():
            if crl is not None and certificate.issuer == crl.issuer:
                entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
                if entry is not None:
                    found.append(f"{certificate.subject.rfc4514_string()[:120]} was revoked: enrol this gateway again")
    return found


def _row(kind: str, name: str, until_ns: int, now: datetime, text: str) -> dict[str, Any]:
    left = (_EPOCH + timedelta(microseconds=until_ns // 1000) - now).total_seconds()
    return {"kind": kind, "name": name, "good_until_utc": _iso(until_ns), "left_s": round(left), "text": text}


def _iso(utc_ns: int) -> str:
    return (_EPOCH + timedelta(microseconds=utc_ns // 1000)).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


def _readable(path: Any) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _pem(data: bytes) -> list[x509.Certificate]:
    try:
        return list(x509.load_pem_x509_certificates(data)) if data else []
    except ValueError:
        raise UnavailableError("a certificate file of the uplink does not parse", "see [uplink] in wardgate.toml") from None


def _any(data: bytes) -> list[x509.Certificate]:
    return _pem(data) if data.startswith(b"-----") else [x509.load_der_x509_certificate(data)]
