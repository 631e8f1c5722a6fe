"""One bare root and the offline files of a few versions, made once a session; a booted machine for each test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def _make(folder: Path) -> Files:
    """Made by image/pack, as a person makes them; the first fetches what the others take too."""
    key = folder / "key.pem"
    assert pack(ROOT, "--new-key", str(key)).returncode == 0
    trees = [copy_tree(folder / name) for name in ("first", "second", "broken")]
    version(trees[0], "7.0.0")
    version(trees[1], "7.0.1")
    change(trees[1], "gateway/status.py", r"\A", "# another daemon\n")
    version(trees[2], "7.0.2")
    change(trees[2], "gateway/app.py", r"^def serve\(.*$", r'\g<0>\n    raise RuntimeError("broken on purpose")')

    def make(at: int) -> Path:
        out = folder / f"{trees[at].name}.wardgate"
        options = ("--key", str(key), "--out", str(out), "--inputs", str(folder / "inputs"), "--suite", SUITE)
        done = pack(trees[at], *options, built=1_700_000_000 + at)
        assert done.returncode == 0, done.stdout + done.stderr
        return out

    first = make(0)
    with ThreadPoolExecutor(2) as both:
        return Files(first, *both.map(make, (1, 2)), key.with_name("key.pem.pub"))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Files]:
    """A bare Debian 12 as an archive, and the files; both wait for the network most of the time, so together."""
    archive = tmp_path_factory.mktemp("bare") / f"{SUITE}.tar"
    with ThreadPoolExecutor(2) as both:
        root, files = both.submit(bare_root, SUITE, archive), both.submit(_make, tmp_path_factory.mktemp("pack"))
        root.result()
        return archive, files.result()


@pytest.fixture(scope="session")
def bookworm(made: tuple[Path, Files]) -> Path:
    return made[0]


@pytest.fixture(scope="session")
def files(made: tuple[Path, Files]) -> Files:
    return made[1]


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
