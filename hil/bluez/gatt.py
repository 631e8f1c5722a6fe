"""The GATT objects of one connected device: services, characteristics, descriptors, and operations on them.

Paths and errors are BlueZ's (src/gatt-client.c of 5.66): a characteristic's path carries its declaration's handle, one
operation at a time runs on an attribute, an insufficient-security error raises security once and tries again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from bleak.assigned_numbers import gatt_char_props_to_strs
from bumble import att
from bumble.core import UUID
from bumble.device import Peer
from bumble.gatt_client import CharacteristicProxy, Client, DescriptorProxy, ServiceProxy
from dbus_fast import Message

from hil.bluez.tree import CHARACTERISTIC, DESCRIPTOR, SERVICE, BluezError, Tree

MTU = 517
_GENERIC_ACCESS = "00001800-0000-1000-8000-00805f9b34fb"  # BlueZ keeps this service to itself
_INSUFFICIENT = (att.ATT_INSUFFICIENT_AUTHENTICATION_ERROR, att.ATT_INSUFFICIENT_ENCRYPTION_ERROR)
_ERRORS = {
    0x02: ("NotPermitted", "Read not permitted"),
    0x03: ("NotPermitted", "Write not permitted"),
    0x05: ("NotPermitted", "Not paired"),
    0x0C: ("NotPermitted", "Not paired"),
    0x0F: ("NotPermitted", "Not paired"),
    0x06: ("NotSupported", "Not supported"),
    0x07: ("InvalidArguments", "Invalid offset"),
    0x08: ("NotAuthorized", "Not authorized"),
    0x0D: ("InvalidArguments", "Invalid Length"),
}
Remote = ServiceProxy | CharacteristicProxy[Any] | DescriptorProxy


def uuid_text(uuid: UUID) -> str:
    """A UUID in BlueZ's long form."""
    if len(uuid.uuid_bytes) == 16:
        return str(uuid.to_hex_str("-")).lower()
    return f"0000{uuid.to_hex_str().lower().rjust(4, '0')}-0000-1000-8000-00805f9b34fb"


def att_error(error: att.ATT_Error) -> BluezError:
    """The D-Bus error that BlueZ makes of an ATT error."""
    known = _ERRORS.get(error.error_code)
    return BluezError(*known) if known else BluezError("Failed", f"Operation failed with ATT error: 0x{error.error_code:02x}")


