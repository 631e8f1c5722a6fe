"""``wardgate policy check`` and ``import-mud`` as they are typed: exit codes, all mistakes at once, who signed."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from gateway import mud_signature
from gateway.cli import run
from gateway.errors import EvidenceError, InputError, MalformedError, UnavailableError
from gateway.mud_signature import verify_signature
from tests.policy.test_mud import OUT, ace, mud, tcp

TOP = Path(__file__).resolve().parents[1]
NOW = datetime.now(UTC)
CONTENT = json.dumps(mud([ace("out", ipv4=OUT, tcp=tcp("destination", 443))])).encode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "wardgate.toml"
    path.write_text('[peers]\nclients = ["10.77.0.100"]\ncentral = ["10.77.0.100", "fd77::100"]\n"a.example" = ["10.77.0.9"]\n')
    return path


def wardgate(config: Path, *argv: object) -> int:
    return run(["--config", str(config), *map(str, argv)])


def test_good_profiles_pass_with_their_tests(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wardgate(config, "policy", "check", TOP / "image/profiles/infusion-pump.toml") == 0
    assert "stopping passes at any level: passes at level 0" in capsys.readouterr().out


def test_a_test_that_fails_is_exit_1(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (TOP / "image/profiles/infusion-pump.toml").read_text().replace("values = [0] # stop", "values = [1]")
    bad = tmp_path / "p.toml"
    bad.write_text(text)
    assert wardgate(config, "policy", "check", bad) == 1
    assert "NO  stopping passes at any level: is refused at level 0" in capsys.readouterr().out


def test_all_mistakes_of_all_files_at_once(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"a.toml": 'id = "a"\n', "b.toml": "= 1", "c.json": "{}", "d.json": json.dumps(mud([ace("odd", eth={})]))}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    good = TOP / "image/profiles/heart-rate-patch.toml"
    argv = [tmp_path / n for n in files] + [good, good, tmp_path / "missing.toml"]
    assert wardgate(config, "policy", "check", *argv) == 2
    said = capsys.readouterr().err
    for words in (
        "a.toml: bus",
        "a.toml: function",
        "b.toml",
        "c.json: ietf-mud:mud",
        "from/odd",
        "is also the id",
        "missing.toml",
    ):
        assert words in said, words
    assert "Traceback" not in said and said.count("\n") == 1
    assert wardgate(config, "policy", "check") == 2


def test_an_import_is_a_draft_that_is_refused_until_it_is_finished(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.json").write_bytes(CONTENT)
    assert wardgate(config, "policy", "import-mud", tmp_path / "m.json") == 0
    said = capsys.readouterr()
    assert said.err.startswith("UNSIGNED:")
    draft = tmp_path / "draft.toml"
    draft.write_text(said.out)
    assert wardgate(config, "policy", "check", draft) == 2
    assert "on_loss" in capsys.readouterr().err
    finished = said.out.replace("# bus = ", 'bus = "modbus"').replace("# clinical_class = ", 'clinical_class = "IIa"')
    finished = finished.replace("# required = ", "required = 2").replace("# on_loss = ", 'on_loss = "cut"')
    target = '[[target]]\nname="c"\nmedia_type="application/vnd.wardgate.modbus+cbor"\nevidence_class="fingerprint"\nobjects=[0]'
    draft.write_text(finished.replace("# [[target]]", target))
    assert wardgate(config, "policy", "check", draft) == 0
    capsys.readouterr()
    assert wardgate(config, "--json", "policy", "import-mud", tmp_path / "m.json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["unsigned"] and document["peers"] == ["a.example"] and document["draft"] == said.out


def test_only_root_sees_the_kernel(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert wardgate(config, "policy", "check", "--live") == 2
    assert "only root" in capsys.readouterr().err
    assert wardgate(config, "policy", "confirm") == 2
    assert "operator" in capsys.readouterr().err


# --- signatures ---


class Maker:
    """A CA, an intermediate and a signer, as a maker has them."""

    def __init__(self, *, days: int = 30, usage: bool = True) -> None:
        self.ca, ca_key = self._make("Root", None, ca=True)
        self.sub, sub_key = self._make("Sub", (self.ca, ca_key), ca=True)
        self.signer, self.key = self._make("MUD signer", (self.sub, sub_key), ca=False, days=days, signs=usage)

    @staticmethod
    def _make(
        name: str, by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, *, ca: bool, days: int = 30, signs: bool = True
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(signs and not ca, False, not signs, False, False, ca, ca, False, False)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(by[0].subject if by else subject)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=60)).not_valid_after(NOW + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, None), critical=True).add_extension(usage, critical=True)
        )  # fmt: skip
        return builder.sign(by[1] if by else key, hashes.SHA256()), key

    def sign(self, content: bytes) -> bytes:
        builder = pkcs7.PKCS7SignatureBuilder().set_data(content).add_signer(self.signer, self.key, hashes.SHA256())
        options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.NoCapabilities]
        return builder.add_certificate(self.sub).sign(Encoding.DER, options)

    @property
    def pem(self) -> bytes:
        return self.ca.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def maker() -> Maker:
    assert shutil.which("openssl"), "apt install openssl: the product needs it for this too"
    return Maker()


def test_a_signed_file_names_its_signer(maker: Maker, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_signature(CONTENT, maker.sign(CONTENT), maker.pem, NOW) == "CN=MUD signer"
    for name, data in (("m.json", CONTENT), ("m.p7s", maker.sign(CONTENT)), ("ca.pem", maker.pem)):
        (tmp_path / name).write_bytes(data)
    signed = ["--signature", tmp_path / "m.p7s", "--ca", tmp_path / "ca.pem"]
    assert wardgate(config, "policy", "import-mud", tmp_path / "m.json", *signed) == 0
    assert "# Signature: signed by CN=MUD signer" in capsys.readouterr().out
    (tmp_path / "m.json").write_bytes(CONTENT + b" ")
    assert wardgate(config, "policy", "import-mud", tmp_path / "m.json", *signed) == 1
    said = capsys.readouterr()
    assert not said.out and "does not belong" in said.err
    assert wardgate(config, "policy", "import-mud", tmp_path / "m.json", *signed[:2]) == 2


def test_a_signature_that_does_not_hold_is_refused(maker: Maker) -> None:
    good = maker.sign(CONTENT)
    with pytest.raises(EvidenceError, match="does not belong"):
        verify_signature(CONTENT + b" ", good, maker.pem, NOW)
    with pytest.raises(EvidenceError, match="does not lead to the CA"):
        verify_signature(CONTENT, good, Maker().pem, NOW)
    with pytest.raises(EvidenceError, match="ended on"):
        verify_signature(CONTENT, good, maker.pem, NOW + timedelta(days=31))
    with pytest.raises(EvidenceError, match="not for signatures"):
        wrong = Maker(usage=False)
        verify_signature(CONTENT, wrong.sign(CONTENT), wrong.pem, NOW)
    with pytest.raises(InputError, match="CA file"):
        verify_signature(CONTENT, good, b"no certificate", NOW)
    with pytest.raises(MalformedError):
        verify_signature(CONTENT, b"\x30" * 70_000, maker.pem, NOW)
    for broken in (b"", b"\x30\x80", good[:-1], good[: len(good) // 2]):
        with pytest.raises(EvidenceError):
            verify_signature(CONTENT, broken, maker.pem, NOW)


def test_without_openssl_it_says_so(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(mud_signature.subprocess, "run", missing)
    with pytest.raises(UnavailableError, match="openssl"):
        verify_signature(CONTENT, maker.sign(CONTENT), maker.pem, NOW)
