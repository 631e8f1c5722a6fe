"""A profile that is tried: through the daemon's half and root's own, with the kernel alone left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.bootstrap import load_profiles
from gateway.config import Config, parse_config
from gateway.confirmed import applied_profiles, with_broker
from gateway.drafts import Drafts
from gateway.enforcer import credentials
from gateway.enforcer.confirm import answer_request
from gateway.enforcer.confirmed import ConfirmedPolicy
from gateway.enforcer.credentials import Operators
from gateway.enforcer.document import check_document
from gateway.errors import InputErrors, RefusedError
from gateway.model.event import Event
from gateway.model.profile import Profile
from gateway.model.view import User
from gateway.policy.compile import compile_document
from tests.policy.ward import GATEWAY, ROOT, pump

PASSWORD = "correct horse battery"
ANNA = User("anna", "biomed")
PUMP = (ROOT / "hil/profiles/infusion-pump.toml").read_text()
LOWER = PUMP.replace("required = 3", "required = 2")
NO_VITAL = PUMP[: PUMP.index("# What a patient depends on")]


class Desk:
    """A daemon's drafts and root's wardgate-policy over one directory; ``configured`` counts what the engine was told."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(credentials, "_SCRYPT_N", 1 << 4)
        monkeypatch.setattr("gateway.enforcer.confirmed.apply_document", lambda _: {"added": 0, "deleted": 0})
        self.config, self.events, self.configured = config, list[Event](), list[str]()
        directory = config.policy.confirmed.parent
        self.root, self.operators = ConfirmedPolicy(directory, directory), Operators(directory)
        self.operators.put("anna", PASSWORD, "biomed")
        self.profiles = load_profiles(config)
        self.root.confirm("root", check_document(self.document(self.profiles, {})))
        self.drafts = self.daemon()

    def daemon(self) -> Drafts:
        async def compiled(profiles: Mapping[str, Profile], texts: Mapping[str, str]) -> dict[str, Any]:
            return self.document(profiles, texts)

        async def ask(request: Mapping[str, Any]) -> Mapping[str, Any]:
            answer = answer_request(json.dumps(request).encode(), 61001, self.root, self.operators)
            if not answer["ok"]:
                raise RefusedError(answer["error"], answer["remedy"])
            return answer

        async def emit(event: Event) -> None:
            self.events.append(event)

        async def configure(actor: str) -> None:
            self.configured.append(actor)

        return Drafts(self.config, self.profiles, compiled=compiled, ask=ask, emit=emit, configure=configure)

    def document(self, profiles: Mapping[str, Profile], texts: Mapping[str, str]) -> dict[str, Any]:
        document = compile_document([pump()], profiles, GATEWAY)
        return with_broker({**document, "profiles": dict(texts)} if texts else document, ())

    @property
    def maintenance(self) -> int:
        return int(self.profiles["infusion-pump"].function("maintenance").required)

    def told(self) -> list[str]:
        return [f"{e.actor}: {e.verb}" for e in self.events]  # type: ignore[union-attr]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "infusion-pump.toml").write_text(PUMP)
    text = f'[policy]\nprofiles = "{tmp_path}/profiles"\nconfirmed = "{tmp_path}/confirmed.json"\n'
    text += '[peers]\nclients = ["10.77.0.100"]\ncentral = ["10.77.0.100"]\n'
    return Desk(parse_config(text.replace("[peers]\n", "[peers]\n").replace('"]\n', '", "fd77::100"]\n')), monkeypatch)


async def test_a_profile_is_in_force_while_it_is_tried_and_gone_when_nobody_confirms(desk: Desk) -> None:
    shown = await desk.drafts.prepare(LOWER)
    assert "infusion-pump.maintenance: needs level 2, before: 3" in shown["difference"] and shown["vital_cut"] == []
    assert desk.maintenance == 3
    answer = await desk.drafts.apply(ANNA, PASSWORD, LOWER, 5, [])
    assert answer["pending"]["actor"] == "anna" and "document" not in answer
    assert desk.maintenance == 2 and desk.configured == ["wardgate-policy"]  # at once, not at the next look
    assert "anna: applied a policy, which waits for its confirmation" in desk.told()
    desk.root.abandon("its time is over")  # what root's timer does
    await desk.drafts.follow()
    assert desk.maintenance == 3 and (await desk.drafts.state())["pending"] is None
    assert desk.told()[-1] == "wardgate-policy: no policy waits for a confirmation any more"


