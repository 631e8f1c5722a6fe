"""PURE. The one place where decisions are made: events and the time go in, effects come out.

The order of a decision is readable in ``Engine._settle``: verdict on evidence, level from trust, decision from policy,
lease, challenge, certificate. Draws nothing at random, reads no clock, does no IO: the same (instant, event) pairs give
the same decisions. Refuses to know how effects are carried out.
A little over 400 lines: every event has its place here, and nothing else has.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gateway.incidents import Incidents, lapse, standstill
from gateway.judgement import Out, allowed, announcements, clear_alarm, learn, outcome, raise_alarm, reason_of, revoke, weigh
from gateway.model.certificate import Verdict
from gateway.model.decision import Lease
from gateway.model.device import DeviceState
from gateway.model.effect import (
    Alarm,
    Challenge,
    Grant,
    Issue,
    KeepBond,
    Record,
    SealEpoch,
    Severity,
)
from gateway.model.event import (
    Behaviour,
    ChallengeIssued,
    Configured,
    DeviceSeen,
    Event,
    EvidenceArrived,
    EvidenceFailed,
    LeasesLapsed,
    LinkChanged,
    OperatorCommand,
    PartChanged,
    RouteChanged,
    TimeProof,
)
from gateway.model.instant import NS_PER_S, Instant
from gateway.model.level import TrustLevel
from gateway.model.profile import References
from gateway.model.timing import Timing
from gateway.policy.decide import decide, profile_digest, rules_for
from gateway.repair import accept, break_glass, close_service, countersign, look_at_glass, open_service
from gateway.sightings import Sightings
from gateway.standing import Challenged, Standing, Veto
from gateway.verifier.appraise import appraise

_MAX_WAKE_S = 60.0
_SAME_S = 60.0  # the same refusal again is told once a minute
_KINDS = 1024  # refusals told apart; a stranger chooses ports and addresses


class Engine:
    """``receive(event, now)``, ``wake(now)``, ``next_wake()``; ``standings`` for those who show them."""

    def __init__(self) -> None:
        self.standings: dict[str, Standing] = {}
        self.timing = Timing()
        self.parts: dict[str, tuple[bool, str]] = {}
        self._sightings, self._incidents = Sightings(), Incidents(self.parts)
        self.outcomes: Counter[tuple[str, str]] = Counter()  # evidence by class and by what came of it
        self.epoch = 0
        self._next_epoch: Instant | None = None
        self._behaved: dict[tuple[str, str, str], tuple[Instant, int]] = {}
        self._heap: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}  # the one entry of the heap that counts, per device
        self._handlers: dict[type, Callable[[Any, Instant, Out], set[str]]] = {
            Configured: self._configured,
            DeviceSeen: self._device_seen,
            ChallengeIssued: self._challenge_issued,
            EvidenceArrived: self._evidence_arrived,
            EvidenceFailed: self._evidence_failed,
            Behaviour: self._behaviour,
            LinkChanged: self._link_changed,
            RouteChanged: self._route_changed,
            OperatorCommand: self._operator_command,
            TimeProof: self._time_proof,
            PartChanged: self._part_changed,
            LeasesLapsed: self._leases_lapsed,
        }

    # --- the three entrances ---

    def receive(self, event: Event, now: Instant) -> Out:
        """Take one event; the effects are in the order in which they were decided."""
        out: Out = []
        touched = self._handlers[type(event)](event, now, out)
        for device_id in sorted(touched):
            self._settle(self.standings[device_id], now, out)
        return out + announcements(out)

    def wake(self, now: Instant) -> Out:
        """Let time pass: renewals, challenges, ageing, the end of repairs, the epoch."""
        out: Out = []
        due: set[str] = set()
        while self._heap and self._heap[0][0] <= now.mono_ns:
            at, device_id = heapq.heappop(self._heap)
            if self._due.get(device_id) == at:
                due.add(device_id)
        if self._next_epoch is not None and now.mono_ns >= self._next_epoch.mono_ns:
            self._next_epoch = now.plus(self.timing.epoch_s)
            for s in self.standings.values():
                self._certify(s, now, out)
            self._incidents.pass_time(now, out)
            self.epoch += 1
            out.append(SealEpoch(self.epoch))
        for device_id in sorted(due & self.standings.keys()):
            self._settle(self.standings[device_id], now, out)
        return out + announcements(out)

    def next_wake(self) -> int | None:
        """Boot time (ns) at which ``wake`` wants to be called; None: nothing is planned."""
        times = [t[0] for t in self._heap[:1]] + ([self._next_epoch.mono_ns] if self._next_epoch else [])
        return min(times, default=None)

    # --- events ---

    def _configured(self, event: Configured, now: Instant, out: Out) -> set[str]:
        self.timing = event.timing
        if self._next_epoch is None:
            self._next_epoch = now.plus(min(1.0, event.timing.epoch_s))
        profiles = {p.id: p for p in event.profiles}
        references = dict(event.references)
        fresh: dict[str, Standing] = {}
        for device in event.devices:
            profile = profiles[device.profile]
            old = self.standings.get(device.id)
            s = old or Standing(device, profile, "", References(), now, started=now)
            if old and old.device.state is not device.state:
                out.append(
                    Record("state", device.id, f"{device.id}: {old.device.state} → {device.state}", (("actor", event.actor),))
                )
            s.device, s.profile, s.policy_id = device, profile, profile_digest(profile)
            s.references = references.get(device.id, References())
            fresh[device.id] = s
        owned = {a for s in fresh.values() if s.live for a in s.device.ip_addresses}
        for s in [s for s in fresh.values() if not s.live]:
            revoke(s, f"{s.device.state}: nothing is allowed", now, out, owned)
        for gone in self.standings.keys() - fresh.keys():
            revoke(self.standings[gone], "removed", now, out, owned)
        self.standings = fresh
        self._resume(event, now, out)
        return set(fresh)

    def _resume(self, event: Configured, now: Instant, out: Out) -> None:
        for window in event.services:
            s = self.standings.get(window.device_id)
            if s and s.service is None and s.device.state is DeviceState.SERVICE and window.until.boot_id == now.boot_id:
                s.service = window
        for device_id, media_type, text in event.vetoes:
            s = self.standings.get(device_id)
            if s and media_type not in s.vetoes:
                s.vetoes[media_type] = Veto(media_type, text, now)
                raise_alarm(s, "bad-evidence", Severity.ALARM, text, out)
                revoke(s, text, now, out)

    def _device_seen(self, event: DeviceSeen, now: Instant, out: Out) -> set[str]:
        if event.address not in self._known() and self._sightings.see(event, now):
            what = f"{event.bus} device {event.address} ({event.name})" if event.bus else f"host {event.address} on {event.port}"
            out.append(Record("seen", "", f"a new {what} was seen; it gets nothing", ()))
        return set()

    def found(self) -> Mapping[str, tuple[DeviceSeen, Instant]]:
        """What was seen and not added, by its address, and when."""
        return self._sightings.without(self._known())

    def _known(self) -> set[str]:
        devices = [s.device for s in self.standings.values()]
        return {d.address for d in devices} | {d.binding.mac for d in devices if d.binding}

    def _challenge_issued(self, event: ChallengeIssued, now: Instant, out: Out) -> set[str]:
        if s := self.standings.get(event.device_id):
            s.challenges[event.media_type] = Challenged(event.nonce, now)
        return set()

    def _evidence_arrived(self, event: EvidenceArrived, now: Instant, out: Out) -> set[str]:
        e = event.evidence
        s = self.standings.get(e.device_id)
        if s is None or not s.live:
            self.outcomes["unknown", "unasked"] += 1
            out.append(Record("refused", e.device_id, f"evidence for {e.device_id}, which is not attested here", ()))
            return set()
        asked = s.challenges.pop(e.media_type, None)
        if asked is None or asked.nonce != e.nonce or now.seconds_since(asked.at) > self.timing.nonce_s:
            self.outcomes["unknown", "unasked"] += 1
            out.append(Record("refused", s.id, f"{s.id}: evidence that nobody asked for, or asked for too long ago", ()))
            return set()
        s.answered.add(e.media_type)
        result = appraise(e, s.all_references())
        if learn(s, result, out):
            result = appraise(e, s.all_references())
        self.outcomes[result.evidence_class.value, outcome(result)] += 1
        weigh(s, e, result, now, self.timing.dwell_s, out)
        return {s.id}

    def _evidence_failed(self, event: EvidenceFailed, now: Instant, out: Out) -> set[str]:
        if (s := self.standings.get(event.device_id)) is None:
            return set()
        s.challenges.pop(event.media_type, None)
        s.answered.add(event.media_type)
        self.outcomes["unknown", "none-came"] += 1
        out.append(Record("no-evidence", s.id, f"{s.id}: no evidence: {event.reason}; its trust ages", ()))
        return {s.id}

    def _behaviour(self, event: Behaviour, now: Instant, out: Out) -> set[str]:
        """The first of a kind is recorded at once; the same again only once a minute, with how often it was."""
        key = (event.device_id, event.code, event.text)
        last, count = self._behaved.get(key, (None, 0))
        count += event.count
        if last is not None and now.seconds_since(last) < _SAME_S:
            self._behaved[key] = (last, count)
            return set()
        if len(self._behaved) >= _KINDS and key not in self._behaved:
            self._behaved.pop(next(iter(self._behaved)))
        self._behaved[key] = (now, 0)
        body = (("code", event.code), ("count", count), ("severity", Severity.WARNING.value))
        again = f" ({count} times)" if count > 1 else ""
        who = f"{event.device_id}: " if event.device_id else ""
        out.append(Record("behaviour", event.device_id, f"{who}{event.text}{again}", body))
        return set()

    def _link_changed(self, event: LinkChanged, now: Instant, out: Out) -> set[str]:
        if (s := self.standings.get(event.device_id)) is None:
            return set()
        if event.up and event.bond is not None and event.bond is not s.device.bond:
            s.device = replace(s.device, bond=event.bond)
            out.append(KeepBond(s.id, event.bond))
            out.append(Record("bond", s.id, f"{s.id}: bonded ({event.bond}); a restart will not pair again", ()))
        again = event.anew and event.up and s.link_up is True
        if event.up is not s.link_up or again:
            s.link_up, s.link_since = event.up, now
            word = "another one: evidence is needed anew" if again else "up" if event.up else "down"
            out.append(Record("link", s.id, f"{s.id}: link {word}{': ' + event.detail if event.detail else ''}", ()))
            if event.up:
                s.asked.clear()
                clear_alarm(s, "link-down", out)
            else:
                raise_alarm(s, "link-down", Severity.WARNING, f"{s.id}: no link; its trust ages", out)
        return {s.id}

    def _route_changed(self, event: RouteChanged, now: Instant, out: Out) -> set[str]:
        if (s := self.standings.get(event.device_id)) is None:
            return set()
        code = f"route-{event.function}"
        if event.up:
            clear_alarm(s, code, out)
        else:
            raise_alarm(s, code, Severity.ALARM, f"{s.id}: {event.function} has no other end: {event.detail}", out)
        return {s.id}

    def _time_proof(self, event: TimeProof, now: Instant, out: Out) -> set[str]:
        out.append(Record("time", "", f"{event.source} says what time it is (quality {event.quality})", ()))
        return set()

    def _leases_lapsed(self, event: LeasesLapsed, now: Instant, out: Out) -> set[str]:
        lapsed = lapse(event, self.standings, now, out)
        if lapsed:
            self._incidents.begin(standstill(event, now), now, out)
        return lapsed

    def _part_changed(self, event: PartChanged, now: Instant, out: Out) -> set[str]:
        if self._incidents.about(event.part):
            self._incidents.begin(event, now, out)
            return set()
        before = self.parts.get(event.part)
        self.parts[event.part] = (event.up, event.detail)
        if before is None or before[0] is not event.up:
            severity = Severity.INFORMATION if event.up else Severity.ALARM
            text = f"{event.part} is {'well' if event.up else 'gone'}{': ' + event.detail if event.detail else ''}"
            if before is not None or not event.up:
                out.append(Alarm("", f"part-{event.part}", severity, text, raised=not event.up))
            out.append(Record("part", "", text, (("severity", severity.value),)))
        return set()

    # --- operators ---

    def _operator_command(self, event: OperatorCommand, now: Instant, out: Out) -> set[str]:
        out.append(
            Record("command", event.device_id, f"{event.actor}: {event.verb} {event.device_id}".rstrip(), (("actor", event.actor),))
        )
        if event.verb == "acknowledge":
            self._incidents.looked_at(event.actor, out)
        s = self.standings.get(event.device_id)
        if s is None:
            return set()
        match event.verb:
            case "attest":
                s.asked.clear()
            case "enforce":
                countersign(s, event.actor, out)
            case "service":
                open_service(s, event, now, out)
            case "break-glass":
                break_glass(s, event, now, out)
            case "accept" if s.device.state is DeviceState.SERVICE:
                accept(s, event, now, out)
            case "undo" if s.device.state is DeviceState.SERVICE:
                close_service(s, f"undone by {event.actor}", now, out)
        return {s.id}

    # --- the decision ---

    def _settle(self, s: Standing, now: Instant, out: Out) -> None:
        """Evidence → level → decision → lease → challenge → certificate, for one device at one moment."""
        if s.service and now.mono_ns >= s.service.until.mono_ns:
            close_service(s, "its time is over", now, out)
        look_at_glass(s, now, out)
        if not s.live:
            return
        s.drop_stale_channel(now, self.timing.epoch_s)
        found = s.reassess(now)
        wait = s.undecided(now, self.timing.epoch_s) and not s.vetoes and s.service is None
        if not wait:
            level = TrustLevel.NONE if s.vetoes else s.service.level if s.service else found.level
            self._decide(s, level, now, out)
            self._lease(s, found.falls_in_s if s.service is None else self.timing.lease_s, now, out)
        self._challenge(s, now, out)
        self._plan(s, found.falls_in_s, now)

    def _decide(self, s: Standing, level: TrustLevel, now: Instant, out: Out) -> None:
        reason = reason_of(s, level, now)
        before, was = s.level, s.decision
        if level is not before:
            s.level, s.since = level, now
        s.reason = reason
        until = now.plus(self.timing.lease_s)
        s.decision = decide(s.profile, s.device.state, level, reason, until, s.policy_id, s.id)
        if was is None or level is not before or allowed(was) != allowed(s.decision):
            steps = s.assessment.steps if s.assessment else ()
            body = (("level", int(level)), ("before", int(before)), ("functions", allowed(s.decision)), ("policy", s.policy_id))
            severity = Severity.WARNING if level < before else Severity.INFORMATION
            extra = (("steps", steps), ("severity", severity.value))
            change = f"level {int(before)} → {int(level)}" if level is not before else f"level {int(level)}"
            out.append(Record("decision", s.id, f"{s.id}: {change}: {reason}", (*body, *extra)))
            if level > before:
                self._certify(s, now, out)

    def _lease(self, s: Standing, falls_in_s: float, now: Instant, out: Out) -> None:
        last = s.lease_until
        if s.level is TrustLevel.NONE:
            if last is not None:
                revoke(s, s.reason, now, out)
            return
        length = min(self.timing.lease_s, max(falls_in_s, 0.001))
        changed = last is None or s.since.mono_ns == now.mono_ns
        left = last.seconds_since(now) if last else 0.0
        if not changed and left > min(self.timing.lease_s - self.timing.renew_s, length - 0.001):
            return
        s.lease_until, s.lease_falls = now.plus(length), length < self.timing.lease_s
        rules = rules_for(s.profile, s.level, s.device.state)
        lease = Lease(s.id, s.device.ip_addresses, s.level, s.lease_until, rules)
        lowered = changed and last is not None and s.decision is not None and _lowered(out, s.id)
        out.append(Grant(lease, renewal=not changed, revocation=lowered))

    def _challenge(self, s: Standing, now: Instant, out: Out) -> None:
        if not s.link_up:
            return
        for target in s.profile.targets:
            asked = s.asked.get(target.media_type)
            if asked is None or now.seconds_since(asked) >= self._interval(target.interval_s):
                s.asked[target.media_type] = now
                out.append(Challenge(s.id, target.media_type))

    def _interval(self, profile_s: float) -> float:
        return min(profile_s, self.timing.attest_s) if self.timing.attest_s else profile_s

    def _plan(self, s: Standing, falls_in_s: float, now: Instant) -> None:
        waits = [_MAX_WAKE_S]
        if s.link_up:
            waits += [self._interval(t.interval_s) - now.seconds_since(s.asked.get(t.media_type, now)) for t in s.profile.targets]
        if s.lease_until is not None:
            left = s.lease_until.seconds_since(now)
            waits.append(max(left - (self.timing.lease_s - self.timing.renew_s), 0.05))
        if 0 < falls_in_s < _MAX_WAKE_S:
            waits.append(falls_in_s + 0.001)
        if s.service:
            waits.append(s.service.until.seconds_since(now))
        waits += [until.seconds_since(now) for until, _ in s.glass.values()]
        if s.link_up and s.link_since and now.seconds_since(s.link_since) < self.timing.epoch_s:
            waits.append(self.timing.epoch_s - now.seconds_since(s.link_since))
        at = now.mono_ns + round(max(min(waits), 0.005) * NS_PER_S)
        if self._due.get(s.id) != at:
            self._due[s.id] = at
            heapq.heappush(self._heap, (at, s.id))

    def _certify(self, s: Standing, now: Instant, out: Out) -> None:
        if s.level is TrustLevel.NONE or s.assessment is None or s.assessed_at is None or not s.held or s.service:
            return
        falls = s.assessment.falls_in_s - now.seconds_since(s.assessed_at)
        expires = now.utc_ns + round(min(self.timing.certificate_s, max(falls, 0.0)) * NS_PER_S)
        functions = allowed(s.decision) if s.decision else ()
        s.certified_until_ns = expires
        verdict = Verdict(
            s.id,
            s.profile.id,
            s.level,
            s.tier(),
            s.vector(),
            s.evidence_class(),
            s.evidence_refs(),
            s.policy_id,
            now,
            expires,
            functions,
        )
        out.append(Issue(verdict))


def _lowered(out: Out, device_id: str) -> bool:
    """Whether the decision just made for this device lowered its level."""
    for effect in reversed(out):
        if isinstance(effect, Record) and effect.kind == "decision" and effect.device_id == device_id:
            body = dict(effect.body)
            return int(str(body["level"])) < int(str(body["before"]))
    return False
