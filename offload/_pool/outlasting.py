"""Calls that end only when nothing of them runs any more: `Invocation.outlasts_worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from offload._decisions.words import TaskState, WorkerState
from offload._pool.event_loops import call_soon_on_loop_of

if TYPE_CHECKING:
    from offload._pool.decider import Decider
    from offload._pool.task import PoolTask
    from offload._workers.backend import PoolWorker

__all__ = ["tell_stopped", "worker_left"]


async def worker_left(decider: Decider, task: PoolTask) -> None:
    """Wait until nothing of a task runs that was stopped; on the thread of its loop.

    Then its process is gone, or has ended it within its `grace` and is used again.
    """
    with decider.lock:
        worker = task.worker
        # On an executor's thread, what was stopped goes on to its end.
        if worker is None or not (
            worker.state is WorkerState.LEAVING or task.state is TaskState.UNWANTED
        ):
            return
        task.future = task.loop.create_future()
        worker.stopped_task = task
    import anyio

    # A scope that is cancelled cancels each wait in it, and not only the first.
    try:
        with anyio.CancelScope(shield=True):
            await task.future
    finally:
        # It may have been used again, and stopped again.
        if worker.stopped_task is task:
            worker.stopped_task = None


def tell_stopped(worker: PoolWorker) -> None:
    """Wake whoever waits for the end of the task that a worker was stopped for."""
    task, worker.stopped_task = cast("PoolTask | None", worker.stopped_task), None
    if task is not None:
        call_soon_on_loop_of(task, task.wake)
