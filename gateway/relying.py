"""PURE. A relying party's check of a conformity certificate bundle: offline, with nothing but the file, an anchor and the time.

Needs only the core distribution. Each thing that can fail has its own message. Nothing is believed before all of it is checked:
what comes back as ``VerifiedCertificate`` is signed, quoted, fresh enough and consistent, or an error was raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from gateway.errors import EvidenceError, InputError
from gateway.issuer.bundle import NONCE, UnverifiedBundle, parse_bundle
from gateway.issuer.es256 import require_low_s_tpmt
from gateway.issuer.leaves import ISSUING, GatewayLeaf, Platform, VerdictLeaf, chain_hash, parse_gateway, parse_verdict
from gateway.issuer.tokens import verify_cwt
from gateway.model.certificate import Verdict
from gateway.model.instant import NS_PER_S
from gateway.model.sheet import CheckRow, Examination
from gateway.verifier.merkle import verify_inclusion
from gateway.verifier.quote import verify_quote
from gateway.verifier.x509path import verify_path

T = TypeVar("T")
E = TypeVar("E", bound=x509.ExtensionType)
AK_PURPOSE = x509.ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate (TCG Credential Profiles)
SKEW_S = 300  # how far ahead of the relying party's clock a gateway's may run
STEPS = (
    "the anchor is one certificate of a CA",
    "the file is complete, and nothing was added to it",
    "the certificate and the gateway’s keys belong to the signed batch",
    "a TPM that the anchor vouches for signed the batch",
    "the certificate is signed by the gateway’s key and says what the batch says",
    "it is in force now",
)
_CHANGED = "the file was changed or made by something else; fetch it again"


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """A conformity certificate that holds. ``age_s`` counts from its issue; both times are wall time as the gateway knew it."""

    verdict: Verdict
    platform: Platform
    sequence: int
    batch_size: int
    nv_counter: int
    freshness: tuple[int, bytes]
    age_s: float
    left_s: float
    pcrs: tuple[tuple[int, bytes], ...]
    ear: bytes

    @property
    def executables_at_most(self) -> int:
        """The highest level that the gateway's own software can be believed to: 3 with a measured boot, 0 without."""
        return 3 if self.platform.root_of_measurement == "uefi" else 0


def verify_bundle(
    data: bytes,
    anchor_pem: bytes,
    at_utc_ns: int,
    nonce: bytes | None = None,
    min_seq: int | None = None,
    passed: Callable[[], None] = lambda: None,
) -> VerifiedCertificate:
    """Check everything in a bundle against the anchor at a time. Raises EvidenceError, or InputError for the anchor.

    ``nonce``: the quote must answer it. ``min_seq``: the batch must be at least that new. ``passed`` is called after each of
    the ``STEPS``.
    """
    anchor = _anchor(anchor_pem)
    passed()
    bundle = parse_bundle(data)
    passed()
    verdict, gateway = _bound(bundle)
    passed()
    _quoted(bundle, anchor, at_utc_ns)
    passed()
    _signed(bundle, verdict)
    passed()
    _current(bundle, verdict.verdict, at_utc_ns, nonce, min_seq)
    passed()
    h, v = bundle.header, verdict.verdict
    return VerifiedCertificate(
        v,
        gateway.platform,
        h.sequence,
        h.size,
        h.nv_counter,
        (h.freshness.kind, h.freshness.value),
        (at_utc_ns - v.issued_at.utc_ns) / NS_PER_S,
        (v.expires_utc_ns - at_utc_ns) / NS_PER_S,
        bundle.pcrs,
        bundle.ear,
    )


def _anchor(pem: bytes) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise InputError("the anchor is no PEM certificate", "give the certificate of the CA that enrolled the gateway") from e
    if len(found) != 1:
        raise InputError(f"the anchor file holds {len(found)} certificates", "give the one certificate that you trust")
    return found[0]


def _named(what: str, check: Callable[[], T]) -> T:
    """Run a check of another package; what it found is told together with what was being checked."""
    try:
        return check()
    except EvidenceError as e:
        raise EvidenceError(f"{what}: {e.what}", e.remedy) from e


def _bound(b: UnverifiedBundle) -> tuple[VerdictLeaf, GatewayLeaf]:
    """Both leaves are in the tree, and name by hash all that is not in it."""
    h = b.header
    for name, leaf in (("leaf 0", b.gateway), ("the verdict", b.verdict)):
        _named(
            f"{name} is not in the batch",
            lambda leaf=leaf: verify_inclusion(leaf.leaf, leaf.index, h.size, list(leaf.proof), h.root),  # type: ignore[misc]
        )
    gateway, verdict = parse_gateway(b.gateway.content), parse_verdict(b.verdict.content)
    if hashlib.sha256(b.ear).digest() != verdict.ear_hash:
        raise EvidenceError("the EAR is not the one that the verdict names", _CHANGED)
    if hashlib.sha256(b.issuing_spki).digest() != gateway.key_hash(ISSUING):
        raise EvidenceError("the issuing key is not the one that leaf 0 names", _CHANGED)
    if chain_hash(b.chain) != gateway.chain_hash:
        raise EvidenceError("the certificates of the TPM key are not those that leaf 0 names", _CHANGED)
    return verdict, gateway


