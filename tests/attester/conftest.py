"""A real TPM for each test: one swtpm is made a session, its state copied for each test and powered on."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gateway.attester.attester import Attester, provision
from gateway.attester.tpm import Tpm
from hil.tpm import Swtpm, free_ports


@pytest.fixture(scope="session")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TPM as it leaves the factory, never powered on since."""
    directory = tmp_path_factory.mktemp("chip")
    Swtpm(directory, 0, log_dir=directory).manufacture()
    return directory


@pytest.fixture(scope="session")
def other_chip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TPM of another maker."""
    directory = tmp_path_factory.mktemp("other-chip")
    Swtpm(directory, 0, log_dir=directory).manufacture()
    return directory


@pytest.fixture
def insert(tmp_path: Path) -> Iterator[Callable[[Path], Swtpm]]:
    """Powers on a copy of a chip."""
    made: list[Swtpm] = []

    def power_on(chip: Path) -> Swtpm:
        directory = tmp_path / f"tpm{len(made)}"
        shutil.copytree(chip, directory)
        swtpm = Swtpm(directory, free_ports(), log_dir=directory)
        made.append(swtpm)
        swtpm.power_on()
        return swtpm

    yield power_on
    for swtpm in made:
        swtpm.kill()


@pytest.fixture
def swtpm(insert: Callable[[Path], Swtpm], chip: Path) -> Swtpm:
    """A TPM that is on and belongs to nobody."""
    return insert(chip)


@pytest.fixture
async def tpm(swtpm: Swtpm) -> AsyncIterator[Tpm]:
    """The way to it."""
    made = Tpm(swtpm.tcti)
    yield made
    await made.close()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where the gateway remembers."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
async def attester(tpm: Tpm, state_dir: Path) -> Attester:
    """A provisioned gateway's attester."""
    await provision(tpm, state_dir, "gw-1")
    return Attester(tpm, state_dir)
