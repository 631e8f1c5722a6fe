"""One certificate path: what a CA may do, until when, for which names; everything unknown is refused."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EvidenceError, MalformedError
from gateway.verifier.x509path import verify_path

AT = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass
class Issued:
    """A certificate and its key."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @property
    def der(self) -> bytes:
        return self.cert.public_bytes(Encoding.DER)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(
    subject: str,
    issuer: Issued | None = None,
    *,
    ca: bool | None = True,
    pathlen: int | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    sign_usage: bool | None = True,
    start: dt.datetime = AT - DAY,
    end: dt.datetime = AT + DAY,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    issuer_name: str | None = None,
) -> Issued:
    key = key or ec.generate_private_key(ec.SECP256R1())
    above = name(issuer_name) if issuer_name else issuer.cert.subject if issuer else name(subject)
    b = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(above).public_key(key.public_key())
    b = b.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
    if ca is not None:
        b = b.add_extension(x509.BasicConstraints(ca, pathlen), critical=True)
    if sign_usage is not None:
        flags = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = dict.fromkeys((*flags, "crl_sign", "encipher_only", "decipher_only"), False) | {"digital_signature": True}
        b = b.add_extension(x509.KeyUsage(**usage, key_cert_sign=bool(ca) and sign_usage), critical=True)
    for extension, critical in extensions:
        b = b.add_extension(extension, critical)
    return Issued(b.sign(issuer.key if issuer else key, hashes.SHA256()), key)


ROOT = issue("root")
SUB = issue("sub", ROOT, pathlen=0)
LEAF = issue("ak", SUB, ca=False)


def check(*chain: Issued, anchor: Issued = ROOT, at: dt.datetime = AT):
    return verify_path([c.der for c in chain], anchor.cert, at)


def test_a_path_gives_the_leafs_key() -> None:
    direct = issue("ak", ROOT, ca=False)
    for chain in (
        (LEAF, SUB),
        (LEAF, SUB, ROOT),
        (direct,),
        (direct, ROOT),
        (issue("ak", ROOT, ca=None, sign_usage=None),),
        (ROOT,),
    ):
        assert check(*chain) == chain[0].key.public_key()
    assert verify_path([LEAF.cert, SUB.cert], ROOT.der, AT) == LEAF.key.public_key()


def test_time() -> None:
    for at in (AT - 2 * DAY, AT + 2 * DAY):
        with pytest.raises(EvidenceError, match="valid from"):
            check(LEAF, SUB, at=at)
    old_sub = issue("sub", ROOT, end=AT - dt.timedelta(hours=1))
    with pytest.raises(EvidenceError, match="'CN=sub' is valid from"):
        check(issue("ak", old_sub, ca=False), old_sub)
    old_root = issue("root", end=AT - dt.timedelta(hours=1))
    with pytest.raises(EvidenceError, match="valid from"):
        check(issue("ak", old_root, ca=False), anchor=old_root)
    other_zone = AT.astimezone(dt.timezone(dt.timedelta(hours=5)))
    check(LEAF, SUB, at=other_zone)
    with pytest.raises(ValueError, match="aware"):
        check(LEAF, SUB, at=AT.replace(tzinfo=None))


def test_another_anchor_or_order() -> None:
    impostor = issue("root")
    with pytest.raises(EvidenceError, match="does not verify"):
        check(LEAF, SUB, anchor=impostor)
    with pytest.raises(EvidenceError, match="not issued by"):
        check(LEAF, anchor=ROOT)
    with pytest.raises(EvidenceError, match="not issued by"):
        check(SUB, LEAF)
    with pytest.raises(EvidenceError):
        check(LEAF, SUB, ROOT, anchor=impostor)


@pytest.mark.parametrize("more", [{"ca": False}, {"ca": None, "sign_usage": None}, {"sign_usage": False}])
def test_who_is_no_ca_issues_nothing(more: dict) -> None:
    middle = issue("middle", ROOT, **more)
    with pytest.raises(EvidenceError, match="not a CA"):
        check(issue("ak", middle, ca=False), middle)


