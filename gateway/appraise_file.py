"""``wardgate appraise``: one piece of evidence in a file, appraised offline with a profile and a key; EAR claims out.

Exit code by tier: 0 affirming, 10 warning, 11 contraindicated, 12 none. Needs the core distribution only.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from gateway import __version__
from gateway.errors import InputError
from gateway.issuer.ear import ear_of, to_json
from gateway.model.certificate import EvidenceRef, Verdict
from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType, Tier
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Profile, Provenance, References, TrustAnchor
from gateway.policy.decide import profile_digest
from gateway.policy.profile import parse_profile
from gateway.proposal import read_endorsement
from gateway.verifier.appraise import appraise

EXIT = {Tier.AFFIRMING: 0, Tier.WARNING: 10, Tier.CONTRAINDICATED: 11, Tier.NONE: 12}


def appraise_file(
    payload: bytes, media_type: str, profile_toml: bytes, key: bytes, nonce: bytes, at_utc_ns: int
) -> tuple[Any, list[str], int]:
    """The EAR claims, lines for a person, the exit code. Raises InputError for a bad profile, key or media type."""
    if media_type.partition(";")[0].strip() not in set(MediaType):
        raise InputError(f"{media_type!r} is no media type of evidence", f"one of: {', '.join(MediaType)}")
    try:
        profile = parse_profile(tomllib.loads(profile_toml.decode("utf-8")), None)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"the profile is no TOML ({e})", "mend it") from None
    now = Instant("file", 0, at_utc_ns)
    evidence = Evidence(profile.id, media_type, payload, nonce, Channel(ChannelKind.OPEN), now, "file")
    result = appraise(evidence, _references(key, profile))
    ref = EvidenceRef(media_type, hashlib.sha256(payload).digest(), nonce, "file")
    verdict = Verdict(
        profile.id,
        profile.id,
        TrustLevel.NONE,
        result.tier,
        result.vector,
        result.evidence_class,
        (ref,),
        profile_digest(profile),
        now,
        at_utc_ns,
    )
    claims = to_json(ear_of(verdict, f"wardgate {__version__}"))
    lines = [
        f"{profile.id}: {result.tier.name.lower()}",
        *(f"  {f.subject}: {f.text}" for f in result.findings),
        json.dumps(claims, indent=1),
    ]
    return (
        {**claims, "findings": [{"code": f.code, "subject": f.subject, "text": f.text} for f in result.findings]},
        lines,
        EXIT[result.tier],
    )


def _references(key: bytes, profile: Profile) -> References:
    """From the device's public key (PEM), or from its endorsement (JSON), which may hold shared keys."""
    if not key.lstrip().startswith(b"{"):
        return References(_anchor(key), profile.values)
    target = profile.targets[0].name
    references, shared = read_endorsement(key.decode("utf-8", "replace"), target, None)
    named = {v.name for v in references.values}
    values = (*references.values, *(v for v in profile.values if v.name not in named))
    return References(references.anchors, values).with_secrets(shared)


def _anchor(key: bytes) -> tuple[TrustAnchor, ...]:
    """The device's public key (PEM); its UEID is RFC 9783's for this product: 0x01 and SHA-256 of the key."""
    if not key:
        return ()
    try:
        spki = load_pem_public_key(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as e:
        raise InputError("the key is no public key in PEM", "give the device's public key, or its endorsement") from e
    return (TrustAnchor(b"\x01" + hashlib.sha256(spki).digest(), spki, Provenance.MAKER),)