async def test_a_confirmed_profile_counts_before_the_folder_s_also_after_a_restart(desk: Desk) -> None:
    await desk.drafts.apply(ANNA, PASSWORD, LOWER, 5, [])
    await desk.drafts.confirm(ANNA, PASSWORD)
    assert desk.maintenance == 2
    assert int(load_profiles(desk.config)["infusion-pump"].function("maintenance").required) == 2
    assert (await desk.drafts.state())["profiles"][0]["applied"]
    await desk.drafts.rollback(ANNA, PASSWORD, [])
    assert desk.maintenance == 3 and applied_profiles(desk.config.policy.confirmed) == {}
    assert [t for t in desk.told() if t.startswith("anna: ")][1:] == ["anna: confirmed the policy", "anna: rolled the policy back"]


async def test_a_change_that_no_packet_filter_shows_is_shown_and_undone_too(desk: Desk) -> None:
    text = PUMP.replace("span = [20, 20]", "span = [20, 25]")
    shown = await desk.drafts.prepare(text)
    assert any("allows ModbusRule(function_code=6, first=20, last=25" in line for line in shown["difference"])
    await desk.drafts.apply(ANNA, PASSWORD, text, 5, [])
    assert any(getattr(r, "last", 0) == 25 for r in desk.profiles["infusion-pump"].rules)
    await desk.drafts.rollback(ANNA, PASSWORD, [])
    assert not any(getattr(r, "last", 0) == 25 for r in desk.profiles["infusion-pump"].rules)


async def test_a_vital_flow_is_cut_only_by_name_and_a_password_is_needed(desk: Desk) -> None:
    assert (await desk.drafts.prepare(NO_VITAL))["vital_cut"] == ["pump-1.monitoring"]
    for secret, cut, words in ((PASSWORD, [], r"pump-1\.monitoring"), ("", ["pump-1.monitoring"], "password"), ("no", [], "wrong")):
        with pytest.raises(RefusedError, match=words):
            await desk.drafts.apply(ANNA, secret, NO_VITAL, 5, cut)
    assert len(desk.profiles["infusion-pump"].functions) == 3
    await desk.drafts.apply(ANNA, PASSWORD, NO_VITAL, 5, ["pump-1.monitoring"])
    assert len(desk.profiles["infusion-pump"].functions) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= 1", "no TOML"),
        (PUMP.replace('on_loss = "vital"\n', ""), "on_loss"),
        (
            PUMP + '[[test]]\nwhat="x"\nlevel=0\nexpect="pass"\npeer="clients"\nopened_by="peer"\nprotocol="tcp"\nport=7000\n',
            "must not",
        ),
        (PUMP.replace('peer = "central"', 'peer = "10.77.0.1"'), "the gateway itself"),
    ],
)
async def test_what_is_wrong_is_told_before_anything_changes(desk: Desk, text: str, words: str) -> None:
    with pytest.raises(Exception, match=words):
        await desk.drafts.apply(ANNA, PASSWORD, text, 5, [])
    assert desk.root.status()["pending"] is None and desk.events == []


async def test_an_edit_in_the_folder_is_nobody_s_confirmation(desk: Desk) -> None:
    (desk.config.policy.profiles / "infusion-pump.toml").write_text(LOWER)
    desk.root.confirm("root", check_document(compile_document([], desk.profiles, GATEWAY)))  # something else changed
    await desk.drafts.follow()
    assert desk.maintenance == 3


async def test_a_broken_policy_file_leaves_what_is_in_force(desk: Desk) -> None:
    await desk.drafts.follow()
    value = json.loads(desk.config.policy.confirmed.read_text())
    desk.config.policy.confirmed.write_text(json.dumps({**value, "profiles": {"infusion-pump": "= nonsense"}}))
    with pytest.raises(Exception, match="no TOML"):
        await desk.drafts.follow()
    assert desk.maintenance == 3
    with pytest.raises(InputErrors, match="applied infusion-pump"):
        load_profiles(desk.config)
