"""The keys shared with devices, sealed by a real TPM: only this TPM opens them, and no damage is silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.attester import keys
from gateway.attester.attester import provision
from gateway.attester.keystore import FILE, KeyStore
from gateway.attester.tpm import Tpm
from gateway.errors import InputError, UnavailableError
from hil.tpm import Swtpm

TOKEN, OTHER = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture
async def store(tpm: Tpm, state_dir: Path) -> KeyStore:
    """An open store on a provisioned TPM, holding one device's keys."""
    await provision(tpm, state_dir, "gw-1")
    made = KeyStore(tpm, state_dir, "gw-1")
    await made.open()
    await made.keep("oximeter-1", {"token": TOKEN, "beacon": OTHER})
    return made


async def test_what_is_kept_is_there_after_a_restart_and_a_power_cut(
    store: KeyStore, tpm: Tpm, swtpm: Swtpm, state_dir: Path
) -> None:
    await store.keep("beacon-1", {"beacon": TOKEN})
    swtpm.kill()
    swtpm.power_on()
    again = KeyStore(tpm, state_dir, "gw-1")
    assert not again.is_open and again.of("oximeter-1") == {}
    await again.open()
    assert again.of("oximeter-1") == {"token": TOKEN, "beacon": OTHER} and again.of("beacon-1") == {"beacon": TOKEN}
    await again.keep("oximeter-1", {})
    third = KeyStore(tpm, state_dir, "gw-1")
    await third.open()
    assert third.of("oximeter-1") == {} and third.of("beacon-1") == {"beacon": TOKEN}


async def test_the_file_shows_no_key_and_is_its_owners_alone(store: KeyStore, state_dir: Path) -> None:
    raw = (state_dir / FILE).read_bytes()
    assert (state_dir / FILE).stat().st_mode & 0o777 == 0o600
    assert all(k not in raw and k.hex().encode() not in raw for k in (TOKEN, OTHER)) and b"oximeter" not in raw


async def test_another_tpm_opens_nothing(
    store: KeyStore, state_dir: Path, insert: Callable[[Path], Swtpm], other_chip: Path
) -> None:
    other = Tpm(insert(other_chip).tcti)
    try:
        (state_dir.parent / "other").mkdir()
        await provision(other, state_dir.parent / "other", "gw-1")
        with pytest.raises(InputError, match="another TPM"):
            await KeyStore(other, state_dir, "gw-1").open()
    finally:
        await other.close()


async def test_another_gateways_name_opens_nothing(store: KeyStore, tpm: Tpm, state_dir: Path) -> None:
    with pytest.raises(InputError, match="another gateway's"):
        await KeyStore(tpm, state_dir, "gw-2").open()


@pytest.mark.parametrize("field", ["private", "public", "nonce", "box", "srk"])
async def test_damage_is_said_and_nothing_is_overwritten(store: KeyStore, tpm: Tpm, state_dir: Path, field: str) -> None:
    path = state_dir / FILE
    document = json.loads(path.read_text())
    for broken in (document[field][:-2] + ("00" if document[field][-2:] != "00" else "11"), "", "zz", 7):
        path.write_text(json.dumps({**document, field: broken}))
        damaged = KeyStore(tpm, state_dir, "gw-1")
        for attempt in (damaged.open(), damaged.keep("x", {"token": TOKEN})):
            with pytest.raises(InputError):
                await attempt
        assert json.loads(path.read_text())[field] == broken


async def test_without_a_tpm_it_stays_closed_and_opens_when_it_is_back(
    store: KeyStore, tpm: Tpm, swtpm: Swtpm, state_dir: Path
) -> None:
    swtpm.kill()
    closed = KeyStore(tpm, state_dir, "gw-1")
    with pytest.raises(UnavailableError):
        await closed.open()
    assert not closed.is_open and closed.of("oximeter-1") == {}
    with pytest.raises(UnavailableError):
        await closed.keep("x", {"token": TOKEN})
    swtpm.power_on()
    await closed.open()
    assert closed.of("oximeter-1")["token"] == TOKEN


async def test_sealing_leaves_nothing_in_the_tpm(store: KeyStore, tpm: Tpm) -> None:
    sealed = await tpm.call(lambda c: keys.seal(c, TOKEN))
    for _ in range(8):  # a TPM without resource manager has three slots
        assert await tpm.call(lambda c: keys.unseal(c, sealed)) == TOKEN
    assert TOKEN not in sealed.private and TOKEN not in sealed.public
    assert await tpm.call(lambda c: [len(c.handles(kind)) for kind in (0x80000000, 0x02000000)]) == [0, 0]
