"""What an operator can do from the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.to_thread

from offload.errors import OffloadError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offload.pool import Pool

__all__ = ["ACTIONS", "Action"]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do.

    Attributes:
        name: what it is called in the path and in the log.
        of_worker: whether it needs the process id of a worker.
        run: does it, given the pool and the process id; returns whether it was done, and a
            sentence about it.
    """

    name: str
    of_worker: bool
    run: Callable[[Pool, int], Awaitable[tuple[bool, str]]]


async def _cancel(pool: Pool, pid: int) -> tuple[bool, str]:
    if await anyio.to_thread.run_sync(pool.kill_task, pid, limiter=_limiter()):
        return True, f"The task of worker {pid} is being stopped."
    return False, f"Worker {pid} runs nothing."


async def _recycle(pool: Pool, pid: int) -> tuple[bool, str]:
    if await anyio.to_thread.run_sync(pool.recycle, pid, limiter=_limiter()):
        return True, f"Worker {pid} is replaced as soon as it runs nothing."
    return False, f"There is no worker {pid}."


async def _drain(pool: Pool, _: int) -> tuple[bool, str]:
    await anyio.to_thread.run_sync(pool.stop_accepting, limiter=_limiter())
    return True, f"Pool {pool.name} takes no more calls; those that it has go on."


async def _open(pool: Pool, _: int) -> tuple[bool, str]:
    try:
        await pool.open()
    except OffloadError as error:
        return False, f"Pool {pool.name} did not open: {error}"
    return True, f"Pool {pool.name} takes calls."


def _limiter() -> anyio.CapacityLimiter:
    # Its own: the threads that the application shares may all be busy.
    return anyio.CapacityLimiter(1)


ACTIONS = {
    each.name: each
    for each in (
        Action("cancel", of_worker=True, run=_cancel),
        Action("recycle", of_worker=True, run=_recycle),
        Action("drain", of_worker=False, run=_drain),
        Action("open", of_worker=False, run=_open),
    )
}
