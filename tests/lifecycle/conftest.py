"""A gateway's folders on a machine with a TPM: initialised, enrolled by nobody, with a ward, people and a veto in its store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.bootstrap import Answers, initialise
from gateway.config import Config, read_config
from gateway.machine_clock import MachineClock
from gateway.model.device import Binding, Bond, Bus, Device, DeviceState
from gateway.model.profile import Provenance, References, ReferenceValue
from gateway.store.accounts import Accounts
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.inventory import Inventory
from hil.tpm import Swtpm
from tests.attester.conftest import chip, insert, other_chip
from tests.fakes.ward import PROFILES

__all__ = ["chip", "insert", "other_chip"]
T = TypeVar("T")
PASSPHRASE = "a passphrase that nobody says"
PASSWORD = "a sentence to remember"
PUMP = Device(
    "pump-1", "Pump bed 4", Bus.MODBUS, "infusion-pump", "10.77.0.11", DeviceState.ENFORCED,
    Binding("p-pump-1", "02:57:47:00:00:11", ("10.77.0.11", "fd77::11")),
)  # fmt: skip
OXIMETER = Device(
    "oximeter-1", "Oximeter bed 4", Bus.BLE, "pulse-oximeter", "C0:00:00:00:00:02", DeviceState.OBSERVING, bond=Bond.MITM
)
FIRST = References((), (ReferenceValue("configuration", "register:104", b"\0\3", Provenance.HOSPITAL, True),))
SECOND = References((), (ReferenceValue("configuration", "register:104", b"\0\4", Provenance.HOSPITAL, True),))
POLICY = {"version": 1, "devices": {"pump-1": {"cap": 3, "addresses": ["10.77.0.11", "fd77::11"]}}, "sets": {}}


@dataclass
class Home:
    """The folders of one gateway, below ``root``, and the TPM in its machine."""

    root: Path
    tpm: Swtpm

    @property
    def config_path(self) -> Path:
        return self.root / "etc" / "wardgate.toml"

    @property
    def config(self) -> Config:
        return read_config(self.config_path)

    def initialise(self, *, new_claim: bool = False) -> None:
        """What ``wardgate init`` does."""
        profiles = self.root / "etc" / "profiles"
        profiles.mkdir(parents=True, exist_ok=True)
        for name in ("infusion-pump", "pulse-oximeter"):
            if not self.config_path.exists():
                (profiles / f"{name}.toml").write_text((PROFILES / f"{name}.toml").read_text())
        initialise(
            Answers(
                config=self.config_path, state=self.root / "state", run=self.root / "run", name="Ward 7", id="gw-1",
                tcti=self.tpm.tcti, ward="ward0", uplink="hosp0", management="mgmt0", addresses=("10.77.0.1",),
                peers=("clients=10.77.0.100", "central=10.77.0.100"), policy_state=self.root / "policy", owner=None, port=8443,
                profiles=profiles, extra=None, new_claim=new_claim, interactive=False,
            )
        )  # fmt: skip

    def furnish(self) -> None:
        """Two devices, two people, a confirmed policy and its operators."""

        async def work(db: Database) -> None:
            inventory = Inventory(db)
            await inventory.save_device(PUMP)
            await inventory.save_device(OXIMETER, 123456)
            await inventory.save_references("pump-1", FIRST)
            audit = AuditLog(db)
            people = Accounts(db, MachineClock(), audit)
            await people.claim(await people.new_claim(), "ada", PASSWORD)
            people.close()

        self.store(work)
        (self.root / "policy" / "confirmed.json").write_text(json.dumps(POLICY, sort_keys=True, separators=(",", ":")))
        (self.root / "policy" / "operators.json").write_text(json.dumps({"ada": {"scrypt": "00:11", "role": "admin"}}))

    def store(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Do something with the store, and close it."""

        async def with_store() -> T:
            database = Database(self.root / "state" / "wardgate.sqlite")
            await database.open()
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(with_store())


@pytest.fixture
def home(tmp_path: Path, insert: Callable[[Path], Swtpm], chip: Path) -> Home:
    """A gateway in use."""
    made = Home(tmp_path / "gw", insert(chip))
    made.initialise()
    made.furnish()
    return made
