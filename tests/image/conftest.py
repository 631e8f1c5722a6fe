"""One bare root and the offline files of a few versions, made once a session; a booted machine for each test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.image.machine import ROOT, Machine, bare_root

SUITE = "bookworm"


@dataclass(frozen=True, slots=True)
class Files:
    """Offline files of three versions, signed by one key: in ``second`` the daemon changed, in ``broken`` it does not start."""

    first: Path
    second: Path
    broken: Path
    key: Path


def copy_tree(to: Path) -> Path:
    """The sources as they are in this checkout."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, timeout=30, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name.startswith(("gateway/", "drivers/", "systemd/", "image/")) or name in ("pyproject.toml", "README.md", "LICENSE"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def change(tree: Path, name: str, pattern: str, by: str) -> None:
    """Replace in one file; a pattern that is not there is a mistake of the test."""
    text, count = re.subn(pattern, by, (tree / name).read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    (tree / name).write_text(text)


def version(tree: Path, number: str) -> None:
    change(tree, "pyproject.toml", r'^version = ".*"', f'version = "{number}"')


def pack(tree: Path, *options: str, built: int = 1_700_000_000) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(built)}
    return subprocess.run(
        [str(tree / "image/pack"), *options], capture_output=True, text=True, timeout=400, check=False, env=environment
    )


@pytest.fixture(scope="session")
def bookworm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare Debian 12 as an archive."""
    archive = tmp_path_factory.mktemp("bare") / f"{SUITE}.tar"
    bare_root(SUITE, archive)
    return archive


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Made by image/pack, as a person makes them."""
    folder = tmp_path_factory.mktemp("pack")
    key, made = folder / "key.pem", []
    trees = [copy_tree(folder / name) for name in ("first", "second", "broken")]
    version(trees[0], "7.0.0")
    version(trees[1], "7.0.1")
    change(trees[1], "gateway/status.py", r"\A", "# another daemon\n")
    version(trees[2], "7.0.2")
    change(trees[2], "gateway/app.py", r"^def serve\(.*$", r'\g<0>\n    raise RuntimeError("broken on purpose")')
    assert pack(trees[0], "--new-key", str(key)).returncode == 0
    for at, tree in enumerate(trees):
        out = folder / f"{tree.name}.wardgate"
        options = ("--key", str(key), "--out", str(out), "--inputs", str(folder / "inputs"), "--suite", SUITE)
        done = pack(tree, *options, built=1_700_000_000 + at)
        assert done.returncode == 0, done.stdout + done.stderr
        made.append(out)
    return Files(*made, key.with_name("key.pem.pub"))


@pytest.fixture
def machine(bookworm: Path, tmp_path: Path) -> Iterator[Callable[[], Machine]]:
    """Makes and boots machines; they are destroyed at the end."""
    made: list[Machine] = []

    def boot() -> Machine:
        folder = tmp_path / f"machine{len(made)}"
        folder.mkdir()
        one = Machine(folder, bookworm, f"im{os.getpid()}-{len(made)}")
        made.append(one)
        one.boot()
        return one

    yield boot
    for one in made:
        one.destroy()
