"""Bad offline files: refused with one line that says why, before anything in them is unpacked or runs; nothing changes."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.image.forge import Forgery, plain, public_pem
from tests.image.machine import ROOT, tree_of

KEY, FOREIGN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


class Target:
    """A mounted root with an appliance's folders, in which the maker's key is trusted."""

    def __init__(self, folder: Path) -> None:
        self.root, self.file, self.marker = folder / "root", folder / "file.wardgate", folder / "it-ran"
        (self.root / "opt").mkdir(parents=True)
        (self.root / "etc/wardgate").mkdir(parents=True)
        public_pem(KEY, self.pinned)

    @property
    def pinned(self) -> Path:
        return self.root / "etc/wardgate/release-key.pem"

    def install(self, content: bytes | None = None, *options: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        if content is not None:
            self.file.write_bytes(content)
        environment = {**os.environ, "WARDGATE_ROOT": str(self.root)} | ({"PATH": path} if path else {})
        command = [str(ROOT / "image/install"), "--from", str(self.file), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

    def refuses(self, content: bytes | None, why: str, *options: str, path: str | None = None) -> None:
        before = tree_of(self.root)
        done = self.install(content, *options, path=path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.startswith("wardgate: "), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "; " in done.stderr  # what, and what to do
        assert why in done.stderr
        assert tree_of(self.root) == before
        assert not self.marker.exists()
        assert not list(self.root.parent.glob("escaped*"))

    def has_installed(self, version: str, built: int) -> None:
        share = self.root / f"opt/wardgate/versions/{version}/share"
        share.mkdir(parents=True)
        (share / "complete").touch()
        (share / "built").write_text(f"{built}\n")
        (self.root / "opt/wardgate/current").symlink_to(f"versions/{version}")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path)


def test_a_whole_file_is_believed_and_its_installer_runs(target: Target) -> None:
    content = plain(KEY, target.marker).bytes()
    checked = target.install(content, "--check")
    assert checked.returncode == 0, checked.stderr
    assert "is whole: version 8.0.0-00000000" in checked.stdout
    assert not target.marker.exists()
    assert target.install(content).returncode == 0
    assert target.marker.read_text().startswith("--unpacked /")
    assert not list(target.root.glob("opt/wardgate*"))  # what was unpacked is gone again


def test_any_changed_byte_is_refused(target: Target) -> None:
    """The first line, and some everywhere: the list, the archive's headers, its content, its padding."""
    content = plain(KEY, target.marker).bytes()
    line = content.index(b"\n") + 1
    chance = random.Random(7)
    spots = [*range(0, line, 11), line - 1, line, len(content) - 1, *sorted(chance.sample(range(line, len(content)), 25))]
    before = tree_of(target.root)
    for at in spots:
        changed = bytearray(content)
        changed[at] ^= 1 << chance.randrange(8)
        done = target.install(bytes(changed), "--check")
        assert done.returncode == 1, f"byte {at} of {len(content)} may be changed"
        assert done.stderr.startswith("wardgate: "), (at, done.stderr)
    assert tree_of(target.root) == before


@pytest.mark.parametrize("left", [0, 1, 19, 100, 151, 400, 900, -1, -513])
def test_a_file_cut_short_is_refused(target: Target, left: int) -> None:
    content = plain(KEY, target.marker).bytes()
    target.refuses(content[:left], "")


def test_a_byte_more_is_refused(target: Target) -> None:
    target.refuses(plain(KEY, target.marker).bytes() + b"\0", "longer than what was signed")


def test_a_foreign_key_is_refused(target: Target, tmp_path: Path) -> None:
    foreign = plain(FOREIGN, target.marker)
    target.refuses(foreign.bytes(), "another key")
    foreign.says["key"] = KEY.public_key().public_bytes_raw().hex()  # it claims to be the maker's
    target.refuses(foreign.bytes(), "signature")
    other = public_pem(FOREIGN, tmp_path / "other.pem")
    target.refuses(plain(FOREIGN, target.marker).bytes(), "trusted here since the first", "--key", str(other))
    target.pinned.unlink()
    target.refuses(plain(KEY, target.marker).bytes(), "another key", "--key", str(other))
    target.refuses(plain(KEY, target.marker).bytes(), "no Ed25519 public key", "--key", str(ROOT / "README.md"))


