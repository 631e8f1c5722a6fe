"""Reference values that are imported and taken back, and files that prove themselves: over a real store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config import parse_config
from gateway.errors import EvidenceError, InputError, RefusedError, WardgateError
from gateway.holdings import Holdings, merge_makers
from gateway.model.device import DeviceState
from gateway.model.event import Event
from gateway.model.profile import Provenance, References, ReferenceValue, TrustAnchor
from gateway.model.view import User
from gateway.pki.files import MAX_BYTES, verify_file
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.store.inventory import Inventory
from gateway.store.stock import VERSIONS, Stock
from tests.fakes.quote import FakeCa
from tests.policy.ward import patch, profiles, pump
from tests.store.conftest import HandClock

BEA = User("bea", "biomed")
LEARNED = ReferenceValue("configuration", "object:0", b"Maker", Provenance.LEARNED, countersigned=True)


def endorsement(firmware: str = "aa", **more: Any) -> str:
    body = {"ueid": "01" * 33, "spki": "00", "implementation-id": "11" * 32, "components": {"FW": firmware * 32}}
    return json.dumps({**body, **more})


class Desk:
    """Holdings over a database; ``configured`` counts what the engine was told."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock, self.events, self.configured = HandClock(), list[Event](), list[str]()
        self.inventory, self.stock, self.cache = Inventory(database), Stock(database), CertificateCache(database)
        self.shared: dict[str, bytes] = {}
        self.ca = FakeCa()
        (folder / "ca.pem").write_bytes(self.ca.pem)
        self.chain: list[bytes] = [self.ca.certify(ec.generate_private_key(ec.SECP256R1()).public_key())]
        config = parse_config(f'[gateway]\nid = "gw-1"\n[uplink]\nca = "{folder}/ca.pem"\ncert = "{folder}/none.pem"\n')

        async def emit(event: Event) -> None:
            self.events.append(event)

        async def configure(actor: str) -> None:
            self.configured.append(actor)

        self.holdings = Holdings(
            config, self.clock, inventory=self.inventory, stock=self.stock, cache=self.cache, keys=self, profiles=profiles(),
            chain=lambda: self.chain, emit=emit, configure=configure,
        )  # fmt: skip

    def of(self, _device_id: str) -> Mapping[str, bytes]:
        return self.shared

    async def kept(self, device_id: str = "pump-1") -> References:
        return dict(await self.inventory.references())[device_id]

    async def firmware(self) -> str:
        return next(v.value.hex()[:2] for v in (await self.kept()).values if v.name == "component:FW")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    database = Database(tmp_path / "wardgate.sqlite")
    assert await database.open() == ""
    made = Desk(database, tmp_path)
    await made.inventory.save_device(pump())
    await made.inventory.save_device(patch())
    anchor = TrustAnchor(b"\x01" * 33, b"\x00")
    maker = ReferenceValue("firmware", "component:FW", b"\xaa" * 32, Provenance.MAKER, countersigned=True)
    implementation = ReferenceValue("firmware", "implementation-id", b"\x11" * 32, Provenance.MAKER, countersigned=True)
    await made.inventory.save_references("pump-1", References((anchor,), (implementation, maker, LEARNED)))
    yield made
    await database.close()


async def test_an_import_replaces_what_the_maker_said_and_nothing_that_was_learned(desk: Desk) -> None:
    done = await desk.holdings.import_references(BEA, endorsement("bb"), "")  # found by its UEID
    assert done["device"] == "pump-1" and any("component:FW = bbbb" in line for line in done["changed"])
    assert await desk.firmware() == "bb" and LEARNED in (await desk.kept()).values
    assert desk.configured == ["bea"] and desk.events[0].actor == "bea"  # type: ignore[union-attr]
    again = await desk.holdings.import_references(BEA, endorsement("bb"), "pump-1")
    assert again["changed"] == [] and len(await desk.stock.reference_versions()) == 1


