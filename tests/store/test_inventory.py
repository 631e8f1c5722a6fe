"""What is saved comes back as it was; a veto survives everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import InputError, MalformedError
from gateway.model.device import Binding, Bond, Bus, Device, DeviceState
from gateway.model.effect import Record
from gateway.model.event import ServiceWindow
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import Provenance, References, ReferenceValue, TrustAnchor
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.inventory import Draft, Inventory, KeptVeto
from gateway.store.segments import Keeping

AT = Instant("boot", 10, 20)
PUMP = Device(
    "pump-1", "Infusion pump", Bus.MODBUS, "infusion-pump", "10.77.0.11",
    binding=Binding("p-pump-1", "02:57:47:00:00:11", ("10.77.0.11", "fd77::11")),
)  # fmt: skip
PATCH = Device("patch-1", "Patch", Bus.BLE, "heart-rate-patch", "C0:00:00:00:00:01", bond=Bond.MITM)

names = st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=80).filter(str.isprintable)
ids = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
macs = st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":"))
bindings = st.builds(
    Binding,
    port=st.from_regex(r"[a-z0-9.-]{1,15}", fullmatch=True),
    mac=macs,
    addresses=st.lists(st.ip_addresses().map(str), min_size=1, max_size=3).map(tuple),
)
devices = st.one_of(
    st.builds(
        Device, id=ids, name=names, bus=st.just(Bus.BLE), profile=ids, address=macs.map(str.upper),
        state=st.sampled_from(DeviceState), bond=st.sampled_from(Bond),
    ),
    st.builds(
        Device, id=ids, name=names, bus=st.sampled_from([Bus.MODBUS, Bus.HL7]), profile=ids, address=st.ip_addresses().map(str),
        state=st.sampled_from(DeviceState), binding=st.none() | bindings,
    ),
)  # fmt: skip
references = st.builds(
    References,
    anchors=st.lists(
        st.builds(TrustAnchor, instance=st.binary(), spki=st.binary(), provenance=st.sampled_from(Provenance)), max_size=3
    ).map(tuple),
    values=st.lists(
        st.builds(
            ReferenceValue, target=ids, name=names, value=st.binary(),
            provenance=st.sampled_from(Provenance), countersigned=st.booleans(),
        ),
        max_size=5,
    ).map(tuple),
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(device=devices, passkey=st.none() | st.integers(0, 999_999), refs=references)
async def test_devices_and_references_come_back_as_they_were(
    database: Database, device: Device, passkey: int | None, refs: References
) -> None:
    inventory = Inventory(database)
    before = await inventory.passkey(device.id)
    await inventory.save_device(device, passkey)
    await inventory.save_references(device.id, refs)
    assert await inventory.device(device.id) == device
    assert device in await inventory.devices()
    assert await inventory.passkey(device.id) == (passkey if passkey is not None else before)
    assert (device.id, refs) in await inventory.references()


async def test_a_passkey_is_in_no_view_and_is_kept(database: Database) -> None:
    inventory = Inventory(database)
    await inventory.save_device(PATCH, 123456)
    await inventory.save_device(replace(PATCH, name="Another name"))
    assert await inventory.passkey("patch-1") == 123456
    assert "123456" not in repr(await inventory.devices())
    with pytest.raises(InputError):
        await inventory.save_device(PATCH, 1_000_000)


async def test_state_and_service_window_change_together(database: Database) -> None:
    inventory = Inventory(database)
    await inventory.save_device(PUMP)
    window = ServiceWindow("pump-1", "anna", "new firmware", AT.plus(600), TrustLevel.FULL)
    await inventory.keep_state("pump-1", DeviceState.SERVICE, window)
    assert (await inventory.device("pump-1")).state is DeviceState.SERVICE
    assert await inventory.services() == [window]
    await inventory.keep_state("pump-1", DeviceState.ENFORCED)
    assert (await inventory.device("pump-1")) == replace(PUMP, state=DeviceState.ENFORCED)
    assert await inventory.services() == []
    with pytest.raises(InputError, match="no device 'pump-9'"):
        await inventory.keep_state("pump-9", DeviceState.SUSPENDED)


async def test_profiles_are_kept_by_version_and_checked(database: Database) -> None:
    inventory = Inventory(database)
    with pytest.raises(InputError, match="no earlier version"):
        await inventory.rollback_profile("pump")
    first = await inventory.save_profile("pump", "a = 1\n", "anna", AT)
    again = await inventory.save_profile("pump", "a = 1\n", "bert", AT.plus(1))
    second = await inventory.save_profile("pump", "a = 2\n", "anna", AT.plus(2))
    assert again.digest == first.digest != second.digest
    assert await inventory.profiles() == [second]
    assert await inventory.rollback_profile("pump") == first
    assert await inventory.profiles() == [first]
    await database.run(lambda d: d.execute("UPDATE profiles SET toml = 'a = 3'"))
    with pytest.raises(MalformedError, match="not the text that was confirmed"):
        await inventory.profiles()


async def test_drafts(database: Database) -> None:
    inventory = Inventory(database)
    draft = Draft("policy", "{}", "anna", AT)
    await inventory.save_draft(draft)
    assert await inventory.drafts() == [draft]
    await inventory.drop_draft("policy")
    assert await inventory.drafts() == []


async def test_a_veto_survives_restart_and_restore(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    db = Database(path)
    await db.open()
    inventory, log = Inventory(db), AuditLog(db)
    await log.append([(AT, Record("k", "", "one"))])
    older = await inventory.all_vetoes()  # a backup from before
    await inventory.raise_veto("pump-1", "application/x", "register 104 is 7, not 3")
    await inventory.raise_veto("pump-1", "application/x", "register 104 is 8, not 3")
    await log.close()
    await db.close()

    db = Database(path)
    await db.open()
    inventory, log = Inventory(db), AuditLog(db)
    standing = [("pump-1", "application/x", "register 104 is 8, not 3")]
    assert await inventory.standing_vetoes() == standing
    await inventory.merge_vetoes(older)
    assert await inventory.standing_vetoes() == standing  # an older file lifts nothing
    during = await inventory.all_vetoes()
    await log.append([(AT, Record("k", "", "two"))])
    await inventory.clear_veto("pump-1", "application/x")
    assert await inventory.standing_vetoes() == []
    assert await inventory.all_vetoes() == [KeptVeto("pump-1", "application/x", "register 104 is 8, not 3", 1, 2)]
    await inventory.merge_vetoes(during)
    assert await inventory.standing_vetoes() == []  # that very veto fell later: it does not rise again
    await inventory.raise_veto("pump-1", "application/x", "again")
    assert len(await inventory.all_vetoes()) == 2
    await log.close()
    await db.close()


async def test_a_veto_has_its_place_in_a_record_that_is_packed_to_its_end(database: Database) -> None:
    inventory, log = Inventory(database), AuditLog(database)
    await log.append([(AT, Record("k", "", "one")), (AT, Record("k", "", "two"))])
    assert await log.close_segment(Keeping(lines=2, live=0), AT)
    await inventory.raise_veto("pump-1", "m", "t")
    await inventory.clear_veto("pump-1", "m")
    assert await inventory.all_vetoes() == [KeptVeto("pump-1", "m", "t", 2, 2)]


async def test_a_restored_file_can_bring_a_veto(database: Database) -> None:
    inventory = Inventory(database)
    await inventory.merge_vetoes([KeptVeto("pump-1", "m", "t", 5), KeptVeto("pump-2", "m", "t", 5, 9)])
    assert await inventory.standing_vetoes() == [("pump-1", "m", "t")]
