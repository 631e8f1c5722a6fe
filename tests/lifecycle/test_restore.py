"""Backup and restore with a TPM: on the same machine everything goes on, on another it says what to do; a veto is never lifted."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import sealed_file
from gateway.attester import state as tpm_state
from gateway.cli import run
from gateway.errors import EvidenceError, InputError, UnavailableError
from gateway.lifecycle import make_backup
from gateway.model.device import Bond, Device, DeviceState
from gateway.only_one import UNFINISHED
from gateway.restore import Done, Options, restore
from gateway.store.audit import AuditLog
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.store.inventory import Inventory
from hil.tpm import Swtpm
from tests.lifecycle.conftest import FIRST, OXIMETER, PASSPHRASE, PASSWORD, PUMP, SECOND, Home

pytestmark = pytest.mark.rig


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt at its least: what it costs is tried elsewhere."""
    monkeypatch.setattr(sealed_file, "_LOG_N", 14)
    monkeypatch.setattr(sealed_file, "_P", 1)


def back_up(home: Home, name: str = "b.backup") -> Path:
    file = home.root.parent / name
    make_backup(home.config, home.config_path, file, PASSPHRASE)
    return file


def put_back(home: Home, file: Path, **options: Any) -> Done:
    return restore(Options(home.config_path, file, PASSPHRASE, **{"with_paths": True, **options}))


def devices(home: Home) -> dict[str, Device]:
    async def work(db: Database) -> dict[str, Device]:
        return {d.id: d for d in await Inventory(db).devices()}

    return home.store(work)


def tree(home: Home) -> dict[str, bytes]:
    """Every file of the gateway, but those that opening the store makes."""
    return {
        str(p.relative_to(home.root)): p.read_bytes()
        for p in sorted(home.root.rglob("*"))
        if p.is_file() and not p.name.endswith(("-shm", "-wal"))
    }


def change(home: Home) -> None:
    """Somebody worked on: another device, another reference, a veto, another profile, another policy."""

    async def work(db: Database) -> None:
        inventory = Inventory(db)
        await inventory.save_device(replace(PUMP, name="Pump bed 9"))
        await inventory.save_device(replace(PUMP, id="pump-2", state=DeviceState.PROPOSED))
        await inventory.save_references("pump-1", SECOND)
        await inventory.raise_veto("pump-1", "application/x", "register 104 is 8, not 4")

    home.store(work)
    (home.root / "etc" / "profiles" / "another.toml").write_text((home.root / "etc/profiles/infusion-pump.toml").read_text())
    home.config_path.write_text(home.config_path.read_text().replace("Ward 7", "Ward 8"))
    (home.root / "policy" / "confirmed.json").write_text('{"devices":{},"sets":{},"version":1}')
    (home.root / "policy" / "operators.json").unlink()


def test_on_the_same_machine_everything_goes_on_and_a_veto_stands(home: Home) -> None:
    file = back_up(home)
    assert PASSWORD.encode() not in file.read_bytes() and b"gw-1" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="exists already"):
        back_up(home)
    change(home)
    done = put_back(home, file)
    assert done.same_machine
    assert done.todo == ("systemctl start wardgate && wardgate check",)
    assert done.put.kept == ("pump-1",)
    assert any("pump-1 is let onto the network" in c for c in done.changes)
    assert devices(home) == {"pump-1": PUMP, "oximeter-1": OXIMETER}, "the bond stays on the same machine"
    assert home.config.gateway.name == "Ward 7"
    assert sorted(p.name for p in (home.root / "etc/profiles").iterdir()) == ["infusion-pump.toml", "pulse-oximeter.toml"]
    assert "ada" in json.loads((home.root / "policy/operators.json").read_text())
    assert "pump-1" in json.loads((home.root / "policy/confirmed.json").read_text())["devices"]
    assert json.loads((home.root / "policy/audit.log").read_text())["act"] == "restore"

    async def look(db: Database) -> None:
        inventory, audit = Inventory(db), AuditLog(db)
        assert [v[:2] for v in await inventory.standing_vetoes()] == [("pump-1", "application/x")]
        assert dict(await inventory.references())["pump-1"] == SECOND, "an older file does not make the vetoed state a good one"
        assert await inventory.passkey("oximeter-1") == 123456
        newest = (await audit.tail(1))[0]
        assert newest.kind == "restored-backup" and "root restored a backup of this machine" in newest.text
        assert (await audit.verify()).sequence == newest.sequence > 1, "the record was not replaced"
        checkpoint = await CertificateCache(db).checkpoint()
        assert checkpoint and checkpoint.audit_sequence == newest.sequence and checkpoint.nv_counter == 2
        assert await db.run(lambda c: c.execute("SELECT count(*) FROM claim").fetchone()[0]) == 0

    home.store(look)
    assert not (home.root / "state" / UNFINISHED).exists()


