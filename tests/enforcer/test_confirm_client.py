"""Both clients of wardgate-policy's socket wait as long as it may work, and tell "not asked" from "not answered"."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway import control, restore
from gateway.config import parse_config
from gateway.enforcer import bounds, confirmed, follow, load
from gateway.enforcer.confirm_client import UnansweredError, confirm, confirm_sync
from gateway.enforcer.document import parse_document
from gateway.errors import RefusedError, UnavailableError
from tests.enforcer.ward import document

Ask = Callable[..., Awaitable[dict[str, Any]]]


async def _in_a_thread(path: Path, request: dict[str, Any], *answer_s: float) -> dict[str, Any]:
    return await asyncio.to_thread(confirm_sync, path, request, *answer_s)


@contextmanager
def policy(path: Path, answer: bytes | None, after_s: float = 0.0) -> Iterator[list[bytes]]:
    """One connection: reads a line, waits, writes ``answer`` (None: never until the peer goes) and closes."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(10)

        def serve() -> None:
            connection = listener.accept()[0]
            with connection:
                connection.settimeout(10)
                heard.append(connection.recv(65536))
                time.sleep(after_s)
                if answer is None:
                    connection.recv(1)
                else:
                    with suppress(BrokenPipeError):  # who asked has heard enough
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield heard
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(params=[confirm, _in_a_thread], ids=["loop", "thread"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p"


def test_whoever_asks_waits_longer_than_an_act_may_take() -> None:
    """The server's own bounds are the very numbers the client adds up; the CLI waits longer than the daemon that asks for it."""
    assert (follow.NETWORK_S, load.NFT_S, confirmed.LOCK_S) == (bounds.NETWORK_S, bounds.NFT_S, bounds.LOCK_S)
    assert confirm_sync.__defaults__ == confirm.__defaults__ == (bounds.ANSWER_S,)
    assert bounds.ANSWER_S > bounds.LOCK_S + bounds.NFT_S + bounds.NETWORK_S
    assert control._ACT_S > bounds.ANSWER_S


async def test_an_answer_that_takes_its_time_is_an_answer(ask: Ask, path: Path) -> None:
    with policy(path, b'{"ok": true, "network": ["hosp0 is in use"]}\n', after_s=0.4) as heard:
        assert await ask(path, {"do": "keep"}) == {"ok": True, "network": ["hosp0 is in use"]}
    assert json.loads(heard[0]) == {"do": "keep"}


async def test_the_loop_goes_on_while_it_waits(path: Path) -> None:
    with policy(path, b'{"ok": true}\n', after_s=0.3):
        asked = asyncio.create_task(confirm(path, {"do": "keep"}))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert (await asked)["ok"]
    assert turns > 10


async def test_no_answer_is_told_as_what_it_is(ask: Ask, path: Path) -> None:
    with policy(path, None), pytest.raises(UnansweredError) as e:
        await ask(path, {"do": "keep"}, 0.2)
    assert e.value.what == "wardgate-policy has not answered within 0.2 s; what was asked may be done already, or be done yet"
    assert "wardgate-policy status" in e.value.remedy


@pytest.mark.parametrize("answer", [b"", b'{"ok": true', b"not json\n"], ids=["nothing", "half", "foreign"])
async def test_an_answer_cut_short_is_no_refusal(ask: Ask, path: Path, answer: bytes) -> None:
    with policy(path, answer), pytest.raises(UnansweredError, match="ended before it answered; what was asked may be done"):
        await ask(path, {"do": "keep"})


async def test_too_long_an_answer_is_cut_off(ask: Ask, path: Path) -> None:
    with policy(path, b'{"ok": true, "x": "' + b"y" * 1_000_000 + b'"}\n'):
        assert (await ask(path, {}))["ok"]
    with policy(path.with_name("q"), b"y" * 1_200_000 + b"\n"), pytest.raises(UnansweredError):
        await ask(path.with_name("q"), {})


async def test_nobody_there_means_that_nothing_was_asked(ask: Ask, path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer on") as e:
        await ask(path, {"do": "keep"})
    assert type(e.value) is UnavailableError
    assert e.value.remedy == "systemctl start wardgate-policy.socket"


async def test_a_refusal_keeps_its_words(ask: Ask, path: Path) -> None:
    with policy(path, b'{"ok": false, "error": "no", "remedy": "ask"}\n'), pytest.raises(RefusedError) as e:
        await ask(path, {"do": "keep"})
    assert (e.value.what, e.value.remedy) == ("no", "ask")


def test_a_restore_does_not_write_under_a_policy_that_may_be_at_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = f'[gateway]\nid = "gw-1"\nname = "Gw"\n[policy]\nconfirmed = "{tmp_path}/confirmed.json"\n'
    config = parse_config(text, "here")

    def late(*_: object) -> dict[str, Any]:
        raise UnansweredError("late", "look")

    monkeypatch.setattr(restore, "confirm_sync", late)
    with pytest.raises(UnansweredError):
        restore._confirm(config, parse_document(json.dumps(document()).encode()))
    assert not config.policy.confirmed.exists()
