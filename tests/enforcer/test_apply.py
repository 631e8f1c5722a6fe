"""Commit-confirm on a real kernel: what was applied and not confirmed goes back by itself, whatever ends meanwhile."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gateway.enforcer import credentials, pending
from gateway.enforcer.confirm import answer_request
from gateway.enforcer.confirmed import ConfirmedPolicy, audit_lines
from gateway.enforcer.credentials import Operators
from gateway.enforcer.document import Document, canonical, check_document, parse_document
from gateway.enforcer.listing import differences, parse_listing
from gateway.enforcer.vital import vital_cut
from hil.network import run
from tests.enforcer.ward import HOSP4, MONITORING, PUMP4, Bench, Udp, bench, document

SHORT = 0.05  # minutes


def named() -> dict[str, Any]:
    """The pump's policy with its vital function named, as the compiler does."""
    value = document()
    flows = {f"set{v}": value["sets"][f"vital{v}"] for v in (4, 6)}
    value["functions"]["pump-1"]["monitoring"] = flows
    return value


def without_vital() -> dict[str, Any]:
    """A rule that locks the pump's own monitoring out."""
    value = copy.deepcopy(named())
    value["sets"]["vital4"], value["sets"]["vital6"] = [], []
    del value["functions"]["pump-1"]["monitoring"]
    return value


def harmless() -> dict[str, Any]:
    """One earned flow less; no vital one."""
    value = copy.deepcopy(named())
    value["sets"]["rtl1_4"] = []
    return value


# --- which vital flows a change would cut ---


def cut(change: Any) -> list[str]:
    after = named()
    change(after)
    return vital_cut(check_document(named()), check_document(after))


def test_a_vital_flow_is_cut_by_leaving_its_set_by_needing_a_level_and_by_losing_its_place() -> None:
    assert cut(lambda d: None) == []
    assert cut(lambda d: d["sets"].update(rtl1_4=[])) == []
    assert cut(lambda d: (d["sets"].update(vital4=[]), d.update(functions={}))) == ["pump-1.monitoring"]

    def earned(d: dict[str, Any]) -> None:
        d["sets"]["rtl3_4"] += d["sets"].pop("vital4")

    assert cut(earned) == ["pump-1.monitoring"]
    for place in ("port4", "bind4"):
        assert cut(lambda d, place=place: d["sets"].update({place: []})) == ["pump-1.monitoring"]
    assert cut(lambda d: d["sets"].update(port4=[["p-other", *d["sets"]["port4"][0][1:]]])) == ["pump-1.monitoring"]


def test_a_vital_flow_that_no_function_names_is_called_by_its_device() -> None:
    after = copy.deepcopy(document())
    after["sets"]["vital4"] = []
    assert vital_cut(check_document(document()), check_document(after)) == ["pump-1"]


# --- the files, without a kernel ---


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfirmedPolicy:
    """A policy directory whose kernel takes everything and remembers what it was given last."""
    loaded: list[str] = []

    def apply_document(given: Document) -> dict[str, int]:
        loaded.append(given.document_id)
        return {"added": 0, "deleted": 0}

    monkeypatch.setattr("gateway.enforcer.confirmed.apply_document", apply_document)
    monkeypatch.setattr("gateway.enforcer.confirmed.load_static", lambda *_: False)
    made = ConfirmedPolicy(tmp_path, tmp_path / "text")
    made.confirm("root", check_document(named()))
    made.loaded = loaded  # type: ignore[attr-defined]
    return made


def at(monkeypatch: pytest.MonkeyPatch, boot_id: str, seconds: float) -> None:
    monkeypatch.setattr(pending, "boot", lambda: (boot_id, round(seconds * 1e9)))


def test_what_is_applied_is_active_and_waits_and_nothing_else_may_change_meanwhile(policy: ConfirmedPolicy) -> None:
    first = policy.current().document_id
    answer = policy.apply("anna", check_document(harmless()), 10)
    assert policy.current().document_id == answer["document"] == policy.loaded[-1]  # type: ignore[attr-defined]
    shown = policy.status()["pending"]
    assert (shown["actor"], shown["before"]) == ("anna", first) and 599 < shown["left_s"] <= 600
    with pytest.raises(Exception, match="anna applied waits"):
        policy.confirm("root", check_document(without_vital()))
    with pytest.raises(Exception, match="anna applied waits"):
        policy.apply("root", check_document(without_vital()), 10, ["pump-1.monitoring"])
    assert policy.keep("ben")["previous"] == first
    assert policy.status()["pending"] is None
    with pytest.raises(Exception, match="no policy waits"):
        policy.keep("ben")
    assert policy.rollback("ben")["document"] == first  # the way back is still there
    assert [line["act"] for line in audit_lines(policy.directory)][1:] == ["apply", "keep", "rollback"]