_BY_THE_PAGE = f"""
import asyncio, sys
from pathlib import Path
from gateway import sealed_file
from gateway.config import read_config
from gateway.lifecycle import DATABASE, Lifecycle
from gateway.machine_clock import MachineClock
from gateway.store.audit import Keeping
from gateway.store.database import Database

sealed_file._LOG_N, sealed_file._P = 14, 1

async def work():
    path = Path(sys.argv[1])
    config = read_config(path)
    database = Database(config.gateway.state / DATABASE)
    await database.open()
    life = Lifecycle(config, path, database, MachineClock(), Keeping(), dict)
    Path(sys.argv[2]).write_bytes(await life.backup({PASSPHRASE!r}))
    print(*await life.left_out(), sep="\\n")
    await database.close()

asyncio.run(work())
"""


def test_what_the_page_cannot_read_is_said_there_and_by_the_restore(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that reads no other user's files, as the daemon; who may confirm stays root's alone."""
    operators, file = home.root / "policy" / "operators.json", home.root.parent / "page.backup"
    os.chown(operators, 65534, 65534)
    operators.chmod(0o600)
    less = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", sys.executable, "-c"]
    said = subprocess.run([*less, _BY_THE_PAGE, home.config_path, file], capture_output=True, text=True, timeout=60)
    assert (said.stdout, said.stderr) == ("who may confirm what may pass (operators.json, which only root reads)\n", "")
    kept = operators.read_bytes()
    done = put_back(home, file)
    assert done.lacks == ("who may confirm what may pass (operators.json, which only root reads)",)
    assert "those who could here still can, with their old passwords" in done.todo[0]
    assert operators.read_bytes() == kept
    operators.unlink()
    assert "nobody can yet" in put_back(home, file).todo[0]
    passphrase = home.root.parent / "passphrase"
    passphrase.write_text(f"{PASSPHRASE}\n")
    command = ["--config", str(home.config_path), "restore", str(file), "--with-paths", "--passphrase-file", str(passphrase)]
    assert run(command) == 0
    assert "not in this backup, and so as it is here: who may confirm what may pass" in capsys.readouterr().out


def test_a_restore_is_undone_by_the_file_it_left(home: Home) -> None:
    file = back_up(home)
    change(home)
    done = put_back(home, file)
    assert done.undo and done.undo.stat().st_mode & 0o777 == 0o600
    again = put_back(home, done.undo)
    assert again.undo != done.undo
    assert devices(home)["pump-1"].name == "Pump bed 9" and "pump-2" in devices(home)
    assert home.config.gateway.name == "Ward 8"
    assert (home.root / "etc/profiles/another.toml").exists()


def test_a_new_disk_in_the_same_machine_goes_on_with_its_tpm(home: Home) -> None:
    file = back_up(home)
    known = tpm_state.load(home.root / "state")
    shutil.rmtree(home.root)
    (home.root / "etc").mkdir(parents=True)
    done = put_back(home, file)
    assert done.same_machine and done.undo is None
    assert tpm_state.load(home.root / "state") == known
    home.initialise()  # nothing is made anew: the TPM accepts what the file brought
    assert tpm_state.load(home.root / "state").ak_public == known.ak_public
    assert set(devices(home)) == {"pump-1", "oximeter-1"}

    async def look(db: Database) -> None:
        assert (await AuditLog(db).tail(9))[-1].kind == "restored-backup", "the new record begins with it"

    home.store(look)


def test_another_machine_is_told_exactly_what_to_do(home: Home, insert: Callable[[Path], Swtpm], other_chip: Path) -> None:
    file = back_up(home)
    old = (home.root / "state" / "tpm.json").read_bytes()
    home.tpm.kill()
    shutil.rmtree(home.root)
    (home.root / "etc").mkdir(parents=True)
    with pytest.raises(UnavailableError, match="the TPM does not say whether this is the machine"):
        put_back(home, file)
    assert [p for p in home.root.rglob("*") if p.is_file()] == []
    other = insert(other_chip)
    moved = Home(home.root, other)
    done = put_back(moved, file, other=True)
    assert not done.same_machine
    told = "\n".join(done.todo)
    for words in ("wardgate init", "wardgate enrol --ca URL", "oximeter-1: the keys they share", "gateway gw-1 ",
                  "oximeter-1: pair again", "switch the old machine off", "wardgate check"):  # fmt: skip
        assert words in told, told
    assert [t.split()[1] for t in done.todo[:2]] == ["init", "enrol"]
    assert "pump-1" not in told
    assert not (home.root / "state" / "tpm.json").exists()
    assert not (home.root / "state" / "shared-keys.json").exists()
    assert devices(moved) == {"pump-1": PUMP, "oximeter-1": replace(OXIMETER, bond=Bond.NONE)}
    home.config_path.write_text(home.config_path.read_text().replace(home.tpm.tcti, other.tcti))
    moved.initialise()
    assert (home.root / "state" / "tpm.json").read_bytes() != old
    assert "wardgate init   " not in "\n".join(put_back(moved, file, other=True).todo)


def test_nothing_changes_for_a_file_that_is_not_right(home: Home, tmp_path: Path) -> None:
    file = back_up(home)
    before = tree(home)
    good = file.read_bytes()
    broken = {
        "flipped": good[:200] + bytes([good[200] ^ 1]) + good[201:],
        "cut": good[:-1],
        "foreign": good[:17] + b"\x09" + good[18:],
        "other": b"SQLite format 3\0" * 50,
    }
    for name, content in broken.items():
        bad = tmp_path / name
        bad.write_bytes(content)
        with pytest.raises(InputError) as told:
            put_back(home, bad)
        assert str(bad) in str(told.value)
    with pytest.raises(InputError, match="the passphrase does not open"):
        restore(Options(home.config_path, file, "another passphrase altogether", with_paths=True))
    with pytest.raises(InputError, match="cannot be read"):
        put_back(home, tmp_path / "nowhere")
    with pytest.raises(InputError, match="keeps its state at"):
        restore(Options(tmp_path / "elsewhere.toml", file, PASSPHRASE))
    assert tree(home) == before


HOSTILE: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (lambda d: d["files"].update({"../../etc/passwd": b"x"}), "that no backup has"),
    (lambda d: d["files"].update({"profiles/../x.toml": b"x"}), "that no backup has"),
    (lambda d: d["files"].update({"tls/../key": b"x"}), "that no backup has"),
    (
        lambda d: d["files"].update({"wardgate.toml": d["files"]["wardgate.toml"] + b'\n[tls.x]\nca = "/etc/passwd"\n'}),
        "the backup has tls/x/ca at /etc/passwd",
    ),
    (lambda d: d["files"].update({"profiles/bad.toml": b"id = 3"}), "profiles/bad.toml in the backup"),
    (lambda d: d["files"].update({"confirmed.json": b"{}"}), "confirmed.json in the backup"),
    (lambda d: d["files"].update({"operators.json": b"[]"}), "operators.json in the backup"),
    (lambda d: d["facts"].update({"unread": "operators.json"}), "not what this version writes"),
    (lambda d: d["facts"].update({"unread": ["\x1b[2J"]}), "that no backup has"),
    (lambda d: d["files"].update({"wardgate.toml": b"[gateway]\nid = 3\n"}), "gateway.id"),
    (lambda d: d["files"].pop("wardgate.toml"), "no configuration"),
    (lambda d: d["tables"]["devices"].append(["x", "{}", None]), "inventory does not hold together"),
    (lambda d: d["tables"]["devices"].append(["x", 1.5, None]), "inventory does not hold together"),
    (lambda d: d["tables"].update({"audit": []}), "not its tables"),
    (lambda d: d["tables"]["users"].append(["eve", "admin", "plain"]), "user eve"),
    (lambda d: d.update({"version": 2}), "not what this version writes"),
    (lambda d: d["facts"].pop("audit"), "not what this version writes"),
)


def test_a_hostile_content_with_a_right_passphrase_changes_nothing(home: Home) -> None:
    from gateway import codec

    file = back_up(home)
    before, bad = tree(home), file.with_name("bad.backup")
    with file.open("rb") as f:
        content = sealed_file.open_sealed(f, PASSPHRASE, "b")
    for edit, told in HOSTILE:
        document = codec.decode(content, sealed_file.MOST)
        edit(document)
        bad.write_bytes(b"".join(sealed_file.seal(codec.encode(document), PASSPHRASE)))
        with pytest.raises(InputError, match=told):
            put_back(home, bad)
    assert tree(home) == before


def test_a_file_that_knows_more_checkpoints_than_the_tpm_is_refused(home: Home) -> None:
    from gateway import codec

    file = back_up(home)
    with file.open("rb") as f:
        document = codec.decode(sealed_file.open_sealed(f, PASSPHRASE, "b"), sealed_file.MOST)
    document["facts"]["nv_counter"] = 99
    file.write_bytes(b"".join(sealed_file.seal(codec.encode(document), PASSPHRASE)))
    before = tree(home)
    with pytest.raises(EvidenceError, match="99 checkpoints and this TPM only 1"):
        put_back(home, file)
    assert tree(home) == before


def test_it_refuses_while_a_daemon_runs_and_a_daemon_refuses_half_a_state(home: Home) -> None:
    file = back_up(home)
    before = tree(home)
    descriptor = os.open(home.root / "state", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # what a running daemon holds
    try:
        with pytest.raises(UnavailableError, match="a wardgate is running"):
            put_back(home, file)
    finally:
        os.close(descriptor)
    assert tree(home) == before
    (home.root / "state" / UNFINISHED).touch()
    command = [sys.executable, "-m", "gateway", "--config", str(home.config_path), "run"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 1 and "a restore was interrupted" in ran.stderr and "Traceback" not in ran.stderr
    put_back(home, file)
    assert not (home.root / "state" / UNFINISHED).exists(), "another restore ends it"


def test_the_commands_say_it_in_sentences(home: Home, tmp_path: Path) -> None:
    (tmp_path / "p").write_text(PASSPHRASE + "\n")
    words = [sys.executable, "-m", "gateway", "--config", str(home.config_path)]

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *argv], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)

    file = str(tmp_path / "c.backup")
    made = run("backup", file, "--passphrase-file", str(tmp_path / "p"))
    assert made.returncode == 0 and "not in it: the record" in made.stdout, made.stderr
    put = run("restore", file, "--passphrase-file", str(tmp_path / "p"))
    assert put.returncode == 0 and "this machine: everything goes on" in put.stdout and "to undo this" in put.stdout, put.stderr
    asked = run("restore", file)
    assert asked.returncode == 2 and "--passphrase-file" in asked.stderr
    assert run("audit", "accept", "--reason", "nothing to accept").stdout.startswith("the state is the newest")
    assert FIRST != SECOND
