"""The firmware of the bench's machine: what it measures at power-on, as a TCG crypto-agile event log and as PCR values.

The log is made here, the same for the same ``release``, in the shape real UEFI machines write: specification header,
CRTM version, Secure Boot variables, boot entries, separators, partition table, boot loader, kernel. Its formats are
those of the TCG PC Client Platform Firmware Profile (section 10) and of UEFI (UEFI_VARIABLE_DATA, EFI_SIGNATURE_LIST).
It speaks to no TPM: ``hil.tpm`` plays the log into one.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass, field

SHA256 = 0x000B

EV_NO_ACTION = 0x00000003
EV_SEPARATOR = 0x00000004
EV_S_CRTM_VERSION = 0x00000008
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
EV_EFI_VARIABLE_BOOT = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
EV_EFI_GPT_EVENT = 0x80000006
EV_EFI_ACTION = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
EV_EFI_VARIABLE_AUTHORITY = 0x800000E0

_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")  # EFI_GLOBAL_VARIABLE
_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")  # EFI_IMAGE_SECURITY_DATABASE_GUID
_CERT_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")  # EFI_CERT_SHA256_GUID
_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")  # the EFI system partition's type
_OWNER = uuid.UUID("6f1c9a52-5f0e-4c4e-9d0a-3a1c7e0d5b11")  # who signed the bench's keys; and its disk
_DISK_END = b"\x7f\xff\x04\x00"  # end of an EFI device path


@dataclass
class Log:
    """An event log being written, with the PCR values it leads to."""

    raw: bytearray = field(default_factory=bytearray)
    pcrs: dict[int, bytes] = field(default_factory=lambda: {n: bytes(32) for n in range(8)})
    extends: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, SHA256, 32, 0)
        self.raw += struct.pack("<II20sI", 0, EV_NO_ACTION, bytes(20), len(spec)) + spec

    def add(self, pcr: int, kind: int, event: bytes, measured: bytes | None = None) -> None:
        """Measure ``measured`` (the event itself if not given) into ``pcr``."""
        digest = hashlib.sha256(event if measured is None else measured).digest()
        self.raw += struct.pack("<IIIH32sI", pcr, kind, 1, SHA256, digest, len(event)) + event
        self.pcrs[pcr] = hashlib.sha256(self.pcrs[pcr] + digest).digest()
        self.extends.append((pcr, digest))


def boot(release: str = "1.0", secure_boot: bool = True) -> Log:
    """What one power-on measures. Another ``release`` is another boot loader and kernel (PCR 4); ``secure_boot`` shows in PCR 7."""
    log = Log()
    log.add(0, EV_S_CRTM_VERSION, "Wardgate bench 2.31\0".encode("utf-16-le"))
    log.add(0, EV_EFI_PLATFORM_FIRMWARE_BLOB, struct.pack("<QQ", 0xFFC00000, 0x400000), b"bench firmware volume 2.31")
    _secure_boot(log, secure_boot)
    log.add(2, EV_EFI_BOOT_SERVICES_DRIVER, _image(0x7D000000, 0x20000, "\\bench\\nic.efi"), b"bench network card ROM")
    entry = struct.pack("<IH", 1, len(_DISK_END)) + "Wardgate\0".encode("utf-16-le") + _DISK_END
    log.add(1, EV_EFI_VARIABLE_BOOT, _variable(_GLOBAL, "BootOrder", b"\1\0"))
    log.add(1, EV_EFI_VARIABLE_BOOT, _variable(_GLOBAL, "Boot0001", entry))
    log.add(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option")
    for pcr in range(8):
        log.add(pcr, EV_SEPARATOR, bytes(4))
    log.add(5, EV_EFI_GPT_EVENT, _gpt())
    if secure_boot:
        log.add(7, EV_EFI_VARIABLE_AUTHORITY, _variable(_SECURITY, "db", _OWNER.bytes_le + hashlib.sha256(b"signer").digest()))
    log.add(
        4,
        EV_EFI_BOOT_SERVICES_APPLICATION,
        _image(0x7C000000, 0x1A000, "\\EFI\\BOOT\\BOOTX64.EFI"),
        f"boot loader {release}".encode(),
    )
    log.add(4, EV_EFI_BOOT_SERVICES_APPLICATION, _image(0x78000000, 0x3200000, "\\EFI\\wardgate.efi"), f"kernel {release}".encode())
    log.add(5, EV_EFI_ACTION, b"Exit Boot Services Invocation")
    log.add(5, EV_EFI_ACTION, b"Exit Boot Services Returned with Success")
    return log


def _secure_boot(log: Log, on: bool) -> None:
    """The five variables of PCR 7, in the order the profile gives (section 3.3.4.8)."""
    log.add(7, EV_EFI_VARIABLE_DRIVER_CONFIG, _variable(_GLOBAL, "SecureBoot", bytes([on])))
    for guid, name in ((_GLOBAL, "PK"), (_GLOBAL, "KEK"), (_SECURITY, "db"), (_SECURITY, "dbx")):
        log.add(7, EV_EFI_VARIABLE_DRIVER_CONFIG, _variable(guid, name, _signatures(name) if on else b""))


def _signatures(name: str) -> bytes:
    """An EFI_SIGNATURE_LIST of one SHA-256 hash."""
    entry = _OWNER.bytes_le + hashlib.sha256(name.encode()).digest()
    return _CERT_SHA256.bytes_le + struct.pack("<III", 28 + len(entry), 0, len(entry)) + entry


def _variable(guid: uuid.UUID, name: str, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA."""
    return guid.bytes_le + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def _image(base: int, length: int, path: str) -> bytes:
    """UEFI_IMAGE_LOAD_EVENT with a file path as its device path."""
    text = (path + "\0").encode("utf-16-le")
    device_path = struct.pack("<BBH", 4, 4, 4 + len(text)) + text + _DISK_END
    return struct.pack("<QQQQ", base, length, 0, len(device_path)) + device_path


def _gpt() -> bytes:
    """UEFI_GPT_DATA: the header of the bench's disk and its one partition."""
    header = b"EFI PART" + struct.pack("<IIIIQQQQ", 0x10000, 92, 0, 0, 1, 0x3FFFF, 34, 0x3FFDE) + _OWNER.bytes_le
    header += struct.pack("<QIII", 2, 128, 128, 0)
    partition = _ESP.bytes_le + _OWNER.bytes_le + struct.pack("<QQQ", 2048, 0x3F7FF, 0) + "esp".encode("utf-16-le").ljust(72, b"\0")
    return header + struct.pack("<Q", 1) + partition
