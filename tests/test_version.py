"""Which version runs: the installer's folder names it; a checkout is its release."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gateway

ROOT = Path(__file__).parents[1]


def test_the_release_is_that_of_the_package() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == gateway.RELEASE


def test_a_checkout_is_its_release() -> None:
    assert gateway.__version__ == gateway.RELEASE
    assert gateway.version_in(Path("/opt/wardgate/elsewhere/7.1.0-0a1b2c3d")) == gateway.RELEASE
    assert gateway.version_in(Path("/opt/wardgate/versions")) == gateway.RELEASE


@pytest.mark.rig
def test_an_installed_version_says_which_also_after_the_next_one_took_over() -> None:
    """A mount namespace of its own, with an interpreter where the installer puts it."""
    versions, python = "/opt/wardgate/versions", f"{sys.executable} -I -m venv --without-pip"
    ask = "import sys; sys.path.insert(0, sys.argv[1]); import os; os.chdir('/')\n"
    ask += "import gateway; before = gateway.__version__; os.unlink('/opt/wardgate/current')\n"
    ask += "os.symlink('versions/7.2.0-00000000', '/opt/wardgate/current'); print(before, gateway.__version__)"
    script = (
        f"mount -t tmpfs none /opt && mkdir -p {versions} && {python} {versions}/7.1.0-0a1b2c3d\n"
        'ln -s versions/7.1.0-0a1b2c3d /opt/wardgate/current && /opt/wardgate/current/bin/python -I -c "$1" "$2"\n'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script, "sh", ask, str(ROOT)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("7.1.0-0a1b2c3d 7.1.0-0a1b2c3d\n", "")
