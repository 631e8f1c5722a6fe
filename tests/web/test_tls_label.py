"""The page's own certificate, and the label with the claim code."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.errors import InputError
from gateway.web.label import claim_label, claim_url
from gateway.web.tls import self_signed


def test_the_certificate_is_one_that_browsers_take() -> None:
    now = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
    key_pem, pem, spki = self_signed(["wardgate.local", "10.78.0.2", "fd77::1"], now)
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["wardgate.local"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.78.0.2"), ipaddress.ip_address("fd77::1")]
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts == datetime.timedelta(days=397)
    assert certificate.not_valid_before_utc < now
    key = load_pem_private_key(key_pem, None)
    assert key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki
    certificate.verify_directly_issued_by(certificate)
    assert self_signed(["a"])[0] != self_signed(["a"])[0]


@pytest.mark.parametrize(("names", "days"), [([], 397), (["wärd"], 397), (["a"], 398), (["a"], 0)])
def test_what_no_certificate_can_be_is_refused(names: list[str], days: int) -> None:
    with pytest.raises(InputError):
        self_signed(names, days=days)


def test_the_claim_code_travels_where_no_server_log_sees_it() -> None:
    assert claim_url("https://10.78.0.2:8443/", "ABCD-EFGH") == "https://10.78.0.2:8443/claim#ABCD-EFGH"


def test_the_label_is_text_for_a_terminal_and_svg_for_a_printer() -> None:
    label = claim_label("https://10.78.0.2:8443", "ABCD-EFGH")
    assert "Claim code: ABCD-EFGH" in label
    assert "█" in label
    svg = claim_label("https://10.78.0.2:8443", "ABCD-EFGH", "svg")
    assert svg.startswith("<svg")
    assert "ABCD-EFGH" in svg
    for url in ("http://10.78.0.2", "https://" + "a" * 300):
        with pytest.raises(InputError):
            claim_label(url, "ABCD-EFGH")
