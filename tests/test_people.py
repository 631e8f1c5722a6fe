"""The claim in both places that know people: nothing is used up while one is away, and no admin is left who cannot confirm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.enforcer import credentials
from gateway.enforcer.confirm import answer_request
from gateway.enforcer.confirmed import ConfirmedPolicy
from gateway.enforcer.credentials import CredentialError, Operators
from gateway.errors import InputError, RefusedError, UnavailableError
from gateway.model.view import User
from gateway.people import People
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from tests.store.conftest import HandClock

PASSWORD = "a sentence to remember"


class Rig:
    """The store, and root's wardgate-policy answering in this process; ``away`` as when its socket is gone."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock, self.away, self.dies_after = directory, HandClock(), False, False
        self.operators = Operators(directory)
        self.database = Database(directory / "w.sqlite")
        self.people = People(self.database, self.clock, AuditLog(self.database))
        self.people.ask_policy = self.ask

    async def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        import json

        if self.away:
            raise UnavailableError("wardgate-policy does not answer on /run/x (FileNotFoundError)", "start it")
        policy = cast(ConfirmedPolicy, None)  # none of these verbs touches it
        answer = answer_request(json.dumps(request).encode(), 61001, policy, self.operators)
        if not answer["ok"]:
            raise RefusedError(answer["error"], answer["remedy"])
        if self.dies_after:
            raise UnavailableError("wardgate-policy does not answer on /run/x (ConnectionResetError)", "start it")
        return answer

    async def code(self) -> str:
        made = await self.people.new_claim()
        self.operators.write_claim(made)
        return made

    async def in_both(self, user: str, password: str) -> None:
        assert (await self.people.login(user, password, "test")).role == "admin"
        assert self.operators.check(user, password) == "admin"


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    # what a hash costs is a matter of the accounts' and the operators' own tests
    monkeypatch.setattr(credentials, "_SCRYPT_N", 1 << 4)
    monkeypatch.setattr("gateway.store.passwords._MEMORY_KIB", 256)
    made = Rig(tmp_path)
    await made.database.open()
    yield made
    made.people.close()
    await made.database.close()


async def test_a_claim_makes_the_admin_in_both_places(rig: Rig) -> None:
    assert (await rig.people.claim(await rig.code(), "ada", PASSWORD)).role == "admin"
    await rig.in_both("ada", PASSWORD)


async def test_while_policy_is_away_the_code_stays_good_and_nobody_is_made(rig: Rig) -> None:
    code = await rig.code()
    rig.away = True
    for _ in range(7):  # more than the tries that a wrong code has
        with pytest.raises(UnavailableError, match="use the same code again: it is still good"):
            await rig.people.claim(code, "ada", PASSWORD)
    assert not await rig.people.claimed()
    rig.away = False
    await rig.people.claim(code, "ada", PASSWORD)
    await rig.in_both("ada", PASSWORD)


async def test_an_answer_that_got_lost_is_mended_by_trying_again(rig: Rig) -> None:
    code = await rig.code()
    rig.dies_after = True
    with pytest.raises(UnavailableError):
        await rig.people.claim(code, "ada", PASSWORD)
    assert not await rig.people.claimed()
    rig.dies_after = False
    with pytest.raises(RefusedError):
        await rig.people.claim(code, "eve", PASSWORD)  # another name has no credential there
    with pytest.raises(RefusedError):
        await rig.people.claim(code, "ada", "another sentence entirely")
    await rig.people.claim(code, "ada", PASSWORD)
    await rig.in_both("ada", PASSWORD)


async def test_wrong_codes_still_burn_it(rig: Rig) -> None:
    code = await rig.code()
    for _ in range(5):
        with pytest.raises(RefusedError):
            await rig.people.claim("WRNG-CODE", "ada", PASSWORD)
    with pytest.raises(RefusedError, match="no claim code"):
        await rig.people.claim(code, "ada", PASSWORD)
    assert not await rig.people.claimed()


async def test_a_lost_password_is_replaced_in_both_places(rig: Rig) -> None:
    await rig.people.claim(await rig.code(), "ada", PASSWORD)
    await rig.people.claim(await rig.code(), "ada", "another sentence entirely")
    await rig.in_both("ada", "another sentence entirely")
    with pytest.raises(CredentialError):
        rig.operators.check("ada", PASSWORD)


class Wall:
    """Both clocks of root's process, moved by the test."""

    CLOCK_BOOTTIME = 7

    def __init__(self, wall_s: float) -> None:
        self.wall_s, self.boot_s = wall_s, 100.0

    def time(self) -> float:
        return self.wall_s

    def clock_gettime(self, _: int) -> float:
        return self.boot_s


def test_setting_the_clock_between_claim_code_and_claim_does_not_void_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(3.0)  # 1970
    monkeypatch.setattr(credentials, "time", wall)
    operators = Operators(tmp_path)
    operators.write_claim("ABCD-EFGH")
    wall.wall_s, wall.boot_s = 1_800_000_000.0, 160.0  # a time server was reached
    operators.claim("ABCD-EFGH", "ada", PASSWORD)
    operators.write_claim("ABCD-EFGH")
    wall.boot_s += credentials.CLAIM_VALID_S + 1
    wall.wall_s = 5.0  # set back: it is as old as it is
    with pytest.raises(CredentialError, match="expired"):
        operators.claim("ABCD-EFGH", "ada", PASSWORD)


