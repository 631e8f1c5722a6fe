"""Named people in both places that know them: the store (sessions, Argon2id) and root's wardgate-policy (what may pass).

A person who may confirm policy has a credential there too, made from the same password at the same moment. It is made there
first: while wardgate-policy is away nothing is used up, and no admin is left who cannot confirm. Whoever changes people proves it
there with their own password (``secret``), or a captured session could make an operator; only root on the console needs none,
since it asks wardgate-policy itself. Refuses to know how either keeps it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.enforcer.credentials import ROLES as POLICY_ROLES
from gateway.errors import InputError, RefusedError, UnavailableError
from gateway.model.view import User
from gateway.store.accounts import Accounts
from gateway.store.passwords import check_password

CONSOLE = "root"  # the actor of the command line, as root

_AWAY = "systemctl start wardgate-policy.socket, then use the same code again: it is still good"


class People(Accounts):
    """The accounts, kept in step with wardgate-policy. All raise RefusedError, InputError or UnavailableError."""

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

    async def admit(self, actor: User, name: str, password: str, role: str, secret: str) -> User:
        """A new person."""
        name = name.strip().lower()
        if await self._find(name) is not None:
            raise InputError(f"there is a user {name} already", "take another name")
        await self._proven(actor, secret)
        check_password(password, name)
        await self._credential(actor, secret, name, password, role)
        return await self.add_user(actor, name, password, role)

    async def appoint(self, actor: User, name: str, role: str, secret: str, password: str = "") -> User:
        """Another role; ``password`` is the person's new one, needed where the new role has a credential and the old one none."""
        person = await self._known(name)
        if person.role == role:
            raise InputError(f"{name} has the role {role} already", "choose another one")
        await self._keep_one_admin(person, role)
        await self._proven(actor, secret)
        if role in POLICY_ROLES and person.role not in POLICY_ROLES and not password and actor.name != CONSOLE:
            raise InputError(
                f"as {role}, {name} confirms what may pass with a password, and needs a new one", "give a new password as well"
            )
        if password:
            check_password(password, name)
            await self._credential(actor, secret, name, password, role)
            await self.set_password(actor, name, password)
        elif person.role in POLICY_ROLES:
            await self._policy(actor, secret, {"do": "operator-role", "name": name, "role": role if role in POLICY_ROLES else ""})
        return await self.set_role(actor, name, role)

    async def replace_password(self, actor: User, name: str, password: str, secret: str) -> None:
        """A new password for somebody who has lost theirs; their sessions end."""
        person = await self._known(name)
        await self._proven(actor, secret)
        check_password(password, name)
        await self._credential(actor, secret, name, password, person.role)
        await self.set_password(actor, name, password)

    async def change_password(self, actor: User, old: str, new: str, source: str) -> None:
        """One's own; all of one's sessions end."""
        person = await self.login(actor.name, old, source, doing="showed the old password, to change it")
        check_password(new, person.name)
        if new == old:
            raise InputError("the new password is the old one", "take another one")
        if person.role in POLICY_ROLES:
            await self.ask_policy({"do": "own-password", "user": person.name, "password": old, "new_password": new})
        await self.set_password(person, person.name, new)

    async def dismiss(self, actor: User, name: str, secret: str) -> None:
        """A person goes: no login, no credential, no session."""
        person = await self._known(name)
        await self._keep_one_admin(person, "")
        await self._proven(actor, secret)
        if person.role in POLICY_ROLES:
            await self._policy(actor, secret, {"do": "operator-role", "name": name, "role": ""})
        await self.remove_user(actor, name)

    async def _proven(self, actor: User, secret: str) -> None:
        """An admin, who has just shown the password."""
        if actor.role != "admin":
            raise RefusedError(f"{actor.name} is {actor.role}; only an admin changes accounts", "ask an admin")
        if actor.name != CONSOLE:
            await self.login(actor.name, secret, "page", doing="confirmed a change with the password")

    async def _credential(self, actor: User, secret: str, name: str, password: str, role: str) -> None:
        if role in POLICY_ROLES:
            body = {"do": "add-operator", "name": name, "new_password": password, "role": role}
            await self._policy(actor, secret, body)

    async def _policy(self, actor: User, secret: str, body: dict[str, Any]) -> None:
        if actor.name != CONSOLE:  # root has asked already, as itself: this daemon could not in its name
            await self.ask_policy({**body, "user": actor.name, "password": secret})

    async def _find(self, name: str) -> User | None:
        return next((u for u in await self.users() if u.name == name), None)

    async def _known(self, name: str) -> User:
        found = await self._find(name)
        if found is None:
            raise InputError(f"there is no user {name[:64]}", "the Gateway page lists all users")
        return found

    async def _keep_one_admin(self, person: User, role: str) -> None:
        """Before anything is asked of wardgate-policy; the store checks it again in its own transaction."""
        admins = [u.name for u in await self.users() if u.role == "admin"]
        if admins == [person.name] and role != "admin":
            raise RefusedError(f"{person.name} is the last admin", "make someone else admin first")
