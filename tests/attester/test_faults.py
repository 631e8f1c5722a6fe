"""Response codes by their numbers in TPM 2.0 Part 2, with the handle, session and parameter bits that vary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.attester import faults


@pytest.mark.parametrize("rc", [0x000A000A, 0x00070007, 0x000A0001])
def test_a_failed_transport_is_gone(rc: int) -> None:
    assert faults.is_gone(rc)
    assert isinstance(faults.translate(rc, "text", "device:/dev/tpmrm0"), faults.TpmGoneError)


@pytest.mark.parametrize("rc", [0x922, 0x908, 0x920, 0x000B0922])
def test_retry_yielded_and_nv_rate_are_busy(rc: int) -> None:
    assert faults.is_busy(rc)
    assert not faults.is_gone(rc)


@pytest.mark.parametrize("rc", [0x921, 0x000B0921])
def test_lockout_says_so_and_what_to_do(rc: int) -> None:
    error = faults.translate(rc, "text", "x")
    assert "lockout" in error.what
    assert "recovery time" in error.remedy
    assert not isinstance(error, faults.TpmGoneError)


@pytest.mark.parametrize(
    ("rc", "code"), [(0x9A2, faults.BAD_AUTH), (0x98E, faults.AUTH_FAIL), (0x18B, faults.HANDLE), (0x1DF, faults.INTEGRITY)]
)
def test_handle_session_and_parameter_numbers_are_taken_out(rc: int, code: int) -> None:
    assert faults.code(rc) == code


@given(st.integers(0, 2**32 - 1))
def test_every_code_has_an_error_with_a_remedy(rc: int) -> None:
    error = faults.translate(rc, "text", "x")
    assert error.what
    assert error.remedy
    assert not (faults.is_gone(rc) and faults.is_busy(rc))
