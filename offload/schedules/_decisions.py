"""What one schedule does next: events in, actions out.

Each fire time is decided exactly once. A schedule remembers the last fire time that it has decided,
`handled_until`, and decides what lies after it when the time has come: never by "what is due now",
so that a late scheduler, a restart or a clock that is set forward lose nothing, and a clock that is
set back repeats nothing.

A clock that was wrong, and far ahead, is the one trap in that: it makes a schedule pass over fire
times that then come again, at their right time. Those that were passed over are remembered as spans
and fire when the clock comes by once more; those that ran, in a span or outside, do not.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING

from offload.schedules._records import (
    Action,
    Cancel,
    Coalesce,
    Finished,
    FinishReason,
    Fire,
    FireReason,
    Missed,
    MissedReason,
    Overlap,
    Phase,
    Policy,
    SkippedOverlap,
    Snapshot,
    Span,
    fire_id,
)

if TYPE_CHECKING:
    from offload.schedules._fire_times import FireTimes

__all__ = ["ScheduleState"]

_TICK = timedelta(microseconds=1)
# Arbitrary: each is one outage. Only a clock that is set back reaches behind the last one.
_MAX_SPANS = 8
_NEVER = datetime.max.replace(tzinfo=UTC)


class ScheduleState:
    """One schedule, for an `Agenda`: it knows nothing of others and reads no clock.

    Every method that takes `now` may be given an earlier instant than before.

    Attributes:
        name: of the schedule.
        fire_times: when it fires.
        policy: how it deals with lateness, overlap and limits.
        phase: what it does.
        due: the instant at which `advance` has something to do; None if never.
        handled_until: every fire time up to here has been decided.
        passed_over: but for these, which were seen too late and fire if the clock is set back.
        executions: how often it has run by schedule.
        running: what runs, oldest first.
        queued: what waits for these to end.
        ticket: for the agenda: marks the entry of its heap that is valid.
    """

    __slots__ = (
        "_again",
        "_known",
        "due",
        "executions",
        "fire_times",
        "handled_until",
        "name",
        "passed_over",
        "phase",
        "policy",
        "queued",
        "running",
        "ticket",
    )

    def __init__(
        self, name: str, fire_times: FireTimes, policy: Policy, snapshot: Snapshot
    ) -> None:
        self.name: str = name
        self.fire_times: FireTimes = fire_times
        self.policy: Policy = policy
        self.phase: Phase = snapshot.phase
        self.due: datetime | None = None
        self.handled_until: datetime = snapshot.handled_until
        self.passed_over: tuple[Span, ...] = snapshot.passed_over
        self.executions: int = snapshot.executions
        self.running: tuple[Fire, ...] = snapshot.running
        self.queued: Fire | None = snapshot.queued
        self.ticket: int = 0
        # Spans of `passed_over` that lie before the clock once more.
        self._again: tuple[Span, ...] = ()
        # An instant and the first fire time after it: what a fire, its end and the next one ask.
        self._known: tuple[datetime, datetime | None] = (_NEVER, None)

    def __repr__(self) -> str:
        until = self.handled_until.isoformat()
        return f"<{self.name} {self.phase.value}: {self.fire_times!r}, handled until {until}>"

    def snapshot(self) -> Snapshot:
        """Return what a restart needs."""
        return Snapshot(
            handled_until=self.handled_until,
            passed_over=self.passed_over + self._again,
            executions=self.executions,
            phase=self.phase,
            running=self.running,
            queued=self.queued,
        )

    def begin(self, now: datetime) -> list[Action]:
        """Find what is due first; to be called once, before any other event."""
        self._wait_for_start()
        if self.passed_over:
            self.set_back(now)
        return self._settle()

    def advance(self, now: datetime) -> list[Action]:
        """Decide every fire time that is due."""
        if self.due is None or self.due > now:
            return []
        actions: list[Action] = []
        for span in self._again:
            if self.phase is Phase.ACTIVE:
                last = self._decide(span[0], span[1], now, actions)
                if last is not None:
                    rest = [(last, span[1])] if last < span[1] else []
                    others = (each for each in self._again if each is not span)
                    self._again = tuple(sorted([*others, *rest]))
        if self.phase is Phase.ACTIVE:
            last = self._decide(self.handled_until, None, now, actions)
            if last is not None:
                self.handled_until = last
        return actions + self._settle()

    def set_back(self, now: datetime) -> None:
        """Note that the clock shows an earlier time than it has shown before."""
        # What starts after `now` comes again. Starts are in the order of fire times, so that one
        # instant parts them; with a random delay that is not `now` itself.
        cut = now
        last = self.fire_times.previous_before(now + _TICK)
        if last is not None and self._start_of(last) > now:
            cut = last - _TICK
        spans = self.passed_over
        again = [(max(low, cut), high) for low, high in spans if high > cut]
        self._again = tuple(sorted([*self._again, *again]))
        parts = ((low, min(high, cut)) for low, high in spans if low < cut)
        self.passed_over = tuple(part for part in parts if self._last_within(part) is not None)
        self._find()

    def reach(self) -> datetime | None:
        """Return the instant before which a clock that is set back finds what was passed over."""
        lasts = filter(None, map(self._last_within, self.passed_over))
        return max(map(self._start_of, lasts), default=None)

    def pause(self, now: datetime) -> list[Action]:
        """Stop firing; what is due until now is decided first."""
        actions = self.advance(now)
        if self.phase is Phase.ACTIVE:
            self.phase = Phase.PAUSED
            if self.queued is not None:
                at = self.queued.fire_time
                actions.append(Missed(self.name, at, at, MissedReason.PAUSED))
                self.queued = None
            self._find()
        return actions

    def resume(self, now: datetime) -> list[Action]:
        """Fire again, from now on."""
        if self.phase is not Phase.PAUSED:
            return []
        self.phase = Phase.ACTIVE
        self.handled_until = max(self.handled_until, now)
        self.passed_over = self._again = ()
        return self._settle()

    def change(self, fire_times: FireTimes, policy: Policy, now: datetime) -> list[Action]:
        """Go on by other fire times and another policy; what is due until now goes by the old."""
        actions = self.advance(now)
        if self.phase is Phase.FINISHED:
            self.phase = Phase.ACTIVE
        self.fire_times, self.policy = fire_times, policy
        self._known = (_NEVER, None)
        self.handled_until = max(self.handled_until, now)
        self._wait_for_start()
        self.passed_over = self._again = ()
        return actions + self._settle()

    def run_now(self, now: datetime) -> list[Action]:
        """Run once, whatever the phase. The overlap policy holds; `max_executions` does not."""
        taken = {fire.id for fire in self.running}
        if self.queued is not None:
            taken.add(self.queued.id)
        at = now
        while (name := f"{fire_id(self.name, at)}-manual") in taken:
            at += _TICK
        actions: list[Action] = []
        self._start(Fire(self.name, name, at, at, FireReason.MANUAL), actions)
        return actions

    def ended(self, fire: str) -> list[Action]:
        """Note that a run has ended, in whatever way, or that another process has it.

        Args:
            fire: its id; one that does not run here is ignored.
        """
        self.running = tuple(each for each in self.running if each.id != fire)
        actions: list[Action] = []
        if self.queued is not None and not self.running:
            queued, self.queued = self.queued, None
            self._start(queued, actions)
        return actions + self._settle()

    def _wait_for_start(self) -> None:
        start = self.policy.start
        if start is not None and start > self.handled_until:
            self.handled_until = start - _TICK

    def _find(self) -> None:
        # Sets `due`. Starts are in the order of fire times, so the first one is due first.
        self.due = None
        if self.phase is not Phase.ACTIVE:
            return
        for low, high in self._again:
            first = self._first(low, high)
            if first is not None:
                self.due = self._start_of(first)
                return
            # Nothing left in there.
            self._again = self._again[1:]
        first = self._first(self.handled_until, None)
        if first is not None:
            self.due = self._start_of(first)

    def _settle(self) -> list[Action]:
        # Finished or not, and when it is due next.
        if self.phase is not Phase.ACTIVE:
            self.due = None
            return []
        limit = self.policy.max_executions
        if limit is not None and self.executions >= limit:
            reason = FinishReason.MAX_EXECUTIONS
        else:
            self._find()
            if self.due is not None or self.queued is not None:
                return []
            reason = FinishReason.NO_FIRE_TIMES
        self.phase, self.due = Phase.FINISHED, None
        return [Finished(self.name, reason)]

    def _first(self, low: datetime, high: datetime | None) -> datetime | None:
        first = self._next_after(low)
        if first is None or (high is not None and first > high):
            return None
        end = self.policy.end
        return None if end is not None and first > end else first

    def _last_within(self, span: Span) -> datetime | None:
        last = self.fire_times.previous_before(span[1] + _TICK)
        return last if last is not None and last > span[0] else None

    def _next_after(self, instant: datetime) -> datetime | None:
        if self._known[0] != instant:
            self._known = instant, self.fire_times.next_after(instant)
        return self._known[1]

    def _start_of(self, fire_time: datetime) -> datetime:
        most = self.policy.random_delay
        if not most:
            return fire_time
        following = self._next_after(fire_time)
        delay = timedelta(seconds=most)
        if following is not None:
            # A start after the next fire time would be out of order.
            delay = min(delay, following - fire_time)
        digest = blake2b(fire_id(self.name, fire_time).encode(), digest_size=8).digest()
        # Rounded down: always less than the whole.
        return fire_time + _TICK * (delay // _TICK * int.from_bytes(digest) >> 64)

    def _decide(
        self, low: datetime, high: datetime | None, now: datetime, actions: list[Action]
    ) -> datetime | None:
        # Decides all that is due of the fire times after `low`, up to `high`. Returns the last.
        first = self._first(low, high)
        if first is None or self._start_of(first) > now:
            return None
        last = self._last_due(first, high, now)
        missed, late = self._too_late(first, last, now)
        if missed is not None:
            actions.append(Missed(self.name, first, missed, MissedReason.TOO_LATE))
        if late is not None:
            fires, passed, reason = self._coalesced(late, last)
            if passed is not None:
                actions.append(Missed(self.name, late, passed, reason))
                missed = passed
            for each in fires:
                self._fire(each, actions)
        if missed is not None:
            self.passed_over = (*self.passed_over, (low, missed))[-_MAX_SPANS:]
        return last

    def _last_due(self, first: datetime, high: datetime | None, now: datetime) -> datetime:
        bounds = [each for each in (high, self.policy.end, now) if each is not None]
        second = self._next_after(first)
        if second is None or second > min(bounds):
            return first
        last = self.fire_times.previous_before(min(bounds) + _TICK)
        if last is not None and self._start_of(last) > now:
            # Of all that lie before now, only the last one can be delayed beyond it.
            last = self.fire_times.previous_before(last)
        assert last is not None
        return last

    def _too_late(
        self, first: datetime, last: datetime, now: datetime
    ) -> tuple[datetime | None, datetime | None]:
        # The last one that is too late, and the first one that is not.
        if self.policy.misfire_grace is None:
            return None, first
        limit = now - timedelta(seconds=self.policy.misfire_grace)
        if self._start_of(first) >= limit:
            return None, first
        if self._start_of(last) < limit:
            return last, None
        missed = self.fire_times.previous_before(limit)
        if missed is not None and self._start_of(missed) >= limit:
            missed = self.fire_times.previous_before(missed)
        assert missed is not None
        return missed, self.fire_times.next_after(missed)

    def _coalesced(
        self, first: datetime, last: datetime
    ) -> tuple[list[datetime], datetime | None, MissedReason]:
        # Which of several fire in order, the last one that does not, and why not.
        if first == last:
            return [first], None, MissedReason.COALESCED
        previous = self.fire_times.previous_before
        match self.policy.coalesce:
            case Coalesce.ONCE:
                return [last], previous(last), MissedReason.COALESCED
            case Coalesce.SKIP:
                return [], last, MissedReason.SKIPPED
            case Coalesce.ALL:
                each: datetime | None = last
                fires: list[datetime] = []
                while each is not None and each >= first and len(fires) < self.policy.max_catch_up:
                    fires.append(each)
                    each = previous(each)
                passed = each if each is not None and each >= first else None
                return fires[::-1], passed, MissedReason.CATCH_UP_LIMIT

    def _fire(self, fire_time: datetime, actions: list[Action]) -> None:
        limit = self.policy.max_executions
        if limit is not None and self.executions >= limit:
            return
        due = self._start_of(fire_time)
        name = fire_id(self.name, fire_time)
        self._start(Fire(self.name, name, fire_time, due, FireReason.SCHEDULED), actions)

    def _start(self, fire: Fire, actions: list[Action]) -> None:
        overlap = self.policy.overlap
        if not self.running or overlap is Overlap.ALLOW:
            self.running = (*self.running, fire)
            self.executions += fire.reason is FireReason.SCHEDULED
            actions.append(fire)
        elif overlap is Overlap.SKIP or (overlap is Overlap.QUEUE_ONE and self.queued is not None):
            actions.append(SkippedOverlap(self.name, fire.id, fire.fire_time))
        elif overlap is Overlap.QUEUE_ONE:
            self.queued = fire
        else:
            if self.queued is None:
                # Those that run have not been told yet.
                actions += [Cancel(self.name, each.id) for each in self.running]
            else:
                actions.append(SkippedOverlap(self.name, self.queued.id, self.queued.fire_time))
            self.queued = fire
