"""The TPM goes, hangs, comes back, was reset, locks out: bounded errors, news once each way, and no restart of ours."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_PT,
    TPM2_SE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK,
    TSS2_Exception,
)
from tpm2_pytss.constants import TPM2_RH, TPM2_ST

from gateway.attester import keys
from gateway.attester.attester import Attester, provision
from gateway.attester.tpm import Connection, Health, Tpm
from gateway.errors import UnavailableError
from hil.tpm import Swtpm

pytestmark = pytest.mark.rig


async def until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def answers(attester: Attester, timeout_s: float = 5.0) -> None:
    """Ask until a quote is made: a TPM that goes on first ends what it was at."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            await attester.quote(bytes(32))
        except UnavailableError:
            assert time.monotonic() < deadline, "it does not answer again"
            await asyncio.sleep(0.01)
        else:
            return


def failed_tries(connection: Connection) -> int:
    """TPM_PT_LOCKOUT_COUNTER."""
    found = connection.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 1)[1]
    held = found.data
    properties = held.tpmProperties
    first = properties[0]
    return int(first.value)


def protected_key(connection: Connection, use: bytes | None) -> None:
    """Make a key that is under dictionary-attack protection, and use it with this authorisation if any."""
    esys = connection.esys
    attributes = (
        TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
        | TPMA_OBJECT.SENSITIVEDATAORIGIN | TPMA_OBJECT.USERWITHAUTH
    )  # fmt: skip
    sensitive = TPM2B_SENSITIVE_CREATE(sensitive=TPMS_SENSITIVE_CREATE(userAuth=b"right"))
    made = esys.create_primary(sensitive, TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", attributes), ESYS_TR.ENDORSEMENT)
    with connection.flushing(made[0]) as key:
        if use is not None:
            esys.tr_set_auth(key, use)
            ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
            esys.sign(key, bytes(32), TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket)


async def test_a_killed_tpm_is_reported_and_its_return_needs_nobody(
    swtpm: Swtpm, attester: Attester, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.attester")
    news: list[Health] = []
    end = attester.on_change(news.append)
    watching = asyncio.ensure_future(attester.tpm.watch(0.05, 0.05))
    before = await attester.quote(bytes(32))
    swtpm.kill()
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer"):
        await attester.quote(bytes(32))
    assert time.monotonic() - began < 1.0
    assert not attester.health().up
    await asyncio.sleep(0.3)  # several probes against nothing
    assert [h.up for h in news] == [False]
    swtpm.power_on()
    await until(lambda: attester.health().up)
    assert "reset 1 time while we ran" in attester.health().detail
    after = await attester.quote(bytes(32))
    assert after.pcrs == before.pcrs
    assert after.nv_counter == before.nv_counter
    assert [(h.up, h.resets) for h in news] == [(False, 0), (True, 1)]
    levels = [r.levelname for r in caplog.records if r.message.startswith(("TPM down", "TPM up"))]
    assert levels == ["ERROR", "WARNING"]
    end()
    swtpm.kill()
    await until(lambda: not attester.health().up)
    assert len(news) == 2
    watching.cancel()


async def test_a_restart_nobody_noticed_costs_no_call(swtpm: Swtpm, attester: Attester) -> None:
    await attester.quote(bytes(32))
    swtpm.restart()
    assert (await attester.quote(bytes(32))).nv_counter == 1
    assert attester.health().resets == 1
    swtpm.restart()
    assert await attester.nv_counter(increment=True) == 2


async def test_a_hanging_tpm_fails_every_call_in_time_until_it_answers(swtpm: Swtpm, state_dir: Path) -> None:
    tpm = Tpm(swtpm.tcti, limit_s=1.0)
    try:
        await provision(tpm, state_dir, "gw-1")
        attester = Attester(tpm, state_dir)
        assert swtpm.process
        swtpm.process.signal(signal.SIGSTOP)
        began = time.monotonic()
        results = await asyncio.gather(*(attester.quote(bytes(32)) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(r, UnavailableError) and "hangs" in r.what for r in results)
        assert time.monotonic() - began < 3.0, "five limits one after the other would be five seconds"
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="hangs"):
            await attester.quote(bytes(32))
        assert time.monotonic() - began < 0.8, "at once, not after another limit"
        assert not attester.health().up
        swtpm.process.signal(signal.SIGCONT)
        await answers(attester)
        assert attester.health().up
        assert attester.health().resets == 0
    finally:
        await tpm.close()


async def test_a_hanging_tpm_does_not_hold_up_the_end(swtpm: Swtpm) -> None:
    tpm = Tpm(swtpm.tcti, limit_s=0.3)
    await tpm.probe()
    assert swtpm.process
    swtpm.process.signal(signal.SIGSTOP)
    with pytest.raises(UnavailableError):
        await tpm.probe()
    began = time.monotonic()
    await tpm.close(timeout_s=0.3)
    assert time.monotonic() - began < 1.0
    swtpm.process.signal(signal.SIGCONT)


async def test_a_closed_tpm_says_so(tpm: Tpm) -> None:
    await tpm.probe()
    await tpm.close()
    with pytest.raises(UnavailableError, match="closed"):
        await tpm.probe()


HAS_TPM = Path("/sys/class/tpm/tpm0").exists()  # a machine with one tells of the missing resource manager instead
NO_TPM = "the kernel has a TPM and no" if HAS_TPM else "the kernel shows no TPM; switch it on in the firmware"


async def test_no_tpm_at_all_is_an_error_with_a_remedy() -> None:
    tpm = Tpm("device:/dev/no-such-tpm")
    with pytest.raises(UnavailableError, match=NO_TPM):
        await tpm.probe()
    assert not tpm.health.up
    await tpm.close()


async def test_another_tpm_in_its_place_is_noticed(
    insert: Callable[[Path], Swtpm], other_chip: Path, attester: Attester, tmp_path: Path, state_dir: Path
) -> None:
    other, directory = Tpm(insert(other_chip).tcti), tmp_path / "other"
    directory.mkdir()
    with pytest.raises(UnavailableError, match=r"does not hold our key.*wardgate init"):
        await Attester(other, state_dir).quote(bytes(32))
    await provision(other, directory, "gw-2")
    with pytest.raises(UnavailableError, match=r"another attestation key|authorisation"):
        await Attester(other, state_dir).quote(bytes(32))
    await other.close()


async def test_power_cuts_never_count_as_guesses(swtpm: Swtpm, attester: Attester) -> None:
    for n in range(5):
        await attester.quote(bytes(32))
        assert await attester.nv_counter(increment=True) == n + 2
        swtpm.restart()
    assert await attester.tpm.call(failed_tries) == 0
    assert (await attester.quote(bytes(32))).nv_counter == 6


async def test_a_key_without_noda_would_be_counted(swtpm: Swtpm, attester: Attester) -> None:
    """Shows that the test above can fail: the same cut after the rightful use of a protected key is a failed guess."""
    await attester.tpm.call(lambda c: protected_key(c, b"right"))
    swtpm.restart()
    assert await attester.tpm.call(failed_tries) == 1


def guess_until_locked(connection: Connection) -> None:
    """Guess wrong until the TPM locks out; 32 tries are allowed."""
    for _ in range(40):
        try:
            protected_key(connection, b"wrong")
        except TSS2_Exception as e:
            if int(e.rc) == 0x921:
                return
    raise AssertionError("it never locked out")


async def test_in_lockout_our_keys_work_and_it_is_said(attester: Attester) -> None:
    await attester.tpm.call(guess_until_locked)
    with pytest.raises(UnavailableError, match=r"dictionary-attack lockout.*recovery time"):
        await attester.tpm.call(lambda c: protected_key(c, b"right"))
    news: list[Health] = []
    attester.on_change(news.append)
    await attester.tpm.probe()
    assert news[-1].lockout
    assert "lockout" in news[-1].detail
    assert news[-1].up
    assert (await attester.quote(bytes(32))).nv_counter == 1
    assert await attester.nv_counter(increment=True) == 2


async def test_what_a_killed_process_left_in_the_tpm_is_flushed(swtpm: Swtpm, attester: Attester) -> None:
    """swtpm has three slots and no resource manager; without the sweep the next daemon would find them full."""

    def leave(connection: Connection) -> None:
        for _ in range(2):
            connection.esys.create_primary(None, TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", keys.AK_ATTRIBUTES))
        none = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        for kind in (TPM2_SE.POLICY, TPM2_SE.TRIAL, TPM2_SE.HMAC):
            connection.esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, kind, none, TPM2_ALG.SHA256)

    def loaded(connection: Connection) -> int:
        return sum(len(connection.handles(first)) for first in (0x80000000, 0x02000000))

    first = Tpm(swtpm.tcti)
    await attester.tpm.close()

    def owner(connection: Connection) -> Any:
        connection.esys.tr_set_auth(ESYS_TR.OWNER, bytes.fromhex(attester._state.owner))
        return leave(connection)

    await first.call(owner)
    assert await first.call(loaded) == 5
    await first.close()
    second = Tpm(swtpm.tcti)
    assert await second.call(loaded) == 0
    await second.close()


async def test_a_call_given_up_is_not_run(tpm: Tpm) -> None:
    ran: list[int] = []
    begun, release = threading.Event(), threading.Event()
    slow = asyncio.ensure_future(tpm.call(lambda c: (begun.set(), release.wait(10))))
    await until(begun.is_set)
    given_up = asyncio.ensure_future(tpm.call(lambda c: ran.append(1)))
    await asyncio.sleep(0.05)
    given_up.cancel()
    release.set()
    await slow
    await tpm.probe()
    assert ran == []


async def test_more_than_can_wait_is_refused_at_once(tpm: Tpm) -> None:
    await tpm.probe()
    begun, release = threading.Event(), threading.Event()
    first = asyncio.ensure_future(tpm.call(lambda c: (begun.set(), release.wait(10))))
    await until(begun.is_set)
    asked = [asyncio.ensure_future(tpm.probe()) for _ in range(300)]
    await until(lambda: any(a.done() for a in asked))
    await asyncio.sleep(0.05)  # nothing but the TPM's thread can answer the others, and it is busy
    refused = [a.exception() for a in asked if a.done()]
    assert len(refused) == 300 - 256
    assert all(isinstance(r, UnavailableError) and "too much" in r.what for r in refused)
    assert tpm.health.up  # says nothing about the TPM
    release.set()
    await first
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [r for r in results if isinstance(r, BaseException)] == refused
