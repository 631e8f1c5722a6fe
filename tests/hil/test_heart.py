"""The patch's heart: what it sends is what the driver decodes, and it looks like a heart."""

from __future__ import annotations

import pytest

from drivers.ble.heart_rate import parse_heart_rate
from hil.patch import Heart, measurement


def test_ten_minutes_of_a_heart() -> None:
    heart, beats = Heart(), 0
    for second in range(1, 601):
        rr = heart.beats_until(float(second))
        got = parse_heart_rate(measurement(heart.rate, rr))
        assert got.contact is True
        assert 50 < got.rate < 105
        assert got.rr_ms == pytest.approx([i * 1000 for i in rr], abs=0.5)  # to the nearest 1/1024 s
        beats += len(rr)
    assert 500 < beats < 950
