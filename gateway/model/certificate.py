"""Conformity certificates: a verdict on one device, and what signs and proves it.

Names: a *verdict* becomes a leaf of the epoch's Merkle tree; an *EAR* (draft-ietf-rats-ear) is the signed claims set;
the *bundle* is the one file a stranger verifies. Formats and bytes are in ``gateway.issuer``.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.evidence import EvidenceClass, Tier, TrustVector
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel


@dataclass(frozen=True, slots=True)
class CertificateId:
    """Which certificate something was said under: the batch sequence at its issue, and the SHA-256 of its EAR (the CWT)."""

    sequence: int
    ear_sha256: bytes


@dataclass(frozen=True, slots=True)
class EvidenceRef:
    """Which evidence a verdict rests on: its SHA-256, its media type, the nonce it answered, the channel it came over."""

    media_type: str
    evidence_hash: bytes
    nonce: bytes
    channel: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What this gateway says of one device at one time. ``expires_utc_ns`` is computed from the decay of its trust."""

    device_id: str
    profile: str
    level: TrustLevel
    tier: Tier
    vector: TrustVector
    evidence_class: EvidenceClass
    evidence: tuple[EvidenceRef, ...]
    policy_id: str
    issued_at: Instant
    expires_utc_ns: int
    functions: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class SoftwareKey:
    """A key that lives in software, named by leaf 0: its purpose (``issuing``, ``tls``) and SHA-256 of its SPKI."""

    purpose: str
    spki_hash: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """Bytes for a signer: ``to_sign`` is what the signature covers; ``kind`` is ``cwt`` or ``jwt``. Built by the issuer."""

    kind: str
    to_sign: bytes
    protected: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class QuotedState:
    """A TPM quote in wire format: TPMS_ATTEST, TPMT_SIGNATURE, the PCR values it covers, and what it was asked to sign."""

    attest: bytes
    signature: bytes
    pcrs: tuple[tuple[int, bytes], ...]
    qualifying: bytes
    nv_counter: int
