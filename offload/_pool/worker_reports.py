"""What workers report of themselves, on any thread."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, cast

from offload._decisions.words import Phase, TaskState, WorkerState
from offload._pool.call_errors import crash_error
from offload._pool.event_loops import call_soon_on_loop_of
from offload._pool.outlasting import tell_stopped
from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._pool.decider import Decider
    from offload._pool.task import PoolTask
    from offload._workers.backend import EndedElsewhere, Exit, PoolWorker, Replied

__all__ = ["WorkerReports"]

_logger = logging.getLogger("offload.pool")


class WorkerReports:
    """The pool, as its workers see it: `WorkerOwner`.

    A backend is made with its owner, the decisions depend on the backend, and reports lead to
    decisions: so that which needs the others, `decider` and the callables, is set last.

    Args:
        pool: name of the pool.
        modules: what a new worker imports before its first task; it grows.
    """

    decider: Decider
    # Of `Shell`. Attributes, not methods that call it: a frame less on the path of each task.
    replied: Replied
    ended_elsewhere: EndedElsewhere
    # Has a task wait that its worker did not live to receive.
    wait_again: Callable[[PoolTask], None]

    def __init__(self, pool: str, modules: set[str]) -> None:
        self._pool = pool
        self._modules = modules

    def worker_ready(self, worker: PoolWorker) -> None:
        """Report that a worker can take tasks."""
        self.decider.act(self.decider.dispatcher.ready, worker, time.monotonic())

    def worker_failed(self, worker: Any, detail: str) -> None:
        """Report that a worker did not come up."""
        decider = self.decider
        is_news = decider.dispatcher.phase is Phase.OPEN
        decider.waiters.start_error = detail
        decider.act(decider.dispatcher.start_failed, worker, time.monotonic())
        if is_news:
            log_safely(
                _logger,
                logging.ERROR,
                "a worker of pool %r did not start: %s",
                self._pool,
                detail,
                extra={"offload_pool": self._pool},
            )

    def worker_recovered(self, worker: PoolWorker) -> None:
        """Report that a worker has ended its cancelled task by itself."""
        if worker.task is None:
            self.decider.act(self.decider.dispatcher.recovered, worker, time.monotonic())
            tell_stopped(worker)

    def worker_gone(self, worker: PoolWorker, how: Exit) -> None:
        """Report that a worker, once ready, has ended."""
        was, task = self.decider.act(self._gone, worker, how)
        tell_stopped(worker)
        if task is not None:
            if how.received:
                task.lane.account.attempt_lost(crashed=True)
                error = crash_error(task.function, how, task.max_cpu_seconds)
                call_soon_on_loop_of(task, task.fail, error)
            else:
                call_soon_on_loop_of(task, self.wait_again, task)
        elif was is WorkerState.IDLE:
            log_safely(
                _logger,
                logging.WARNING,
                "an idle worker of pool %r ended: %s",
                self._pool,
                how,
                extra={"offload_pool": self._pool, "offload_pid": how.pid},
            )

    def _gone(self, worker: PoolWorker, how: Exit) -> tuple[WorkerState, PoolTask | None]:
        """Return what the worker did, and its task, if the caller of that is still to be told."""
        dispatcher, now = self.decider.dispatcher, time.monotonic()
        was = worker.state
        task = cast("PoolTask | None", worker.task)
        if was is WorkerState.GONE:  # told twice, by two threads: its loop's and the keeper's
            return was, None
        if task is not None and task.state is TaskState.UNWANTED:
            task = None
        elif task is not None and not how.received:
            self.decider.waiters.start_error = (
                f"a worker came up, and ended before it took a task: {how}"
            )
            task.stop_at = None
            dispatcher.requeue(task, now)
        dispatcher.gone(worker, now)
        return was, task

    def modules(self) -> list[str]:
        """Return what a new worker should import before its first task."""
        return sorted(self._modules - {"__main__"})
