"""PURE. How an appraisal collects: a trustworthiness vector that only gets worse, findings with the worst first.

Every scheme uses this, so that *none* is where all of them start. Refuses to know any format of evidence.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from hmac import compare_digest

from gateway.model.evidence import EvidenceClass, Finding, Tier, TrustVector, tier_of
from gateway.model.profile import Provenance, References, ReferenceValue

MAX_FINDINGS = 20  # what a person reads; the rest is counted in one more finding
_CLAIMS = frozenset(f.name for f in fields(TrustVector))
_WORSE = {Tier.AFFIRMING: 0, Tier.WARNING: 1, Tier.NONE: 2, Tier.CONTRAINDICATED: 3}  # of findings: what comes first
_CONFIRMED = (Provenance.MAKER, Provenance.HOSPITAL)

# AR4SI claim values used here (draft-ietf-rats-ar4si, section 2.3.4)
AFFIRMED = 2
BOOTED_GENUINE = 3  # executables: what was loaded at boot is approved; nothing is said of later
UNKNOWN_EVIDENCE = 1  # evidence that cannot be judged: tier none
CONFIGURATION_INCOMPLETE = 36
SOURCE_UNATTESTED = 32
RUNTIME_DEBUGGABLE = 32
UNRECOGNISED_EXECUTABLE = 33
CONTRAINDICATED = 96
NOT_RECOGNISED = 97  # it should be known, and is not


class Sheet:
    """What one appraisal has seen so far. ``authenticated`` and ``fresh`` start False, every claim starts as *no claim*.

    ``observed``: what was measured, by reference name. ``evidence_class``: when a media type has more than one; None: its own.
    """

    __slots__ = (
        "_claims", "_found", "_unconfirmed", "_used", "authenticated", "evidence_class", "fresh", "key_isolated", "observed",
    )  # fmt: skip

    def __init__(self) -> None:
        self.authenticated = self.fresh = self._unconfirmed = False
        self.key_isolated = True
        self.evidence_class: EvidenceClass | None = None
        self.observed: dict[str, bytes] = {}
        self._claims: dict[str, int] = {}
        self._found: list[tuple[Tier, Finding]] = []
        self._used: list[ReferenceValue] = []

    def claim(self, name: str, value: int) -> None:
        """Set a claim, unless it stands worse already: worse is a higher tier, and *none* is worse than *affirming*."""
        if name not in _CLAIMS:
            raise ValueError(f"no claim is called {name!r}")
        before = self._claims.get(name)
        if before is None or _badness(value) > _badness(before):
            self._claims[name] = value

    def find(self, tier: Tier, code: str, subject: str, text: str, remedy: str) -> None:
        """Add a finding; ``tier`` only decides its place."""
        self._found.append((tier, Finding(code, subject, text, remedy)))

    def use(self, reference: ReferenceValue) -> bytes:
        """A reference value that the appraisal rests on; decides whether the result is countersigned."""
        self._used.append(reference)
        return reference.value

    def rest_on_unconfirmed(self) -> None:
        """Something measured had no reference, or a key has nobody's word: the result cannot be countersigned."""
        self._unconfirmed = True

    def answers(self, answered: bytes, asked: bytes) -> bool:
        """Whether evidence answers the nonce it was asked with; then it is fresh. Unasked evidence is read, but not fresh."""
        if not asked:
            text = "no nonce was asked with: how old this is cannot be told"
            self.find(Tier.WARNING, "no-nonce", "nonce", text, "ask with a nonce")
            return True
        if not compare_digest(answered, asked):
            text = f"evidence that answers nonce {short(answered)}, not {short(asked)}: old, or another's"
            self.find(Tier.NONE, "replayed", "nonce", text, "look for someone who records and replays evidence")
            return False
        self.fresh = True
        return True

    @property
    def vector(self) -> TrustVector:
        """The claims as they stand."""
        return _judged(frozenset(self._claims.items()))[0]

    @property
    def tier(self) -> Tier:
        """As the vector's, but a claim that could not be judged makes a *warning* none: what is unknown is never trusted."""
        return _judged(frozenset(self._claims.items()))[1]

    @property
    def countersigned(self) -> bool:
        """Whether maker, hospital or a second person stands behind every reference used, and there was one."""
        confirmed = all(r.countersigned or r.provenance in _CONFIRMED for r in self._used)
        return bool(self._used) and confirmed and not self._unconfirmed

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Worst first, at most ``MAX_FINDINGS`` and one that counts the others."""
        if not self._found:
            return ()
        ordered = [f for _, f in sorted(self._found, key=lambda pair: -_WORSE[pair[0]])]
        more = len(ordered) - MAX_FINDINGS
        if more > 0:
            last = Finding("more", "", f"{more} more findings of the same appraisal", "look at the evidence itself")
            ordered = [*ordered[:MAX_FINDINGS], last]
        return tuple(ordered)


def references_named(references: References, prefixes: tuple[str, ...]) -> dict[str, ReferenceValue]:
    """The reference values of one scheme by name: those whose name begins with one of ``prefixes``."""
    return {v.name: v for v in references.values if v.name.startswith(prefixes)}


def short(value: bytes) -> str:
    """The first bytes of a value in hex, for a sentence."""
    return value[:6].hex() + "…" if len(value) > 6 else value.hex() or "nothing"


def _badness(value: int) -> tuple[int, int]:
    """A claim's place: by tier (a *warning* is worse than *none* here, as in an EAR's vector), then by number."""
    tier = tier_of(value)
    return (1 if tier is Tier.NONE else 0 if tier is Tier.AFFIRMING else int(tier)), abs(value)


@lru_cache(maxsize=256)  # the devices of a ward have a few vectors between them
def _judged(claims: frozenset[tuple[str, int]]) -> tuple[TrustVector, Tier]:
    tier = max((tier_of(v) for _, v in claims), key=_WORSE.__getitem__, default=Tier.NONE)
    return TrustVector(**dict(claims)), tier
