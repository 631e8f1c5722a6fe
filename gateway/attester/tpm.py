"""The one owner of the TPM: a thread with the ESAPI context, and everybody else's way to it.

An ESAPI context is not safe to share, and once its transport has failed it never works again; so one thread owns it,
gives it up after doubt and makes a new one. What leaves the thread is plain bytes and numbers: objects of tpm2-pytss
point into memory that dies with their parents. Knows nothing of which keys there are (``keys``) or what a quote means.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from tpm2_pytss import ESAPI, TPM2_CAP, TPM2_PT, TSS2_Exception  # type: ignore[import-untyped]

from gateway.attester.faults import TpmBusyError, TpmGoneError, is_busy, is_gone, translate
from gateway.attester.hardware import why_no_tpm
from gateway.errors import UnavailableError

_T = TypeVar("_T")
_LOG = logging.getLogger("gateway.attester")

_BUSY_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # a TPM that says RETRY or NV_RATE is asked again this often, 1.55 s in all
_WAITING = 256  # calls that may wait: at 300 ms a quote (published figures for discrete TPMs) more than a minute's work
_GLANCE_S = 0.25  # how often a waiting caller looks whether the TPM hangs
_TRANSIENT, _LOADED_SESSION, _SAVED_SESSION = 0x80000000, 0x02000000, 0x03000000  # handle ranges: Part 2, 7.2
_HANDLES_A_CALL = 64
_IN_LOCKOUT = 0x200  # TPMA_PERMANENT.inLockout: Part 2, 8.6


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the TPM answers, in one line for people. ``resets`` counts TPM resets seen since this process first reached it."""

    up: bool = False
    detail: str = "not asked yet"
    lockout: bool = False
    reset_count: int | None = None
    restart_count: int | None = None
    resets: int = 0


@dataclass(frozen=True, slots=True)
class Pulse:
    """The TPM's clock and standing at one moment."""

    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool
    lockout: bool


class Connection:
    """What a call is given inside the TPM's thread: the ESAPI context, and handles looked up once a connection.

    A simulator may restart under a connection that goes on working, so resets are looked for in everything that shows the clock.
    """

    def __init__(self, esys: Any) -> None:
        self.esys = esys
        self.pulse: Pulse | None = None
        self._handles: dict[int, Any] = {}
        self.verified: set[str] = set()

    def handle(self, tpm_handle: int, auth: bytes | None = None) -> Any:
        """The ESYS handle of a persistent object or NV index, with the authorisation it is used with."""
        if tpm_handle not in self._handles:
            self._handles[tpm_handle] = self.esys.tr_from_tpmpublic(tpm_handle)
        if auth is not None:
            self.esys.tr_set_auth(self._handles[tpm_handle], auth)
        return self._handles[tpm_handle]

    def forget(self, tpm_handle: int) -> None:
        """Look this handle up again next time."""
        self._handles.pop(tpm_handle, None)

    @contextmanager
    def flushing(self, handle: Any) -> Iterator[Any]:
        """Flush a transient object or session whatever happens: a TPM without resource manager has three slots."""
        try:
            yield handle
        finally:
            self.esys.flush_context(handle)

    def handles(self, first: int) -> set[int]:
        """The TPM's handles of the kind that begins at ``first``, at most 1024 of them."""
        found: set[int] = set()
        at = first
        for _ in range(1024 // _HANDLES_A_CALL):  # a TPM may answer with fewer than asked
            more, capability = self.esys.get_capability(TPM2_CAP.HANDLES, at, _HANDLES_A_CALL)
            held = capability.data
            got = [int(h) for h in held.handles]
            # Loaded sessions are listed under one kind and carry another when they are policy sessions (Part 3, 30.2).
            found.update(got if first == _LOADED_SESSION else (h for h in got if h >> 24 == first >> 24))
            if not more or not got or first == _LOADED_SESSION:
                break
            at = got[-1] + 1
        return found

    def permanent(self) -> int:
        """TPMA_PERMANENT: which authorisations are set, whether it is in lockout."""
        capability = self.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.PERMANENT, 1)[1]
        held = capability.data  # each parent is held: chained access would read freed memory
        properties = held.tpmProperties
        first = properties[0]
        return int(first.value)

    def take_pulse(self) -> Pulse:
        """Read clock, reset counters and lockout."""
        now = self.esys.read_clock()
        info = now.clockInfo
        lockout = bool(self.permanent() & _IN_LOCKOUT)
        self.pulse = Pulse(int(info.clock), int(info.resetCount), int(info.restartCount), bool(info.safe), lockout)
        return self.pulse

    def saw_attest(self, attest: bytes) -> None:
        """Take the clock from a TPMS_ATTEST: magic, type, signer, qualifying data, then TPMS_CLOCK_INFO (Part 2, 10.12.8)."""
        at = 6
        for _ in range(2):
            at += 2 + int.from_bytes(attest[at : at + 2])
        clock, reset, restart, safe = struct.unpack_from(">QIIB", attest, at)
        self.pulse = Pulse(clock, reset, restart, safe == 1, self.pulse is not None and self.pulse.lockout)


