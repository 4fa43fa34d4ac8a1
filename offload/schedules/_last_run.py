"""The last run of a schedule, of whichever process."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from offload.jobs import JobNotFoundError, JobState
from offload.jobs._failures import failure_of
from offload.jobs._job import Job
from offload.schedules._events import EventKind
from offload.schedules._fires import ScheduleRun
from offload.schedules._records import FireReason

if TYPE_CHECKING:
    from offload.jobs import Jobs
    from offload.schedules._schedule import Schedule
    from offload.schedules._store import ScheduleStore, StoredRun

__all__ = ["OUTCOMES", "last_run", "run_of"]

OUTCOMES = {
    JobState.COMPLETED: EventKind.FINISHED,
    JobState.FAILED: EventKind.FAILED,
    JobState.CANCELLED: EventKind.CANCELLED,
}


async def last_run(
    schedule: Schedule, here: ScheduleRun | None, store: ScheduleStore | None
) -> ScheduleRun | None:
    """Return the last run.

    Args:
        schedule: whose.
        here: the last one of this process, with its result.
        store: what an engine keeps; None: nothing.

    Raises:
        JobsUnavailableError: the engine cannot be reached.
    """
    if store is None:
        return here
    state = (await store.states([schedule.name])).get(schedule.name)
    if state is None or state.last is None:
        return here
    run = run_of(schedule, state.last)
    if here is not None and here.started_at >= run.started_at:
        return here
    return run if schedule.jobs is None else await _with_job(schedule.jobs, schedule, run)


def run_of(schedule: Schedule, run: StoredRun) -> ScheduleRun:
    """Return what an engine keeps of a run, as a run."""
    return ScheduleRun(
        id=run.id,
        fire_time=schedule.local(datetime.fromisoformat(run.fire_time)),
        reason=FireReason(run.reason),
        outcome=EventKind(run.outcome) if run.outcome else None,
        started_at=datetime.fromisoformat(run.started_at),
        ended_at=datetime.fromisoformat(run.ended_at) if run.ended_at else None,
        error=run.error or None,
    )


async def _with_job(jobs: Jobs, schedule: Schedule, run: ScheduleRun) -> ScheduleRun:
    # Of one that was made at run time there is the function's name only.
    function: Any = schedule.function
    job: Job[Any] = Job(jobs, run.id, None if isinstance(function, str) else function)
    try:
        status = await job.status()
        if not status.state.is_over:
            return run
        outcome, ended_at = OUTCOMES[status.state], status.ended_at
        if status.state is JobState.COMPLETED:
            result = await job.result()
            return replace(run, outcome=outcome, ended_at=ended_at, result=result)
        return replace(run, outcome=outcome, ended_at=ended_at, error=failure_of(status))
    except JobNotFoundError:
        # It was kept no longer than its options say.
        return run
