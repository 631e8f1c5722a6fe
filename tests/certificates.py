"""A gateway that issues: fake TPM, CA and issuing key around the real batch. For tests of batches and of the relying party."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization

from gateway.certify import Batch, ClosedBatch, complete
from gateway.issuer.bundle import NO_ROOT, Freshness
from gateway.issuer.ear import ear_of
from gateway.issuer.leaves import Platform
from gateway.issuer.tokens import cwt_statement, seal
from gateway.model.certificate import SoftwareKey, Verdict
from tests.fakes.quote import FakeCa, FakeTpm, SigningKey


def salt(n: int) -> bytes:
    """A salt that tests can tell apart."""
    return hashlib.sha256(n.to_bytes(4, "big")).digest()[:16]


def der(ca: FakeCa) -> bytes:
    return ca.certificate.public_bytes(serialization.Encoding.DER)


@dataclass
class Issuer:
    """``bundles`` is one epoch: verdicts in, bundles out."""

    ca: FakeCa = field(default_factory=FakeCa)
    tpm: FakeTpm = field(default_factory=FakeTpm)
    key: SigningKey = field(default_factory=SigningKey)
    platform: Platform = field(default_factory=lambda: Platform("gw-1", "0.1.0", "uefi"))
    chain: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        if self.chain is None:
            self.chain = (self.ca.certify(self.tpm.key.public_key()),)

    def ear(self, verdict: Verdict) -> bytes:
        statement = cwt_statement(ear_of(verdict, "0.1.0"), self.key.spki)
        return seal(statement, self.key.sign(statement.to_sign))

    def batch(self) -> Batch:
        keys = (SoftwareKey("issuing", hashlib.sha256(self.key.spki).digest()), SoftwareKey("tls", bytes(32)))
        return Batch(keys, self.key.spki, self.platform, self.chain or (), salt(0))

    def closed(self, *verdicts: Verdict, freshness: Freshness | None = None, sequence: int = 7) -> ClosedBatch:
        batch = self.batch()
        for n, verdict in enumerate(verdicts, start=1):
            batch.add(verdict, self.ear(verdict), salt(n))
        return batch.close(freshness or Freshness.epoch(sequence, "boot"), sequence, NO_ROOT, self.tpm.nv_counter)

    def bundles(self, *verdicts: Verdict, freshness: Freshness | None = None, sequence: int = 7) -> dict[str, bytes]:
        closed = self.closed(*verdicts, freshness=freshness, sequence=sequence)
        return complete(closed, self.tpm.quote(closed.qualifying))
