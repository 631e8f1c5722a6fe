"""``wardgate-policy``: the loader on a real kernel, and who may confirm what."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.enforcer import confirm, credentials
from gateway.enforcer.check import survey
from gateway.enforcer.confirmed import ConfirmedPolicy, audit_lines
from gateway.enforcer.credentials import CredentialError, Operators
from gateway.enforcer.document import parse_document
from gateway.enforcer.listing import differences, parse_listing
from gateway.enforcer.load import LoadError, keep_bridge_out_of_ip_hooks, keep_bridges_from_learning
from gateway.enforcer.netlink import MAX_CHANGES, Change, KernelError, TrustMap
from gateway.house import glass_of
from hil.network import NetworkError, Ward, inside, run
from tests.enforcer.ward import HOSP4, PUMP4, PUMP6, Bench, bench, document

rigged = pytest.mark.rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Bench]:
    with bench() as made:
        assert made.enforcer is not None
        made.enforcer.stop()
        yield made


def policy_tool(ward: Ward, *argv: str, check: bool = True) -> str:
    command = ["ip", "netns", "exec", ward.gateway, sys.executable, "-m", "gateway.enforcer.confirm", argv[0]]
    return run(*command, "--state", str(ward.policy_dir), *argv[1:], check=check)


def levels(ward: Ward) -> dict[str, int]:
    return {a: kept.level for a, kept in parse_listing(ward.nft("-j", "list", "ruleset")).leases.items()}


@rigged
def test_loading_twice_changes_nothing_and_touches_no_lease(rig: Bench) -> None:
    with inside(rig.ward.gateway):
        trust = TrustMap()
    trust.apply([Change(PUMP4, 3, 30_000), Change(PUMP6, 3, 30_000)])
    before = rig.ward.nft("-j", "list", "ruleset")
    answer = json.loads(policy_tool(rig.ward, "load"))
    assert not answer["static_loaded"]
    assert (answer["added"], answer["deleted"]) == (0, 0)
    assert levels(rig.ward) == {PUMP4: 3, PUMP6: 3}
    assert parse_listing(before).digest == parse_listing(rig.ward.nft("-j", "list", "ruleset")).digest
    trust.apply([Change(PUMP4, 0), Change(PUMP6, 0)])
    trust.close()


@rigged
def test_a_changed_static_text_is_exchanged_with_its_elements_and_leases(rig: Bench) -> None:
    with inside(rig.ward.gateway):
        trust = TrustMap()
    trust.apply([Change(PUMP4, 2, 30_000)])
    rig.ward.nft("insert", "rule", "inet", "wardgate", "forward", "accept")
    answer = json.loads(policy_tool(rig.ward, "load"))
    assert answer["static_loaded"]
    assert (answer["added"], answer["deleted"]) == (0, 0)  # the elements came along
    assert levels(rig.ward) == {PUMP4: 2}
    listing = parse_listing(rig.ward.nft("-j", "list", "ruleset"))
    assert listing.digest == json.loads((rig.ward.confirmed.parent / "static.json").read_text())["digest"]
    assert differences(listing, parse_document(rig.ward.confirmed.read_bytes())) == []
    trust.apply([Change(PUMP4, 0)])
    trust.close()


@rigged
def test_a_foreign_element_is_removed_and_a_missing_one_put_back(rig: Bench) -> None:
    rig.nft("add element inet wardgate rtl1_4 { 10.9.9.9 . 10.77.0.11 . tcp . 22 }")
    rig.nft("flush set inet wardgate vital4")
    answer = json.loads(policy_tool(rig.ward, "load"))
    assert (answer["added"], answer["deleted"]) == (2, 1)
    assert differences(parse_listing(rig.ward.nft("-j", "list", "ruleset")), parse_document(rig.ward.confirmed.read_bytes())) == []


@rigged
def test_leases_end_with_their_device_and_above_a_new_cap_and_the_way_back_is_kept(rig: Bench) -> None:
    with inside(rig.ward.gateway):
        trust = TrustMap()
    trust.apply([Change(PUMP4, 3, 30_000), Change(PUMP6, 3, 30_000)])
    first = parse_document(rig.ward.confirmed.read_bytes()).document_id
    without = document()
    without["devices"]["pump-1"]["addresses"] = [PUMP4]
    without["functions"] = {}
    without["sets"] = {name: elements for name, elements in without["sets"].items() if name.endswith("4")}
    rig.ward.load(without)
    assert levels(rig.ward) == {PUMP4: 3}
    assert json.loads(policy_tool(rig.ward, "rollback"))["document"] == first
    assert parse_document(rig.ward.confirmed.read_bytes()).document_id == first
    assert levels(rig.ward) == {PUMP4: 3}
    trust.apply([Change(PUMP4, 0)])
    trust.close()


@rigged
def test_a_wrong_document_changes_nothing_and_says_all(rig: Bench, tmp_path: Path) -> None:
    before = rig.ward.confirmed.read_bytes()
    wrong = document()
    wrong["sets"]["vital4"].append(["10.77.0.12", "10.77.0.100", "tcp", 1])
    wrong["sets"]["seen4"] = [["10.77.0.12"]]
    draft = tmp_path / "d.json"
    draft.write_text(json.dumps(wrong))
    with pytest.raises(NetworkError, match=r"(?s)sets.seen4.*sets.vital4|sets.vital4.*sets.seen4"):
        policy_tool(rig.ward, "confirm", "--document", str(draft))
    assert rig.ward.confirmed.read_bytes() == before


@rigged
def test_break_glass_is_bounded_audited_and_ends_with_its_function(rig: Bench) -> None:
    glass = ["break-glass", "--device", "pump-1", "--reason", "pump alarm, daemon dead"]
    with pytest.raises(NetworkError, match="it has: control, maintenance"):
        policy_tool(rig.ward, *glass, "--function", "reboot", "--minutes", "5")
    with pytest.raises(NetworkError, match="240 minutes"):
        policy_tool(rig.ward, *glass, "--function", "maintenance", "--minutes", "100000")
    assert json.loads(policy_tool(rig.ward, *glass, "--function", "maintenance", "--minutes", "5"))["opened"] == 2
    assert json.loads(policy_tool(rig.ward, *glass, "--function", "maintenance", "--minutes", "2"))["opened"] == 2  # again: shorter
    opened = parse_listing(rig.ward.nft("-j", "list", "ruleset")).glass
    assert 0 < opened["glass4"][HOSP4, PUMP4, "tcp", 7000] <= 120
    with inside(rig.ward.gateway):
        seen = glass_of(survey(rig.ward.confirmed, None), 1_000_000)  # as the Network page takes it from the enforcer
    assert 1_100_000 < seen[HOSP4, PUMP4, "tcp", 7000] <= 1_120_000
    assert len(seen) == 2
    last = audit_lines(rig.ward.confirmed.parent)[-1]
    assert (last["act"], last["reason"], last["actor"]) == ("break-glass", "pump alarm, daemon dead", "root")
    assert (rig.ward.confirmed.parent / "audit.log").stat().st_mode & 0o777 == 0o600
    without = document()
    del without["functions"]["pump-1"]["maintenance"]
    rig.ward.load(without)
    assert parse_listing(rig.ward.nft("-j", "list", "ruleset")).glass["glass4"] == {}
    rig.ward.load(document())


@rigged
def test_the_loader_sets_what_the_bridge_must_not_do() -> None:
    with Ward(f"f{os.getpid() % 100000:05d}", management=False) as ward:
        run("ip", "-n", ward.gateway, "link", "set", "ward0", "type", "bridge", "no_linklocal_learn", "0")
        state = Path(f"/tmp/wg-load-{os.getpid()}")
        state.mkdir(mode=0o755)
        try:
            ward.policy_dir = state
            policy_tool(ward, "load")
            shown = "cat /sys/class/net/ward0/bridge/no_linklocal_learn /proc/sys/net/bridge/bridge-nf-call-*tables"
            values = run("ip", "netns", "exec", ward.gateway, "sh", "-c", shown).split()
            assert values == ["1", "0", "0", "0"]
            assert parse_listing(ward.nft("-j", "list", "ruleset")).present
        finally:
            for path in state.iterdir():
                path.unlink()
            state.rmdir()


def test_a_bridge_that_cannot_be_kept_out_stops_the_load(tmp_path: Path) -> None:
    keep_bridge_out_of_ip_hooks(tmp_path / "absent")
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"):
        (tmp_path / name).symlink_to("/proc/sys/kernel/ostype")  # cannot be written, and never reads 0
    with pytest.raises(LoadError, match="bridge-nf-call-iptables"):
        keep_bridge_out_of_ip_hooks(tmp_path)
    option = tmp_path / "ward0" / "bridge" / "no_linklocal_learn"
    option.parent.mkdir(parents=True)
    option.symlink_to("/proc/sys/kernel/ostype")
    with pytest.raises(LoadError, match="no_linklocal_learn"):
        keep_bridges_from_learning(tmp_path)


@rigged
@pytest.mark.parametrize("destroys", [True, False], ids=["with-destroy", "kernel-before-6.3"])
def test_the_trust_map_mends_wrong_beliefs_in_both_dialects(rig: Bench, destroys: bool) -> None:
    with inside(rig.ward.gateway):
        trust, other = TrustMap(destroys=destroys), TrustMap()
    try:
        trust.apply([Change(PUMP4, 0), Change(PUMP6, 0)])  # nothing there: no fault
        other.apply([Change(PUMP4, 1, 30_000)])
        trust.apply([Change(PUMP4, 3, 30_000), Change(PUMP6, 2, 30_000)])  # there, unknown to us
        assert levels(rig.ward) == {PUMP4: 3, PUMP6: 2}
        other.apply([Change(PUMP6, 0)])
        trust.apply([Change(PUMP4, 1, 30_000), Change(PUMP6, 1, 30_000)])  # gone behind us
        assert levels(rig.ward) == {PUMP4: 1, PUMP6: 1}
        trust.apply([Change(PUMP4, 2, 50), Change(PUMP6, 2, 50)])
        time.sleep(0.1)
        trust.apply([Change(PUMP4, 0), Change(PUMP6, 2, 30_000)])  # lapsed
        assert levels(rig.ward) == {PUMP6: 2}
        trust.believe([PUMP4])
        trust.apply([Change(PUMP6, 0), Change(PUMP4, 0)])
        assert levels(rig.ward) == {}
        many = [Change(f"10.81.{n // 250}.{n % 250 + 1}", 1, 30_000) for n in range(MAX_CHANGES)]
        trust.apply(many)
        trust.apply([change._replace(level=0) for change in many])
        assert levels(rig.ward) == {}
        with pytest.raises(KernelError, match="at most"):
            trust.apply([*many, Change(PUMP4, 1, 1)])
    finally:
        trust.close()
        other.close()


# Who may ask


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Requests as another user's, with the kernel's part replaced: what is tested here is who gets through."""
    monkeypatch.setattr(credentials, "_SCRYPT_N", 1 << 4)
    acts: list[tuple[str, str]] = []

    class Policy(ConfirmedPolicy):
        def confirm(self, actor: str, document: Any, act: str = "confirm") -> dict[str, Any]:
            acts.append((actor, document.document_id))
            return {"document": document.document_id}

    policy, operators = Policy(tmp_path, tmp_path), Operators(tmp_path)

    def ask(request: object, uid: int = 61001) -> dict[str, Any]:
        data = request if isinstance(request, bytes) else json.dumps(request).encode()
        return confirm.answer_request(data, uid, policy, operators)

    ask.acts = acts  # type: ignore[attr-defined]
    ask.operators = operators  # type: ignore[attr-defined]
    return ask