def test_a_vital_flow_is_cut_only_when_each_is_named(policy: ConfirmedPolicy) -> None:
    change = check_document(without_vital())
    with pytest.raises(Exception, match=r"pump-1\.monitoring.*--cut-vital"):
        policy.apply("anna", change, 10)
    with pytest.raises(Exception, match=r"pump-1\.monitoring"):
        policy.apply("anna", change, 10, ["pump-1.control"])
    assert policy.status()["pending"] is None
    assert policy.apply("anna", change, 10, ["pump-1.monitoring"])["pending"]["vital_cut"] == ["pump-1.monitoring"]
    policy.keep("anna")
    policy.rollback("anna")  # brings it back: nothing is cut
    with pytest.raises(Exception, match=r"pump-1\.monitoring"):
        policy.rollback("anna")
    assert policy.rollback("anna", ["pump-1.monitoring"])["document"] == change.document_id


@pytest.mark.parametrize("minutes", [0, 0.01, 241, -1, "10", None, True, float("nan")])
def test_a_trial_is_bounded(policy: ConfirmedPolicy, minutes: object) -> None:
    with pytest.raises(Exception, match="minutes"):
        policy.apply("anna", check_document(harmless()), minutes)
    assert policy.status()["pending"] is None


def test_time_is_boot_time_and_a_restart_of_the_machine_ends_it(policy: ConfirmedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    first = policy.current().document_id
    at(monkeypatch, "one", 100)
    policy.apply("anna", check_document(harmless()), 10)
    at(monkeypatch, "one", 699)
    assert not policy.expire()
    at(monkeypatch, "one", 701)
    with pytest.raises(Exception, match="no policy waits"):
        policy.keep("anna")  # a minute too late is too late
    assert policy.current().document_id == first == policy.loaded[-1]  # type: ignore[attr-defined]
    at(monkeypatch, "one", 100)
    policy.apply("anna", check_document(harmless()), 10)
    at(monkeypatch, "two", 5)  # the machine was started again, in time by the clock
    assert policy.load("root")["document"] == first
    assert policy.status()["pending"] is None
    undone = audit_lines(policy.directory)[-1]
    assert undone["act"] == "undo" and "restart" in undone["why"]


def test_a_load_in_the_same_boot_keeps_what_waits(policy: ConfirmedPolicy) -> None:
    applied = policy.apply("anna", check_document(harmless()), 10)["document"]
    assert policy.load("root")["document"] == applied
    assert policy.status()["pending"]["document"] == applied


def test_every_place_where_power_can_fail_ends_in_the_old_policy(policy: ConfirmedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply writes three files and the kernel; cut off after any of them, the next start has the old policy."""
    import gateway.enforcer.confirmed as confirmed
    import gateway.enforcer.pending as waiting

    first = policy.current().document_id
    for broken in (1, 2, 3):
        left = broken
        real = pending.write_atomically

        def write(path: Path, content: bytes, mode: int, real: Any = real) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt  # as a power cut: nothing after it runs
            real(path, content, mode)

        with monkeypatch.context() as m:
            m.setattr(waiting, "write_atomically", write)
            m.setattr(confirmed, "write_atomically", write)
            with pytest.raises(KeyboardInterrupt):
                policy.apply("anna", check_document(harmless()), 10)
        assert policy.load("root")["document"] == first, broken
        assert policy.status()["pending"] is None, broken
        assert policy.loaded[-1] == first, broken  # type: ignore[attr-defined]


def test_a_kernel_that_refuses_the_new_policy_keeps_the_old_one(policy: ConfirmedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    first, wanted = policy.current().document_id, check_document(harmless())
    taken: list[str] = []

    def refusing(given: Document) -> dict[str, int]:
        if given.document_id == wanted.document_id:
            raise OSError("no room")
        taken.append(given.document_id)
        return {}

    monkeypatch.setattr("gateway.enforcer.confirmed.apply_document", refusing)
    with pytest.raises(OSError, match="no room"):
        policy.apply("anna", wanted, 10)
    assert (policy.current().document_id, taken, policy.status()["pending"]) == (first, [first], None)


def test_the_network_follows_a_trial_there_and_back(policy: ConfirmedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[str] = []

    def follow(_config: object, document: bytes) -> list[str]:
        went.append(parse_document(document).document_id)
        return ["no such card"]

    monkeypatch.setattr("gateway.enforcer.confirmed.follow", follow)
    first, moved = policy.current(), named()
    moved["sets"]["port4"] = [["p-other", *moved["sets"]["port4"][0][1:]]]
    change = check_document(moved)
    answer = policy.apply("anna", change, 10, ["pump-1.monitoring"])
    assert answer["network"] == ["no such card"]  # told, and the policy stays
    assert policy.rollback("anna")["document"] == first.document_id
    assert went == [change.document_id, first.document_id]


def test_a_broken_active_policy_is_replaced_by_the_one_before(policy: ConfirmedPolicy) -> None:
    first = policy.current().document_id
    policy.apply("anna", check_document(harmless()), 10)
    (policy.directory / "confirmed.json").write_bytes(b"{")
    assert policy.load("root")["document"] == first


def test_a_broken_note_is_over_and_a_lost_way_back_cuts_nobody(policy: ConfirmedPolicy) -> None:
    first = policy.current().document_id
    policy.apply("anna", check_document(harmless()), 10)
    (policy.directory / "pending.json").write_bytes(b"\0{")
    assert policy.load("root")["document"] == first
    applied = policy.apply("anna", check_document(harmless()), 10)["document"]
    (policy.directory / "before.json").write_bytes(b"{}")
    (policy.directory / "pending.json").write_bytes(b"[]")
    assert policy.load("root")["document"] == applied
    assert audit_lines(policy.directory)[-1]["act"] == "undo failed"


def test_confirming_and_rolling_back_need_an_operator_too(policy: ConfirmedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_SCRYPT_N", 1 << 4)
    operators = Operators(policy.directory)
    operators.put("anna", "correct horse battery", "biomed")

    def ask(request: dict[str, Any], uid: int = 61001) -> dict[str, Any]:
        return answer_request(json.dumps(request).encode(), uid, policy, operators)

    who = {"user": "anna", "password": "correct horse battery"}
    wanted = {"do": "apply", "document": harmless(), "minutes": 5}
    assert not ask(wanted)["ok"]
    assert ask({**wanted, **who})["ok"]
    for verb in ("keep", "rollback"):
        for wrong in ({}, {"user": "anna", "password": "wrong password"}):
            refused = ask({"do": verb, **wrong})
            assert not refused["ok"] and refused["remedy"]
    assert ask({"do": "status"})["pending"]["actor"] == "anna"  # seeing needs nobody
    assert not ask({"do": "rollback", **who, "cut_vital": "all"})["ok"]
    assert ask({"do": "keep"}, uid=0)["ok"]
    assert not ask({"do": "keep", **who})["ok"]


def test_a_profile_in_a_document_is_text_and_bounded() -> None:
    good = {**named(), "profiles": {"infusion-pump": 'id = "infusion-pump"'}}
    assert json.loads(check_document(good).canonical)["profiles"]
    for wrong in ([], {"Bad id": ""}, {"a": 1}, {"a": "x" * 70_000}, {f"p{n}": "" for n in range(300)}):
        with pytest.raises(Exception, match="profiles"):
            check_document({**named(), "profiles": wrong})


# --- real packets ---


@pytest.fixture(scope="module")
def rig() -> Iterator[Bench]:
    with bench(named()) as made:
        yield made


@contextmanager
def served(rig: Bench) -> Iterator[subprocess.Popen[bytes]]:
    command = ["ip", "netns", "exec", rig.ward.gateway, sys.executable, "-m", "gateway.enforcer.confirm", "serve"]
    command += ["--state", str(rig.ward.policy_dir), "--socket", str(rig.directory / "p.sock")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield server
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(10)
        if server.stdout is not None:
            server.stdout.close()


def ask(rig: Bench, **request: Any) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(str(rig.directory / "p.sock"))
        s.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(s.makefile("rb").readline())
    return answer


def lock_out(rig: Bench, minutes: float) -> None:
    answer = ask(rig, do="apply", document=without_vital(), minutes=minutes, cut_vital=["pump-1.monitoring"])
    assert answer["ok"], answer


def is_first(rig: Bench) -> bool:
    first = check_document(named())
    held = parse_document(rig.ward.confirmed.read_bytes()).document_id == first.document_id
    return held and differences(parse_listing(rig.ward.nft("-j", "list", "ruleset")), first) == []


def settled(rig: Bench) -> None:
    """The first policy is back, in the kernel and then on disk."""
    end = time.monotonic() + 5
    while (rig.ward.confirmed.parent / "pending.json").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert is_first(rig)


@pytest.mark.rig
def test_whoever_locks_himself_out_is_let_in_again_by_the_timer(rig: Bench) -> None:
    with served(rig), Udp(rig.pump, rig.ward.hospital, PUMP4, HOSP4, MONITORING) as monitoring:
        assert monitoring.passes()
        refused = ask(rig, do="apply", document=without_vital(), minutes=SHORT)
        assert not refused["ok"] and "pump-1.monitoring" in refused["error"]
        assert monitoring.passes()  # nothing was touched
        began = time.monotonic()
        lock_out(rig, SHORT)
        assert not monitoring.passes(0.3)
        assert ask(rig, do="status")["pending"]["left_s"] > 0
        while not monitoring.passes(0.2):
            assert time.monotonic() - began < 10
        took = time.monotonic() - began
        assert SHORT * 60 - 0.5 < took < SHORT * 60 + 2, took
        settled(rig)
        assert rig.state()["state"] == "clear"  # the enforcer saw its own policy come back, nobody's tampering


@pytest.mark.rig
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_loader_that_ends_meanwhile_undoes_it(rig: Bench, how: signal.Signals) -> None:
    with Udp(rig.pump, rig.ward.hospital, PUMP4, HOSP4, MONITORING) as monitoring:
        with served(rig) as server:
            lock_out(rig, 0.1)
            assert not monitoring.passes(0.3)
            server.send_signal(how)
            server.wait(10)
        if how is signal.SIGKILL:
            assert not monitoring.passes(0.3)
            with served(rig):  # as systemd does after a failure: the time goes on where it was
                assert ask(rig, do="status")["pending"]
                assert monitoring.passes(9)
        assert monitoring.passes()
        settled(rig)


@pytest.mark.rig
def test_a_restart_of_the_machine_undoes_it_before_anything_is_loaded(rig: Bench) -> None:
    with served(rig) as server, Udp(rig.pump, rig.ward.hospital, PUMP4, HOSP4, MONITORING) as monitoring:
        lock_out(rig, 10)
        server.kill()
        server.wait(10)
        note = rig.ward.confirmed.parent / "pending.json"
        waiting = asdict(pending.PendingFile(note.parent).read())  # type: ignore[type-var]
        note.write_bytes(canonical({**waiting, "boot_id": "of-before-the-restart"}))
        os.chmod(note, 0o644)
        command = ["ip", "netns", "exec", rig.ward.gateway, sys.executable, "-m", "gateway.enforcer.confirm", "load"]
        run(*command, "--state", str(rig.ward.policy_dir))
        assert monitoring.passes()
        assert is_first(rig) and not note.exists()


@pytest.mark.rig
def test_a_confirmed_change_stays_and_rollback_is_the_way_back(rig: Bench) -> None:
    with served(rig):
        applied = ask(rig, do="apply", document=harmless(), minutes=SHORT)
        assert applied["ok"] and ask(rig, do="keep")["ok"]
        time.sleep(SHORT * 60 + 0.3)
        assert parse_document(rig.ward.confirmed.read_bytes()).document_id == applied["document"]
        assert ask(rig, do="rollback")["ok"]
        assert is_first(rig)


@pytest.mark.rig
def test_policy_check_live_finds_what_the_kernel_has_and_what_it_lacks(rig: Bench) -> None:
    config = rig.directory / "wardgate.toml"
    config.write_text(f'[policy]\nconfirmed = "{rig.ward.confirmed}"\n')
    command = ["ip", "netns", "exec", rig.ward.gateway, sys.executable, "-m", "gateway", "--json", "--config", str(config)]

    def live() -> tuple[int, dict[str, Any]]:
        done = subprocess.run([*command, "policy", "check", "--live"], capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, json.loads(done.stdout)["live"]

    code, found = live()
    assert code == 0 and found["ok"] and found["digest"] == found["expected_digest"] and found["elements"] > 20
    rig.nft("add element inet wardgate rtl1_4 { 10.9.9.9 . 10.77.0.11 . tcp . 22 }")
    code, found = live()
    assert code == 1 and any("10.9.9.9" in d and "not in the policy" in d for d in found["differences"])
    rig.nft("delete element inet wardgate rtl1_4 { 10.9.9.9 . 10.77.0.11 . tcp . 22 }; flush set inet wardgate vital4")
    code, found = live()
    assert code == 1 and any("vital4" in d and "not in the kernel" in d for d in found["differences"])
    rig.nft("insert rule inet wardgate forward accept")
    (rig.ward.confirmed.parent / "static.json").write_text(json.dumps({"digest": live()[1]["digest"], "text": ""}))
    code, found = live()  # a loader's note that was forged with the rules does not help: the text is listed anew
    assert code == 1 and any("the kernel's rules are not those of" in d for d in found["differences"])
    rig.ward.load()
    assert live()[0] == 0
