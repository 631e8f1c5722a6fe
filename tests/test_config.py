"""The configuration: defaults, and every mistake at once with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import parse_config, read_config
from gateway.errors import InputError, InputErrors


def test_empty_file_is_the_defaults() -> None:
    config = parse_config("")
    assert config.timing.lease_s == 30 and config.timing.renew_s == 10 and config.timing.epoch_s == 10
    assert config.web.port == 8443 and config.tpm.pcrs == tuple(range(8))


def test_three_mistakes_are_told_together_with_their_paths() -> None:
    text = '[gateway]\nid = 3\nfoo = 1\n[web]\nport = 99999\n[timing]\nlease_s = 99\n[peers]\ncentral = "10.0.0.1"\n'
    with pytest.raises(InputErrors) as caught:
        parse_config(text, "w.toml")
    paths = {path for path, _ in caught.value.problems}
    assert {"gateway.id", "gateway", "web", "timing"} <= paths
    assert "w.toml" in str(caught.value) and "mend them" in str(caught.value)


def test_a_lease_can_be_shortened_but_never_lengthened() -> None:
    assert parse_config("[timing]\nlease_s = 8.0\nrenew_s = 2.0\n").timing.lease_s == 8
    with pytest.raises(InputErrors, match="lease_s is 2 to 30"):
        parse_config("[timing]\nlease_s = 31\n")


def test_what_is_no_toml_or_not_there_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not TOML"):
        parse_config("[gateway\n")
    with pytest.raises(InputError, match="wardgate init"):
        read_config(tmp_path / "none.toml")
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="encoding"):
        read_config(binary)
