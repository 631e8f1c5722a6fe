"""Who gets in, who does not, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.errors import InputError, RefusedError, UnavailableError
from gateway.model.effect import Record
from gateway.model.instant import Instant
from gateway.model.view import User
from gateway.ports import Recorded
from gateway.store.accounts import ALPHABET, Accounts
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.throttle import LONGEST_S, MOST_KEYS, Throttle, network_of
from tests.store.conftest import HandClock

GOOD = "the pump hums at night"
ROOT = User("root", "admin")


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.passwords._MEMORY_KIB", 256)  # the real cost has its own test
    monkeypatch.setattr("gateway.store.passwords._TIME_COST", 1)


@pytest.fixture
async def audit(database: Database) -> AuditLog:
    return AuditLog(database)


@pytest.fixture
async def accounts(database: Database, clock: HandClock, audit: AuditLog) -> AsyncIterator[Accounts]:
    made = Accounts(database, clock, audit)
    yield made
    made.close()


async def kinds(audit: AuditLog) -> list[str]:
    return [e.kind for e in reversed(await audit.tail(1000))]


# --- the claim code ---


async def test_the_claim_code_makes_the_first_admin_once(accounts: Accounts, audit: AuditLog) -> None:
    assert not await accounts.claimed()
    with pytest.raises(RefusedError, match="no claim code"):
        await accounts.claim("AAAA-AAAA", "anna", GOOD)
    code = await accounts.new_claim()
    assert len(code) == 9
    assert code[4] == "-"
    assert set(code) <= set(ALPHABET + "-")
    assert len(set(ALPHABET)) == 32  # eight letters are 40 bits
    assert await accounts.claim(code.lower().replace("-", " "), "Anna", GOOD) == User("anna", "admin")
    assert await accounts.claimed()
    with pytest.raises(RefusedError, match="was used"):
        await accounts.claim(code, "bert", GOOD)
    assert await accounts.login("anna", GOOD, "10.0.0.1") == User("anna", "admin")
    assert await kinds(audit) == ["claim-made", "claimed", "login"]


async def test_five_wrong_codes_burn_it(accounts: Accounts, audit: AuditLog) -> None:
    code = await accounts.new_claim()
    for left in (4, 3, 2, 1):
        with pytest.raises(RefusedError, match=f"{left} tries are left"):
            await accounts.claim("AAAA-AAAA", "anna", GOOD)
    with pytest.raises(RefusedError, match="void now"):
        await accounts.claim("AAAA-AAAA", "anna", GOOD)
    with pytest.raises(RefusedError, match="init --new-claim"):
        await accounts.claim(code, "anna", GOOD)
    assert (await kinds(audit)).count("claim-failed") == 5
    assert not await accounts.claimed()


async def test_parallel_guesses_get_no_more_than_five(accounts: Accounts) -> None:
    await accounts.new_claim()
    tries = (accounts.claim(f"AAAA-AAA{a}", "anna", GOOD) for a in ALPHABET[:8])
    errors = await asyncio.gather(*tries, return_exceptions=True)
    assert sum("not the claim code" in str(e) for e in errors) <= 5


async def test_two_with_the_right_code_at_once(accounts: Accounts) -> None:
    code = await accounts.new_claim()
    done = await asyncio.gather(accounts.claim(code, "anna", GOOD), accounts.claim(code, "bert", GOOD), return_exceptions=True)
    assert sum(isinstance(d, User) for d in done) == 1
    assert len(await accounts.users()) == 1


async def test_a_claim_code_ends_after_half_an_hour_on_both_clocks(accounts: Accounts, clock: HandClock) -> None:
    code = await accounts.new_claim()
    clock.forward(30 * 60 + 1)
    with pytest.raises(RefusedError, match="expired"):
        await accounts.claim(code, "anna", GOOD)
    code = await accounts.new_claim()
    clock.forward(60)
    clock.reboot()
    assert await accounts.claim(code, "anna", GOOD)  # a reboot in between is no reason to begin again
    code = await accounts.new_claim()
    clock.forward(31 * 60)
    clock.reboot("boot-3")
    with pytest.raises(RefusedError, match="expired"):
        await accounts.claim(code, "anna", GOOD)
    code = await accounts.new_claim()
    clock.at = Instant("boot-4", 1, 0)  # a clock at 1970 must not make an old code young
    with pytest.raises(RefusedError, match="expired"):
        await accounts.claim(code, "anna", GOOD)


async def test_a_new_claim_recovers_a_lost_password_and_ends_old_sessions(accounts: Accounts) -> None:
    await accounts.claim(await accounts.new_claim(), "anna", GOOD)
    token = await accounts.start_session(User("anna", "admin"))
    await accounts.claim(await accounts.new_claim(), "anna", "another fine sentence")
    assert await accounts.session(token) is None
    with pytest.raises(RefusedError):
        await accounts.login("anna", GOOD, "s")
    assert await accounts.login("anna", "another fine sentence", "s")


# --- logins ---


async def test_brute_force_is_slowed_down_and_ends_by_itself(accounts: Accounts, audit: AuditLog, clock: HandClock) -> None:
    await accounts.add_user(ROOT, "anna", GOOD, "biomed")
    checked = refused = 0
    for _ in range(3600):  # one guess a second for an hour, from ever new addresses
        try:
            await accounts.login("anna", "wrong wrong wrong", f"10.0.{checked}.{refused % 250}")
        except RefusedError as e:
            if "do not fit" in e.what:
                checked += 1
            else:
                refused += 1
        clock.forward(1)
    assert checked <= 16
    assert refused == 3600 - checked
    assert (await kinds(audit)).count("login-delayed") <= 16  # the log is not the attacker's to fill
    clock.forward(LONGEST_S)
    assert await accounts.login("anna", GOOD, "10.9.9.9") == User("anna", "biomed")


async def test_one_source_cannot_try_many_names(accounts: Accounts, clock: HandClock) -> None:
    checked = 0
    for i in range(300):
        try:
            await accounts.login(f"user{i}", "wrong wrong wrong", f"2001:db8:0:1::{i:x}")  # one /64 is one source
        except RefusedError as e:
            checked += "do not fit" in e.what
    assert checked == 3
    with pytest.raises(RefusedError, match="do not fit"):
        await accounts.login("user", "wrong wrong wrong", "2001:db8:0:2::1")


async def test_typing_mistakes_cost_nothing(accounts: Accounts) -> None:
    await accounts.add_user(ROOT, "anna", GOOD, "viewer")
    for _ in range(3):
        for _ in range(2):
            with pytest.raises(RefusedError):
                await accounts.login("anna", "oh no, not this", "s")
        await accounts.login("anna", GOOD, "s")


async def test_parallel_logins_are_charged_before_they_are_checked(accounts: Accounts) -> None:
    await accounts.add_user(ROOT, "anna", GOOD, "viewer")
    tries = (accounts.login("anna", f"guess number {i}", f"10.0.0.{i}") for i in range(50))
    errors = [str(e) for e in await asyncio.gather(*tries, return_exceptions=True)]
    assert sum("do not fit" in e for e in errors) <= 3


async def test_unicode_forms_of_one_password_are_one(accounts: Accounts) -> None:
    await accounts.add_user(ROOT, "anna", "die Öffnung ist frei", "viewer")
    assert await accounts.login("anna", "die O\u0308ffnung ist frei", "s")
    with pytest.raises(RefusedError):
        await accounts.login("anna", "\ud800" * 20, "s")


async def test_the_real_cost_and_a_stronger_one_later(
    accounts: Accounts, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.add_user(ROOT, "anna", GOOD, "viewer")
    monkeypatch.undo()
    accounts.close()
    stronger = Accounts(database, accounts._clock, accounts._audit)
    token = await stronger.start_session(User("anna", "viewer"))
    await stronger.login("anna", GOOD, "s")
    stored = await database.run(lambda d: d.execute("SELECT password FROM users").fetchone()[0])
    assert "$argon2id$" in stored
    assert "m=32768,t=3,p=1" in stored
    assert await stronger.session(token)
    stronger.close()


# --- changes ---


async def test_only_an_admin_changes_accounts_and_the_last_one_stays(accounts: Accounts) -> None:
    for role in ("viewer", "clinical", "biomed"):
        with pytest.raises(RefusedError, match="only an admin"):
            await accounts.add_user(User("x", role), "bert", GOOD, "viewer")
    await accounts.add_user(ROOT, "anna", GOOD, "admin")
    with pytest.raises(RefusedError, match="last admin"):
        await accounts.remove_user(ROOT, "anna")
    with pytest.raises(RefusedError, match="last admin"):
        await accounts.set_role(ROOT, "anna", "viewer")
    await accounts.add_user(ROOT, "bert", GOOD, "admin")
    await accounts.remove_user(User("bert", "admin"), "anna")
    assert await accounts.users() == [User("bert", "admin")]
    with pytest.raises(InputError, match="no user anna"):
        await accounts.set_role(ROOT, "anna", "viewer")


@pytest.mark.parametrize("name", ["", "root", "view-link", "a b", "../x", "ü", "x" * 33, "-x"])
async def test_names_that_cannot_be(accounts: Accounts, name: str) -> None:
    with pytest.raises(InputError, match="user name"):
        await accounts.add_user(ROOT, name, GOOD, "viewer")


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaa", "ANNA.THE.ADMIN", "x" * 257])
async def test_passwords_that_cannot_be(accounts: Accounts, password: str) -> None:
    with pytest.raises(InputError, match="password"):
        await accounts.add_user(ROOT, "anna.the.admin", password, "viewer")


async def test_a_change_that_cannot_be_recorded_does_not_happen(database: Database, clock: HandClock) -> None:
    class FullDisk:
        async def append(self, records: Sequence[tuple[Instant, Record]]) -> Sequence[Recorded]:
            raise UnavailableError("the disk is full", "free space")

        async def tail(self, limit: int = 50, before: int | None = None) -> Sequence[object]:
            return ()

    accounts = Accounts(database, clock, FullDisk())  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        await accounts.add_user(ROOT, "anna", GOOD, "admin")
    assert await accounts.users() == []
    accounts.close()


# --- sessions ---


def _all_bytes(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.iterdir() if p.is_file())


async def test_a_session_ends_when_idle_when_old_and_when_the_role_changes(accounts: Accounts, clock: HandClock) -> None:
    await accounts.add_user(ROOT, "anna", GOOD, "admin")
    await accounts.add_user(ROOT, "bert", GOOD, "biomed")
    bert = User("bert", "biomed")
    token = await accounts.start_session(bert)
    clock.forward(29 * 60)
    assert await accounts.session(token) == bert
    clock.forward(29 * 60)
    assert await accounts.session(token) == bert
    clock.forward(30 * 60 + 1)
    assert await accounts.session(token) is None
    token = await accounts.start_session(bert)
    for _ in range(12 * 3):
        clock.forward(20 * 60)
        assert await accounts.session(token) == bert
    clock.forward(1)
    assert await accounts.session(token) is None
    token = await accounts.start_session(bert)
    await accounts.set_role(ROOT, "bert", "viewer")
    assert await accounts.session(token) is None
    token = await accounts.start_session(User("bert", "viewer"))
    await accounts.end_session(token)
    assert await accounts.session(token) is None
    token = await accounts.start_session(User("bert", "viewer"))
    clock.reboot()
    assert await accounts.session(token) is None
    assert await accounts.session("nonsense \ud800") is None


async def test_tokens_are_not_in_the_file(accounts: Accounts, database: Database, tmp_path: Path) -> None:
    await accounts.add_user(ROOT, "anna", GOOD, "admin")
    secrets = [await accounts.start_session(User("anna", "admin")), await accounts.one_time_view(), await accounts.new_claim()]
    await database.run(lambda d: None)
    stored = _all_bytes(tmp_path)
    for secret in [*secrets, secrets[2].replace("-", ""), GOOD]:
        assert secret.encode() not in stored


async def test_a_session_survives_a_restart_of_the_daemon_and_a_full_disk(
    accounts: Accounts, database: Database, clock: HandClock, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.add_user(ROOT, "anna", GOOD, "admin")
    token = await accounts.start_session(User("anna", "admin"))
    again = Accounts(database, clock, audit)
    assert await again.session(token) == User("anna", "admin")
    again.close()
    await database.run(lambda d: d.execute("PRAGMA query_only = 1"))  # every write fails, as on a full disk
    for _ in range(3):
        clock.forward(20 * 60)
        await database.run(lambda d: d.execute("PRAGMA query_only = 1"))
        assert await accounts.session(token) == User("anna", "admin")


async def test_sessions_of_one_user_are_bounded(accounts: Accounts, database: Database, clock: HandClock) -> None:
    tokens = []
    for _ in range(20):
        tokens.append(await accounts.start_session(User("anna", "admin")))
        clock.forward(1)
    assert [await accounts.session(t) is not None for t in tokens] == [False] * 4 + [True] * 16


async def test_a_view_link_works_once_and_only_views(accounts: Accounts, clock: HandClock, audit: AuditLog) -> None:
    link = await accounts.one_time_view()
    session = await accounts.redeem_view(link, "10.0.0.1")
    assert await accounts.session(session) == User("view-link", "viewer")
    assert await accounts.session(link) is None  # a link is no session
    with pytest.raises(RefusedError, match="used already"):
        await accounts.redeem_view(link)
    old = await accounts.one_time_view()
    clock.forward(30 * 60 + 1)
    with pytest.raises(RefusedError, match="too old"):
        await accounts.redeem_view(old)
    assert "view-link-used" in await kinds(audit)


def test_the_throttle_forgets_and_stays_small() -> None:
    throttle = Throttle()
    for i in range(MOST_KEYS * 2):
        throttle.charge(f"k{i}", 0.0)
    assert len(throttle._keys) == MOST_KEYS
    for i in range(40):
        throttle.charge("x", float(i))
    assert throttle.wait_s("x", 39.0) == LONGEST_S
    throttle.charge("x", 39.0 + 3601)
    assert throttle.wait_s("x", 39.0 + 3601) == 0
    assert network_of("::ffff:10.0.0.1") == "10.0.0.1"
