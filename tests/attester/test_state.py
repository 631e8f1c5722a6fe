"""The state file: private, atomic, and clear about what is wrong with it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.attester import state
from gateway.errors import InputError


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    known = replace(state.State("gw-1"), ek_handle=0x81010001, ak_public="00ff", ak_chain=("30", "31"))
    state.save(tmp_path, known)
    assert state.load(tmp_path) == known


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    state.save(tmp_path, state.State("gw-1"), owner=(61001, 61001))
    found = (tmp_path / state.STATE_FILE).stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o600, 61001, 61001)
    state.save(tmp_path, state.State("gw-1"))  # root replaces it: it stays the daemon's
    assert (tmp_path / state.STATE_FILE).stat().st_uid == 61001


def test_its_secrets_do_not_show_when_it_is_printed() -> None:
    known = state.State("gw-1")
    assert known.owner not in repr(known)
    assert len({known.owner, known.ak, known.counter}) == 3


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version": 2}',
        json.dumps({"version": 1, "gateway_id": "gw-1"}).encode(),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / state.STATE_FILE).write_bytes(damage)
    with pytest.raises(InputError, match=r"damaged.*backup"):
        state.load(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("owner", "xyz"), ("owner", 5), ("lockout_set", "yes"), ("ak_chain", 7), ("extra", 1)])
def test_a_field_of_another_kind_is_damage(tmp_path: Path, name: str, value: object) -> None:
    state.save(tmp_path, state.State("gw-1"))
    path = tmp_path / state.STATE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InputError, match="damaged"):
        state.load(tmp_path)


def test_none_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wardgate init"):
        state.load(tmp_path)


def test_the_lockout_authorisation_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "lockout"
    first = state.lockout_authorisation(path)
    assert len(first) == 32
    assert state.lockout_authorisation(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_uid == os.geteuid()
    path.write_text("not hex")
    with pytest.raises(InputError, match="damaged"):
        state.lockout_authorisation(path)
