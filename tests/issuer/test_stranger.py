from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.exceptions import InvalidSignature

from gateway.model.evidence import TrustVector
from tests.certificates import Issuer
from tests.fakes.quote import NOW
from tests.issuer import stranger
from tests.issuer.verdicts import verdict

ISSUER = Issuer()
AT = NOW + timedelta(seconds=60)


def test_a_verifier_written_from_the_readme_takes_our_bundles() -> None:
    for n in (1, 2, 3, 6):
        for device, data in ISSUER.bundles(*(verdict(f"pump-{i}") for i in range(n))).items():
            said = stranger.check(data, ISSUER.ca.pem, AT)
            assert (said[1], said[3], said[5]) == (device, 3, {0: 2, 2: 3, 4: 2})
    bare = ISSUER.bundles(verdict(vector=TrustVector(), functions=()))["pump-1"]
    assert stranger.check(bare, ISSUER.ca.pem, AT)[5] == {}


def test_and_refuses_what_was_changed() -> None:
    data = ISSUER.bundles(verdict(), verdict("other"))["pump-1"]
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(Exception):  # noqa: B017 - a stranger's parser may fail in any way; only success is a fault
            stranger.check(bytes(broken), ISSUER.ca.pem, AT)


def test_and_knows_its_anchor_and_the_time() -> None:
    data = ISSUER.bundles(verdict())["pump-1"]
    with pytest.raises(ValueError, match="expired"):
        stranger.check(data, ISSUER.ca.pem, AT + timedelta(minutes=10))
    with pytest.raises(InvalidSignature):
        stranger.check(data, Issuer().ca.pem, AT)
