"""What the command line asks and says: a password where nobody can be asked, a difference as the page says it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli_device import _difference
from gateway.cli_words import password_of
from gateway.errors import InputError
from gateway.model.sheet import DifferenceRow
from gateway.web.telling import change_of

TOP = Path(__file__).parents[1]
TELLS = """
import sys
from gateway.cli_words import password_of
from gateway.errors import WardgateError
try:
    print(password_of("ann", None))
except WardgateError as e:
    print(e)
"""


def test_without_a_terminal_and_without_input_the_error_says_how_a_password_is_given() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TELLS], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=TOP, timeout=30, check=True,
        start_new_session=True,
    )  # fmt: skip
    assert "there is nobody to ask for the password of ann; give --password-file FILE" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_password_comes_from_a_file_or_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("a sentence to remember\nanother line\n")
    assert password_of("ann", file) == "a sentence to remember"

    class Piped:
        buffer = io.BytesIO("ein Wörtchen\n".encode())

    monkeypatch.setattr("sys.stdin", Piped)
    assert password_of("ann", "-") == "ein Wörtchen"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        password_of("ann", file)
    with pytest.raises(InputError, match="cannot be read"):
        password_of("ann", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("reference", "observed", "says"),
    [("", "0007", "nothing was known → 7 (0x0007)"), ("312e30", "312e31", "“1.0” (0x312e30) → “1.1” (0x312e31)")],
)
def test_a_difference_is_said_as_on_the_page(reference: str, observed: str, says: str) -> None:
    row = {"target": "configuration", "name": "object:2", "reference": reference, "observed": observed}
    change = change_of(DifferenceRow(**row))
    assert _difference(row) == f"configuration, object 2: {says}"
    assert f"{change.old} → {change.new}" == says
