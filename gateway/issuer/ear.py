"""PURE. EAR claims (draft-ietf-rats-ear, profile ``tag:ietf.org,2026:rats/ear#03``) from a verdict, in CBOR and in JSON, and back.

One appraisal a device, under ``submods`` by device id; the expiry is the verdict's, which comes from the decay of trust. Four
private claims say what the draft has no name for: see ``PRIVATE``. Unknown claims are ignored, as the draft demands: they are
signed, so nobody added them. Knows claims, not signatures (``tokens``).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gateway import codec
from gateway.errors import MalformedError
from gateway.issuer.leaves import VECTOR_NAMES, parse_class, parse_tier, parse_vector, vector_claims
from gateway.issuer.strict import Reader, malformed, sized, whole
from gateway.model.certificate import Verdict
from gateway.model.evidence import EvidenceClass, Tier, TrustVector
from gateway.model.instant import NS_PER_S
from gateway.model.level import TrustLevel

PROFILE = "tag:ietf.org,2026:rats/ear#03"
DEVELOPER = "wardgate"

# Claim names and their CBOR keys: RFC 8392, RFC 9711, draft-ietf-rats-ear. In JSON the name is the key.
KEYS: Mapping[str, int] = MappingProxyType(
    {
        "exp": 4,
        "iat": 6,
        "eat_nonce": 10,
        "eat_profile": 265,
        "submods": 266,
        "ear_status": 1000,
        "ear_trustworthiness_vector": 1001,
        "ear_appraisal_policy_ids": 1003,
        "ear_verifier_id": 1004,
    }
)
# Ours, within an appraisal. Below -65536: private use in the CWT claims registry.
PRIVATE: Mapping[str, int] = MappingProxyType(
    {
        "wardgate_level": -70100,  # 0 none, 1 limited, 2 standard, 3 full
        "wardgate_evidence_class": -70101,  # tpm, asymmetric, symmetric, beacon, fingerprint, inventory
        "wardgate_functions": -70102,  # function name -> allowed at issue
        "wardgate_profile": -70103,  # id of the protection profile
    }
)
_STATUS = {Tier.NONE: "none", Tier.AFFIRMING: "affirming", Tier.WARNING: "warning", Tier.CONTRAINDICATED: "contraindicated"}
_NONCE = (8, 64)  # bytes; RFC 9711, section 4.1
_MAX_SUBMODS = 64
_MAX_JSON = 64 * 1024
_MAX_S = 2**40  # seconds since 1970; far beyond any date, far within 64 bits


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What an EAR says of one device. The last four come from private claims, None in an EAR of another verifier."""

    device_id: str
    tier: Tier
    vector: TrustVector
    policy_ids: tuple[str, ...] = ()
    nonces: tuple[bytes, ...] = ()
    level: TrustLevel | None = None
    evidence_class: EvidenceClass | None = None
    functions: tuple[tuple[str, bool], ...] | None = None
    profile: str | None = None


@dataclass(frozen=True, slots=True)
class Ear:
    """An EAR's claims. ``nonces`` are the relying party's; those of the evidence are in the appraisals."""

    issued_s: int
    expires_s: int | None
    developer: str
    build: str
    appraisals: tuple[Appraisal, ...]
    nonces: tuple[bytes, ...] = ()

    def appraisal(self, device_id: str) -> Appraisal:
        """The appraisal of one device; raises MalformedError when there is none."""
        for a in self.appraisals:
            if a.device_id == device_id:
                return a
        raise malformed("an EAR without the device it is for")


