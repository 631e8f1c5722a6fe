"""API tokens: shown once, kept as a hash, ended by time on both clocks, delayed apart from people."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import InputError, RefusedError, TooOftenError, UnavailableError
from gateway.model.instant import Instant
from gateway.model.view import User
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.tokens import MOST, Tokens
from tests.store.conftest import HandClock

ROOT = User("root", "admin")
DAY_S = 86_400.0


@pytest.fixture
def audit(database: Database) -> AuditLog:
    return AuditLog(database)


@pytest.fixture
def tokens(database: Database, clock: HandClock, audit: AuditLog) -> Tokens:
    return Tokens(database, clock, audit)


def _all_bytes(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.iterdir() if p.is_file())


async def _kinds(audit: AuditLog) -> list[str]:
    return [e.kind for e in reversed(await audit.tail(1000))]


async def test_a_token_is_its_name_and_role_and_only_its_hash_is_kept(tokens: Tokens, tmp_path: Path, audit: AuditLog) -> None:
    secret = await tokens.add(ROOT, "scraper", "metrics", 30)
    assert secret.startswith("wgt_")
    assert len(secret) == 47
    assert await tokens.find(secret, "10.0.0.1") == User("token:scraper", "metrics")
    assert secret.encode() not in _all_bytes(tmp_path)
    assert await _kinds(audit) == ["token-added"], "looking is no event"


async def test_a_revoked_token_ends_at_once_even_when_the_disk_is_full(tokens: Tokens, database: Database, monkeypatch) -> None:
    secret = await tokens.add(ROOT, "ci", "biomed", 30)
    run = database.run

    async def full(work, *more):
        raise UnavailableError("the disk is full", "free space")

    await tokens.all()
    monkeypatch.setattr(database, "run", full)
    with pytest.raises(UnavailableError):
        await tokens.revoke(ROOT, "ci")
    monkeypatch.setattr(database, "run", run)
    with pytest.raises(RefusedError, match="unknown or was revoked"):
        await tokens.find(secret, "10.0.0.1")
    tokens._known = None  # as after a restart: it is still in the file, and revoked again for good
    await tokens.revoke(ROOT, "ci")
    tokens._known = None
    with pytest.raises(RefusedError):
        await tokens.find(secret, "10.0.0.1")


async def test_it_ends_by_boot_time_whatever_the_wall_clock_says(tokens: Tokens, clock: HandClock) -> None:
    secret = await tokens.add(ROOT, "ci", "viewer", 2)
    clock.forward(2 * DAY_S - 1)
    assert await tokens.find(secret, "s")
    clock.at = Instant(clock.at.boot_id, clock.at.mono_ns + 2 * 10**9, clock.at.utc_ns - 40 * 86_400 * 10**9, clock.at.quality)
    with pytest.raises(RefusedError, match="expired"):
        await tokens.find(secret, "s")
    assert (await tokens.all())[0].why_not == "expired"


async def test_a_jump_of_the_wall_clock_ends_nothing_before_a_reboot(tokens: Tokens, clock: HandClock) -> None:
    secret = await tokens.add(ROOT, "ci", "viewer", 2)
    clock.at = Instant(clock.at.boot_id, clock.at.mono_ns, clock.at.utc_ns + 400 * 86_400 * 10**9, clock.at.quality)
    assert await tokens.find(secret, "s")


async def test_after_a_reboot_wall_time_counts_and_a_clock_behind_lets_nobody_in(tokens: Tokens, clock: HandClock) -> None:
    secret = await tokens.add(ROOT, "ci", "viewer", 2)
    clock.forward(DAY_S)
    clock.reboot()
    assert await tokens.find(secret, "s")
    at = clock.at
    clock.at = Instant(at.boot_id, at.mono_ns, at.utc_ns - 3 * 86_400 * 10**9, at.quality)
    with pytest.raises(RefusedError, match="clock is behind"):
        await tokens.find(secret, "s")
    clock.at = Instant(at.boot_id, at.mono_ns, at.utc_ns + 86_400 * 10**9, at.quality)
    with pytest.raises(RefusedError, match="expired"):
        await tokens.find(secret, "s")


async def test_a_clock_turned_back_at_every_boot_does_not_keep_it_young(
    tokens: Tokens, clock: HandClock, database: Database, audit: AuditLog
) -> None:
    secret, made_utc = await tokens.add(ROOT, "ci", "viewer", 3), clock.at.utc_ns
    for boot in range(10):
        clock.forward(0.4 * DAY_S)
        tokens = Tokens(database, clock, audit)  # and a restart of the daemon each time
        try:
            await tokens.find(secret, "s")
        except RefusedError as e:
            assert "expired" in str(e)
            break
        clock.at = Instant(f"again-{boot}", 5 * 10**9, made_utc + 10**9, clock.at.quality)
    assert boot == 7, "3 days in pieces of 0.4"


async def test_wrong_tokens_wait_and_a_right_one_from_the_same_place_does_not(
    tokens: Tokens, clock: HandClock, audit: AuditLog
) -> None:
    secret = await tokens.add(ROOT, "ci", "viewer", 3)
    for _ in range(3):
        with pytest.raises(RefusedError, match="unknown"):
            await tokens.find("wgt_wrong", "10.0.0.1")
    for _ in range(500):
        with pytest.raises(TooOftenError) as told:
            await tokens.find("wgt_wrong", "10.0.0.1")
    assert 0 < told.value.wait_s <= 1
    assert await tokens.find(secret, "10.0.0.1")
    assert (await _kinds(audit)).count("token-refused") == 3
    assert (await _kinds(audit)).count("token-delayed") == 1, "the log is not the attacker's to fill"
    with pytest.raises(RefusedError, match="unknown"):
        await tokens.find("wgt_wrong", "10.0.0.2")  # elsewhere there is no delay
    assert tokens.refused == 504


async def test_a_change_is_written_down_with_the_tokens_name_or_does_not_happen(tokens: Tokens, audit: AuditLog) -> None:
    await tokens.used(User("token:ci", "biomed"), "POST /api/v1/command", "10.0.0.1")
    line = (await audit.tail(1))[0]
    assert (line.kind, line.text) == ("token-used", "token:ci: POST /api/v1/command")


@pytest.mark.parametrize(("name", "role", "days"), [
    ("", "viewer", 1), ("a b", "viewer", 1), ("A", "viewer", 1), ("x" * 33, "viewer", 1), ("ok", "root", 1), ("ok", "viewer", 0),
    ("ok", "viewer", 367),
])  # fmt: skip
async def test_tokens_that_cannot_be(tokens: Tokens, name: str, role: str, days: int) -> None:
    with pytest.raises(InputError):
        await tokens.add(ROOT, name, role, days)


async def test_only_an_admin_who_is_a_person_changes_tokens(tokens: Tokens) -> None:
    for who in (User("bea", "biomed"), User("token:ci", "admin")):
        with pytest.raises(RefusedError, match="only an admin"):
            await tokens.add(who, "x", "viewer", 1)
        with pytest.raises(RefusedError, match="only an admin"):
            await tokens.revoke(who, "x")
    await tokens.add(ROOT, "x", "viewer", 1)
    with pytest.raises(InputError, match="already"):
        await tokens.add(ROOT, "x", "viewer", 1)
    with pytest.raises(InputError, match="there is no token"):
        await tokens.revoke(ROOT, "y")


async def test_their_number_is_bounded(tokens: Tokens) -> None:
    for n in range(MOST):
        await tokens.add(ROOT, f"t{n}", "viewer", 1)
    with pytest.raises(RefusedError, match=f"there are {MOST}"):
        await tokens.add(ROOT, "more", "viewer", 1)
    assert len(await tokens.all()) == MOST
