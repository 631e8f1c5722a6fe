"""Enrolment with the bench's CA: by document and over HTTP; with another's TPM, an unknown maker, a changed answer."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from gateway.attester import client_key, enrol, state
from gateway.attester.attester import Attester, provision, read_eventlog
from gateway.attester.credential import read_ak
from gateway.attester.tpm import Tpm
from gateway.errors import EvidenceError, InputError, UnavailableError
from hil import ca as bench
from hil.tpm import Swtpm


@pytest.fixture
def ca(swtpm: Swtpm, tmp_path: Path) -> bench.Ca:
    """A CA that knows the maker of ``swtpm``."""
    roots = bench.load_certificates([swtpm.maker_root])
    return bench.Ca(tmp_path / "ca", roots, bench.load_certificates([swtpm.maker_issuer]))


@pytest.fixture
def desk(ca: bench.Ca) -> Iterator[str]:
    """Its address."""
    server = bench.serve(ca, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/enrol"
    server.shutdown()
    thread.join(5)
    server.server_close()


@pytest.mark.rig
async def test_a_certificate_comes_by_document(attester: Attester, ca: bench.Ca, state_dir: Path) -> None:
    assert attester.ak_chain() == ()
    question = enrol.Request.from_json(json.loads(json.dumps(attester.make_request().to_json())))
    answer = enrol.Answer.from_json(json.loads(json.dumps(ca.answer(question).to_json())))
    enrolled = await attester.accept_answer(answer)
    assert (enrolled.subject, enrolled.issuer) == ("CN=gw-1", "CN=Wardgate bench CA")
    (der,) = attester.ak_chain()
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.anchor_file.read_bytes()))
    assert certificate.public_key() == load_der_public_key(attester.ak_spki())
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert Attester(attester.tpm, state_dir).ak_chain() == (der,)
    assert (await provision(attester.tpm, state_dir, "gw-1")).changes == ()
    assert Attester(attester.tpm, state_dir).ak_chain() == (der,)


@pytest.mark.rig
async def test_a_certificate_comes_over_http(attester: Attester, desk: str) -> None:
    answer = await asyncio.to_thread(enrol.ask, desk, attester.make_request())
    enrolled = await attester.accept_answer(answer)
    assert enrolled.subject == "CN=gw-1"


@pytest.mark.rig
async def test_a_refusal_over_http_says_why(attester: Attester, desk: str) -> None:
    public = bytearray(attester.make_request().ak_public)
    public[5] ^= 0x01  # not restricted
    with pytest.raises(InputError, match=r"CA refused \(403\).*attributes"):
        await asyncio.to_thread(enrol.ask, desk, replace(attester.make_request(), ak_public=bytes(public)))


@pytest.mark.rig
async def test_another_tpm_cannot_use_the_answer(
    insert: Callable[[Path], Swtpm], other_chip: Path, attester: Attester, ca: bench.Ca, tmp_path: Path
) -> None:
    tpm, directory = Tpm(insert(other_chip).tcti), tmp_path / "thief"
    directory.mkdir()
    await provision(tpm, directory, "gw-1")
    thief = Attester(tpm, directory)
    answer = ca.answer(attester.make_request())
    with pytest.raises(InputError, match="another TPM"):
        await thief.accept_answer(answer)
    # An honest EK certificate with the thief's own AK: the credential opens in neither TPM.
    mixed = ca.answer(replace(attester.make_request(), ak_public=thief.make_request().ak_public))
    for one in (thief, attester):
        with pytest.raises(InputError, match="another TPM"):
            await one.accept_answer(mixed)
    # A TPM whose maker the CA does not know.
    with pytest.raises(EvidenceError, match="maker is not known"):
        ca.answer(thief.make_request())
    assert thief.ak_chain() == attester.ak_chain() == ()
    await tpm.close()


@pytest.mark.rig
async def test_any_changed_part_of_the_answer_is_refused(attester: Attester, ca: bench.Ca) -> None:
    answer = ca.answer(attester.make_request())
    for name in ("credential", "secret", "sealed"):
        value = getattr(answer, name)
        for at in (0, 1, 2, 20, len(value) // 2, len(value) - 1):
            bad = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
            with pytest.raises(InputError):
                await attester.accept_answer(replace(answer, **{name: bad}))
    await attester.accept_answer(answer)


@pytest.mark.rig
async def test_a_certificate_for_another_name_or_key_is_refused(attester: Attester, ca: bench.Ca) -> None:
    question = attester.make_request()
    ek, name = x509.load_der_x509_certificate(question.ek_certificate).public_key(), read_ak(question.ak_public).name
    with pytest.raises(InputError, match="another gateway"):
        await attester.accept_answer(ca.answer(replace(question, gateway_id="gw-2")))
    anchor = ca.certificate.public_bytes(Encoding.DER)
    with pytest.raises(InputError, match="another key"):
        await attester.accept_answer(enrol.seal([anchor], ek, name))
    ours = ca._issue("gw-1", read_ak(question.ak_public)).public_bytes(Encoding.DER)
    with pytest.raises(InputError, match="do not form a chain"):
        await attester.accept_answer(enrol.seal([ours, ours], ek, name))
    with pytest.raises(InputError, match="no certificate"):
        await attester.accept_answer(enrol.seal([], ek, name))
    assert attester.ak_chain() == ()


@pytest.mark.rig
def test_the_ca_looks_at_what_it_is_shown(ca: bench.Ca, swtpm: Swtpm) -> None:
    for der in (b"", b"noise", ca.certificate.public_bytes(Encoding.DER)):
        with pytest.raises(EvidenceError, match="not an EK certificate"):
            ca.answer(enrol.Request("gw-1", der, b""))
    (issuer,) = bench.load_certificates([swtpm.maker_issuer])
    assert issuer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)


@pytest.mark.rig
async def test_a_new_ak_has_no_certificate(attester: Attester, ca: bench.Ca, state_dir: Path) -> None:
    await attester.accept_answer(ca.answer(attester.make_request()))
    known = state.load(state_dir)
    state.save(state_dir, replace(known, ak_public=""))
    assert (await provision(attester.tpm, state_dir, "gw-1")).changes == ("attestation key made: enrol it",)
    assert Attester(attester.tpm, state_dir).ak_chain() == ()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_documents_of_any_shape_are_refused(document: object) -> None:
    for kind in (enrol.Request, enrol.Answer):
        with pytest.raises(InputError):
            kind.from_json(document)


@pytest.mark.parametrize("value", ["", "not base64!", 5, None, "A" * (enrol.MAX_DOCUMENT + 4)])
def test_a_field_of_another_kind_is_named(value: object) -> None:
    document = {"version": 1, "gateway": "gw-1", "ek_certificate": "AAAA", "ak_public": value}
    with pytest.raises(InputError, match="ak_public"):
        enrol.Request.from_json(document)


def test_what_is_not_json_or_too_long_is_refused() -> None:
    for raw in (b"\xff", b"{", b"[" * 5000, bytes(enrol.MAX_DOCUMENT + 1)):
        with pytest.raises(InputError):
            enrol.parse(raw)


@pytest.mark.parametrize("url", ["http://ca.hospital/enrol", "ftp://127.0.0.1/", "file:///etc/passwd", "ca.pem", ""])
def test_only_https_leaves_the_machine(url: str) -> None:
    with pytest.raises(InputError, match="https"):
        enrol.ask(url, enrol.Request("gw-1", b"x", b"y"))


def test_no_ca_there() -> None:
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError, match="does not answer"):
            enrol.ask(f"http://127.0.0.1:{s.getsockname()[1]}/", enrol.Request("gw-1", b"x", b"y"), timeout_s=2)


def test_the_event_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with pytest.raises(UnavailableError, match="cannot read"):
        read_eventlog(path)
    path.write_bytes(b"x" * 100)
    assert read_eventlog(path) == b"x" * 100
    path.write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(UnavailableError, match="larger"):
        read_eventlog(path)


@pytest.mark.rig
async def test_a_tls_client_is_certified_along(attester: Attester, ca: bench.Ca, tmp_path: Path) -> None:
    """Twice: the second time is a renewal, and until its certificate has come the first key stays."""
    key, certificate, keys = tmp_path / "up.key", tmp_path / "up.pem", []
    for _ in range(2):
        before = key.read_bytes() if key.exists() else b""
        asked = attester.make_request(client_key.make_request(key, "gw-1"))
        assert asked.client_request == enrol.Request.from_json(asked.to_json()).client_request
        assert (key.read_bytes() if key.exists() else b"") == before
        done = await attester.accept_answer(ca.answer(asked))
        client_key.accept(key, certificate, done.client, "gw-1")
        assert key.stat().st_mode & 0o777 == 0o600
        assert not key.with_name("up.key.next").exists()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
        (mine,) = x509.load_pem_x509_certificates(certificate.read_bytes())
        mine.verify_directly_issued_by(ca.certificate)
        keys.append(mine.public_key())
        client_key.accept(key, certificate, done.client, "gw-1")  # the same answer again, as after a crash
    assert keys[0] != keys[1]


@pytest.mark.rig
async def test_a_client_certificate_for_another_is_refused_and_changes_nothing(
    attester: Attester, ca: bench.Ca, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "up.key", tmp_path / "up.pem"
    done = await attester.accept_answer(ca.answer(attester.make_request(client_key.make_request(tmp_path / "other.key", "gw-1"))))
    client_key.make_request(key, "gw-1")
    with pytest.raises(InputError, match="another client key"):
        client_key.accept(key, certificate, done.client, "gw-1")
    with pytest.raises(InputError, match="another client key or another gateway"):
        client_key.accept(tmp_path / "other.key", certificate, done.client, "gw-2")
    with pytest.raises(InputError, match="certified no client key"):
        client_key.accept(key, certificate, (), "gw-1")
    server = bench.issued(ca.certificate, done.client[0].public_key(), "gw-1", ExtendedKeyUsageOID.SERVER_AUTH, 1)
    with pytest.raises(InputError, match="not for a TLS client"):
        client_key.accept(tmp_path / "other.key", certificate, [server.sign(ca._key, hashes.SHA256())], "gw-1")
    assert not certificate.exists()
    assert not key.exists()


@pytest.mark.rig
async def test_a_client_request_that_its_key_did_not_sign_is_refused(attester: Attester, ca: bench.Ca, tmp_path: Path) -> None:
    honest = client_key.make_request(tmp_path / "up.key", "gw-1")
    for bad in (b"noise", honest[:-1] + bytes([honest[-1] ^ 1]), honest[:-8]):
        with pytest.raises(EvidenceError, match="client's request"):
            ca.answer(attester.make_request(bad))