PASSWORD = "correct horse battery"


def test_the_claim_code_makes_one_admin_once(asked: Any) -> None:
    claim = {"do": "claim-operator", "code": "code-12345678", "user": "anna", "password": PASSWORD}
    assert not asked(claim)["ok"]
    asked.operators.write_claim("code-12345678")
    assert not asked({**claim, "code": "wrong-code"})["ok"]
    assert asked(claim) == {"ok": True, "user": "anna", "role": "admin"}
    assert not asked({**claim, "user": "eve"})["ok"]
    asked.operators.write_claim("code-87654321", valid_s=-1)
    assert not asked({**claim, "code": "code-87654321"})["ok"]


def test_only_root_or_an_operator_confirms_and_his_name_is_the_actor(asked: Any) -> None:
    request = {"do": "confirm", "document": document()}
    refused = asked(request)
    assert not refused["ok"]
    assert refused["remedy"]
    assert asked(request, uid=0)["ok"]
    asked.operators.put("anna", PASSWORD, "biomed")
    assert not asked({**request, "user": "anna", "password": "wrong password"})["ok"]
    assert not asked({**request, "user": "nobody", "password": PASSWORD})["ok"]
    assert asked({**request, "user": "anna", "password": PASSWORD})["ok"]
    assert [actor for actor, _ in asked.acts] == ["root", "anna"]
    new = {"do": "add-operator", "user": "anna", "password": PASSWORD, "name": "eve", "role": "admin", "new_password": PASSWORD}
    assert "only an admin" in asked(new)["error"]


