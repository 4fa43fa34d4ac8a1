"""Fires that are jobs: their id is that of the fire, so that however many enqueue it, it is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio

from offload.jobs import JobNotFoundError, JobState, JobsUnavailableError
from offload.jobs._enqueuer import this_program
from offload.jobs._failures import failure_of
from offload.schedules._events import EventKind
from offload.schedules._fires import RefusedError
from offload.schedules._memory import LATE_SECONDS
from offload.schedules._records import FireReason
from offload.schedules._store import StoredRun

if TYPE_CHECKING:
    from offload.jobs import Job, JobStatus
    from offload.schedules._fires import Entry, RunReporter, RunsHost, ScheduleView
    from offload.schedules._store import ScheduleStore

__all__ = ["AsJobs"]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class AsJobs:
    """Enqueues fires, and follows their jobs. A `RunMethod`.

    Args:
        schedule: whose fires.
        reporter: who is told.
        host: the scheduler.
        store: what the engine of the jobs keeps.
    """

    __slots__ = ("_host", "_ours", "_reporter", "_schedule", "_store")

    def __init__(
        self, schedule: ScheduleView, reporter: RunReporter, host: RunsHost, store: ScheduleStore
    ) -> None:
        self._schedule: Final = schedule
        self._reporter: Final = reporter
        self._host: Final = host
        self._store: Final = store
        # Fires that this process has enqueued, and no other: it tells how they end.
        self._ours: Final[set[str]] = set()

    async def secure(self, entry: Entry) -> None:
        """Enqueue the job."""
        store, fire, name = self._store, entry.fire, self._schedule.name
        is_scheduled = fire.reason is FireReason.SCHEDULED
        if (
            is_scheduled
            and self._reporter.lateness(fire) > LATE_SECONDS
            and await store.is_decided(name, fire.fire_time)
        ):
            raise RefusedError(EventKind.FIRED_ELSEWHERE)
        entry.job = await self._schedule.call.enqueue(self._reporter.context(fire))
        status = await self._look(entry.job)
        is_ours = status is None or status.enqueued_by == this_program()
        if entry.started_at is None:
            entry.started_at = self._host.now()
            if is_ours:
                self._ours.add(fire.id)
            self._reporter.note_start(
                entry, EventKind.ENQUEUED if is_ours else EventKind.FIRED_ELSEWHERE
            )
        if is_scheduled:
            last = None
            if is_ours:
                started_at = entry.started_at.isoformat()
                last = StoredRun(fire.id, fire.fire_time.isoformat(), fire.reason.value, started_at)
            await store.note(name, self._reporter.state(fire.fire_time, last))

    async def _look(self, job: Job[Any]) -> JobStatus | None:
        try:
            return await job.status()
        except JobNotFoundError:
            # It has ended, and somebody has removed it.
            return None

    def begin(self, entry: Entry) -> None:
        """Follow the job."""
        self._host.follow(lambda: self._follow(entry))

    async def _follow(self, entry: Entry) -> None:
        assert entry.job is not None
        is_ours = entry.fire.id in self._ours
        self._ours.discard(entry.fire.id)
        try:
            status = await self._ended(entry, entry.job)
        except JobNotFoundError as error:
            self._reporter.end(entry, EventKind.FAILED if is_ours else None, error=error)
            return
        kind = EventKind.FINISHED
        result: Any = None
        failure: BaseException | None = None
        if status.state is JobState.COMPLETED:
            if is_ours or self._reporter.is_awaited(entry.fire):
                try:
                    result = await entry.job.result()
                except Exception as caught:  # noqa: BLE001 - it is told
                    kind, failure = EventKind.FAILED, caught
        else:
            is_cancelled = status.state is JobState.CANCELLED
            kind = EventKind.CANCELLED if is_cancelled else EventKind.FAILED
            failure = failure_of(status)
        self._reporter.end(entry, kind if is_ours else None, result=result, error=failure)

    async def _ended(self, entry: Entry, job: Job[Any]) -> JobStatus:
        """Wait for the end of a job, and cancel it if the fire is."""
        pause = _FIRST_PAUSE
        while True:
            try:
                if entry.is_cancelled:
                    await job.cancel()
                    entry.is_cancelled = False
                with entry.entered():
                    return await job.wait()
            except JobsUnavailableError:
                await anyio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
