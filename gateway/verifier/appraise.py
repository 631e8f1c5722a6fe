"""PURE. Evidence in, attestation result out: one entry for every kind of evidence, and it never raises.

The table below says which scheme reads which media type. Every appraisal starts from *none*. Evidence that does not
authenticate is attributed to nobody: no claim, no veto. Refuses to know trust levels and what the result will cost a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType

from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import AttestationResult, Evidence, EvidenceClass, MediaType, Tier, TrustVector
from gateway.model.profile import References
from gateway.verifier.beacon import appraise_beacon
from gateway.verifier.findings import Sheet
from gateway.verifier.fingerprint import appraise_hl7, appraise_modbus
from gateway.verifier.psa import appraise_psa
from gateway.verifier.tpm import appraise_tpm


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one kind of evidence is appraised, and its class."""

    evidence_class: EvidenceClass
    appraise: Callable[[Evidence, References, Sheet], None]


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        MediaType.PSA.value: Scheme(EvidenceClass.ASYMMETRIC, appraise_psa),
        MediaType.BEACON.value: Scheme(EvidenceClass.BEACON, appraise_beacon),
        MediaType.TPM.value: Scheme(EvidenceClass.TPM, appraise_tpm),
        MediaType.HL7.value: Scheme(EvidenceClass.FINGERPRINT, appraise_hl7),
        MediaType.MODBUS.value: Scheme(EvidenceClass.FINGERPRINT, appraise_modbus),
    }
)


def appraise(evidence: Evidence, references: References) -> AttestationResult:
    """Appraise ``evidence`` against ``references``. Never raises; findings have the worst first."""
    sheet = Sheet()
    scheme = SCHEMES.get(str(evidence.media_type))
    try:
        (scheme.appraise if scheme else _unknown)(evidence, references, sheet)
    except EvidenceError as e:
        code = "malformed" if isinstance(e, MalformedError) else "unauthenticated"
        sheet = Sheet()
        sheet.find(Tier.NONE, code, "evidence", e.what, e.remedy)
    except Exception as e:  # noqa: BLE001 - a fault of ours must give none, never a way in and never a veto
        sheet = Sheet()
        text = f"the verifier failed on this evidence ({type(e).__name__})"
        sheet.find(Tier.NONE, "verifier-malfunction", "evidence", text, "report it with the evidence from the audit log")
    return _result(evidence, scheme, sheet)


def _unknown(evidence: Evidence, _: References, __: Sheet) -> None:
    raise MalformedError(f"evidence of type {str(evidence.media_type)[:80]!r}", f"send one of {', '.join(SCHEMES)}")


def _result(evidence: Evidence, scheme: Scheme | None, sheet: Sheet) -> AttestationResult:
    replayed = bool(evidence.nonce) and not sheet.fresh
    judged = sheet.authenticated and not replayed
    return AttestationResult(
        device_id=evidence.device_id,
        media_type=str(evidence.media_type),
        evidence_class=sheet.evidence_class or (scheme.evidence_class if scheme else EvidenceClass.INVENTORY),
        channel=evidence.channel,
        vector=sheet.vector if judged else TrustVector(),
        tier=sheet.tier if judged else Tier.NONE,
        findings=sheet.findings,
        authenticated=sheet.authenticated,
        fresh=sheet.fresh,
        evidence_hash=sha256(evidence.payload).digest(),
        nonce=evidence.nonce,
        collected_at=evidence.collected_at,
        countersigned=sheet.countersigned,
        key_isolated=sheet.key_isolated,
        observed=tuple(sheet.observed.items()) if sheet.fresh else (),
    )
