"""``wardgate token``: by the command line, through the control socket, as a person would."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import run
from gateway.web.server import build_control, serve_control
from tests.fakes.console import FakeAccounts, FakeConsole


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """A wardgate.toml whose daemon is a control socket over fakes, in a thread of its own."""
    file = tmp_path / "wardgate.toml"
    file.write_text(f'[gateway]\nrun = "{tmp_path}"\nstate = "{tmp_path}"\n')
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        async with await serve_control(build_control(FakeConsole(), FakeAccounts()), tmp_path / "control.sock"):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield file
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


def test_a_token_is_made_listed_and_revoked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config", str(config), "token", "add", "scraper", "--role", "metrics", "--days", "30"]) == 0
    said = capsys.readouterr().out
    secret = said.splitlines()[0]
    assert secret.startswith("wgt_")
    assert "shown once" in said
    assert run(["--config", str(config), "token", "list"]) == 0
    said = capsys.readouterr().out
    assert "scraper" in said
    assert "30 days left" in said
    assert secret not in said
    assert run(["--config", str(config), "--json", "token", "list"]) == 0
    assert [t["name"] for t in json.loads(capsys.readouterr().out)] == ["scraper"]
    assert run(["--config", str(config), "token", "revoke", "scraper"]) == 0
    assert run(["--config", str(config), "token", "list"]) == 0
    assert "there are no tokens" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [
    ["add", "Not A Name", "--role", "viewer"], ["add", "x", "--role", "viewer", "--days", "367"], ["revoke", "nobody"],
    ["revoke", "a/b"],
])  # fmt: skip
def test_what_cannot_be_is_said_with_a_remedy(config: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config", str(config), "token", *wrong]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wardgate: ")
    assert "; " in said
    assert "Traceback" not in said


def test_a_role_that_there_is_not_is_a_usage_error(config: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["--config", str(config), "token", "add", "x", "--role", "root"])
    assert ended.value.code == 2
