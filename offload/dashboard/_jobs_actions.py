"""What an operator can do to jobs from the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offload.jobs import Jobs

__all__ = ["JOB_ACTIONS", "QUEUE_ACTIONS"]


async def _retry(jobs: Jobs, job_id: str) -> tuple[bool, str]:
    from offload.jobs import JobConflictError

    try:
        await (await jobs.get(job_id)).retry()
    except JobConflictError as error:
        return False, f"Not retried: {error}."
    return True, f"{job_id} runs again."


async def _cancel(jobs: Jobs, job_id: str) -> tuple[bool, str]:
    outcome = await (await jobs.get(job_id)).cancel()
    told = {
        "removed": (True, f"{job_id} is cancelled; it had not begun."),
        "asked": (True, f"{job_id} runs, and is being stopped."),
        "over": (False, f"{job_id} had ended already."),
    }
    return told[outcome]


async def _remove(jobs: Jobs, job_id: str) -> tuple[bool, str]:
    if await jobs.remove([job_id]):
        return True, f"{job_id} is forgotten."
    return False, f"{job_id} is not over, or there is no such job."


async def _pause(jobs: Jobs, queue: str) -> tuple[bool, str]:
    await jobs.pause(queue)
    return True, f"Queue {queue} is paused; running jobs continue."


async def _resume(jobs: Jobs, queue: str) -> tuple[bool, str]:
    await jobs.resume(queue)
    return True, f"Queue {queue} is resumed."


# By their name in the path: what to do, given an id or the name of a queue; each returns whether it
# was done, and a sentence about it.
JOB_ACTIONS: Final[dict[str, Callable[[Jobs, str], Awaitable[tuple[bool, str]]]]] = {
    "retry": _retry,
    "cancel": _cancel,
    "remove": _remove,
}
QUEUE_ACTIONS: Final[dict[str, Callable[[Jobs, str], Awaitable[tuple[bool, str]]]]] = {
    "pause": _pause,
    "resume": _resume,
}
