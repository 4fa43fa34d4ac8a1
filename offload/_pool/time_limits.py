"""The time limits of tasks: how long one may wait, how long it may run.

    waits ──start_by──► withdrawn, QueueTimeoutError or DeadlineError
    runs  ──timeout───► has it replied? ──no──► stopped, TaskTimeoutError or DeadlineError
                              └────────yes, and unread for a second──► the same

Timers are those of the task's own event loop. `Overdue` stands in where that loop is held.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from offload._decisions.words import WAITING, StopReason, TaskState
from offload._pool.call_errors import deadline_error, queue_timeout_error, task_timeout_error
from offload._pool.overdue import Overdue

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from offload._pool.task import PoolTask

    class Stop(Protocol):
        """Ends a task; see `Shell.stop`."""

        def __call__(self, task: PoolTask, reason: StopReason) -> bool | None: ...


__all__ = ["TimeLimits"]

# For an event loop to come to a reply that is there.
_REPLY_SECONDS = 1.0
# For a worker to end that is stopped, perhaps after its supervisor, which is then noticed.
_REPLACE_SECONDS = 3.0


class TimeLimits:
    """Starts the clocks of tasks, and ends those whose time is over.

    Args:
        pool: name of the pool.
        stop: ends a task, waiting or running.
        retry_after: returns seconds until a newcomer is likely to be served.
        running: returns the tasks that run.
        has_queue: returns whether calls wait for a worker.
        look_at_workers: see `Overdue`.
        can_stop: whether a running task can be stopped.

    Attributes:
        overdue: stands in for timers, and sees workers that do not take their task.
    """

    def __init__(
        self,
        pool: str,
        *,
        stop: Stop,
        retry_after: Callable[[], float],
        running: Callable[[], list[PoolTask]],
        has_queue: Callable[[], bool],
        look_at_workers: Callable[[], bool],
        can_stop: bool,
    ) -> None:
        self._pool = pool
        self._stop = stop
        self._retry_after = retry_after
        self._can_stop = can_stop
        self.overdue = Overdue(
            running,
            stop_late=self._stop_from_afar,
            replace_unresponsive=_replace_unresponsive,
            abandon=lambda task: stop(task, StopReason.CANCEL),
            has_queue=has_queue,
            look_at_workers=look_at_workers,
        )

    # On the thread of the task's loop.

    def start_waiting(self, task: PoolTask) -> None:
        """Start the clock of the queue timeout and the deadline."""
        task.stop_timer()  # of an attempt that its worker did not live to receive
        if task.state in WAITING:
            if task.start_by is not None:
                wait = max(task.start_by - time.monotonic(), 0.0)
                task.timer = task.loop.call_later(wait, self._waited_too_long, task)
            self.overdue.watch_loops()

    def start_running(self, task: PoolTask) -> None:
        """Start the clock of the run timeout and the deadline."""
        seconds = task.run_limit()
        if seconds is None:
            return
        task.timer = task.loop.call_later(seconds, self._ran_too_long, task)
        task.stop_at = time.monotonic() + seconds
        if not self.overdue.is_watching:
            self.overdue.watch()

    def waiting_error(self, task: PoolTask, retry_after: float) -> Exception:
        """Return the error of a task that waited too long."""
        deadline, timeout = task.deadline, task.queue_timeout
        # By which comes first, not by the clock: timers of uvloop are a little early.
        latest = task.start_by or 0.0
        if deadline is not None and (timeout is None or latest < task.queued_at + timeout):
            return deadline_error(task.function, deadline, may_have_run=False)
        return queue_timeout_error(
            task.function, self._pool, timeout=timeout or 0.0, retry_after=retry_after
        )

    def _waited_too_long(self, task: PoolTask) -> None:
        task.timer = None
        # Only out of the queue: one that was given to a worker in this very turn goes on.
        if task.state in WAITING and self._stop(task, StopReason.CANCEL) is not None:
            task.fail(self.waiting_error(task, self._retry_after()))

    def _ran_too_long(self, task: PoolTask) -> None:
        task.timer = None
        if _replace_unresponsive(task):
            # The task goes to another worker, unless that one does not even end.
            task.timer = task.loop.call_later(_REPLACE_SECONDS, self._reply_is_late, task)
        elif _has_replied(task):
            # It is in the socket, or about to be: this loop was held up, or comes to timers first.
            task.timer = task.loop.call_later(_REPLY_SECONDS, self._reply_is_late, task)
        else:
            self._reply_is_late(task)

    def _reply_is_late(self, task: PoolTask) -> None:
        task.timer = None
        error = self._stop_late(task)
        if error is not None:
            task.fail(error)

    # On any thread.

    def _stop_from_afar(self, task: PoolTask) -> None:
        """Stop a task whose own loop has not come to it, unless its worker has replied in time."""
        if _has_replied(task) or _replace_unresponsive(task):
            return
        error = self._stop_late(task)
        if error is not None:
            try:
                task.loop.call_soon_threadsafe(task.fail, error)
            except RuntimeError:  # the loop was closed: there is nobody to tell
                return

    def _stop_late(self, task: PoolTask) -> Exception | None:
        """Stop a task whose time is over.

        Returns:
            What its caller is to be told; None if it has ended, or another thread was faster.
        """
        if task.state is not TaskState.RUNNING:
            return None
        may_have_run = self._stop(task, StopReason.TIMEOUT)
        if may_have_run is None:
            return None
        deadline, timeout = task.deadline, task.timeout
        # By which comes first, as in `waiting_error`.
        if deadline is not None and (timeout is None or deadline < task.started_at + timeout):
            return deadline_error(
                task.function, deadline, may_have_run=may_have_run, is_stopped=self._can_stop
            )
        return task_timeout_error(
            task.function, timeout or 0.0, may_have_run=may_have_run, is_stopped=self._can_stop
        )


def _has_replied(task: PoolTask) -> bool:
    return task.worker is not None and task.worker.has_replied(task)


def _replace_unresponsive(task: PoolTask) -> bool:
    """Have a worker replaced that was sent a task and does not take it; return whether it is."""
    worker = task.worker
    if worker is None or task.state is not TaskState.RUNNING:
        return False
    if not worker.is_unresponsive(task, time.monotonic() - task.started_at):
        return False
    worker.replace()
    return True