def test_path_length() -> None:
    below = issue("below", SUB)
    with pytest.raises(EvidenceError, match="allows 0 CAs"):
        check(issue("ak", below, ca=False), below, SUB)
    chain = [issue("c0", ROOT)]
    for n in range(1, 7):
        chain.append(issue(f"c{n}", chain[-1]))
    with pytest.raises(MalformedError, match="path of 7"):
        check(*reversed(chain))
    with pytest.raises(MalformedError, match="path of 0"):
        check()


def test_an_unknown_critical_extension_is_refused() -> None:
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    for critical in (True, False):
        leaf = issue("ak", SUB, ca=False, extensions=((x509.UnrecognizedExtension(oid, b"\5\0"), critical),))
        if critical:
            with pytest.raises(EvidenceError, match="critical extension"):
                check(leaf, SUB)
        else:
            check(leaf, SUB)


def constrained(permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None = None) -> Issued:
    return issue("sub", ROOT, extensions=((x509.NameConstraints(permitted, excluded), True),))


@pytest.mark.parametrize(
    ("names", "good"),
    [
        (["gw1.ward.example"], True),
        (["ward.example", "A.B.WARD.EXAMPLE"], True),
        ([], True),
        (["evilward.example"], False),
        (["ward.example.evil"], False),
        (["gw1.ward.example", "other.example"], False),
        (["x.secret.ward.example"], False),
    ],
)
def test_dns_constraints(names: list[str], good: bool) -> None:
    sub = constrained([x509.DNSName("ward.example")], [x509.DNSName("secret.ward.example")])
    more = ((x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False),) if names else ()
    leaf = issue("gw", sub, ca=False, extensions=more)
    if good:
        check(leaf, sub)
    else:
        with pytest.raises(EvidenceError, match="outside"):
            check(leaf, sub)


def test_other_kinds_of_names_are_refused_under_a_constraint() -> None:
    import ipaddress

    sub = constrained([x509.DNSName("ward.example")])
    leaf = issue("gw", sub, ca=False, extensions=((x509.SubjectAlternativeName([x509.RFC822Name("a@b.example")]), False),))
    with pytest.raises(EvidenceError, match="no DNS name"):
        check(leaf, sub)
    check(issue("gw", SUB, ca=False, extensions=((x509.SubjectAlternativeName([x509.RFC822Name("a@b.example")]), False),)), SUB)
    by_address = constrained([x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))])
    with pytest.raises(EvidenceError, match="other than DNS"):
        check(issue("gw", by_address, ca=False), by_address)


def test_weak_and_strange_keys() -> None:
    check(issue("ak", ROOT, ca=False, key=rsa.generate_private_key(65537, 2048)))
    weak = issue("ak", ROOT, ca=False, key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - that it is weak is the test
    with pytest.raises(EvidenceError, match="weak"):
        check(weak)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_changed_byte_fails(mask: int) -> None:
    good = LEAF.der
    for at in range(len(good)):
        bad = good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :]
        with pytest.raises(EvidenceError):
            verify_path([bad, SUB.der], ROOT.cert, AT)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_changed_byte_of_a_ca_fails(mask: int) -> None:
    good = SUB.der
    for at in range(len(good)):
        with pytest.raises(EvidenceError):
            verify_path([LEAF.der, good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :]], ROOT.cert, AT)


def test_a_second_form_of_a_signature_is_refused() -> None:
    """ASN.1 counts unused bits in a signature's last octet; where that octet is even, 1 would be read as the same signature."""
    leaf = LEAF
    while leaf.cert.signature[-1] & 1:
        leaf = issue("ak", SUB, ca=False)
    at = len(leaf.der) - len(leaf.cert.signature) - 1
    assert leaf.der[at] == 0
    with pytest.raises(MalformedError):
        verify_path([leaf.der[:at] + b"\1" + leaf.der[at + 1 :], SUB.der], ROOT.cert, AT)


@given(st.binary(max_size=400), st.integers(0, 900), st.integers(0, 30))
def test_garbage_raises_evidence_errors_only(garbage: bytes, at: int, cut: int) -> None:
    for der in (garbage, LEAF.der[:at] + garbage + LEAF.der[at + cut :], b"\x30\x82\x50\x00" + bytes(0x5000)):
        if der == LEAF.der:
            continue
        with pytest.raises(EvidenceError):
            verify_path([der, SUB.der], ROOT.cert, AT)