def test_a_clinical_role_breaks_glass_and_changes_nothing_else(asked: Any) -> None:
    asked.operators.put("carl", PASSWORD, "clinical")
    who = {"user": "carl", "password": PASSWORD}
    glass = {"do": "break-glass", "device": "nobody", "function": "control", "minutes": 5, "reason": "the infusion must go on"}
    assert "clinical" not in asked({**glass, **who})["error"]  # it is let in, and told what is wrong with the device
    new = {"do": "add-operator", "name": "eve", "role": "admin", "new_password": PASSWORD}
    for request in ({"do": "confirm", "document": document()}, {"do": "rollback"}, {"do": "load"}, new):
        answer = asked({**request, **who})
        assert not answer["ok"]
        assert "may break glass and change nothing else" in answer["error"], request
    assert asked.acts == []


def test_guessing_is_slowed_down_also_across_processes_and_for_unknown_users(asked: Any, tmp_path: Path) -> None:
    asked.operators.put("anna", PASSWORD, "admin")
    for _ in range(5):
        with pytest.raises(CredentialError, match="is wrong"):
            Operators(tmp_path).check("anna", "guess guess guess")
    with pytest.raises(CredentialError, match="too many tries"):
        Operators(tmp_path).check("anna", PASSWORD)
    for _ in range(5):
        with pytest.raises(CredentialError, match="is wrong"):
            Operators(tmp_path).check("nobody", PASSWORD)
    with pytest.raises(CredentialError, match="too many tries"):
        Operators(tmp_path).check("nobody", PASSWORD)
    for name in ("operators.json", "attempts.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_broken_operators_file_lets_nobody_in(asked: Any, tmp_path: Path) -> None:
    (tmp_path / "operators.json").write_text("{")
    assert not asked({"do": "confirm", "document": document(), "user": "anna", "password": PASSWORD})["ok"]
    assert asked.acts == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"do":["confirm"]}', b'{"do":"confirm"}']
)
def test_a_broken_request_is_answered_with_a_remedy(asked: Any, data: bytes) -> None:
    answer = asked(data, uid=0)
    assert not answer["ok"]
    assert answer["remedy"]


@rigged
def test_the_socket_serves_root_and_refuses_a_stranger(rig: Bench) -> None:
    path = rig.directory / "policy.sock"
    command = ["ip", "netns", "exec", rig.ward.gateway, sys.executable, "-m", "gateway.enforcer.confirm", "serve"]
    command += ["--state", str(rig.ward.policy_dir), "--socket", str(path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(path))
            s.sendall(json.dumps({"do": "confirm", "document": document()}).encode() + b"\n")
            assert json.loads(s.makefile("rb").readline())["ok"]
        script = "import socket,sys;s=socket.socket(socket.AF_UNIX);s.settimeout(20);s.connect(sys.argv[1]);"
        script += 's.sendall(b\'{"do":"rollback"}\\n\');print(s.makefile().readline())'
        stranger = ["setpriv", "--reuid=61001", "--regid=61001", "--clear-groups", "/usr/bin/python3", "-c", script, str(path)]
        assert not json.loads(run(*stranger))["ok"]
    finally:
        server.terminate()
        server.wait(10)
        if server.stdout is not None:
            server.stdout.close()
