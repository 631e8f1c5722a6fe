"""MLLP over TLS toward the device and toward the receiver, with real sockets: the right certificates pass, no other."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.config import Tls
from gateway.errors import InputError
from gateway.model.device import DeviceState
from gateway.model.event import Behaviour, EvidenceArrived, RouteChanged
from gateway.tls import context
from tests.drivers.hl7.ward import LIVE, RESULTS, SETTINGS, Bench, device, nothing_relayed, order, oru
from tests.fakes.context import until

BOTH = {"serve": "ward", "dial": "hospital", "name": "central.example"}


class Ca:
    """A certificate authority, and files of whom it certifies."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name, self.key = directory, name, ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(subject, self.key).issuer_name(subject)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = made.sign(self.key, hashes.SHA256())
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        return made.not_valid_after(now + datetime.timedelta(days=30))

    def certify(self, name: str, *, days: int = 0) -> tuple[Path, Path]:
        """(certificate, key) for a DNS name or an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        made = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")]), key).issuer_name(
            self.certificate.subject
        )
        made = made.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        pem = made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files = self.directory / f"{self.name}-{name}.pem", self.directory / f"{self.name}-{name}.key"
        files[0].write_bytes(pem)
        files[1].write_bytes(private)
        return files

    def of(self, name: str, *, serve: bool = False, trusts: Ca | None = None) -> ssl.SSLContext:
        """A context for ``name``, made as the product makes its own."""
        return context("x", {"x": Tls((trusts or self).file, *self.certify(name), serve)})


class Hall:
    """The wards's CA and the hospital's, the gateway's two contexts, and a stranger."""

    def __init__(self, directory: Path) -> None:
        self.ward, self.hospital, self.stranger = (Ca(directory, n) for n in ("ward", "hospital", "stranger"))
        self.named = {
            "ward": Tls(self.ward.file, *self.ward.certify("wardgate"), serve=True),
            "hospital": Tls(self.hospital.file, *self.hospital.certify("gw.example")),
        }

    def bench(self, route: dict[str, str], function: str = "live", **settings: Any) -> Bench:
        """A bench whose one function is encrypted; the receiver is the hospital's."""
        b = Bench(tls={function: route}, **settings)
        b.context.tls = lambda purpose: context(purpose, self.named)  # type: ignore[method-assign]
        if route.get("dial"):
            b.receiver.tls = self.hospital.of("central.example", serve=True)
        return b


@pytest.fixture
def hall(tmp_path: Path) -> Hall:
    return Hall(tmp_path)


@pytest.mark.parametrize(("function", "port"), [("live", LIVE), ("results", RESULTS), ("monitor-1/live", LIVE)])
async def test_both_sides_encrypted_with_certificates_of_their_own(hall: Hall, function: str, port: int) -> None:
    async with hall.bench(BOTH, function).running() as b:
        b.grant(2)
        s = await b.dial(port, tls=hall.ward.of("monitor-1"))
        for i in range(3):
            assert b"|AA|M%d" % i in await s.ask(oru(b"M%d" % i))
        await until(lambda: b.receiver.messages == [oru(b"M%d" % i) for i in range(3)], "byte for byte")
        by_address = await b.dial(port, tls=hall.ward.of("127.0.1.1"))
        assert b"|AA|" in await by_address.ask(oru(b"M9"))
        assert b.context.of(RouteChanged) == []


async def test_an_unencrypted_route_beside_an_encrypted_one(hall: Hall) -> None:
    async with hall.bench({"serve": "ward"}).running() as b:
        b.grant(2)
        s, plain = await b.dial(LIVE, tls=hall.ward.of("monitor-1")), await b.dial(RESULTS)
        assert b"|AA|" in await s.ask(oru()) and b"|AA|" in await plain.ask(oru())


