"""A profile that somebody wants to change: compiled with the ward as it is, compared, and tried by root's wardgate-policy.

What was applied is in the confirmed document itself, text and all, so that undoing it undoes the profile too: this watches
that file and feeds the engine whatever is active now, whoever changed it and why. Refuses to confirm anything itself.
"""

from __future__ import annotations

import asyncio
import logging
import tomllib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from gateway.bootstrap import load_profiles
from gateway.config import Config
from gateway.confirmed import applied_profiles, confirmed_document
from gateway.enforcer.document import DocumentError, check_document
from gateway.enforcer.pending import PendingFile
from gateway.enforcer.vital import vital_cut
from gateway.errors import InputError, InputErrors, RefusedError, WardgateError
from gateway.model.event import Event, OperatorCommand
from gateway.model.profile import Profile
from gateway.model.view import User
from gateway.policy.decide import profile_digest
from gateway.policy.difference import difference, profile_difference
from gateway.policy.profile import parse_profile, parse_with_trials
from gateway.policy.trials import try_profile

_LOOK_S = 0.5  # a file's times; how late the engine follows what root did
_TOLD = {"keep": "confirmed the policy", "rollback": "rolled the policy back"}
_SETTLED = ("wardgate-policy", "no policy waits for a confirmation any more")
log = logging.getLogger("wardgate.policy")


class Drafts:
    """``gateway.ports.PolicyPort``. ``profiles`` is the one mapping that everybody reads; it is changed in place."""

    def __init__(
        self,
        config: Config,
        profiles: MutableMapping[str, Profile],
        *,
        compiled: Callable[[Mapping[str, Profile], Mapping[str, str]], Awaitable[dict[str, Any]]],
        ask: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
        emit: Callable[[Event], Awaitable[None]],
        configure: Callable[[str], Awaitable[None]],
    ) -> None:
        self._config, self._profiles = config, profiles
        self._compiled, self._ask, self._emit, self._configure = compiled, ask, emit, configure
        self._pending = PendingFile(config.policy.confirmed.parent)
        self._folder = load_profiles(config, applied=False)  # as they were at the start: an edit there is nobody's confirmation
        self._seen: tuple[object, ...] = ()
        self._waited = ""

    # --- what the page and the command ask ---

    async def state(self) -> dict[str, Any]:
        """What is active, and what waits for a confirmation with the seconds left."""
        waiting = await asyncio.to_thread(self._pending.read)
        applied = applied_profiles(self._config.policy.confirmed)
        rows = [
            {"id": p.id, "name": p.name, "digest": profile_digest(p), "applied": p.id in applied} for p in self._profiles.values()
        ]
        previous = (self._config.policy.confirmed.parent / "previous.json").exists()
        return {"profiles": rows, "pending": waiting.shown() if waiting else None, "previous": previous}

    async def prepare(self, text: str) -> dict[str, Any]:
        """What applying this profile would change, before anything does. Raises InputErrors with every mistake or failed test."""
        profile = self._parsed(text)
        texts = {**applied_profiles(self._config.policy.confirmed), profile.id: text}
        document = await self._compiled({**self._profiles, profile.id: profile}, texts)
        before = self._confirmed()
        try:
            cut = vital_cut(check_document(before), check_document(document))
        except DocumentError as e:
            raise InputErrors("policy", tuple(e.problems)) from None
        lines = [*profile_difference(self._profiles.get(profile.id), profile), *difference(before, document)]
        return {"profile": profile.id, "difference": lines, "vital_cut": cut, "document": document}

    async def apply(self, who: User, secret: str, text: str, minutes: float, cut_vital: Sequence[str]) -> dict[str, Any]:
        """Try it for some minutes on this person's own credential. Raises RefusedError with what root's wardgate-policy says."""
        prepared = await self.prepare(text)
        more = {"document": prepared.pop("document"), "minutes": minutes, "cut_vital": list(cut_vital)}
        answer = await self._as(who, secret, "apply", more)
        return {**prepared, "pending": answer["pending"]}

    async def confirm(self, who: User, secret: str) -> dict[str, Any]:
        """What waits is the policy from now on."""
        return await self._as(who, secret, "keep", {})

    async def rollback(self, who: User, secret: str, cut_vital: Sequence[str]) -> dict[str, Any]:
        """Undo what waits, or go back to the policy before."""
        return await self._as(who, secret, "rollback", {"cut_vital": list(cut_vital)})

    async def _as(self, who: User, secret: str, verb: str, more: Mapping[str, Any]) -> dict[str, Any]:
        if not secret:
            raise RefusedError("this changes what may pass, so it is confirmed with your password", "give your password")
        answer = dict(await self._ask({"do": verb, "user": who.name, "password": secret, **more}))
        if verb in _TOLD:
            await self._emit(OperatorCommand(who.name, who.role, _TOLD[verb]))
        await self.follow()
        return {k: v for k, v in answer.items() if k != "ok"}

    def _parsed(self, text: str) -> Profile:
        profile, trials = parse_with_trials(_toml(text), self._config.peers)
        failed = tuple((f"test {t.what!r}", t.text) for t in try_profile(profile, trials) if not t.ok)
        if failed:
            raise InputErrors(f"profile {profile.id}: its own tests", failed)
        return profile

    def _confirmed(self) -> dict[str, Any]:
        return confirmed_document(self._config.policy.confirmed)

    # --- following what is active ---

    async def watch(self) -> None:
        """Follow root's files for ever."""
        while True:
            try:
                await self.follow()
            except WardgateError as e:
                log.error("the confirmed policy: %s", e)
            await asyncio.sleep(_LOOK_S)

    async def follow(self) -> None:
        """Take up the profiles of what is active now, and note in the record when something began or ceased to wait."""
        stamps = tuple(map(_stamp, (self._config.policy.confirmed, self._pending.path)))
        if stamps == self._seen:
            return
        self._seen = stamps
        await self._note_waiting()
        fresh = {**self._folder, **await asyncio.to_thread(self._applied)}
        if _digests(fresh) == _digests(self._profiles):
            return
        for name in self._profiles.keys() - fresh.keys():
            del self._profiles[name]
        self._profiles.update(fresh)
        log.info("the profiles are those of the active policy now")
        await self._configure("wardgate-policy")

    def _applied(self) -> dict[str, Profile]:
        texts = applied_profiles(self._config.policy.confirmed)
        return {i: parse_profile(_toml(text), self._config.peers) for i, text in texts.items()}

    async def _note_waiting(self) -> None:
        waiting = await asyncio.to_thread(self._pending.read)
        now = waiting.document if waiting else ""
        if now != self._waited:
            actor, verb = (waiting.actor, "applied a policy, which waits for its confirmation") if waiting else _SETTLED
            self._waited = now
            await self._emit(OperatorCommand(actor, "", verb))


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise InputError(f"the profile is no TOML ({e})", "mend it") from None


def _digests(profiles: Mapping[str, Profile]) -> dict[str, str]:
    return {name: profile_digest(p) for name, p in profiles.items()}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