def test_a_first_key_is_trusted_aloud(target: Target) -> None:
    target.pinned.unlink()
    done = target.install(plain(KEY, target.marker).bytes())
    assert done.returncode == 0
    assert "is trusted from now on" in done.stdout


def _escape(name: str) -> Callable[[Forgery], Forgery]:
    return lambda f: f.add(name, b"x")


BAD: dict[str, tuple[str, Callable[[Forgery], Forgery]]] = {
    "up": ("outside its own folder", _escape("../escaped")),
    "up-later": ("outside its own folder", _escape("tree/../../escaped")),
    "absolute": ("outside its own folder", _escape("/tmp/escaped")),
    "hidden": ("outside its own folder", _escape("tree/.profile")),
    "option": ("outside its own folder", _escape("--checkpoint-action=exec=sh")),
    "newline": ("no proper list", _escape("tree/a\nb")),
    "unlisted": ("other files than its list", lambda f: f.add("tree/more", b"x", listed=False)),
    "twice": ("other files than its list", lambda f: f.add("wheels/a.whl", b"other", listed=False)),
    "symbolic-link": ("no plain file", lambda f: f.add("tree/link", b"", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "hard-link": ("no plain file", lambda f: f.add("tree/link", b"", kind=tarfile.LNKTYPE, link="debs/Packages")),
    "device": ("no plain file", lambda f: f.add("tree/device", b"", kind=tarfile.CHRTYPE)),
    "folder": ("other files than its list", lambda f: f.add("tree/folder", b"", kind=tarfile.DIRTYPE)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_reaches_out_is_refused_though_signed(target: Target, name: str) -> None:
    why, spoil = BAD[name]
    target.refuses(spoil(plain(KEY, target.marker)).bytes(), why)


def test_a_listed_file_that_is_not_there_or_is_another(target: Target) -> None:
    missing = plain(KEY, target.marker)
    missing.listed.append(("tree/absent", b""))
    target.refuses(missing.bytes(), "other files than its list")
    other = plain(KEY, target.marker)
    other.listed[-1] = (other.listed[-1][0], b"not this")
    target.refuses(other.bytes(), "not what was signed")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ({"architecture": "riscv64"}, "this machine is"),
        ({"debian": "sarge"}, "this machine is"),
        ({"payload": "none"}, "no proper list"),
        ({"version": "../../etc"}, "names no version"),
        ({"built": "soon"}, "when it was built"),
        ({"key": "00"}, "names no key"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(target: Target, says: dict[str, str], why: str) -> None:
    forgery = plain(KEY, target.marker)
    forgery.says |= says
    target.refuses(forgery.bytes(), why)


@pytest.mark.parametrize(("version", "built"), [("8.0.1-aaaaaaaa", 1), ("10.0.0-aaaaaaaa", 1), ("8.0.0-aaaaaaaa", 1_700_000_001)])
def test_an_older_version_is_refused_unless_it_is_meant(target: Target, version: str, built: int) -> None:
    target.has_installed(version, built)
    content = plain(KEY, target.marker).bytes()
    target.refuses(content, f"older than {version}")
    assert target.install(content, "--allow-downgrade").returncode == 0
    assert target.marker.exists()


def test_what_is_no_offline_file(target: Target, tmp_path: Path) -> None:
    target.refuses(None, "there is no file")
    target.refuses(random.Random(1).randbytes(5000), "no offline file")
    target.refuses(b"wardgate-offline-1 9999999 " + b"0" * 128 + b"\n", "")
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin", "/usr/sbin"):
        for tool in Path(folder).iterdir():
            if tool.name != "openssl" and not (tools / tool.name).exists():
                (tools / tool.name).symlink_to(tool)
    target.refuses(plain(KEY, target.marker).bytes(), "openssl is missing", path=str(tools))