@dataclass(slots=True)
class _Call:
    act: Callable[[Connection], Any]
    retry: bool
    limit_s: float
    future: Future[Any]


class Tpm:
    """Reaches the TPM at ``tcti`` (``device:/dev/tpmrm0``; ``swtpm:host=…,port=…`` on the bench). Connects when first asked.

    ``call`` runs in the TPM's thread and raises UnavailableError while the TPM is gone, hangs or refuses; a call that
    hangs longer than its limit makes every call fail at once until it has returned. ``watch`` notices the TPM's going
    and return without anyone asking.
    """

    def __init__(self, tcti: str, *, limit_s: float = 10.0) -> None:
        os.environ.setdefault("TSS2_LOG", "all+none")  # tss2 prints every expected refusal to stderr otherwise
        self.tcti = tcti
        self._limit_s = limit_s
        self._health = Health()
        self._told_down = False
        self._listeners: list[Callable[[Health], None]] = []
        self._calls: queue.Queue[_Call | None] = queue.Queue(_WAITING)
        self._closed = False
        self._due: float | None = None
        self._connection: Connection | None = None
        self._pulse: Pulse | None = None
        # A daemon thread: a TPM that hangs must not hold up the end of the program.
        self._thread = threading.Thread(target=self._serve, name="tpm", daemon=True)
        self._thread.start()

    # ---- the event loop's side

    async def call(self, act: Callable[[Connection], _T], *, retry: bool = True, limit_s: float | None = None) -> _T:
        """Run ``act`` in the TPM's thread and return its result (plain values only).

        ``retry``: whether it may be run a second time on a new connection after the first one failed under it.
        Raises UnavailableError; ``act``'s own WardgateErrors pass through.
        """
        call = _Call(act, retry, limit_s or self._limit_s, Future())
        try:
            self._refuse_if_hung()
            try:
                self._calls.put_nowait(call)
            except queue.Full:
                raise TpmBusyError("too much is waiting for the TPM", "it is tried again") from None
            result = cast(_T, await self._result(call.future))
        except TpmGoneError as e:
            self._saw_down(str(e))
            raise
        self._saw_up()
        return result

    async def _result(self, future: Future[Any]) -> Any:
        waiting = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait((waiting,), timeout=_GLANCE_S))[0]:
                self._refuse_if_hung()
            return waiting.result()
        finally:
            waiting.cancel()

    def _refuse_if_hung(self) -> None:
        if (due := self._due) is not None and time.monotonic() > due:
            raise TpmGoneError(f"the TPM at {self.tcti} hangs", "if it stays so, power the gateway off and on")
        if not self._thread.is_alive():
            raise TpmGoneError("the TPM was closed", "start the gateway again")

    async def probe(self) -> Pulse:
        """Ask the TPM for its clock and standing now."""
        return await self.call(Connection.take_pulse)

    async def watch(self, interval_s: float = 5.0, down_interval_s: float = 1.0) -> None:
        """Probe for ever. Never raises because of the TPM: ``health`` and its listeners tell."""
        while True:
            try:
                await self.probe()
            except TpmBusyError:
                pass  # it works: on what others asked
            except UnavailableError as e:
                self._saw_down(str(e))
            await asyncio.sleep(interval_s if self._health.up else down_interval_s)

    @property
    def health(self) -> Health:
        """What was last seen of the TPM."""
        return self._health

    def on_change(self, listener: Callable[[Health], None]) -> Callable[[], None]:
        """Call ``listener`` on the event loop when the TPM goes, returns, was reset or locks out; returns how to end it."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close the connection and end the thread; a hung TPM is left behind after ``timeout_s``."""
        self._closed = True
        with suppress(queue.Full):
            self._calls.put_nowait(None)
        await asyncio.to_thread(self._thread.join, timeout_s)

    def _saw_down(self, why: str) -> None:
        news, self._told_down = not self._told_down, True
        if news:
            _LOG.error("TPM down: %s", why)
        self._change(replace(self._health, up=False, detail=why), tell=news)

    def _saw_up(self) -> None:
        pulse, was, self._told_down = self._pulse, self._health, False
        if pulse is None:
            return
        resets, detail = was.resets, "answers"
        counts = (pulse.reset_count, pulse.restart_count)
        if was.reset_count is not None and counts != (was.reset_count, was.restart_count):
            resets += 1
        if resets:
            detail += f"; it was reset {resets} time{'s' if resets > 1 else ''} while we ran (reset count {pulse.reset_count})"
        if pulse.lockout:
            detail += "; in dictionary-attack lockout, which does not touch our keys"
        now = Health(True, detail, pulse.lockout, *counts, resets)
        if now != was:
            (_LOG.warning if resets != was.resets or pulse.lockout else _LOG.info)("TPM up: %s", detail)
            self._change(now)

    def _change(self, now: Health, tell: bool = True) -> None:
        self._health = now
        for listener in tuple(self._listeners) if tell else ():
            listener(now)

    # ---- the TPM's thread

    def _serve(self) -> None:
        while not self._closed and (call := self._calls.get()) is not None:
            if not call.future.set_running_or_notify_cancel():
                continue
            self._due = time.monotonic() + call.limit_s
            try:
                result = self._attempt(call)
            except Exception as e:  # noqa: BLE001 - whatever it is, it belongs to the caller
                self._due = None
                call.future.set_exception(e)
            else:
                self._due = None
                call.future.set_result(result)
            del call
        self._disconnect()

    def _attempt(self, call: _Call) -> Any:
        delays, again = iter(_BUSY_S), call.retry
        while True:
            try:
                connection = self._connection or self._connect()
                result = call.act(connection)
            except TSS2_Exception as e:
                rc, text = int(e.rc), str(e)
            else:
                self._pulse = connection.pulse
                return result
            if is_gone(rc):
                self._disconnect()
                if again:
                    again = False
                    continue
            elif is_busy(rc) and (delay := next(delays, None)) is not None:
                time.sleep(delay)
                continue
            if is_gone(rc) and (why := why_no_tpm(self.tcti)) is not None:
                raise TpmGoneError(*why)
            raise translate(rc, text, self.tcti)

    def _connect(self) -> Connection:
        self._connection = connection = Connection(ESAPI(self.tcti))
        try:
            if not self.tcti.startswith(("device", "tabrmd")):
                _sweep(connection)
            connection.take_pulse()
        except BaseException:
            self._disconnect()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.esys.close()
            except TSS2_Exception as e:
                _LOG.debug("closing the TPM: %s", e)


def _sweep(connection: Connection) -> None:
    """Flush what a killed process of ours left in a TPM that has no resource manager (a simulator)."""
    for first in (_TRANSIENT, _LOADED_SESSION, _SAVED_SESSION):
        for handle in connection.handles(first):
            connection.esys.flush_context(connection.esys.tr_from_tpmpublic(handle))
