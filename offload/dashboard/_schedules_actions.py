"""What an operator can do to schedules from the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offload.schedules import Schedule, Scheduler

__all__ = ["SCHEDULE_ACTIONS"]


async def _run(schedule: Schedule, scheduler: Scheduler) -> tuple[bool, str]:
    name = schedule.name
    running = scheduler.levers.running
    if running is not None and name in running.agenda:
        # Nobody waits for it here: its end is in the history.
        _, fire, waiter = running.execute(name)
        if waiter.error is not None:
            return False, f"Not run: {waiter.error}."
        return True, f"{name} runs now, as {fire}."
    if schedule.jobs is None:
        return False, f"Not run: no scheduler of this process fires {name}, and it is no job."
    job = await schedule.enqueue()
    return True, f"{name} is enqueued, as {job.id}."


async def _pause(schedule: Schedule, scheduler: Scheduler) -> tuple[bool, str]:
    return await _set_paused(schedule, scheduler, is_paused=True)


async def _resume(schedule: Schedule, scheduler: Scheduler) -> tuple[bool, str]:
    return await _set_paused(schedule, scheduler, is_paused=False)


async def _set_paused(
    schedule: Schedule, scheduler: Scheduler, *, is_paused: bool
) -> tuple[bool, str]:
    name = schedule.name
    store = scheduler.levers.store_of(schedule)
    if schedule.is_added and name in scheduler:
        if store is None and not scheduler.is_running:
            return False, (
                f"Nothing is changed: no scheduler of this process fires {name}, and without an "
                "engine other processes cannot be reached."
            )
        await (schedule.pause() if is_paused else schedule.resume())
    else:
        # Made at run time, and not fired by this process.
        assert store is not None
        await store.pause(name, is_paused=is_paused)
    if is_paused:
        return True, f"{name} is paused; a run under way continues."
    return True, f"{name} fires again, from now on."


# By their name in the path; each returns whether it was done, and a sentence about it.
SCHEDULE_ACTIONS: Final[dict[str, Callable[[Schedule, Scheduler], Awaitable[tuple[bool, str]]]]] = {
    "run": _run,
    "pause": _pause,
    "resume": _resume,
}
