"""The kernel's trust map over raw AF_NETLINK: leases in, leases out, one transaction a call.

This is the fast path, so it is messages packed by hand on an open socket. It moves elements of ``lvl4`` and ``lvl6`` and
nothing else; it knows no policy and no peers. A renewal is delete + add. Where the kernel has NFT_MSG_DESTROYSETELEM
(6.3) a missing element is no fault; before, an element that came or went meanwhile is answered by one retry without or
with its delete.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

NETLINK_NETFILTER = 12
SUBSYS_NFTABLES = 10
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWSETELEM, _DELSETELEM = (SUBSYS_NFTABLES << 8) | 12, (SUBSYS_NFTABLES << 8) | 14
_DESTROYSETELEM = (SUBSYS_NFTABLES << 8) | 30
_UNKNOWN = (errno.EINVAL, errno.EOPNOTSUPP)  # what a kernel before 6.3 answers to it
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_ERROR = 2
_INET = 1  # NFPROTO_INET
_NESTED = 0x8000
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER = 8 << 20  # a batch is one datagram; 4,096 renewals are 0.8 MB
_ANSWER_S = 5.0  # the kernel answers within the call unless another commit holds its lock (0.5 s at 10,000 devices)
_ROUNDS = 4  # each round mends every element that the kernel complained of; more means that somebody else is at work
_LEASE_S = 30.0
MAX_CHANGES = 4096


class KernelError(Exception):
    """The kernel refused a transaction; nothing of it was applied. ``missing``: the tables are not there."""

    def __init__(self, what: str, *, missing: bool = False) -> None:
        super().__init__(what)
        self.missing = missing


class Change(NamedTuple):
    """What an address shall have: ``level`` 1..3 for ``ms`` milliseconds, or level 0: nothing."""

    address: str
    level: int
    ms: int = 0


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def message(kind: int, flags: int, sequence: int, family: int, resource: int, body: bytes = b"") -> bytes:
    """One nfnetlink message."""
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, sequence, 0, family, 0, socket.htons(resource)) + body


@lru_cache(maxsize=65536)  # two addresses a device, 10,000 devices, with room; built once, sent every ten seconds
def _place(address: str) -> tuple[bytes, bytes]:
    """The attributes that name the map, and the nested key, of one address."""
    packed = ipaddress.ip_address(address).packed
    name = b"lvl4\0" if len(packed) == 4 else b"lvl6\0"
    key = attribute(1 | _NESTED, attribute(1, packed))
    return attribute(1, b"wardgate\0") + attribute(2, name), key


def _element(address: str, level: int, ms: int) -> bytes:
    where, key = _place(address)
    if level:
        key += attribute(2 | _NESTED, attribute(1, struct.pack("=I", level))) + attribute(4, struct.pack(">Q", ms))
    return where + attribute(3 | _NESTED, attribute(1 | _NESTED, key))


class TrustMap:
    """The maps ``lvl4`` and ``lvl6`` of table inet wardgate, as this process believes them to be."""

    def __init__(self, *, destroys: bool = True) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 1
        self._destroys = destroys  # until the kernel says that it does not know the message
        self._ends: dict[str, float] = {}  # when the lease that we believe in lapses
        self._open()

    def believe(self, addresses: Iterable[str]) -> None:
        """Addresses that already have a lease in the kernel (leases outlive this process). A wrong belief costs a retry."""
        self._ends.update(dict.fromkeys(addresses, time.monotonic() + _LEASE_S))

    def apply(self, changes: Sequence[Change]) -> None:
        """All changes in one transaction, the last for an address counts. Raises KernelError, and then nothing is applied.

        Where a delete of a missing element would abort the batch (and an abort costs 20 ms), drops that are probably
        missing go in a second transaction, so that they do not delay the others.
        """
        if len(changes) > MAX_CHANGES:
            raise KernelError(f"{len(changes)} changes in one transaction; at most {MAX_CHANGES}")
        now = time.monotonic()
        wanted = {change.address: change for change in changes}
        doubtful = [c for c in wanted.values() if not c.level and self._ends.get(c.address, 0.0) <= now]
        if self._destroys or not doubtful or len(doubtful) == len(wanted):
            self._commit(wanted, now)
            return
        for change in doubtful:
            del wanted[change.address]
        self._commit(wanted, now)
        self._commit({change.address: change for change in doubtful}, now)

    def _commit(self, wanted: dict[str, Change], now: float) -> None:
        stale = {a for a, change in wanted.items() if self._destroys or not change.level or self._ends.get(a, 0.0) > now}
        for _ in range(_ROUNDS):
            plan = [(True, wanted[address]) for address in wanted if address in stale]
            plan += [(False, change) for change in wanted.values() if change.level]
            failures = self._transact(plan) if plan else {}
            if not failures:
                break
            self._mend(plan, failures, stale)
        else:
            raise KernelError("the trust map keeps changing under our hands")
        for address, change in wanted.items():
            if change.level:
                self._ends[address] = now + change.ms / 1000
            else:
                self._ends.pop(address, None)

    def _mend(self, plan: Sequence[tuple[bool, Change]], failures: dict[int, int], stale: set[str]) -> None:
        if self._destroys and any(plan[index][0] and number in _UNKNOWN for index, number in failures.items()):
            self._destroys = False
            return
        for index, number in failures.items():
            deletes, change = plan[index]
            if deletes and number == errno.ENOENT and not self._destroys:
                stale.discard(change.address)  # lapsed meanwhile
            elif not deletes and number in (errno.EEXIST, errno.EBUSY):
                stale.add(change.address)  # was there, unknown to us
            else:
                missing = number == errno.ENOENT
                why = "its tables are not loaded" if missing else errno.errorcode.get(number, str(number))
                raise KernelError(f"the kernel refused a lease: {why}", missing=missing)

    def _transact(self, plan: Sequence[tuple[bool, Change]]) -> dict[int, int]:
        """Send one batch. Returns {} when it was committed, else the plan's indexes that failed with their errno."""
        begin = self._sequence
        parts = [message(_BATCH_BEGIN, _REQUEST, begin, 0, SUBSYS_NFTABLES)]
        last = len(plan) - 1
        for index, (deletes, change) in enumerate(plan):
            flags = _REQUEST | (0 if deletes else _CREATE | _EXCL) | (_ACK if index == last else 0)
            kind = _NEWSETELEM if not deletes else _DESTROYSETELEM if self._destroys else _DELSETELEM
            body = _element(change.address, 0 if deletes else change.level, change.ms)
            parts.append(message(kind, flags, begin + 1 + index, _INET, 0, body))
        self._sequence = begin + len(plan) + 2
        parts.append(message(_BATCH_END, _REQUEST, self._sequence - 1, 0, SUBSYS_NFTABLES))
        answers = self._exchange(b"".join(parts), begin, begin + 1 + last)
        if begin in answers:
            raise KernelError(f"the kernel refused the batch: {errno.errorcode.get(answers[begin], answers[begin])}")
        return {sequence - begin - 1: number for sequence, number in answers.items() if number}

    def _exchange(self, batch: bytes, begin: int, last: int) -> dict[int, int]:
        """Send, then read acknowledgements until the last one's. After doubt the socket is closed and opened anew."""
        try:
            link = self._open()
            link.sendall(batch)
            answers: dict[int, int] = {}
            while last not in answers:
                for sequence, number in _acknowledgements(link.recv(1 << 20)):
                    if begin <= sequence <= last:
                        answers[sequence] = number
                if begin in answers:
                    self._reset()  # a refused batch may leave acknowledgements behind
                    break
        except OSError as e:
            self._reset()
            raise KernelError(f"netlink: {e.strerror or e}") from e
        return answers

    def _open(self) -> socket.socket:
        if self._socket is None:
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
            link.bind((0, 0))
            link.settimeout(_ANSWER_S)
            link.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                with suppress(PermissionError):  # without the capability the transactions will say so
                    link.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            self._socket = link
        return self._socket

    def _reset(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Close the socket; leases stay in the kernel until they lapse."""
        self._reset()


def _acknowledgements(answer: bytes) -> Iterable[tuple[int, int]]:
    """(sequence, errno) of every NLMSG_ERROR in a datagram; errno 0 is an acknowledgement."""
    offset = 0
    while offset + 20 <= len(answer):
        length, kind, _flags, sequence, _pid, code = struct.unpack_from("=IHHIIi", answer, offset)
        if length < 16:
            return
        if kind == _ERROR:
            yield sequence, -code
        offset += (length + 3) & ~3
