"""Evidence from a device, request by request over its link. Knows no formats beyond what ``fingerprint`` and ``response`` say."""

from __future__ import annotations

import asyncio

from drivers.modbus import fingerprint
from drivers.modbus.link import DeviceLink
from drivers.modbus.pdu import BUSY
from drivers.modbus.response import ExceptionAnswer, parse_objects, parse_registers, refuse_exception
from gateway.errors import DeviceError
from gateway.model.evidence import MediaType
from gateway.model.profile import Mailbox, Target

_MAX_STREAM = 64  # reads for one identification: 256 objects of at most 246 bytes, if a device shows four at a time
_ASK_AGAIN_S = 0.02  # a secure element signs within tens of milliseconds


async def collect(link: DeviceLink, target: Target, nonce: bytes) -> bytes:
    """The evidence of one target, for ``nonce``. Raises DeviceError, UnavailableError, ValueError; the caller bounds its time."""
    if target.mailbox is not None:
        return await read_token(link, target.mailbox, nonce)
    if target.media_type == MediaType.MODBUS:
        return await read_fingerprint(link, target, nonce)
    raise DeviceError(f"{target.media_type} cannot be read over Modbus without a mailbox", "name its mailbox in the profile")


async def read_fingerprint(link: DeviceLink, target: Target, nonce: bytes) -> bytes:
    """Identification objects and registers, as the device shows them now."""
    objects = await _objects(link, target) if target.objects else {}
    registers: dict[int, int] = {}
    for request in fingerprint.register_requests(target.registers):
        words = parse_registers(request, await link.transact(request))
        registers.update(zip(range(request.address, request.address + request.count), words, strict=True))
    return fingerprint.encode_fingerprint(nonce, target, objects, registers)


async def _objects(link: DeviceLink, target: Target) -> dict[int, bytes]:
    objects: dict[int, bytes] = {}
    following = 0
    for _ in range(_MAX_STREAM):
        request = fingerprint.identification_request(target, following)
        shown, more = parse_objects(request, await link.transact(request))
        objects |= shown
        if more is None or more > max(target.objects):
            return objects
        following = more
    raise DeviceError("its identification does not end", "check the device")


async def read_token(link: DeviceLink, mailbox: Mailbox, nonce: bytes) -> bytes:
    """Hand in the nonce, wait for the token's length, read the token."""
    request = fingerprint.nonce_request(mailbox, nonce)
    refuse_exception(request, await link.transact(request))
    length = await _length(link, mailbox)
    words: list[int] = []
    for read in fingerprint.token_requests(mailbox, length):
        words += parse_registers(read, await link.transact(read))
    return fingerprint.join_token(words, length)


async def _length(link: DeviceLink, mailbox: Mailbox) -> int:
    request = fingerprint.length_request(mailbox)
    while True:
        try:
            (length,) = parse_registers(request, await link.transact(request))
        except ExceptionAnswer as e:
            if e.code != BUSY:
                raise
            length = 0
        if length:
            return length
        await asyncio.sleep(_ASK_AGAIN_S)