def _quoted(b: UnverifiedBundle, anchor: x509.Certificate, at_utc_ns: int) -> None:
    """The anchor certifies a TPM key, and that key quoted this batch and these PCRs."""
    try:
        at = datetime.fromtimestamp(at_utc_ns // NS_PER_S, tz=UTC)
    except (ValueError, OverflowError, OSError):
        raise InputError("the time is out of range", "give a time between the years 1 and 9999") from None
    key = _named("the TPM key is not certified by the anchor", lambda: verify_path(b.chain, anchor, at))
    _attests(b.chain)
    require_low_s_tpmt(b.signature)
    _named("the quote does not hold", lambda: verify_quote(key, b.attest, b.signature, b.header.qualifying(), dict(b.pcrs)))


def _attests(chain: tuple[bytes, ...]) -> None:
    """The leaf is a TPM's attestation key, and no CA made for something else has issued it.

    Only an attestation key is bound to sign what its TPM says of itself; any other key under the same anchor could sign anything.
    """
    leaf, *issuers = (x509.load_der_x509_certificate(der) for der in chain)
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    basic = _extension(leaf, x509.BasicConstraints)
    if purposes is None or AK_PURPOSE not in purposes or (basic is not None and basic.ca):
        raise EvidenceError("the key that quotes is not certified as a TPM's attestation key", "enrol the gateway at its CA")
    for issuer in issuers:
        purposes = _extension(issuer, x509.ExtendedKeyUsage)
        if _extension(issuer, x509.NameConstraints) is not None or (purposes is not None and AK_PURPOSE not in purposes):
            raise EvidenceError("a CA that may not certify attestation keys has certified this one", "enrol the gateway at its CA")


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _signed(b: UnverifiedBundle, leaf: VerdictLeaf) -> None:
    """The EAR is signed by the issuing key and says what the verdict says."""
    ear = _named("the EAR does not hold", lambda: verify_cwt(b.ear, b.issuing_spki))
    v = leaf.verdict
    a = ear.appraisal(v.device_id)
    same = (a.level, a.tier, a.vector, a.evidence_class, a.profile, a.functions, ear.expires_s)
    if same != (v.level, v.tier, v.vector, v.evidence_class, v.profile, tuple(sorted(v.functions)), v.expires_utc_ns // NS_PER_S):
        raise EvidenceError("the EAR and the verdict contradict each other", "the gateway is faulty: report it")


def _current(b: UnverifiedBundle, v: Verdict, at_utc_ns: int, nonce: bytes | None, min_seq: int | None) -> None:
    """Not expired, not from the future, not older than asked, an answer to the nonce."""
    f = b.header.freshness
    if nonce is not None and (f.kind != NONCE or f.value != nonce):
        kind = "another nonce" if f.kind == NONCE else "an epoch, no nonce"
        raise EvidenceError(f"the quote answers {kind}", "ask the gateway again with your nonce")
    if min_seq is not None and b.header.sequence < min_seq:
        raise EvidenceError(
            f"sequence {b.header.sequence} is older than the asked {min_seq}", "an old certificate was replayed; ask for a new one"
        )
    if at_utc_ns >= v.expires_utc_ns:
        ago = (at_utc_ns - v.expires_utc_ns) / NS_PER_S
        raise EvidenceError(f"the certificate expired {duration(ago)} ago", "ask the gateway for a new one")
    ahead = (v.issued_at.utc_ns - at_utc_ns) / NS_PER_S
    if ahead > SKEW_S:
        raise EvidenceError(f"the certificate was issued {duration(ahead)} after the given time", "check both clocks")


# --- for people and scripts ---


def statements(v: VerifiedCertificate) -> tuple[str, ...]:
    """What the quote proves and what it does not, in sentences."""
    return proofs(v.platform.root_of_measurement)


def proofs(root_of_measurement: str) -> tuple[str, ...]:
    """What a quote of a gateway with this root of measurement (``uefi`` or ``none``) proves and what it does not."""
    measured = root_of_measurement == "uefi"
    proves = (
        "a TPM whose key the anchor certifies signed this batch: nothing in it was changed since",
        "the keys and the verdict named here were in the gateway when it asked for the quote",
    )
    if measured:
        boot = "the boot state is measured: these PCR values are what the firmware and boot loader recorded (executables at most 3)"
    else:
        boot = "the gateway has no root of measurement: its PCRs say nothing about what it booted (executables at most 0)"
    return (
        *(f"proves: {p}" for p in proves),
        f"{'proves' if measured else 'does not prove'}: {boot}",
        "does not prove: what the gateway's software did after boot; that the verdict is right is what that software said",
        "does not prove: that the device is well now; the verdict is as old as its age and ends at its expiry",
    )


def report(v: VerifiedCertificate) -> list[str]:
    """Lines for a person, as ``wardgate verify`` prints them."""
    d = v.verdict
    names = {0: "none", 1: "limited", 2: "standard", 3: "full"}
    functions = ", ".join(f"{name} {'allowed' if allowed else 'cut'}" for name, allowed in d.functions)
    vector = ", ".join(f"{name} {value}" for name, value in d.vector.claims().items())
    return [
        f"device      {d.device_id} ({d.profile})",
        f"level       {int(d.level)} {names[int(d.level)]}",
        f"class       {d.evidence_class}",
        f"tier        {d.tier.name.lower()}",
        f"vector      {vector or 'nothing claimed'}",
        f"functions   {functions or 'none'}",
        *(f"evidence    {e.media_type} over {e.channel}" for e in d.evidence),
        f"gateway     {v.platform.gateway} ({v.platform.build})",
        f"sequence    {v.sequence} (batch of {v.batch_size - 1}, TPM counter {v.nv_counter})",
        f"age         {duration(v.age_s)}, issued {_utc(d.issued_at.utc_ns)} (time: {d.issued_at.quality.name.lower()})",
        f"expires     in {duration(v.left_s)}, {_utc(d.expires_utc_ns)}",
        *statements(v),
    ]


def examine(data: bytes, anchor_pem: bytes, at_utc_ns: int) -> Examination:
    """The same check for people to watch: each of the ``STEPS`` with how it went. A certificate that fails says nothing else."""
    done = 0

    def passed() -> None:
        nonlocal done
        done += 1

    try:
        verified = verify_bundle(data, anchor_pem, at_utc_ns, passed=passed)
    except (EvidenceError, InputError) as e:
        failed = CheckRow(STEPS[done], False, f"{e.what}; {e.remedy}")
        rows = (*(CheckRow(name, True) for name in STEPS[:done]), failed, *(CheckRow(name, None) for name in STEPS[done + 1 :]))
        return Examination(False, rows)
    fingerprint = _anchor(anchor_pem).fingerprint(hashes.SHA256()).hex()
    return Examination(True, tuple(CheckRow(name, True) for name in STEPS), tuple(report(verified)), fingerprint)


def as_json(v: VerifiedCertificate) -> dict[str, Any]:
    """The same as one JSON document."""
    d = v.verdict
    return {
        "device": d.device_id,
        "profile": d.profile,
        "level": int(d.level),
        "class": str(d.evidence_class),
        "tier": d.tier.name.lower(),
        "vector": d.vector.claims(),
        "functions": dict(d.functions),
        "evidence": [
            {"media_type": e.media_type, "sha256": e.evidence_hash.hex(), "nonce": e.nonce.hex(), "channel": e.channel}
            for e in d.evidence
        ],
        "policy_id": d.policy_id,
        "gateway": {"id": v.platform.gateway, "build": v.platform.build, "root_of_measurement": v.platform.root_of_measurement},
        "executables_at_most": v.executables_at_most,
        "sequence": v.sequence,
        "batch_size": v.batch_size,
        "nv_counter": v.nv_counter,
        "freshness": {"kind": "nonce" if v.freshness[0] == NONCE else "epoch", "value": v.freshness[1].hex()},
        "age_s": round(v.age_s, 3),
        "expires_in_s": round(v.left_s, 3),
        "issued": _utc(d.issued_at.utc_ns),
        "expires": _utc(d.expires_utc_ns),
        "time_quality": d.issued_at.quality.name.lower(),
        "pcrs": {str(n): value.hex() for n, value in v.pcrs},
        "statements": list(statements(v)),
    }


def duration(seconds: float) -> str:
    """A span of time for people: ``42 s``, ``14 min 3 s``, ``3 h 5 min``, ``2 d 4 h``."""
    s = abs(round(seconds))
    sign = "-" if seconds <= -0.5 else ""
    if s < 60:
        return f"{sign}{s} s"
    if s < 3600:
        return f"{sign}{s // 60} min {s % 60} s"
    return f"{sign}{s // 3600} h {s % 3600 // 60} min" if s < 86_400 else f"{sign}{s // 86_400} d {s % 86_400 // 3600} h"


def _utc(ns: int) -> str:
    try:
        return datetime.fromtimestamp(ns // NS_PER_S, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{ns // NS_PER_S} s after 1970"
