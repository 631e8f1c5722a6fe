"""Named people in both places that know them: the store (sessions, Argon2id) and root's wardgate-policy (what may pass).

A person who may confirm policy has a credential there too, made from the same password at the same moment. It is made there
first: while wardgate-policy is away nothing is used up, and no admin is left who cannot confirm. Refuses to know how either
keeps it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.errors import RefusedError, UnavailableError
from gateway.store.accounts import Accounts

_AWAY = "systemctl start wardgate-policy.socket, then use the same code again: it is still good"


class People(Accounts):
    """The accounts, kept in step with wardgate-policy."""

    ask_policy: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

    async def _before_claim(self, code: str, name: str, password: str) -> None:
        """The credential at wardgate-policy, which checks the same code itself.

        One that an interrupted claim left there already, with this very password, is as good.
        """
        try:
            await self.ask_policy({"do": "claim-operator", "code": code, "user": name, "password": password})
        except UnavailableError as e:
            raise UnavailableError(e.what, _AWAY) from None
        except RefusedError as refused:
            try:
                known = await self.ask_policy({"do": "who", "user": name, "password": password})
            except RefusedError:
                raise refused from None
            if known.get("role") != "admin":
                raise
