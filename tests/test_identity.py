"""The wrong device, accepted: what a person is shown first, what speaks against it, and how to get back."""

from __future__ import annotations

import pytest

from gateway.errors import RefusedError
from gateway.identity import doubts, identify, identity_of, way_back
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.profile import Provenance, References, ReferenceValue, TrustAnchor
from tests.policy.ward import BINDING, pump

OTHER = Binding("p-pump-2", "02:57:47:00:00:12", ("10.77.0.12",))
KEYED = References((TrustAnchor(b"\x01" * 33, b"spki"),), (ReferenceValue("c", "object:0", b"Maker\x00", Provenance.LEARNED),))


def proposed(binding: Binding = OTHER, id: str = "pump-2") -> Device:
    return pump(DeviceState.PROPOSED, binding, id)


def test_it_shows_what_is_on_the_label() -> None:
    lines = identity_of(proposed(), KEYED)
    for words in ("modbus, 10.77.0.12", "port: p-pump-2", "02:57:47:00:00:12", "UEID: 0101", "key SHA-256", "maker: Maker?"):
        assert any(words in line for line in lines), words
    assert "no endorsement" in identity_of(proposed(), References())[-1]
    patch = Device("p", "P", Bus.BLE, "x", "C0:00:00:00:00:01")
    assert any("C0:00:00:00:00:01" in line for line in identity_of(patch, References()))


@pytest.mark.parametrize(
    ("binding", "references", "words"),
    [
        (Binding(BINDING.port, OTHER.mac, OTHER.addresses), {}, "its port p-pump-1 is that of pump-1"),
        (Binding(OTHER.port, BINDING.mac, OTHER.addresses), {}, "its MAC 02:57:47:00:00:11 is that of pump-1"),
        (Binding(OTHER.port, OTHER.mac, ("10.77.0.11",)), {}, "its address 10.77.0.11 is that of pump-1"),
        (Binding(OTHER.port, OTHER.mac, ("10.77.0.12", "fd77::11")), {}, "its address fd77::11 is that of pump-1"),
        (OTHER, {"pump-1": KEYED, "pump-2": KEYED}, "its key is that of pump-1"),
        (OTHER, {"pump-1": KEYED, "pump-2": References((TrustAnchor(b"\x01" * 33, b"another"),))}, "its UEID 0101"),
    ],
)
def test_another_device_with_the_same_is_told_with_a_remedy(
    binding: Binding, references: dict[str, References], words: str
) -> None:
    device, others = proposed(binding), [pump(), proposed(binding)]
    with pytest.raises(RefusedError) as e:
        identify(device, others, references, anyway=False)
    assert words in e.value.what and "may be the wrong device" in e.value.what
    assert "compare it with its label" in e.value.remedy and "accept pump-2 --anyway" in e.value.remedy
    assert any(line.startswith("ATTENTION: ") and words in line for line in identify(device, others, references, anyway=True))


def test_a_device_that_was_removed_speaks_against_nobody() -> None:
    device = proposed(BINDING)
    assert doubts(device, [pump(DeviceState.RETIRED)], {"pump-1": KEYED, "pump-2": KEYED}) == ()
    assert identify(proposed(), [pump()], {"pump-1": KEYED}, anyway=False)


def test_the_way_back_is_said_when_one_may_need_it() -> None:
    assert "wardgate device remove pump-2" in way_back("accept", "pump-2")
    assert "wardgate device add pump-2" in way_back("remove", "pump-2")
    assert way_back("enforce", "pump-2") == ""
