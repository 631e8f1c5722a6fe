"""Giving the TPM back: ours is gone, the rest stays, and the next gateway can begin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.attester import keys, state
from gateway.attester.attester import provision
from gateway.attester.forget import forget, stays
from gateway.attester.tpm import Tpm
from gateway.errors import UnavailableError
from hil.tpm import Swtpm

pytestmark = pytest.mark.rig
PERSISTENT, NV = 0x81000000, 0x01000000


async def held(tpm: Tpm) -> tuple[set[int], set[int]]:
    return await tpm.call(lambda c: (c.handles(PERSISTENT), c.handles(NV)))


async def test_ours_is_gone_and_the_maker_s_stays(tpm: Tpm, state_dir: Path) -> None:
    before = await held(tpm)  # the maker's EKs and their certificates
    await provision(tpm, state_dir, "gw-1")
    during = await held(tpm)
    assert {keys.AK, keys.SRK} <= during[0]
    assert keys.COUNTER in during[1]
    known = state.load(state_dir)
    lockout = state.lockout_authorisation(state_dir / state.LOCKOUT_FILE)
    changes = await tpm.call(lambda c: forget(c, known, lockout))
    assert len(changes) == 5
    assert await held(tpm) == before
    assert await tpm.call(lambda c: c.permanent() & 0x5) == 0  # neither authorisation is set
    assert await tpm.call(lambda c: forget(c, known, lockout)) == []


async def test_the_next_gateway_can_begin_and_has_another_key(tpm: Tpm, state_dir: Path) -> None:
    first = await provision(tpm, state_dir, "gw-1")
    known = state.load(state_dir)
    await tpm.call(lambda c: forget(c, known, None))
    assert await tpm.call(stays)  # its file was in escrow: it is said, not guessed at
    (state_dir / state.STATE_FILE).unlink()
    second = await provision(tpm, state_dir, "gw-2")
    assert second.ak_name != first.ak_name


async def test_a_tpm_of_another_owner_is_left_alone(tpm: Tpm, state_dir: Path, tmp_path: Path) -> None:
    await provision(tpm, state_dir, "gw-1")
    before = await held(tpm)
    stranger = state.State("gw-9", made=(keys.SRK,))
    with pytest.raises(UnavailableError, match="not ours"):
        await tpm.call(lambda c: forget(c, stranger, None))
    assert await held(tpm) == before


async def test_a_foreign_key_in_our_place_stays(tpm: Tpm, state_dir: Path) -> None:
    await provision(tpm, state_dir, "gw-1")
    known = state.load(state_dir)
    other = state.State(**{**{f: getattr(known, f) for f in ("gateway_id", "owner", "ak", "counter")}, "ak_public": "00"})
    await tpm.call(lambda c: forget(c, other, None))
    assert {keys.AK, keys.SRK} <= (await held(tpm))[0]  # neither is known to be ours


def test_a_state_from_before_this_was_noted_is_read(state_dir: Path) -> None:
    state.save(state_dir, state.State("gw-1"))
    document = json.loads((state_dir / state.STATE_FILE).read_text())
    del document["made"]
    (state_dir / state.STATE_FILE).write_text(json.dumps(document))
    assert state.load(state_dir).made == ()


def test_the_command(swtpm: Swtpm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def make() -> None:
        tpm = Tpm(swtpm.tcti)
        await provision(tpm, tmp_path, "gw-1")
        await tpm.close()

    asyncio.run(make())
    config = tmp_path / "w.toml"
    config.write_text(f'[gateway]\nstate = "{tmp_path}"\nrun = "{tmp_path}"\n[tpm]\ntcti = "{swtpm.tcti}"\n')

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["wardgate", "--config", str(config), *words])
        code = main()
        said = capsys.readouterr()
        return code, said.out + said.err

    assert run("forget")[0] == 2  # not by accident
    code, said = run("forget", "--yes")
    assert code == 0
    assert "0x81010020 is gone" in said
    assert run("forget", "--yes") == (0, "the TPM holds nothing of this gateway\n")
    swtpm.kill()
    code, said = run("forget", "--yes")
    assert code == 1
    assert said.startswith("wardgate: ")
