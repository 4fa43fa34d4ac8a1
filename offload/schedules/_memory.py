"""Fires that run in memory: on the pool, or on the event loop if their function is async.

In a fleet each fire is taken through the engine before it runs: at most one process has it. Should
that process die, the fire is lost; whoever needs more than that schedules jobs.

What becomes of a fire while the schedule runs, is for the engine to say as well, since the run may
be another process's. Who runs has a lease. A fire that is to wait takes the one place behind it,
and looks again and again whether the lease is free; who runs looks whether a fire waits that is to
take its place.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio

from offload._workers.logs import log_safely
from offload.errors import DeadlineError, QueueTimeoutError, TaskTimeoutError
from offload.jobs import JobsUnavailableError
from offload.schedules._errors import FireTimeoutError
from offload.schedules._events import EventKind
from offload.schedules._fires import RefusedError
from offload.schedules._records import FireReason, Overlap, Policy
from offload.schedules._store import StoredRun

if TYPE_CHECKING:
    from offload.schedules._fires import Entry, RunReporter, RunsHost, ScheduleView
    from offload.schedules._store import ScheduleStore

__all__ = ["LATE_SECONDS", "InMemory", "policy_here"]

_logger: Final = logging.getLogger("offload.schedules")

# A fire that is later than this asks first how far all are decided: its id may be forgotten soon.
LATE_SECONDS: Final = 3600.0
_EVER: Final = datetime.min.replace(tzinfo=UTC)
_TIMEOUTS: Final = (FireTimeoutError, TaskTimeoutError, QueueTimeoutError, DeadlineError)
_MAX_ERROR: Final = 1000
# How soon a fire that waits begins after a run of another process has ended, and how soon that run
# is stopped for it, in seconds at most. Each look is a round trip to the engine.
_TURN_SECONDS: Final = 0.25


def policy_here(schedule: ScheduleView, store: ScheduleStore | None) -> Policy:
    """Return the policy by which one process decides: what it cannot know, it lets through.

    A run of another process is seen by the engine alone. To skip can be said twice, here and there;
    to wait or to stop a run cannot.
    """
    policy = schedule.policy
    is_shared = store is not None and schedule.call.jobs is None
    if is_shared and policy.overlap in (Overlap.QUEUE_ONE, Overlap.CANCEL_RUNNING):
        return replace(policy, overlap=Overlap.ALLOW)
    return policy


class InMemory:
    """Runs fires here. A `RunMethod`.

    Args:
        schedule: whose fires.
        reporter: who is told.
        host: the scheduler.
        store: what the engine keeps; None: there is none.
    """

    __slots__ = ("_host", "_reporter", "_running", "_schedule", "_store")

    def __init__(
        self,
        schedule: ScheduleView,
        reporter: RunReporter,
        host: RunsHost,
        store: ScheduleStore | None,
    ) -> None:
        self._schedule: Final = schedule
        self._reporter: Final = reporter
        self._host: Final = host
        self._store: Final = store
        self._running: Final[set[Entry]] = set()

    async def secure(self, entry: Entry) -> None:
        """Take the fire."""
        store, fire, name = self._store, entry.fire, self._schedule.name
        if store is None:
            return
        if fire.reason is FireReason.SCHEDULED:
            is_late = self._reporter.lateness(fire) > LATE_SECONDS
            if is_late and await store.is_decided(name, fire.fire_time):
                raise RefusedError(EventKind.FIRED_ELSEWHERE)
            if not await store.take(name, fire.id, self._reporter.state(fire.fire_time)):
                raise RefusedError(EventKind.FIRED_ELSEWHERE)
        if self._schedule.policy.overlap is not Overlap.ALLOW:
            await self._hold(store, entry)

    async def _hold(self, store: ScheduleStore, entry: Entry) -> None:
        """Hold the schedule, or have the fire wait for that, as the policy says."""
        fire, name, overlap = entry.fire, self._schedule.name, self._schedule.policy.overlap
        if overlap is Overlap.SKIP:
            if not await store.hold(name, fire.id):
                raise RefusedError(EventKind.SKIPPED_OVERLAP)
            return
        # Until it is known: what stops those that wait must find this one from here on.
        entry.is_waiting = True
        # The place first, even where nothing runs: otherwise this one could overtake who waits.
        replaces = overlap is Overlap.CANCEL_RUNNING
        if not await store.take_place(name, fire.id, replaces=replaces):
            raise RefusedError(EventKind.SKIPPED_OVERLAP)
        entry.is_waiting = not await store.hold(name, fire.id)
        if not entry.is_waiting:
            await store.leave_place(name, fire.id)
        elif replaces:
            # If it runs here; otherwise whoever runs it looks for us.
            for each in self._running:
                each.cancel()

    def begin(self, entry: Entry) -> None:
        """Call the function."""
        self._host.start(lambda: self._run(entry))

    async def _run(self, entry: Entry) -> None:
        if entry.is_waiting:
            kind = await self._turn(entry)
            entry.is_waiting = False
            if kind is not None:
                self._reporter.end(entry, kind)
                return
        entry.started_at = self._host.now()
        kind = EventKind.CANCELLED
        result: Any = None
        error: BaseException | None = None
        self._reporter.note_start(entry, EventKind.STARTED)
        self._running.add(entry)
        if self._store is not None and self._schedule.policy.overlap is Overlap.CANCEL_RUNNING:
            # Not what ends with the scheduler: a run that drains has to give way as well.
            self._host.start(lambda: self._give_way(entry))
        try:
            with entry.entered():
                try:
                    result = await self._schedule.call.run(self._reporter.context(entry.fire))
                    kind = EventKind.FINISHED
                except _TIMEOUTS as caught:
                    kind, error = EventKind.TIMED_OUT, caught
                except Exception as caught:  # noqa: BLE001 - it is told
                    kind, error = EventKind.FAILED, caught
        finally:
            self._running.discard(entry)
            if self._store is not None:
                with anyio.CancelScope(shield=True):
                    await self._let_go(self._store, entry, kind, error)
        self._reporter.end(entry, kind, result=result, error=error)

    async def _turn(self, entry: Entry) -> EventKind | None:
        """Wait until it is a fire's turn; return None then, else what becomes of it."""
        store, name, fire = self._store, self._schedule.name, entry.fire.id
        assert store is not None
        kind: EventKind | None = EventKind.CANCELLED
        try:
            with entry.entered():
                while True:
                    try:
                        # Whether the schedule is held is to be known.
                        with anyio.CancelScope(shield=True):
                            if not await store.keep_place(name, fire):
                                kind = EventKind.SKIPPED_OVERLAP
                                break
                            if await store.hold(name, fire):
                                kind = None
                                break
                    except JobsUnavailableError as error:
                        log_safely(_logger, logging.WARNING, "%s waits: %s", fire, error)
                    await anyio.sleep(_TURN_SECONDS)
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave_place(store, fire)
        return kind

    async def _leave_place(self, store: ScheduleStore, fire: str) -> None:
        try:
            await store.leave_place(self._schedule.name, fire)
        except JobsUnavailableError as error:
            # It lapses.
            log_safely(_logger, logging.WARNING, "%s: %s", fire, error)

    async def _give_way(self, entry: Entry) -> None:
        """Stop a run when a fire waits to take its place."""
        assert self._store is not None
        while entry in self._running:
            await anyio.sleep(_TURN_SECONDS)
            try:
                if await self._store.is_waited_for(self._schedule.name):
                    if entry in self._running:
                        entry.cancel()
                    return
            except JobsUnavailableError:
                # Its lease is looked after elsewhere.
                continue

    async def _let_go(
        self, store: ScheduleStore, entry: Entry, kind: EventKind, error: BaseException | None
    ) -> None:
        """Have the engine know that it has ended."""
        fire = entry.fire
        assert entry.started_at is not None
        run = StoredRun(
            fire.id,
            fire.fire_time.isoformat(),
            fire.reason.value,
            entry.started_at.isoformat(),
            kind.value,
            self._host.now().isoformat(),
            "" if error is None else f"{type(error).__qualname__}: {error}"[:_MAX_ERROR],
        )
        # What was taken is noted already; a run by hand decides no fire time.
        until = fire.fire_time if fire.reason is FireReason.SCHEDULED else _EVER
        try:
            await store.let_go(self._schedule.name)
            await store.note(self._schedule.name, self._reporter.state(until, run))
        except JobsUnavailableError as unavailable:
            # The lease lapses, and the next run is noted.
            log_safely(
                _logger, logging.WARNING, "the end of %s was not noted: %s", fire.id, unavailable
            )
