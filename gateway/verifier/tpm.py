"""PURE. Evidence of a device with a TPM: a quote, the PCR values it covers, and the event log that explains them.

The quote authenticates the PCR values; the log is the device's own story and counts only if its replay gives those values.
Refuses to know the events' meanings: references name PCR values (``pcr:4``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hmac import compare_digest

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway import codec
from gateway.errors import EvidenceError, MalformedError
from gateway.model.evidence import MAX_EVIDENCE, Evidence, Tier
from gateway.model.profile import Provenance, References, TrustAnchor
from gateway.verifier.eventlog import parse_eventlog
from gateway.verifier.findings import (
    AFFIRMED,
    BOOTED_GENUINE,
    CONTRAINDICATED,
    UNKNOWN_EVIDENCE,
    Sheet,
    references_named,
    short,
)
from gateway.verifier.quote import Quote, verify_signed_state

MAX_ANCHORS = 4  # an attestation key, its successor, and two to spare
_PARTS = {"attest", "signature", "pcrs", "eventlog"}
_CONFIGURATION = (1, 3, 5, 7)  # PCRs of settings; the others hold code (PC Client Platform Firmware Profile, section 3.3.4)


def parse_tpm(payload: bytes) -> tuple[bytes, bytes, dict[int, bytes], bytes]:
    """(attest, signature, pcrs, event log); the log may be empty. Raises MalformedError."""
    value = codec.decode(payload, MAX_EVIDENCE)
    if not isinstance(value, dict) or set(value) != _PARTS:
        raise MalformedError("TPM evidence that is no map of attest, signature, pcrs and eventlog", "update the attester")
    attest, signature, pcrs, log = (value[k] for k in ("attest", "signature", "pcrs", "eventlog"))
    if not (type(attest) is type(signature) is type(log) is bytes and isinstance(pcrs, dict)):
        raise MalformedError("TPM evidence with parts of the wrong kind", "update the attester")
    if not all(type(n) is int and type(v) is bytes for n, v in pcrs.items()):
        raise MalformedError("PCR values that are not bytes by number", "update the attester")
    return attest, signature, dict(pcrs), log


def appraise_tpm(evidence: Evidence, references: References, sheet: Sheet) -> None:
    """Fill ``sheet`` from a quote; raises EvidenceError when no key of the device signed it."""
    attest, signature, pcrs, log = parse_tpm(evidence.payload)
    quote, anchor = _verify(references.anchors, attest, signature, pcrs)
    sheet.authenticated = True
    if not sheet.answers(quote.qualifying_data, evidence.nonce):
        return
    sheet.claim("instance_identity", AFFIRMED)
    if anchor.provenance is Provenance.LEARNED:
        sheet.rest_on_unconfirmed()
    sheet.observed.update({f"pcr:{n}": pcrs[n] for n in quote.pcrs})
    if log:
        _check_log(log, pcrs, sheet)
    _compare(quote, pcrs, references, sheet)


def _verify(anchors: tuple[TrustAnchor, ...], attest: bytes, signature: bytes, pcrs: dict[int, bytes]) -> tuple[Quote, TrustAnchor]:
    if not anchors:
        raise EvidenceError("a quote, but no attestation key of this device is known", "import the device's attestation key")
    failed: EvidenceError | None = None
    for anchor in anchors[:MAX_ANCHORS]:
        try:
            return verify_signed_state(_key(anchor.spki), attest, signature, pcrs), anchor
        except EvidenceError as e:
            failed = failed or e
    raise failed or EvidenceError("a quote that no known key signed", "import the device's attestation key")


@lru_cache(maxsize=1024)
def _key(spki: bytes) -> object:
    try:
        return load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise EvidenceError("a trust anchor whose key does not parse", "import the device's key again (DER)") from e


def _check_log(log: bytes, pcrs: Mapping[int, bytes], sheet: Sheet) -> None:
    """A log that does not explain the quoted values is nobody's: it proves nothing, and is not held against the device."""
    try:
        replayed = parse_eventlog(log).replay("sha256")
    except EvidenceError as e:
        sheet.claim("executables", UNKNOWN_EVIDENCE)
        sheet.find(Tier.NONE, "eventlog-malformed", "eventlog", e.what, e.remedy)
        return
    for number in sorted(replayed.keys() & pcrs.keys()):
        if not compare_digest(replayed[number], pcrs[number]):
            sheet.claim("executables", UNKNOWN_EVIDENCE)
            text = f"the event log does not lead to the quoted value of PCR {number}"
            sheet.find(Tier.NONE, "eventlog-mismatch", f"pcr:{number}", text, "send the log of this very boot")


def _compare(quote: Quote, pcrs: Mapping[int, bytes], references: References, sheet: Sheet) -> None:
    known = references_named(references, ("pcr:",))
    if not known:
        sheet.claim("executables", UNKNOWN_EVIDENCE)
        text = "no reference value for any PCR: what booted cannot be judged"
        sheet.find(Tier.NONE, "no-reference", "pcrs", text, "import the PCR values of an approved boot")
    for name, reference in known.items():
        measured = sheet.observed.get(name)
        claim = "configuration" if name.removeprefix("pcr:") in map(str, _CONFIGURATION) else "executables"
        if measured is None:
            sheet.claim(claim, UNKNOWN_EVIDENCE)
            text = f"{name.replace(':', ' ').upper()} has a reference value but was not quoted"
            sheet.find(Tier.NONE, "not-measured", name, text, "quote every PCR that has a reference value")
        elif compare_digest(sheet.use(reference), measured):
            sheet.claim(claim, AFFIRMED if claim == "configuration" else BOOTED_GENUINE)
        else:
            sheet.claim(claim, CONTRAINDICATED)
            text = f"{name.replace(':', ' ').upper()} changed: {short(measured)}, expected {short(reference.value)}"
            remedy = "restore the device's software, or accept its update in service mode"
            sheet.find(Tier.CONTRAINDICATED, "pcr-changed", name, text, remedy)
