"""Pairing agents (org.bluez.Agent1): who is registered, and how a pairing asks them.

As in BlueZ, a pairing asks the agent of the client that called Pair, else the default agent, else nobody.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bumble.pairing import PairingDelegate
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from hil.bluez.tree import BluezError
from hil.wearable import only_encryption

ANSWER_S = 60.0  # BlueZ's own patience with an agent
_IO = PairingDelegate.IoCapability
CAPABILITIES = {
    "": _IO.DISPLAY_OUTPUT_AND_KEYBOARD_INPUT,
    "DisplayOnly": _IO.DISPLAY_OUTPUT_ONLY,
    "DisplayYesNo": _IO.DISPLAY_OUTPUT_AND_YES_NO_INPUT,
    "KeyboardOnly": _IO.KEYBOARD_INPUT_ONLY,
    "NoInputNoOutput": _IO.NO_OUTPUT_NO_INPUT,
    "KeyboardDisplay": _IO.DISPLAY_OUTPUT_AND_KEYBOARD_INPUT,
}


class Agent:
    """One registered agent."""

    def __init__(self, bus: MessageBus, owner: str, path: str, capability: str) -> None:
        if capability not in CAPABILITIES:
            raise BluezError("InvalidArguments", "Invalid arguments in method call")
        self._bus, self.owner, self.path, self.io = bus, owner, path, CAPABILITIES[capability]

    async def ask(self, member: str, signature: str, *body: Any) -> list[Any] | None:
        """Ask; None when the agent refuses or does not answer."""
        call = Message(
            destination=self.owner,
            path=self.path,
            interface="org.bluez.Agent1",
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            reply = await asyncio.wait_for(self._bus.call(call), ANSWER_S)
        except TimeoutError:
            return None
        return None if reply is None or reply.message_type is MessageType.ERROR else reply.body

    def release(self) -> None:
        """Say that the service goes away."""
        self._bus.send(
            Message(destination=self.owner, path=self.path, interface="org.bluez.Agent1", member="Release", signature="", body=[])
        )


class Agents:
    """All registered agents; at most one a client, the last one to ask for it is the default."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._agents: dict[str, Agent] = {}
        self._defaults: list[str] = []

    def register(self, owner: str, path: str, capability: str) -> None:
        """RegisterAgent."""
        if owner in self._agents:
            raise BluezError("AlreadyExists", "Already Exists")
        self._agents[owner] = Agent(self._bus, owner, path, capability)

    def unregister(self, owner: str, path: str) -> None:
        """UnregisterAgent."""
        if owner not in self._agents or self._agents[owner].path != path:
            raise BluezError("DoesNotExist", "Does Not Exist")
        self.forget(owner)

    def make_default(self, owner: str, path: str) -> None:
        """RequestDefaultAgent."""
        if owner not in self._agents or self._agents[owner].path != path:
            raise BluezError("DoesNotExist", "Does Not Exist")
        self._defaults = [owner, *(o for o in self._defaults if o != owner)]

    def forget(self, owner: str) -> None:
        """A client left the bus, or unregistered."""
        self._agents.pop(owner, None)
        self._defaults = [o for o in self._defaults if o != owner]

    def choose(self, owner: str | None) -> Agent | None:
        """The agent that a pairing started by ``owner`` (None: by the daemon itself) asks."""
        if owner in self._agents:
            return self._agents[owner]
        return self._agents[self._defaults[0]] if self._defaults else None

    def release(self) -> None:
        """The service ends in order."""
        for agent in self._agents.values():
            agent.release()


class Asking(PairingDelegate):
    """Carries bumble's questions to an agent. ``ours``: a client called Pair, so just works asks nobody, as in BlueZ."""

    def __init__(self, agent: Agent, device_path: str, ours: bool) -> None:
        super().__init__(agent.io, *only_encryption())
        self._agent, self._path, self._ours = agent, device_path, ours

    async def confirm(self, auto: bool = False) -> bool:
        """Just works: what the peer asked for needs the agent's authorization."""
        return self._ours or await self._agent.ask("RequestAuthorization", "o", self._path) is not None

    async def compare_numbers(self, number: int, digits: int) -> bool:
        """Numeric comparison."""
        return await self._agent.ask("RequestConfirmation", "ou", self._path, number) is not None

    async def get_number(self) -> int | None:
        """Passkey entry."""
        answer = await self._agent.ask("RequestPasskey", "o", self._path)
        return int(answer[0]) if answer else None

    async def display_number(self, number: int, digits: int) -> None:
        """Passkey display."""
        await self._agent.ask("DisplayPasskey", "ouq", self._path, number, 0)