async def test_each_import_can_be_taken_back_and_a_veto_stands_meanwhile(desk: Desk) -> None:
    await desk.inventory.raise_veto("pump-1", "application/psa-attestation-token", "its firmware is another")
    standing = await desk.inventory.standing_vetoes()
    for firmware in ("bb", "cc"):
        await desk.holdings.import_references(BEA, endorsement(firmware), "")
    listed = await desk.holdings.references()
    assert [d["device"] for d in listed["devices"]] == ["patch-1", "pump-1"]
    assert [b["by"] for b in listed["devices"][1]["replaced"]] == ["bea", "bea"]
    newly_learned = ReferenceValue("configuration", "object:1", b"P2", Provenance.LEARNED, countersigned=True)
    now = await desk.kept()
    await desk.inventory.save_references("pump-1", References(now.anchors, (*now.values, newly_learned)))
    for expected in ("bb", "aa"):
        assert (await desk.holdings.rollback_references(BEA, ""))["device"] == "pump-1"
        assert await desk.firmware() == expected
        assert {LEARNED, newly_learned} <= set((await desk.kept()).values)  # what was learned since is not lost
        assert await desk.inventory.standing_vetoes() == standing
    with pytest.raises(InputError, match="taken back"):
        await desk.holdings.rollback_references(BEA, "")
    with pytest.raises(InputError, match="no device"):
        await desk.holdings.rollback_references(BEA, "no-such")


async def test_versions_are_bounded(desk: Desk) -> None:
    for n in range(VERSIONS + 5):
        await desk.holdings.import_references(BEA, endorsement(f"{n:02x}"), "")
    assert len(await desk.stock.reference_versions()) == VERSIONS


@pytest.mark.parametrize(
    ("text", "device", "words"),
    [
        ("{", "", "ueid"),
        ("[]", "pump-1", "ueid"),
        ('{"ueid": 7}', "", "ueid"),
        (endorsement(ueid="02" * 33), "", "no device"),
        (endorsement(), "pump-9", "no device"),
        (endorsement(components={"FW": "zz"}), "pump-1", "does not parse"),
        (json.dumps({"ueid": "01" * 33}), "pump-1", "does not parse"),
        (endorsement(**{"gateway": "gw-1", "token-key": "22" * 32}), "pump-1", "another key"),
        (endorsement(**{"gateway": "gw-9", "token-key": "22" * 32}), "pump-1", "made for gateway"),
    ],
)
async def test_an_import_that_does_not_fit_changes_nothing(desk: Desk, text: str, device: str, words: str) -> None:
    before = await desk.kept()
    with pytest.raises((InputError, RefusedError), match=words):
        await desk.holdings.import_references(BEA, text, device)
    assert await desk.kept() == before and desk.events == [] and await desk.stock.reference_versions() == []


async def test_a_removed_device_has_nothing_to_import_for(desk: Desk) -> None:
    await desk.inventory.keep_state("pump-1", DeviceState.RETIRED)
    with pytest.raises(InputError):
        await desk.holdings.import_references(BEA, endorsement("bb"), "")


def test_makers_and_the_hospital_are_kept_apart() -> None:
    own = TrustAnchor(b"\x02" * 33, b"x", Provenance.HOSPITAL)
    now = References((own, TrustAnchor(b"\x01" * 33, b"old")), (LEARNED,))
    assert merge_makers(now, References((TrustAnchor(b"\x01" * 33, b"new"),))) == References(
        (TrustAnchor(b"\x01" * 33, b"new"), own), (LEARNED,)
    )


async def test_seen_flows_outlive_a_restart(desk: Desk) -> None:
    event = {
        "device": "pump-1",
        "source": "10.77.0.11",
        "destination": "10.9.0.1",
        "protocol": "udp",
        "source_port": 40000,
        "port": 123,
    }
    desk.holdings.learned_flows.note({**event, "count": 4}, {"pump-1": pump().ip_addresses})
    await desk.holdings.save_seen()
    found = (await desk.holdings.learned("pump-1"))["flows"]
    desk.holdings.learned_flows.__init__()  # type: ignore[misc]
    assert (await desk.holdings.learned("pump-1"))["flows"] == []
    await desk.holdings.open()
    assert (await desk.holdings.learned("pump-1"))["flows"] == found != []
    with pytest.raises(InputError, match="wireless"):
        await desk.holdings.learned("patch-1")


# --- files that prove themselves ---


def crl(ca: FakeCa, at: datetime, *, days: float = 7, revoked: int | None = None, critical: bool = False) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject).last_update(at)
    builder = builder.next_update(at + timedelta(days=days))
    if revoked is not None:
        entry = x509.RevokedCertificateBuilder().serial_number(revoked).revocation_date(at).build()
        builder = builder.add_revoked_certificate(entry)
    if critical:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def day(desk: Desk) -> datetime:
    return desk.clock.now().utc()


