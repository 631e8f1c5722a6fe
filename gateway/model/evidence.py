"""Evidence as it arrives, and the result of its appraisal (RFC 9334; draft-ietf-rats-ar4si trustworthiness vector)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum

from gateway.model.instant import Instant

MAX_EVIDENCE = 64 * 1024  # bytes; a token is a few hundred, a quote with its event log a few thousand


class EvidenceClass(StrEnum):
    """Classes of evidence; each has a ceiling (see ``gateway.trust``)."""

    TPM = "tpm"
    ASYMMETRIC = "asymmetric"
    SYMMETRIC = "symmetric"
    BEACON = "beacon"
    FINGERPRINT = "fingerprint"
    INVENTORY = "inventory"


class ChannelKind(StrEnum):
    """What the evidence, and the data it vouches for, came over."""

    TLS = "tls"
    BONDED_MITM = "bonded-mitm"
    BONDED_JUST_WORKS = "bonded-justworks"
    PORT = "port"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel and what identifies it: SPKI hash, bond address, port name with MAC."""

    kind: ChannelKind
    binding: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.binding}" if self.binding else str(self.kind)


class MediaType(StrEnum):
    """Evidence formats by media type (CONTRACT: ``appraise --type``)."""

    PSA = "application/psa-attestation-token"
    EAT_CWT = "application/eat+cwt"
    EAT_JWT = "application/eat+jwt"
    DICE = "application/vnd.wardgate.dice+cbor"
    TPM = "application/vnd.wardgate.tpm+cbor"
    BEACON = "application/vnd.wardgate.beacon"
    MODBUS = "application/vnd.wardgate.modbus+cbor"
    HL7 = "application/vnd.wardgate.hl7+cbor"
    GATT = "application/vnd.wardgate.gatt+cbor"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Raw, unverified bytes from an attester. ``nonce`` is what this gateway had asked with; empty if it asked with none."""

    device_id: str
    media_type: str
    payload: bytes
    nonce: bytes
    channel: Channel
    collected_at: Instant
    collector: str

    def __post_init__(self) -> None:
        if len(self.payload) > MAX_EVIDENCE:
            raise ValueError(f"evidence is at most {MAX_EVIDENCE} bytes")


class Tier(IntEnum):
    """AR4SI trust tiers, by their EAR code."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96


def tier_of(value: int) -> Tier:
    """The tier of one AR4SI claim value (-128..127). Source: draft-ietf-rats-ar4si, section 2.3.2."""
    if not -128 <= value <= 127:
        raise ValueError(f"an AR4SI claim is an int8, got {value}")
    if value in (-1, 0, 1):
        return Tier.NONE
    if 2 <= value <= 31 or -32 <= value <= -2:
        return Tier.AFFIRMING
    if 32 <= value <= 95 or -96 <= value <= -33:
        return Tier.WARNING
    return Tier.CONTRAINDICATED


@dataclass(frozen=True, slots=True)
class TrustVector:
    """AR4SI trustworthiness vector: one int8 claim a property, 0 = no claim."""

    instance_identity: int = 0
    configuration: int = 0
    executables: int = 0
    file_system: int = 0
    hardware: int = 0
    runtime_opaque: int = 0
    storage_opaque: int = 0
    sourced_data: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            tier_of(getattr(self, f.name))

    def claims(self) -> dict[str, int]:
        """The claims that say something, by their AR4SI name with hyphens."""
        return {f.name.replace("_", "-"): getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != 0}

    @property
    def tier(self) -> Tier:
        """The worst tier among the claims; *none* when nothing is claimed."""
        tiers = [tier_of(v) for v in self.claims().values()]
        worst = max((t for t in tiers if t is not Tier.NONE), default=Tier.NONE)
        return worst if worst >= Tier.WARNING else (Tier.NONE if Tier.NONE in tiers else worst)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing an appraisal saw: a stable ``code``, the target or claim, one sentence with the facts, a remedy."""

    code: str
    subject: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What an appraisal found. ``authenticated`` False: the evidence is attributed to nobody and may lower no level.

    ``veto``: authenticated and bad. ``countersigned``: every reference value it rests on was confirmed by a person or the maker.
    ``key_isolated``: the signing key is out of reach of the firmware it vouches for.
    """

    device_id: str
    media_type: str
    evidence_class: EvidenceClass
    channel: Channel
    vector: TrustVector
    tier: Tier
    findings: tuple[Finding, ...]
    authenticated: bool
    fresh: bool
    evidence_hash: bytes
    nonce: bytes
    collected_at: Instant
    countersigned: bool = False
    key_isolated: bool = True
    observed: tuple[tuple[str, bytes], ...] = ()

    @property
    def veto(self) -> bool:
        """Authenticated, fresh, and contraindicated: never fused away."""
        return self.authenticated and self.fresh and self.tier is Tier.CONTRAINDICATED
