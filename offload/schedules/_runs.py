"""What one schedule runs: from what the agenda has decided to the end of the run.

```
                    ┌─ no engine ────────────────────────────► run ──► end
 Fire ──► pending ──┼─ in memory: take the fire ──► ours ────► run ──► end
                    │                          └──► another process's ► end
                    └─ as a job: enqueue ────────────────────► follow ► end
```

What is pending is done in order, so that how far a schedule is said to be is never further than
what has been taken or enqueued: whoever dies in between, those that start later do the rest.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio

from offload._values.histogram import Histogram
from offload._workers.logs import log_safely
from offload.jobs import JobQueueFullError, JobsUnavailableError
from offload.schedules._as_jobs import AsJobs
from offload.schedules._context import FireContext
from offload.schedules._errors import NotFiredError
from offload.schedules._events import EventKind, ScheduleEvent
from offload.schedules._fires import Entry, RefusedError, ScheduleRun
from offload.schedules._memory import InMemory
from offload.schedules._records import (
    Cancel,
    Finished,
    Fire,
    FireReason,
    Missed,
    MissedReason,
    SkippedOverlap,
)
from offload.schedules._store import StoredProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from offload.jobs import Job
    from offload.schedules._fires import RunMethod, RunsHost, ScheduleView
    from offload.schedules._records import Action
    from offload.schedules._store import ScheduleStore, StoredRun

__all__ = ["Runs", "Waiter"]

_logger: Final = logging.getLogger("offload.schedules")

# Between tries to reach an engine, in seconds.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


@dataclass(slots=True)
class Waiter:
    """Who waits for the end of a fire."""

    ring: anyio.Event
    result: Any = None
    error: BaseException | None = None

    def tell(self, error: BaseException | None, result: Any = None) -> None:
        """Tell the end."""
        self.result, self.error = result, error
        self.ring.set()


class Runs:
    """The runs of one schedule, while a scheduler runs. The `RunReporter` of its method.

    Args:
        schedule: whose they are.
        host: the scheduler.
        store: what the engine keeps; None: there is none.

    Attributes:
        last: the last one that ended here.
        late: seconds between when fires were due and when they began.
        counts: how many events of each kind there were.
    """

    def __init__(self, schedule: ScheduleView, host: RunsHost, store: ScheduleStore | None) -> None:
        self._schedule: Final = schedule
        self._host: Final = host
        self._store: Final = store
        self._method: RunMethod
        if schedule.call.jobs is None:
            self._method = InMemory(schedule, self, host, store)
        else:
            assert store is not None
            self._method = AsJobs(schedule, self, host, store)
        self._pending: deque[Action] = deque()
        self._is_at_work = False
        self._entries: dict[str, Entry] = {}
        self._waiters: dict[str, Waiter] = {}
        self.last: ScheduleRun | None = None
        self.late: Final = Histogram()
        self.counts: Final[dict[EventKind, int]] = {}

    # From the agenda, and from users

    def take(self, action: Action) -> None:
        """Do what the agenda has decided."""
        match action:
            case Fire():
                entry = self._entries[action.id] = Entry(action)
                if self._store is None:
                    self._method.begin(entry)
                    return
            case Cancel():
                self.cancel(action.id)
                return
            case Missed():
                self._tell_missed(action)
            case SkippedOverlap():
                self._tell(EventKind.SKIPPED_OVERLAP, action.id, action.fire_time)
                self._fail_waiter(action.id, "an earlier run had not ended")
            case Finished():
                self._tell(EventKind.ENDED, None, None)
                return
        if self._store is not None:
            self._pending.append(action)
            if not self._is_at_work:
                self._is_at_work = True
                self._host.start(self._work)

    def cancel(self, fire: str) -> None:
        """Stop a fire, wherever it is; its job, too."""
        entry = self._entries.get(fire)
        if entry is not None:
            entry.cancel()

    def cancel_all(self, *, and_jobs: bool) -> None:
        """Stop everything that runs here; jobs run elsewhere."""
        for entry in list(self._entries.values()):
            if and_jobs or entry.job is None:
                entry.cancel()

    def cancel_waiting(self) -> None:
        """Stop what waits here for a run of whatever process to end."""
        for entry in list(self._entries.values()):
            if entry.is_waiting:
                entry.cancel()

    def adopt(self, fire: Fire, job: Job[Any]) -> None:
        """Follow a job that was enqueued before this scheduler began."""
        entry = self._entries[fire.id] = Entry(fire)
        entry.job, entry.started_at = job, self._host.now()
        self._method.begin(entry)

    def waiter(self, fire: str) -> Waiter:
        """Return who is told of the end of a fire."""
        waiter = self._waiters[fire] = Waiter(anyio.Event())
        return waiter

    def forget_waiter(self, fire: str) -> None:
        """Tell nobody of it."""
        self._waiters.pop(fire, None)

    def settle_waiters(self, is_known: Callable[[str], bool]) -> None:
        """Tell those who wait for a fire that will not run any more."""
        for fire in [each for each in self._waiters if not is_known(each)]:
            self._fail_waiter(fire, "the schedule was stopped before")

    # With an engine: in order

    async def _work(self) -> None:
        try:
            while self._pending:
                action = self._pending.popleft()
                if isinstance(action, Fire):
                    await self._fire(self._entries[action.id])
                elif isinstance(action, Missed):
                    await self._note(action.last)
                elif isinstance(action, SkippedOverlap):
                    await self._note(action.fire_time)
        finally:
            self._is_at_work = False

    async def _note(self, until: datetime) -> None:
        assert self._store is not None
        try:
            await self._store.note(self._schedule.name, self.state(until))
        except JobsUnavailableError as error:
            # The next fire notes it, too; before that, a restart decides it again.
            log_safely(_logger, logging.WARNING, "schedule %s: %s", self._schedule.name, error)

    async def _fire(self, entry: Entry) -> None:
        kind, error = EventKind.CANCELLED, None
        with entry.entered():
            try:
                await self._secure(entry)
            except RefusedError as refused:
                kind = refused.kind
            except Exception as caught:  # noqa: BLE001 - it is told
                kind, error = EventKind.FAILED, caught
            else:
                self._method.begin(entry)
                return
        self.end(entry, kind, error=error)

    async def _secure(self, entry: Entry) -> None:
        """Try until the engine answers, or it is too late for this fire."""
        pause = _FIRST_PAUSE
        grace = self._schedule.policy.misfire_grace
        while True:
            try:
                # Whether it was taken is to be known; engines answer or raise within seconds.
                with anyio.CancelScope(shield=True):
                    await self._method.secure(entry)
            except (JobsUnavailableError, JobQueueFullError) as error:
                if pause == _FIRST_PAUSE:
                    log_safely(_logger, logging.WARNING, "%s waits: %s", entry.fire.id, error)
            else:
                return
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            if grace is not None and self.lateness(entry.fire) > grace:
                raise RefusedError(EventKind.MISSED)

    # As the reporter of a method

    def lateness(self, fire: Fire) -> float:
        """Return by how many seconds it is late."""
        return max((self._host.now() - fire.due).total_seconds(), 0.0)

    def context(self, fire: Fire) -> FireContext:
        """Return what its function is told."""
        return FireContext(
            self._schedule.name, fire.id, self._schedule.local(fire.fire_time), fire.reason
        )

    def state(self, until: datetime, last: StoredRun | None = None) -> StoredProgress:
        """Return how far the schedule is."""
        return StoredProgress(until, self._host.executions(self._schedule.name), last=last)

    def is_awaited(self, fire: Fire) -> bool:
        """Return whether somebody waits for its result."""
        return fire.id in self._waiters

    def note_start(self, entry: Entry, kind: EventKind) -> None:
        """Tell that it has begun."""
        fire = entry.fire
        lateness = self.lateness(fire)
        if fire.reason is FireReason.SCHEDULED and kind is not EventKind.FIRED_ELSEWHERE:
            self.late.record(lateness)
        self._tell(kind, fire.id, fire.fire_time, reason=fire.reason, lateness=lateness)

    def end(
        self,
        entry: Entry,
        kind: EventKind | None,
        *,
        result: Any = None,
        error: BaseException | None = None,
    ) -> None:
        """Tell that it has ended; None: that is not for this process to tell."""
        fire = entry.fire
        match kind:
            case None:
                pass
            case EventKind.MISSED:
                at = fire.fire_time
                self._tell_missed(Missed(fire.schedule, at, at, MissedReason.TOO_LATE))
                error = NotFiredError(f"{fire.id} came too late", schedule=fire.schedule)
            case EventKind.FIRED_ELSEWHERE | EventKind.SKIPPED_OVERLAP:
                self._tell(kind, fire.id, fire.fire_time, reason=fire.reason)
                error = NotFiredError(
                    f"{fire.id} did not run here: another process has it, or runs the schedule",
                    schedule=fire.schedule,
                )
            case _:
                self._tell_end(entry, kind, result, error)
        if kind is EventKind.CANCELLED and error is None:
            error = NotFiredError(f"{fire.id} was stopped", schedule=fire.schedule)
        self._entries.pop(fire.id, None)
        waiter = self._waiters.pop(fire.id, None)
        if waiter is not None:
            waiter.tell(error, result)
        self._host.ended(self._schedule.name, fire.id)

    def _tell_end(
        self, entry: Entry, kind: EventKind, result: Any, error: BaseException | None
    ) -> None:
        fire, now = entry.fire, self._host.now()
        started_at = entry.started_at or now
        self.last = ScheduleRun(
            id=fire.id,
            fire_time=self._schedule.local(fire.fire_time),
            reason=fire.reason,
            outcome=kind,
            started_at=started_at,
            ended_at=now,
            result=result,
            error=error,
        )
        self._tell(
            kind,
            fire.id,
            fire.fire_time,
            reason=fire.reason,
            run_seconds=max((now - started_at).total_seconds(), 0.0),
            result=result,
            error=error,
        )

    def _fail_waiter(self, fire: str, why: str) -> None:
        waiter = self._waiters.pop(fire, None)
        if waiter is not None:
            text = f"{fire} did not run: {why}"
            waiter.tell(NotFiredError(text, schedule=self._schedule.name))

    def _tell_missed(self, missed: Missed) -> None:
        first = self._schedule.local(missed.first)
        self._tell(EventKind.MISSED, None, missed.last, first=first, missed=missed.reason)

    def _tell(
        self, kind: EventKind, fire: str | None, fire_time: datetime | None, **more: Any
    ) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        event = ScheduleEvent(
            kind=kind,
            schedule=self._schedule.name,
            at=self._host.now(),
            fire=fire,
            fire_time=None if fire_time is None else self._schedule.local(fire_time),
            **more,
        )
        self._host.tell(event)
