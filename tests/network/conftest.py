"""One ward with its servers for all tests of this folder; each test leaves it as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.network.ward import GATE, Served, clock, resolve, served


@pytest.fixture(scope="package")
def rig() -> Iterator[Served]:
    with served() as made:
        deadline = time.monotonic() + 10
        while clock(made.bench.pump, GATE[4]) is None or resolve(made.bench.pump, GATE[4], "gateway.ward") is None:
            assert time.monotonic() < deadline, "the servers do not answer"
        yield made
