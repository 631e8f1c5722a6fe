"""A TPM that is not there: the remedy is the machine's, and a Raspberry Pi's names its file and overlay."""

from __future__ import annotations

from pathlib import Path

from gateway.check import _missing_tpm, run_checks
from gateway.config import Config, TpmSettings


def test_the_remedy_fits_the_machine(tmp_path: Path) -> None:
    pi = tmp_path / "config.txt"
    assert "firmware set-up" in _missing_tpm((pi,))
    pi.write_text("arm_64bit=1\n#dtoverlay=tpm-slb9670\n")
    assert "dtoverlay=tpm-slb9670" in _missing_tpm((tmp_path / "none", pi))
    pi.write_text("[all]\n dtoverlay=tpm-slb9670\n")
    assert "how the module sits" in _missing_tpm((pi,))


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    rows = run_checks(Config(tpm=TpmSettings(tcti=f"device:{tmp_path}/tpmrm0")))
    row = next(r for r in rows if r.name == "tpm")
    assert (row.ok, row.text) == (False, f"there is no {tmp_path}/tpmrm0")
