"""Taking possession of a TPM: once, again, after a power cut in the middle, and not of another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tpm2_pytss import ESYS_TR, TPM2_CAP, TPM2_PT

from gateway.attester import keys, state
from gateway.attester.attester import Attester, provision
from gateway.attester.tpm import Connection, Tpm
from gateway.errors import InputError, UnavailableError
from hil.tpm import Swtpm

pytestmark = pytest.mark.rig


def lockout_facts(connection: Connection) -> dict[int, int]:
    """Dictionary-attack properties by number."""
    found = connection.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 4)[1]
    held = found.data
    properties = held.tpmProperties
    return {int(p.property): int(p.value) for p in properties}


async def test_the_first_time_everything_is_set(tpm: Tpm, state_dir: Path) -> None:
    made = await provision(tpm, state_dir, "gw-1")
    assert len(made.changes) == 5
    assert made.ek_certified
    assert made.lockout_file == state_dir / state.LOCKOUT_FILE
    permanent = await tpm.call(Connection.permanent)
    assert permanent & 0x5 == 0x5  # owner and lockout authorisation set
    facts = await tpm.call(lockout_facts)
    assert (facts[TPM2_PT.MAX_AUTH_FAIL], facts[TPM2_PT.LOCKOUT_INTERVAL], facts[TPM2_PT.LOCKOUT_RECOVERY]) == (32, 600, 86_400)


async def test_the_second_time_nothing_changes(tpm: Tpm, state_dir: Path) -> None:
    first = await provision(tpm, state_dir, "gw-1")
    before = state.load(state_dir)
    second = await provision(tpm, state_dir, "gw-1")
    assert second.changes == ()
    assert second.ak_name == first.ak_name
    assert state.load(state_dir) == before


async def test_the_lockout_authorisation_may_be_in_escrow(tpm: Tpm, state_dir: Path) -> None:
    made = await provision(tpm, state_dir, "gw-1")
    assert made.lockout_file
    made.lockout_file.unlink()
    again = await provision(tpm, state_dir, "gw-1")
    assert again.changes == ()
    assert again.lockout_file is None
    assert not (state_dir / state.LOCKOUT_FILE).exists()


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_power_cut_in_the_middle_is_completed(swtpm: Swtpm, tpm: Tpm, state_dir: Path, steps: int) -> None:
    known = state.State("gw-1")
    state.save(state_dir, known)
    lockout = state.lockout_authorisation(state_dir / state.LOCKOUT_FILE)
    if steps > 0:
        await tpm.call(lambda c: keys.take_ownership(c, known, lockout))
    if steps > 1:  # the AK was made, but the power went before the state was saved
        await tpm.call(lambda c: keys.make_objects(c, replace(known, lockout_set=True), None))
    swtpm.restart()
    await provision(tpm, state_dir, "gw-1")
    quoted = await Attester(tpm, state_dir).quote(bytes(32))
    assert quoted.nv_counter >= 1


async def test_another_owners_tpm_is_left_alone(tpm: Tpm, state_dir: Path) -> None:
    await tpm.call(lambda c: c.esys.hierarchy_change_auth(ESYS_TR.OWNER, b"somebody else"))
    with pytest.raises(UnavailableError, match=r"owner authorisation that is not ours.*clear the TPM"):
        await provision(tpm, state_dir, "gw-1")
    assert (await tpm.call(Connection.permanent)) & 0x4 == 0  # not half taken either


async def test_the_name_of_a_gateway_stays(tpm: Tpm, state_dir: Path) -> None:
    await provision(tpm, state_dir, "gw-1")
    with pytest.raises(InputError, match="called gw-1, not gw-2"):
        await provision(tpm, state_dir, "gw-2")


async def test_a_tpm_that_is_not_there_leaves_a_state_to_go_on_from(swtpm: Swtpm, tpm: Tpm, state_dir: Path) -> None:
    swtpm.kill()
    with pytest.raises(UnavailableError, match="does not answer"):
        await provision(tpm, state_dir, "gw-1")
    swtpm.power_on()
    made = await provision(tpm, state_dir, "gw-1")
    assert made.changes


async def test_two_possessions_of_one_tpm_have_different_aks(insert: Callable[[Path], Swtpm], chip: Path, tmp_path: Path) -> None:
    """The same seeds in the chip, and still nobody can make the AK of a former owner again."""
    names = []
    for n in range(2):
        tpm, directory = Tpm(insert(chip).tcti), tmp_path / f"s{n}"
        directory.mkdir()
        names.append((await provision(tpm, directory, "gw-1")).ak_name)
        await tpm.close()
    assert names[0] != names[1]
