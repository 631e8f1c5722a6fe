"""Who may ask for an address is checked like everything else; and the network that cannot follow a policy undoes no policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.enforcer.confirmed import ConfirmedPolicy, audit_lines
from gateway.enforcer.document import DocumentError, check_document, parse_document
from gateway.enforcer.follow import follow
from gateway.enforcer.listing import parse_listing
from hil.network import PUMP
from tests.enforcer.ward import document

TABLES = [{"table": {"family": f, "name": n}} for f, n in (("bridge", "wardgate_l2"), ("inet", "wardgate"))]


def asking(port: str = PUMP.port, mac: str = PUMP.mac, bind: str = "ward0") -> dict[str, object]:
    made = document()
    made["sets"] |= {"dhcp_port": [[port, mac]], "dhcp_bind": [[bind, mac]]}
    return made


def test_only_a_bound_device_asks_from_its_own_port() -> None:
    check_document(asking())
    for wrong in (asking(port="p-other"), asking(mac="02:00:00:00:00:01"), asking(bind="hosp0")):
        with pytest.raises(DocumentError, match="is not bound in"):
            check_document(wrong)


def test_who_was_refused_is_read_apart_from_the_policys_sets() -> None:
    element = {"elem": {"val": {"concat": ["p-1", "02:00:00:00:00:01", "10.0.0.9"]}, "timeout": 120, "expires": 60}}
    met = {"set": {"family": "bridge", "table": "wardgate_l2", "name": "met4", "elem": [element]}}
    listing = parse_listing(json.dumps({"nftables": [*TABLES, met]}))
    assert listing.met == (("p-1", "02:00:00:00:00:01", "10.0.0.9"),)
    assert "met4" not in listing.sets
    empty = {"set": {k: v for k, v in met["set"].items() if k != "elem"}}
    assert parse_listing(json.dumps({"nftables": [*TABLES, empty]})).digest == listing.digest


def test_nothing_follows_without_a_configuration_and_a_broken_one_is_told(tmp_path: Path) -> None:
    assert follow(None, b"{}") == []
    (said,) = follow(tmp_path / "absent.toml", parse_document(json.dumps(document()).encode()).canonical)
    assert "there is no" in said
    assert "absent.toml" in said


@pytest.mark.rig
def test_a_network_that_cannot_follow_is_told_and_recorded_and_the_policy_holds(tmp_path: Path) -> None:
    """In a namespace where the uplink's card carries somebody's traffic: it is not taken."""
    top = Path(__file__).parents[2]
    config = tmp_path / "w.toml"
    config.write_text(f'[network]\naddresses = ["10.77.0.1"]\nrun = "{tmp_path}/run"\n[network.nics]\nhosp0 = "c0"\n')
    draft = tmp_path / "draft.json"
    draft.write_text(json.dumps(document()))
    tool = f"{sys.executable} -m gateway.enforcer.confirm"
    common = f"--state {tmp_path} --table-file {top}/image/wardgate.nft --network {config}"
    script = (
        "ip link add c0 type veth peer name c1 && ip addr add 192.0.2.1/24 dev c0 && ip link set c0 up\n"
        f"{tool} load {common} >/dev/null && {tool} confirm {common} --document {draft}\n"
    )
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, timeout=60, cwd=top)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "c0 is in use (192.0.2.1); restart the machine to hand it over as hosp0" in answer["network"][0]
    policy = ConfirmedPolicy(tmp_path, top / "image/wardgate.nft")
    assert policy.current().document_id == answer["document"]
    assert [line["act"] for line in audit_lines(tmp_path)][-2:] == ["confirm", "network failed"]
