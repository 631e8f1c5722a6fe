"""A relying party installs the core alone (cryptography and cbor2, no compiler) and checks a bundle that a gateway issued."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from gateway.model.instant import NS_PER_S
from tests.certificates import Issuer
from tests.fakes.quote import NOW
from tests.issuer.verdicts import verdict

ROOT = Path(__file__).parents[1]
AT = datetime.fromtimestamp(NOW.timestamp() + 30, tz=UTC).isoformat().replace("+00:00", "Z")


def _run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=170, cwd=cwd)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with `pip install .` from a copy of the tracked sources: what a stranger has."""
    folder = tmp_path_factory.mktemp("core")
    names = _run("git", "ls-files", "-z", "--", "pyproject.toml", "README.md", "LICENSE", "gateway", "drivers", cwd=ROOT)
    assert names.returncode == 0, names.stderr
    for name in filter(None, names.stdout.split("\0")):
        source, target = ROOT / name, folder / "source" / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    assert _run(sys.executable, "-m", "venv", folder / "venv").returncode == 0
    done = _run(folder / "venv/bin/python", "-m", "pip", "install", "-q", "-q", "--no-input", folder / "source")
    assert done.returncode == 0, done.stderr
    return folder / "venv/bin"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for pump-1 and the anchor it hangs from."""
    folder = tmp_path_factory.mktemp("bundle")
    issuer = Issuer()
    (folder / "pump-1.bundle").write_bytes(issuer.bundles(verdict("pump-1"), verdict("patch-1"))["pump-1"])
    (folder / "anchor.pem").write_bytes(issuer.ca.certificate.public_bytes(serialization.Encoding.PEM))
    return folder


def test_the_core_needs_two_packages_and_no_compiler(core: Path) -> None:
    listed = json.loads(_run(core / "python", "-m", "pip", "list", "--format=json").stdout)
    names = {p["name"].lower().replace("_", "-") for p in listed} - {"pip", "setuptools", "wheel"}
    assert names <= {"wardgate", "cryptography", "cbor2", "cffi", "pycparser", "typing-extensions"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [d.split(">")[0] for d in project["dependencies"]] == ["cryptography", "cbor2"]


def test_importing_the_relying_party_is_cheap_and_touches_nothing_else(core: Path) -> None:
    code = "import sys, gateway.relying; print(sorted(m for m in sys.modules if m.startswith(('gateway.', 'drivers', 'asyncio'))))"
    done = _run(core / "python", "-c", code)
    assert done.returncode == 0, done.stderr
    for name in ("asyncio", "drivers", "gateway.store", "gateway.engine", "gateway.attester", "gateway.web"):
        assert name not in done.stdout


def test_help_of_every_command_works_without_the_appliance(core: Path) -> None:
    for command in ([], ["verify"], ["run"], ["check"]):
        done = _run(core / "wardgate", *command, "--help")
        assert done.returncode == 0, done.stderr


def test_a_bundle_verifies_and_says_what_it_proves(core: Path, files: Path) -> None:
    done = _run(core / "wardgate", "verify", files / "pump-1.bundle", "--anchor", files / "anchor.pem", "--at", AT)
    assert done.returncode == 0, done.stderr
    assert "pump-1" in done.stdout
    as_json = _run(core / "wardgate", "verify", files / "pump-1.bundle", "--anchor", files / "anchor.pem", "--at", AT, "--json")
    document = json.loads(as_json.stdout)
    assert document["device"] == "pump-1"
    assert document["level"] == 3


def test_any_change_makes_it_fail_without_a_traceback(core: Path, files: Path, tmp_path: Path) -> None:
    good = (files / "pump-1.bundle").read_bytes()
    places = range(0, len(good), max(1, len(good) // 6))
    changed = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in places] + [good[:-1], good + b"\0", b""]
    bad = tmp_path / "bad.bundle"
    for data in changed:
        bad.write_bytes(data)
        done = _run(core / "wardgate", "verify", bad, "--anchor", files / "anchor.pem", "--at", AT)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("wardgate: ")
        assert "; " in done.stderr
        assert "Traceback" not in done.stderr


def test_too_late_or_another_anchor_fails(core: Path, files: Path, tmp_path: Path) -> None:
    late = datetime.fromtimestamp(verdict().expires_utc_ns / NS_PER_S + 1, tz=UTC).isoformat().replace("+00:00", "Z")
    bundle = files / "pump-1.bundle"
    assert _run(core / "wardgate", "verify", bundle, "--anchor", files / "anchor.pem", "--at", late).returncode == 1
    (tmp_path / "other.pem").write_bytes(Issuer().ca.certificate.public_bytes(serialization.Encoding.PEM))
    done = _run(core / "wardgate", "verify", bundle, "--anchor", tmp_path / "other.pem", "--at", AT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_command_that_needs_the_appliance_says_what_to_install(core: Path, tmp_path: Path) -> None:
    config = tmp_path / "wardgate.toml"
    config.write_text("[gateway]\nid = 'gw'\n")
    done = _run(core / "wardgate", "--config", config, "run")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "wardgate[appliance]" in done.stderr