def ear_of(verdict: Verdict, build: str, nonce: bytes | None = None) -> Ear:
    """The EAR for one verdict. ``nonce``: a relying party's, when it asked with one (8 to 64 bytes)."""
    used = tuple(dict.fromkeys(e.nonce for e in verdict.evidence if _NONCE[0] <= len(e.nonce) <= _NONCE[1]))
    appraisal = Appraisal(
        verdict.device_id,
        verdict.tier,
        verdict.vector,
        (verdict.policy_id,),
        used,
        verdict.level,
        verdict.evidence_class,
        tuple(sorted(verdict.functions)),
        verdict.profile,
    )
    asked = (sized(nonce, "a nonce", *_NONCE),) if nonce is not None else ()
    return Ear(verdict.issued_at.utc_ns // NS_PER_S, verdict.expires_utc_ns // NS_PER_S, DEVELOPER, build, (appraisal,), asked)


# --- out ---


def to_cbor(ear: Ear) -> bytes:
    """The claims set with integer keys, deterministic CBOR."""
    submods = {a.device_id: _keyed(_appraisal(a, cbor=True)) for a in ear.appraisals}
    return codec.encode(_keyed({**_top(ear, {0: ear.developer, 1: ear.build}, cbor=True), "submods": submods}))


def to_json(ear: Ear) -> dict[str, Any]:
    """The claims set with names, JSON-able."""
    submods = {a.device_id: _appraisal(a, cbor=False) for a in ear.appraisals}
    return {**_top(ear, {"developer": ear.developer, "build": ear.build}, cbor=False), "submods": submods}


def _keyed(claims: Mapping[str, Any]) -> dict[int, Any]:
    return {(KEYS[name] if name in KEYS else PRIVATE[name]): value for name, value in claims.items()}


def _top(ear: Ear, verifier: Mapping[Any, str], *, cbor: bool) -> dict[str, Any]:
    claims: dict[str, Any] = {"eat_profile": PROFILE, "iat": ear.issued_s, "ear_verifier_id": dict(verifier)}
    if ear.expires_s is not None:
        claims["exp"] = ear.expires_s
    return {**claims, **_nonce_claim(ear.nonces, cbor)}


def _appraisal(a: Appraisal, *, cbor: bool) -> dict[str, Any]:
    claims: dict[str, Any] = {"ear_status": int(a.tier) if cbor else _STATUS[a.tier]}
    if a.vector.claims():
        claims["ear_trustworthiness_vector"] = vector_claims(a.vector) if cbor else a.vector.claims()
    if a.policy_ids:
        claims["ear_appraisal_policy_ids"] = list(a.policy_ids)
    claims.update(_nonce_claim(a.nonces, cbor))
    if a.level is not None:
        claims["wardgate_level"] = int(a.level)
    if a.evidence_class is not None:
        claims["wardgate_evidence_class"] = str(a.evidence_class)
    if a.functions is not None:
        claims["wardgate_functions"] = dict(a.functions)
    if a.profile is not None:
        claims["wardgate_profile"] = a.profile
    return claims


def _nonce_claim(nonces: tuple[bytes, ...], cbor: bool) -> dict[str, Any]:
    values = [n if cbor else b64(n) for n in nonces]
    return {"eat_nonce": values[0] if len(values) == 1 else values} if values else {}


# --- in ---


def from_cbor(data: bytes) -> Ear:
    """Parse the claims set of a CWT; raises MalformedError."""
    return _parse(codec.decode(data), cbor=True)


def from_json(text: bytes) -> Ear:
    """Parse the claims set of a JWT; raises MalformedError."""
    return _parse(strict_json(text), cbor=False)


def strict_json(text: bytes) -> Any:
    """JSON of bounded size without a name given twice; raises MalformedError."""
    if len(text) > _MAX_JSON:
        raise malformed("JSON that is too long")
    try:
        return json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise malformed("not proper JSON") from e


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _parse(value: Any, *, cbor: bool) -> Ear:
    names = _Names(cbor)
    top = Reader(value, "the EAR")
    if top.take(names("eat_profile"), str, "eat_profile") != PROFILE:
        raise MalformedError("an EAR of another profile", f"send one of {PROFILE}")
    verifier = Reader(top.take(names("ear_verifier_id"), dict, "ear_verifier_id"), "ear_verifier_id")
    submods = top.take(names("submods"), dict, "submods")
    if not 1 <= len(submods) <= _MAX_SUBMODS or not all(type(k) is str for k in submods):
        raise malformed(f"an EAR with other than 1 to {_MAX_SUBMODS} named appraisals")
    exp = names("exp")
    return Ear(
        top.number(names("iat"), "iat", 0, _MAX_S),
        None if top.maybe(exp, int, "exp") is None else top.number(exp, "exp", 0, _MAX_S),
        verifier.take(0 if cbor else "developer", str, "developer"),
        verifier.take(1 if cbor else "build", str, "build"),
        tuple(_parse_appraisal(name, submods[name], names) for name in sorted(submods)),
        _nonces(value.get(names("eat_nonce")), cbor),
    )


class _Names:
    """The key of a claim in CBOR or in JSON."""

    def __init__(self, cbor: bool) -> None:
        self.cbor = cbor

    def __call__(self, name: str) -> int | str:
        return (KEYS[name] if name in KEYS else PRIVATE[name]) if self.cbor else name


def _parse_appraisal(device_id: str, value: Any, names: _Names) -> Appraisal:
    r = Reader(value, "an appraisal")
    vector = r.maybe(names("ear_trustworthiness_vector"), dict, "vector")
    policies = r.items(names("ear_appraisal_policy_ids"), "policy ids", 16) if names("ear_appraisal_policy_ids") in value else []
    if not all(isinstance(p, str) for p in policies):
        raise malformed("an appraisal policy id that is no text")
    level = r.maybe(names("wardgate_level"), int, "level")
    kind = r.maybe(names("wardgate_evidence_class"), str, "evidence class")
    return Appraisal(
        device_id,
        _tier(r, names),
        TrustVector() if vector is None else _vector(vector, names.cbor),
        tuple(policies),
        _nonces(value.get(names("eat_nonce")), names.cbor),
        None if level is None else TrustLevel(whole(level, "a level", 0, 3)),
        None if kind is None else parse_class(kind),
        _functions(r.maybe(names("wardgate_functions"), dict, "functions")),
        r.maybe(names("wardgate_profile"), str, "profile"),
    )


def _tier(r: Reader, names: _Names) -> Tier:
    if names.cbor:
        return parse_tier(r.take(names("ear_status"), int, "status"))
    text = r.take("ear_status", str, "status")
    for tier, name in _STATUS.items():
        if name == text:
            return tier
    raise malformed("an unknown ear_status")


def _vector(value: dict[Any, Any], cbor: bool) -> TrustVector:
    if not value:
        raise malformed("an empty trustworthiness vector")
    if cbor:
        return parse_vector(value)
    if not set(value) <= set(VECTOR_NAMES):
        raise malformed("a vector claim with an unknown name")
    return parse_vector({VECTOR_NAMES.index(k): v for k, v in value.items()})


def _functions(value: dict[Any, Any] | None) -> tuple[tuple[str, bool], ...] | None:
    if value is None:
        return None
    if not all(type(k) is str and type(v) is bool for k, v in value.items()):
        raise malformed("functions that are not named true or false")
    return tuple(sorted(value.items()))


def _nonces(value: Any, cbor: bool) -> tuple[bytes, ...]:
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not 2 <= len(value) <= _MAX_SUBMODS:
        raise malformed("a list of nonces that is none")
    return tuple(sized(v if cbor else unb64(v), "a nonce", *_NONCE) for v in listed)


def b64(data: bytes) -> str:
    """Base64url without padding (RFC 7515, appendix C)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: object) -> bytes:
    """The inverse; raises MalformedError on anything that ``b64`` would not write."""
    try:
        if not isinstance(text, str):
            raise malformed("base64url that is no text")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise malformed("not proper base64url") from e
    if b64(data) != text:
        raise malformed("base64url in another form than the shortest")
    return data
