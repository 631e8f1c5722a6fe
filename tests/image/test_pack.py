"""image/pack: keys stay outside, the same inputs give the same bytes, and its own file is believed by the installer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.image.conftest import SUITE, Files, pack
from tests.image.machine import ROOT

pytestmark = [pytest.mark.rig, pytest.mark.timeout(600)]


def test_a_key_is_private_and_never_in_the_repository(tmp_path: Path) -> None:
    key = tmp_path / "k.pem"
    assert pack(ROOT, "--new-key", str(key)).returncode == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PUBLIC" in key.with_name("k.pem.pub").read_text()
    assert pack(ROOT, "--new-key", str(key)).returncode == 1  # not overwritten
    inside = pack(ROOT, "--new-key", str(ROOT / "image/key.pem"))
    assert "does not belong" in inside.stderr
    assert not (ROOT / "image/key.pem").exists()
    assert "Ed25519" in pack(ROOT, "--key", str(_rsa(tmp_path))).stderr
    assert pack(ROOT, "--key", str(tmp_path / "none")).stderr.startswith("wardgate: there is no key")


def _rsa(folder: Path) -> Path:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = folder / "rsa.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def test_the_same_inputs_give_the_same_bytes(files: Files, tmp_path: Path) -> None:
    """Another folder, another moment, other file times: the same file; one changed character: another version."""
    tree = shutil.copytree(files.key.parent / "first", tmp_path / "again", copy_function=shutil.copy)  # file times are new
    key = files.key.with_name("key.pem")
    options = ("--key", str(key), "--inputs", str(files.key.parent / "inputs"), "--suite", SUITE, "--out")
    out = tmp_path / "again.wardgate"
    done = pack(tree, *options, str(out))
    assert done.returncode == 0, done.stderr
    assert "fetching" not in done.stdout
    assert out.read_bytes() == files.first.read_bytes()
    assert files.first.read_bytes() != files.second.read_bytes()