async def test_a_revocation_list_is_kept_shown_and_says_whom_it_takes_away(desk: Desk) -> None:
    own = x509.load_der_x509_certificate(desk.chain[0]).serial_number
    done = await desk.holdings.import_cached(BEA, crl(desk.ca, day(desk) - timedelta(hours=1)))
    assert done["kind"] == "crl" and done["revoked"] == []
    await desk.cache.save_ear("pump-1", 3, b"c", "j", desk.clock.now().utc_ns - 1)
    rows = {r["kind"]: r for r in (await desk.holdings.cached())["rows"]}
    assert rows["crl"]["left_s"] > 6 * 86_400 and rows["certificate"]["left_s"] <= 0
    done = await desk.holdings.import_cached(BEA, crl(desk.ca, day(desk) - timedelta(minutes=5), revoked=own))
    assert "revoked: enrol this gateway again" in done["revoked"][0]
    assert (await desk.holdings.cached())["revoked"] == done["revoked"]
    with pytest.raises(InputError, match="newer"):  # nobody goes back to before a revocation
        await desk.holdings.import_cached(BEA, crl(desk.ca, day(desk) - timedelta(hours=1)))


async def test_a_sub_ca_s_certificate_lets_its_lists_in(desk: Desk) -> None:
    sub = FakeCa(name="Sub", issuer=desk.ca)
    listed = crl(sub, day(desk) - timedelta(hours=1))
    with pytest.raises(EvidenceError, match="nobody here trusts"):
        await desk.holdings.import_cached(BEA, listed)
    if day(desk) > sub.certificate.not_valid_after_utc or day(desk) < sub.certificate.not_valid_before_utc:
        desk.clock.at = desk.clock.at.__class__(
            "boot-1", 10**12, int(sub.certificate.not_valid_before_utc.timestamp() + 60) * 10**9
        )
        listed = crl(sub, day(desk) - timedelta(hours=1))
    assert (await desk.holdings.import_cached(BEA, sub.pem))["kind"] == "ca"
    assert (await desk.holdings.import_cached(BEA, listed))["kind"] == "crl"


def test_what_does_not_prove_itself_is_refused() -> None:
    ca, stranger, at = FakeCa(), FakeCa(), datetime.now(UTC).replace(microsecond=0)
    good, anchors = crl(ca, at - timedelta(hours=1)), [ca.certificate]
    assert verify_file(good, anchors, at).good_until_ns == int((at + timedelta(days=7, hours=-1)).timestamp()) * 10**9
    pem = x509.load_der_x509_crl(good).public_bytes(serialization.Encoding.PEM)
    assert verify_file(pem, anchors, at).kind == "crl"
    flipped = bytearray(good)
    flipped[-1] ^= 1
    refused: list[tuple[bytes, list[x509.Certificate]]] = [
        (good, []),
        (crl(stranger, at - timedelta(hours=1)), anchors),  # the same name, another key
        (bytes(flipped), anchors),
        (crl(ca, at - timedelta(days=8)), anchors),
        (crl(ca, at + timedelta(hours=1)), anchors),
        (crl(ca, at - timedelta(hours=1), critical=True), anchors),
        (stranger.pem, anchors),
        (b"", anchors),
        (b"\x30\x03\x02\x01\x00", anchors),
        (hashlib.sha256(b"x").digest() * 40_000, anchors),
        (bytes(MAX_BYTES + 1), anchors),
    ]
    for data, trusted in refused:
        with pytest.raises(WardgateError) as e:
            verify_file(data, trusted, at)
        assert e.value.remedy
    leaf = ca.certify(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(EvidenceError, match="no CA"):
        verify_file(leaf, anchors, at)


async def test_an_assignment_outlives_a_restart_and_is_not_in_the_record(desk: Desk) -> None:
    await desk.holdings.assign(BEA, "patch-1", "bed-7")
    assert "bed-7" not in repr(desk.events)
    desk.clock.reboot()
    again = desk.holdings.assignments.__class__()
    desk.holdings.assignments = again
    await desk.holdings.open()
    assert again.current("patch-1") == "bed-7" == again.at("patch-1", desk.clock.now())
    assert len(await desk.stock.assignments()) == 2
    await desk.holdings.assign(BEA, "patch-1", "")
    assert again.current("patch-1") == ""
    with pytest.raises(InputError, match="no device"):
        await desk.holdings.assign(BEA, "nobody", "bed-7")
