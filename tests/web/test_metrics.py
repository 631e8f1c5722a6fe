"""The figures at the door: for whom, in which form."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_plain

from gateway.model.view import User
from tests.web.conftest import Door


@pytest.mark.parametrize(
    ("accept", "content_type", "read"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", read_plain),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8",
         read_openmetrics),
    ],
)  # fmt: skip
async def test_a_scraper_with_its_own_token_reads_figures_and_nothing_else(
    door: Door, accept: str, content_type: str, read
) -> None:
    secret = await door.accounts.tokens.add(User("admin-1", "admin"), "scraper", "metrics", 30)
    answer = await door.get("/metrics", Authorization=f"Bearer {secret}", Accept=accept)
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    found = {f.name: f for f in read(await answer.text())}
    assert found["wardgate_quotes"].samples[0].value == 798
    assert found["wardgate_quotes"].documentation == 'Quotes of the TPM: 100 % "ours".'
    for path in ("/api/v1/view", "/api/v1/events", "/api/v1/outbox", "/api/v1/openapi.json", "/", "/events"):
        assert (await door.get(path, Authorization=f"Bearer {secret}")).status == 403, path


async def test_figures_are_for_nobody_without_a_token(door: Door) -> None:
    answer = await door.get("/metrics")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "wardgate_" not in await answer.text()
