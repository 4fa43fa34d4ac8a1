"""The workers of a pool: which are idle, how many are busy or leaving, how many may be busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload._decisions.words import TaskState, WorkerState

if TYPE_CHECKING:
    from offload._decisions.wait_queue import WaitQueue
    from offload._decisions.words import Lane, Task, Worker

__all__ = ["Roster"]


class Roster:
    """The workers that are up, and the tasks that they have.

    Attributes:
        max_workers: how many may be busy.
        capacity: the same, less those that end a cancelled task by themselves.
        idle: the workers that wait for a task, the warmest one last.
        busy: how many have a task.
        leaving: how many are ending.
        peak_busy: the most that were busy at once since the last tick.
    """

    __slots__ = ("_queue", "busy", "capacity", "idle", "leaving", "max_workers", "peak_busy")

    def __init__(self, queue: WaitQueue, max_workers: int) -> None:
        self._queue = queue
        self.max_workers = max_workers
        self.capacity = max_workers
        self.idle: list[Worker] = []
        self.busy = 0
        self.leaving = 0
        self.peak_busy = 0

    @property
    def up(self) -> int:
        """How many are idle or busy."""
        return self.busy + len(self.idle)

    @property
    def free(self) -> int:
        """How many more may be busy."""
        return max(self.capacity - self.busy, 0)

    def takes_at_once(self, task: Task) -> bool:
        """Return whether an idle worker would be given a newcomer."""
        return bool(
            self.idle
            and not self._queue.runnable
            and self.busy < self.capacity
            and not task.lane.is_full
        )

    def set_max_workers(self, count: int) -> None:
        """Change how many may be busy."""
        self.capacity += count - self.max_workers
        self.max_workers = count

    def take(self, task: Task, worker: Worker, now: float) -> None:
        """Give a task to a worker that has none."""
        task.state = TaskState.ASSIGNED
        task.worker = worker
        task.started_at = now
        lane = task.lane
        lane.running += 1
        if lane.limit is not None:
            self._queue.recount(lane)
        worker.state = WorkerState.BUSY
        worker.task = task
        self.busy += 1
        if self.busy > self.peak_busy:  # noqa: PLR1730 - max() is a call on the path of each task
            self.peak_busy = self.busy

    def end(self, worker: Worker, task: Task) -> None:
        """End the task of a worker, which is then in no list: let it rest, or leave."""
        # In this order: whoever sends a task on another thread, without the lock, sets its state
        # and then looks whether the worker still has it.
        worker.task = None
        task.state = TaskState.DONE
        self.busy -= 1
        lane = task.lane
        lane.running -= 1
        if lane.limit is not None:
            self._queue.recount(lane)
            self._queue.unpark(lane)

    def rest(self, worker: Worker, now: float) -> None:
        """Let a worker wait for its next task."""
        worker.state = WorkerState.IDLE
        worker.idle_since = now
        # Last in, first out: the warmest worker is used again, the coldest one can retire.
        self.idle.append(worker)

    def leave(self, worker: Worker) -> None:
        """A worker that has no task any more is ending."""
        worker.state = WorkerState.LEAVING
        self.leaving += 1

    def linger(self, worker: Worker, lane: Lane) -> None:
        """Count a worker as running a function whose task is about to `end`, until it stops."""
        worker.lingers_in = lane
        self.capacity -= 1
        lane.running += 1  # `end` takes it back

    def stop_lingering(self, worker: Worker) -> None:
        """A worker runs its cancelled task no longer, if it ever did."""
        lane, worker.lingers_in = worker.lingers_in, None
        if lane is None:
            return
        self.capacity += 1
        lane.running -= 1
        if lane.limit is not None:
            self._queue.recount(lane)
            self._queue.unpark(lane)
