"""Named people in both places that know them: the store (sessions, Argon2id) and root's wardgate-policy (what may pass).

A person who may confirm policy has a credential there too, made from the same password at the same moment. Refuses to
know how either keeps it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.model.view import User
from gateway.store.accounts import Accounts


class People(Accounts):
    """The accounts, kept in step with wardgate-policy."""

    ask_policy: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

    async def claim(self, code: str, user: str, password: str) -> User:
        """The first admin, here and at wardgate-policy, which checks the same code itself."""
        claimed = await super().claim(code, user, password)
        await self.ask_policy({"do": "claim-operator", "code": code, "user": user, "password": password})
        return claimed
