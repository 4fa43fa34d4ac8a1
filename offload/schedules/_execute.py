"""A run by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from offload.jobs import JobNotFoundError, JobsUnavailableError
from offload.schedules._context import FireContext
from offload.schedules._records import FireReason, fire_id

if TYPE_CHECKING:
    from offload.jobs import Job
    from offload.schedules._fires import ScheduleView
    from offload.schedules._running import RunningScheduler

__all__ = ["enqueue", "execute"]

# What a caller that goes away has for telling the engine so, in seconds.
_CANCEL_SECONDS = 5.0


async def execute(schedule: ScheduleView, running: RunningScheduler | None = None) -> Any:
    """Run a schedule now; see `Schedule.execute`."""
    if running is None or schedule.name not in running.agenda:
        return await _execute_alone(schedule)
    runs, fire, waiter = running.execute(schedule.name)
    try:
        await waiter.ring.wait()
    except BaseException:
        runs.forget_waiter(fire)
        runs.cancel(fire)
        raise
    if waiter.error is not None:
        raise waiter.error
    return waiter.result


async def _execute_alone(schedule: ScheduleView) -> Any:
    context = _context(schedule)
    if schedule.call.jobs is None:
        return await schedule.call.run(context)
    job = await schedule.call.enqueue(context)
    try:
        return await job.result()
    except BaseException as error:
        if not isinstance(error, Exception):
            with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
                await _give_up(job)
        raise


async def _give_up(job: Job[Any]) -> None:
    try:
        await job.cancel()
    except (JobNotFoundError, JobsUnavailableError):
        # It has gone; or the engine has, and the job runs for nobody.
        return


async def enqueue(schedule: ScheduleView) -> Job[Any]:
    """Enqueue a run by hand, and do not wait for it; of a schedule with jobs."""
    return await schedule.call.enqueue(_context(schedule))


def _context(schedule: ScheduleView) -> FireContext:
    now = datetime.now(UTC)
    name = f"{fire_id(schedule.name, now)}-manual"
    return FireContext(schedule.name, name, schedule.local(now), FireReason.MANUAL)