class Gatt:
    """The attributes of one device as D-Bus objects. ``raise_security`` pairs (or hangs, without an agent)."""

    def __init__(self, tree: Tree, device_path: str, raise_security: Callable[[], Awaitable[None]]) -> None:
        self._tree, self._device_path, self._raise_security = tree, device_path, raise_security
        self._remote: dict[str, Remote] = {}
        self._busy: set[str] = set()
        self._subscribers: dict[str, tuple[str, Callable[[bytes], None]]] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._peer: Peer | None = None

    @property
    def _client(self) -> Client:
        if self._peer is None:
            raise BluezError("NotConnected", "Not Connected")
        return self._peer.gatt_client

    async def resolve(self, peer: Peer) -> list[str]:
        """Discover everything, publish it, and return the UUIDs of the services."""
        await peer.request_mtu(MTU)
        await peer.discover_services()
        found: list[tuple[str, dict[str, dict[str, Any]], Remote]] = []
        for service in peer.services:
            if uuid_text(service.uuid) != _GENERIC_ACCESS:
                found += await self._service(service, peer.gatt_client.mtu)
        self.clear()
        self._peer = peer
        for path, interfaces, remote in found:
            self._remote[path] = remote
            self._tree.add(path, interfaces)
        return [uuid_text(s.uuid) for s in peer.services]

    async def _service(self, service: ServiceProxy, mtu: int) -> list[tuple[str, dict[str, dict[str, Any]], Remote]]:
        path = f"{self._device_path}/service{service.handle:04x}"
        about: dict[str, Any] = {"UUID": uuid_text(service.uuid), "Device": self._device_path, "Primary": True, "Includes": []}
        found: list[tuple[str, dict[str, dict[str, Any]], Remote]] = [(path, {SERVICE: about}, service)]
        for c in await service.discover_characteristics():
            at = f"{path}/char{c.handle - 1:04x}"
            flags = list(gatt_char_props_to_strs(int(c.properties)))
            about = {"UUID": uuid_text(c.uuid), "Service": path, "Value": b"", "Flags": flags, "MTU": mtu}
            if "notify" in flags or "indicate" in flags:
                about |= {"Notifying": False, "NotifyAcquired": False}
            if "write-without-response" in flags:
                about["WriteAcquired"] = False
            found.append((at, {CHARACTERISTIC: about}, c))
            for d in await c.discover_descriptors():
                about = {"UUID": uuid_text(d.type), "Characteristic": at, "Value": b""}
                found.append((f"{at}/desc{d.handle:04x}", {DESCRIPTOR: about}, d))
        return found

    def disconnected(self) -> None:
        """The link is gone: nothing notifies any more, acquired sockets are closed."""
        self._peer = None
        self._subscribers.clear()
        for path in self._remote:
            for name in ("Notifying", "NotifyAcquired"):
                if self._tree.has(path, CHARACTERISTIC, name):
                    self._tree.set(path, CHARACTERISTIC, **{name: False})
        self._close_sockets()

    def clear(self) -> None:
        """Take all objects away."""
        self._close_sockets()
        self._subscribers.clear()
        for path in reversed(list(self._remote)):
            self._tree.remove(path)
        self._remote.clear()

    def _close_sockets(self) -> None:
        loop = asyncio.get_running_loop()
        for s in self._sockets.values():
            loop.remove_reader(s)
            s.close()
        self._sockets.clear()

    def owner_left(self, owner: str) -> None:
        """A client left the bus: its notifications stop."""
        for path, (who, _) in list(self._subscribers.items()):
            if who == owner:
                spawn(self.stop_notify(path, owner))

    async def _run(self, path: str, operation: Callable[[Client], Awaitable[Any]]) -> Any:
        client = self._client
        if path in self._busy:
            raise BluezError("InProgress", "Operation in progress")
        self._busy.add(path)
        try:
            try:
                return await operation(client)
            except att.ATT_Error as e:
                if e.error_code not in _INSUFFICIENT:
                    raise
                await self._raise_security()
                return await operation(client)
        except att.ATT_Error as e:
            raise att_error(e) from e
        finally:
            self._busy.discard(path)

    async def read(self, path: str) -> bytes:
        """ReadValue: the whole value (read blob requests follow as needed)."""
        handle = self._remote[path].handle
        value = bytes(await self._run(path, lambda c: c.read_value(handle)))
        self._tree.set(path, CHARACTERISTIC if self._tree.has(path, CHARACTERISTIC) else DESCRIPTOR, Value=value)
        return value

    async def write(self, path: str, value: bytes, with_response: bool) -> None:
        """WriteValue."""
        handle = self._remote[path].handle
        await self._run(path, lambda c: c.write_value(handle, value, with_response=with_response))

    async def start_notify(self, path: str, owner: str) -> None:
        """StartNotify: values arrive as PropertiesChanged."""
        if not self._tree.has(path, CHARACTERISTIC, "Notifying"):
            raise BluezError("NotSupported", "Operation is not supported")
        if path in self._subscribers:
            return

        def announce(value: bytes) -> None:
            self._tree.set(path, CHARACTERISTIC, always=True, Value=bytes(value))

        await self._run(path, lambda c: c.subscribe(self._characteristic(path), announce))
        self._subscribers[path] = (owner, announce)
        self._tree.set(path, CHARACTERISTIC, Notifying=True)

    async def stop_notify(self, path: str, owner: str) -> None:
        """StopNotify."""
        who, subscriber = self._subscribers.pop(path, ("", None))
        if subscriber is None or who != owner:
            raise BluezError("Failed", "No notify session started")
        await self._run(path, lambda c: c.unsubscribe(self._characteristic(path), subscriber))
        self._tree.set(path, CHARACTERISTIC, Notifying=False)

    async def acquire_notify(self, path: str, message: Message) -> Message:
        """AcquireNotify: values arrive as packets on a socket, which ends the subscription when closed."""
        if not self._tree.has(path, CHARACTERISTIC, "NotifyAcquired"):
            raise BluezError("NotSupported", "Operation is not supported")
        if path in self._sockets:
            raise BluezError("NotPermitted", "Notify acquired")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)

        def forward(value: bytes) -> None:
            try:
                ours.send(bytes(value))
            except OSError:
                return  # a reader that does not read loses values, as with BlueZ's socket

        try:
            await self._run(path, lambda c: c.subscribe(self._characteristic(path), forward))
        except BluezError:
            ours.close()
            theirs.close()
            raise
        self._sockets[path] = ours
        asyncio.get_running_loop().add_reader(ours, lambda: spawn(self._released(path, forward)))
        self._tree.set(path, CHARACTERISTIC, NotifyAcquired=True)
        return Message.new_method_return(message, "hq", [0, self._client.mtu], unix_fds=[theirs.detach()])

    async def _released(self, path: str, forward: Callable[[bytes], None]) -> None:
        s = self._sockets.pop(path, None)
        if s is None:
            return
        asyncio.get_running_loop().remove_reader(s)
        s.close()
        self._tree.set(path, CHARACTERISTIC, NotifyAcquired=False)
        if self._peer is not None:
            await self._client.unsubscribe(self._characteristic(path), forward)

    def _characteristic(self, path: str) -> CharacteristicProxy[Any]:
        remote = self._remote[path]
        assert isinstance(remote, CharacteristicProxy)
        return remote


_tasks: set[asyncio.Task[Any]] = set()


def spawn(work: Any) -> None:
    """Run a coroutine in the background; a fault in it ends up in the log."""
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)

    def done(t: asyncio.Task[Any]) -> None:
        _tasks.discard(t)
        if not t.cancelled() and (e := t.exception()) is not None and not isinstance(e, BluezError):
            os.write(2, f"hil.bluez: {e!r}\n".encode())

    task.add_done_callback(done)
