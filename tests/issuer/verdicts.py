"""Verdicts for the tests of certificates."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import strategies as st

from gateway.model.certificate import EvidenceRef, Verdict
from gateway.model.evidence import EvidenceClass, MediaType, Tier, TrustVector
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.level import TrustLevel
from tests.fakes.quote import NOW

NOW_NS = int(NOW.timestamp()) * NS_PER_S


def verdict(device_id: str = "pump-1", **changes: Any) -> Verdict:
    """A pump's verdict, issued at NOW and good for ten minutes."""
    evidence = EvidenceRef(str(MediaType.PSA), hashlib.sha256(b"token").digest(), bytes(range(32)), "port:p-pump-1")
    values: dict[str, Any] = {
        "device_id": device_id,
        "profile": "infusion-pump",
        "level": TrustLevel.FULL,
        "tier": Tier.AFFIRMING,
        "vector": TrustVector(instance_identity=2, executables=3, hardware=2),
        "evidence_class": EvidenceClass.ASYMMETRIC,
        "evidence": (evidence,),
        "policy_id": hashlib.sha256(b"policy").hexdigest(),
        "issued_at": Instant("boot", 5, NOW_NS, TimeQuality.NETWORK),
        "expires_utc_ns": NOW_NS + 600 * NS_PER_S,
        "functions": (("control", True), ("maintenance", True), ("monitoring", True)),
    }
    return Verdict(**{**values, **changes})


_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
_claim = st.integers(-128, 127)
_evidence = st.builds(
    EvidenceRef, _text, st.binary(min_size=32, max_size=32), st.just(b"") | st.binary(min_size=8, max_size=64), _text
)

verdicts = st.builds(
    Verdict,
    st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True),
    _text,
    st.sampled_from(list(TrustLevel)),
    st.sampled_from(list(Tier)),
    st.builds(TrustVector, *[_claim] * 8),
    st.sampled_from(list(EvidenceClass)),
    st.lists(_evidence, max_size=3).map(tuple),
    _text,
    st.builds(Instant, st.just(""), st.just(0), st.integers(0, 2**62), st.sampled_from(list(TimeQuality))),
    st.integers(0, 2**62),
    st.dictionaries(_text, st.booleans(), max_size=4).map(lambda d: tuple(sorted(d.items()))),
)
