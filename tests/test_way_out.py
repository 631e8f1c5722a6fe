"""The way out as a whole: what is labelled, what is opened in the firewall, and a broker that nobody configured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.certificates import Certificates
from gateway.codec import raw_signature
from gateway.config import Config, Gateway, Uplink
from gateway.confirmed import with_broker
from gateway.console import Counters
from gateway.enforcer.document import check_document
from gateway.issuer.leaves import Platform
from gateway.machine_clock import MachineClock
from gateway.model.certificate import CertificateId
from gateway.model.effect import Send
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.policy.compile import compile_document
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.store.journal import Journal
from gateway.store.outbox import Outbox
from gateway.way_out import WayOut
from tests.issuer.verdicts import verdict

CLOCK = MachineClock()
NAMED = CertificateId(9, bytes(range(32)))


def reading(level: TrustLevel | None) -> Observation:
    now = CLOCK.now()
    return Observation("patch-1", "MDC_ECG_HEART_RATE", "/min", now, now, level, 72.0)


async def test_only_trusted_readings_name_a_certificate_and_without_a_broker_all_waits(tmp_path: Path) -> None:
    database = Database(tmp_path / "w.sqlite")
    await database.open()
    outbox = Outbox(database, CLOCK)
    asked: list[Instant] = []

    def certificate(device_id: str, at: Instant) -> CertificateId | None:
        asked.append(at)
        return NAMED

    config = Config(gateway=Gateway(state=tmp_path))
    way = WayOut(config, outbox, Journal(database), CLOCK, certificate=certificate, told=lambda p: None, vouch=lambda s: None)
    shown: list[Observation] = []
    way.watch = shown.extend
    batch = [reading(TrustLevel.FULL), reading(TrustLevel.NONE), reading(None)]
    await way.put(batch)
    stored = [w.observation.certificate for w in await outbox.take()]
    assert stored == [NAMED, None, None] == [o.certificate for o in shown]
    assert asked == [batch[0].taken_at], "the certificate of when it was taken, not of now"
    way.announce(Send("alarm", 0, (("device", ""), ("severity", "alarm"), ("text", "t"))), CLOCK.now())
    view = await way.look()
    assert (view.up, view.readings) == (False, 3)
    assert "no broker" in view.state
    await way.close()
    (letter,) = await outbox.take_letters("alarm")
    assert json.loads(letter.body)["text"] == "t"
    await database.close()


def test_the_policy_opens_the_broker_and_is_what_the_loader_takes() -> None:
    document = compile_document([], {}, ["10.0.0.1"])
    before = {k: v for k, v in document["sets"].items() if not k.startswith("uplink")}
    flows = Uplink(host="b.example", addresses=("10.0.0.5", "fd00::5")).flows
    document = with_broker(document, flows)
    assert document["sets"]["uplink4"] == [["10.0.0.5", "tcp", 8883]]
    assert document["sets"]["uplink6"] == [["fd00::5", "tcp", 8883]]
    assert {k: v for k, v in document["sets"].items() if not k.startswith("uplink")} == before
    assert with_broker(document, flows)["sets"]["uplink4"] == [["10.0.0.5", "tcp", 8883]]  # said twice, it is there once
    assert check_document(document).sets["uplink4"] == frozenset({("10.0.0.5", "tcp", 8883)})


class SoftwareKeys:
    """The one part of the attester that issuing needs."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def issuing_spki(self) -> bytes:
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        return raw_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))


async def test_the_certificate_of_a_moment_is_the_one_that_was_in_force_then(tmp_path: Path) -> None:
    database = Database(tmp_path / "w.sqlite")
    await database.open()
    keys: Any = SoftwareKeys()
    cache = CertificateCache(database)
    certificates = Certificates(
        keys, cache, Counters(sequence=41), build="b", platform=Platform("gw", "b", "none"), certified=lambda d, n: None,
        part=lambda p: None,
    )  # fmt: skip
    start = CLOCK.now()
    for at_s in (0.0, 20.0):
        at = start.plus(at_s)
        await certificates.issue(verdict("pump-1", issued_at=at, expires_utc_ns=at.plus(15).utc_ns))
    first, second = (certificates.at("pump-1", start.plus(s)) for s in (1, 21))
    assert first and second
    assert (first.sequence, second.sequence) == (41, 41)
    assert first.ear_sha256 != second.ear_sha256
    for moment, expected in ((-1.0, None), (0.0, first), (14.9, first), (15.1, None), (20.0, second), (36.0, None)):
        assert certificates.at("pump-1", start.plus(moment)) == expected
    assert certificates.at("patch-1", start.plus(1)) is None
    assert certificates.at("pump-1", replace(start.plus(1), boot_id="another")) is None
    await database.close()