@pytest.mark.parametrize(
    ("then", "now", "good"),
    [(1_800_000_000, 1_800_000_600, True), (1_800_000_000, 1_800_009_999, False), (3, 40, False), (1_800_000_000, 40, False),
     (3, 1_800_000_000, False)],
)  # fmt: skip
def test_after_a_reboot_only_a_clock_that_was_set_says_how_old_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: int, now: int, good: bool
) -> None:
    wall = Wall(then)
    monkeypatch.setattr(credentials, "time", wall)
    operators = Operators(tmp_path)
    operators.write_claim("ABCD-EFGH")
    monkeypatch.setattr(credentials, "_boot_id", lambda: "another")
    wall.wall_s, wall.boot_s = now, 20.0
    if good:
        operators.claim("ABCD-EFGH", "ada", PASSWORD)
    else:
        with pytest.raises(CredentialError, match="expired"):
            operators.claim("ABCD-EFGH", "ada", PASSWORD)


# --- people change, in both places ---

OTHER = "quite another sentence"


@pytest.fixture
async def house(rig: Rig) -> Rig:
    """With an admin who has claimed it."""
    await rig.people.claim(await rig.code(), "ada", PASSWORD)
    return rig


ADA = User("ada", "admin")


async def test_a_new_person_confirms_with_the_same_password_only_where_the_role_does(house: Rig) -> None:
    await house.people.admit(ADA, "Bea", OTHER, "biomed", PASSWORD)
    assert house.operators.check("bea", OTHER) == "biomed"
    await house.people.admit(ADA, "vic", OTHER, "viewer", PASSWORD)
    with pytest.raises(CredentialError):
        house.operators.check("vic", OTHER)
    assert [(u.name, u.role) for u in await house.people.users()] == [("ada", "admin"), ("bea", "biomed"), ("vic", "viewer")]


async def test_whoever_changes_people_shows_the_password(house: Rig) -> None:
    for wrong in ("", "not it at all"):
        with pytest.raises(RefusedError):
            await house.people.admit(ADA, "bea", OTHER, "biomed", wrong)
        with pytest.raises(RefusedError):
            await house.people.dismiss(ADA, "ada", wrong)
    assert [u.name for u in await house.people.users()] == ["ada"]
    with pytest.raises(RefusedError, match="only an admin"):
        await house.people.admit(User("bea", "biomed"), "eve", OTHER, "admin", OTHER)


async def test_a_known_name_is_not_given_a_second_credential(house: Rig) -> None:
    await house.people.admit(ADA, "bea", OTHER, "biomed", PASSWORD)
    with pytest.raises(InputError, match="already"):
        await house.people.admit(ADA, "bea", "a third sentence here", "admin", PASSWORD)
    assert house.operators.check("bea", OTHER) == "biomed"


async def test_a_viewer_who_becomes_biomed_needs_a_new_password_and_a_fall_takes_the_credential(house: Rig) -> None:
    await house.people.admit(ADA, "vic", OTHER, "viewer", PASSWORD)
    with pytest.raises(InputError, match="needs a new one"):
        await house.people.appoint(ADA, "vic", "biomed", PASSWORD)
    await house.people.appoint(ADA, "vic", "biomed", PASSWORD, "a third sentence here")
    assert house.operators.check("vic", "a third sentence here") == "biomed"
    await house.people.appoint(ADA, "vic", "admin", PASSWORD)
    assert house.operators.check("vic", "a third sentence here") == "admin"
    await house.people.appoint(ADA, "vic", "viewer", PASSWORD)
    with pytest.raises(CredentialError):
        house.operators.check("vic", "a third sentence here")


async def test_the_last_admin_stays_in_both_places(house: Rig) -> None:
    for change in (house.people.appoint(ADA, "ada", "viewer", PASSWORD), house.people.dismiss(ADA, "ada", PASSWORD)):
        with pytest.raises(RefusedError, match="last admin"):
            await change
    await house.in_both("ada", PASSWORD)


async def test_a_person_who_goes_is_gone_from_both_and_while_policy_is_away_nothing_changes(house: Rig) -> None:
    await house.people.admit(ADA, "bea", OTHER, "biomed", PASSWORD)
    token = await house.people.start_session(User("bea", "biomed"))
    house.away = True
    with pytest.raises(UnavailableError):
        await house.people.dismiss(ADA, "bea", PASSWORD)
    assert await house.people.session(token) == User("bea", "biomed")
    house.away = False
    await house.people.dismiss(ADA, "bea", PASSWORD)
    assert await house.people.session(token) is None
    with pytest.raises(CredentialError):
        house.operators.check("bea", OTHER)


async def test_ones_own_password_changes_in_both_and_ends_the_sessions(house: Rig) -> None:
    token = await house.people.start_session(ADA)
    with pytest.raises(RefusedError):
        await house.people.change_password(ADA, "not it at all", OTHER, "test")
    with pytest.raises(InputError, match="12 to 256"):
        await house.people.change_password(ADA, PASSWORD, "short", "test")
    await house.people.change_password(ADA, PASSWORD, OTHER, "test")
    assert await house.people.session(token) is None
    await house.in_both("ada", OTHER)


async def test_root_on_the_console_asks_policy_itself(house: Rig) -> None:
    root = User("root", "admin")
    house.away = True  # the daemon never asks in root's name
    await house.people.admit(root, "vic", OTHER, "viewer", "")
    await house.people.appoint(root, "vic", "clinical", "")
    await house.people.dismiss(root, "vic", "")
    assert [u.name for u in await house.people.users()] == ["ada"]