async def refused(b: Bench, hall: Hall, tls: ssl.SSLContext) -> None:
    """A connection of monitor-1 that gets nowhere."""
    with nothing_relayed(b):
        try:
            s = await b.dial(LIVE, tls=tls)
            s.send(oru(b"BAD"))
            assert await s.closed()
        except (ssl.SSLError, ConnectionError):
            pass


async def test_a_wrong_certificate_of_the_device_is_refused_and_rings_until_the_right_one_comes(hall: Hall) -> None:
    anonymous = ssl.create_default_context(cafile=str(hall.ward.file))
    cases = {
        "certificate": hall.stranger.of("monitor-1", trusts=hall.ward),
        "certificate of monitor-2": hall.ward.of("monitor-2"),
        "certificate of 127.0.1.2": hall.ward.of("127.0.1.2"),
        "did not return a certificate": anonymous,
    }
    for said, tls in cases.items():
        async with hall.bench(BOTH).running() as b:
            b.grant(2)
            await refused(b, hall, tls)
            changed = await b.context.wait(RouteChanged)
            assert (changed.device_id, changed.function, changed.up) == ("monitor-1", "live", False)
            assert said in changed.detail and ("must name" in changed.detail or "[tls.ward]" in changed.detail)
            assert (await b.context.wait(Behaviour)).code == "tls-refused"
            s = await b.dial(tls=hall.ward.of("monitor-1"))
            assert b"|AA|" in await s.ask(oru())
            assert (await b.context.wait(RouteChanged, lambda e: e.up)).function == "live"


async def test_a_strangers_tries_harm_nobody_whose_messages_pass(hall: Hall) -> None:
    async with hall.bench(BOTH).running() as b:
        b.grant(2)
        s = await b.dial(tls=hall.ward.of("monitor-1"))
        assert b"|AA|" in await s.ask(oru(b"M0"))
        stranger = hall.stranger.of("monitor-1", trusts=hall.ward)
        for i in range(5):
            await refused(b, hall, stranger)
            assert b"|AA|" in await s.ask(oru(b"M%d" % (i + 1)))
        plain = await b.dial()
        plain.send(oru(b"PLAIN"))
        assert await plain.closed()
        assert b"|AA|" in await s.ask(oru(b"LAST"))
        assert b.context.of(RouteChanged) == []  # no alarm: the route works


@pytest.mark.parametrize(
    ("name", "words"),
    [("other.example", "Hostname mismatch"), ("stranger", "its certificate does not hold"), ("", "is there and speaks TLS")],
)
async def test_a_wrong_certificate_of_the_receiver_gets_nothing(hall: Hall, name: str, words: str) -> None:
    async with hall.bench(BOTH).running() as b:
        b.grant(2)
        await b.receiver.stop()
        right = b.receiver.tls
        b.receiver.tls = {
            "other.example": hall.hospital.of("other.example", serve=True),
            "stranger": hall.stranger.of("central.example", serve=True),
            "": None,  # it speaks no TLS at all
        }[name]
        await b.receiver.start()
        s = await b.dial(tls=hall.ward.of("monitor-1"))
        with nothing_relayed(b):
            assert b"|AE|M1|" in await s.ask(oru(), 8)
        changed = await b.context.wait(RouteChanged)
        assert not changed.up and words in changed.detail and "[tls.hospital]" in changed.detail
        await b.receiver.stop()
        b.receiver.tls = right
        await b.receiver.start()
        assert b"|AA|M2" in await s.ask(oru(b"M2"))
        await b.context.wait(RouteChanged, lambda e: e.up)


def refuse(port: int, tls: ssl.SSLContext) -> None:
    """A receiver that tells why, as most do (asyncio's do not): for some seconds."""
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(1.5)
        with contextlib.suppress(TimeoutError):
            while True:
                plain, _ = server.accept()
                plain.settimeout(1)
                with tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as refused:
                    with contextlib.suppress(ssl.SSLError):
                        refused.do_handshake()
                    connection = socket.socket(fileno=refused.detach())
                with connection, contextlib.suppress(OSError):  # a message left unread would reset it, and the alert with it
                    connection.settimeout(1)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_receiver_that_does_not_take_our_certificate(hall: Hall, says_so: bool) -> None:
    async with hall.bench(BOTH, "results").running() as b:
        b.grant(2)
        await b.receiver.stop()
        theirs = hall.hospital.of("central.example", serve=True, trusts=hall.stranger)
        b.receiver.tls = theirs
        if says_so:
            refusing = asyncio.create_task(asyncio.to_thread(refuse, b.receiver.port, theirs))
        else:
            await b.receiver.start()
        s = await b.dial(RESULTS, tls=hall.ward.of("monitor-1"))
        assert b"|AA|M1" in await s.ask(oru())  # it is stored
        changed = await b.context.wait(RouteChanged)
        assert not changed.up and ("ended TLS" if says_so else "answered nothing") in changed.detail
        assert "does it trust the certificate of [tls.hospital]" in changed.detail
        if says_so:
            await refusing
        assert b.context.journal.rows[0]["state"] == "waiting"
        await b.receiver.stop()
        b.receiver.tls = hall.hospital.of("central.example", serve=True)
        await b.receiver.start()
        await until(lambda: b.receiver.messages == [oru()], "delivered when it does", 15)
        await b.context.wait(RouteChanged, lambda e: e.up)


async def test_observed_it_passes_as_it_is_inside(hall: Hall) -> None:
    async with hall.bench(BOTH).running(device(state=DeviceState.OBSERVING)) as b:
        s = await b.dial(tls=hall.ward.of("monitor-1"))
        assert await s.ask(oru()) == b.receiver.answers[-1]
        await b.context.wait(EvidenceArrived)


async def test_toward_the_device(hall: Hall) -> None:
    async with hall.bench(
        {"serve": "ward", "dial": "hospital", "name": "pump.example", "client": "his.example"}, "settings"
    ).running() as b:
        await b.toward.stop()
        b.toward.tls = hall.hospital.of("pump.example", serve=True)
        await b.toward.start()
        b.grant(2)
        s = await b.dial(SETTINGS, tls=hall.ward.of("his.example"))
        assert b"|AA|" in await s.ask(order())
        assert b.toward.messages == [order()]
        with nothing_relayed(b), pytest.raises((ConnectionError, ssl.SSLError)):
            await (await b.dial(SETTINGS, tls=hall.ward.of("monitor-1"))).ask(order(b"O2"))


async def test_who_never_begins_tls_is_let_go_and_bounded(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.hl7.secure.HANDSHAKE_S", 0.5)
    monkeypatch.setattr("drivers.hl7.secure.MAX_HANDSHAKES", 3)
    async with hall.bench(BOTH).running() as b:
        b.grant(2)
        silent = [await b.dial() for _ in range(3)]
        await asyncio.sleep(0.1)
        assert await (await b.dial()).closed(0.3)
        assert all([await s.closed() for s in silent])
        assert b.driver._roster.links["monitor-1"].handshakes == 0
        s = await b.dial(tls=hall.ward.of("monitor-1"))
        assert b"|AA|" in await s.ask(oru())


async def test_a_configuration_that_cannot_work_is_told_with_the_file(hall: Hall, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    hall.named["broken"] = Tls(tmp_path / "empty.pem")
    for purpose, words in (("nowhere", "there is no [tls.nowhere]"), ("broken", "empty.pem")):
        async with hall.bench({"dial": purpose}).running() as b:
            b.grant(2)
            s = await b.dial()
            with nothing_relayed(b):
                assert b"|AE|" in await s.ask(oru())
            assert words in (await b.context.wait(RouteChanged)).detail
    with pytest.raises(ValueError, match="cert and key"):
        Tls(tmp_path / "ca.pem", serve=True)
    with pytest.raises(InputError, match="cannot be used"):
        context("x", {"x": Tls(tmp_path / "missing.pem")})
