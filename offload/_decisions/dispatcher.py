"""What a pool does next: admission, order, assignment, growth, recycling, retirement, back-off.

Events in, actions out. The pool (`offload._pool.shell`) calls a method for everything that happens,
under its lock, and then carries out what was appended to `Dispatcher.actions`. Nothing here reads
a clock or touches a process, so that a test can drive it through any history.

    submit ──► QUEUED ─────────────► ASSIGNED ──► RUNNING ──► DONE    (a task)
                 │  ▲                                │
                 ▼  │ (its lane is full)             ▼ (cancelled, cannot be stopped)
               PARKED                             UNWANTED ──► DONE

    StartWorker ──► STARTING ──► IDLE ◄──► BUSY ──► LEAVING ──► GONE   (a worker)

Guarantees:
1. A task is in exactly one place, and ends exactly once.
2. No worker idles while a runnable task waits and fewer than `capacity` are busy. Of `max_workers`,
   those do not count that still run a cancelled task which is given time to end by itself.
3. Order is (priority, arrival) among the tasks whose function is below its `max_concurrency`.
4. A task whose `start_by` has passed is never assigned.
5. After `close` no task is accepted; after `close(kill=True)` none is assigned.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from offload._decisions.estimate import Estimates
from offload._decisions.growth import Growth
from offload._decisions.roster import Roster
from offload._decisions.story import Story
from offload._decisions.wait_queue import WaitQueue
from offload._decisions.words import (
    Assign,
    Cancelled,
    Closed,
    Phase,
    Refusal,
    Refuse,
    StartWorker,
    StopReason,
    StopWorker,
    TaskState,
    WorkerState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offload._decisions.words import Action, Lane, Limits, Task, Worker

__all__ = ["Dispatcher"]


class Dispatcher:
    """All decisions of one pool. Not thread-safe: the pool holds its lock around every call.

    More methods than most classes have: each is one event that can happen to a pool, and what
    happens is decided in one place.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.actions: list[Action] = []
        self.phase = Phase.OPEN
        self.queue = WaitQueue(limits, self._expire)
        self.roster = Roster(self.queue, limits.max_workers)
        self.growth = Growth(limits, self.queue, self.roster)
        self.estimates = Estimates(self.queue, self.roster)
        self.story = Story()
        self._sequence = count()

    # --- tasks ---

    def submit(self, task: Task, now: float) -> Worker | None:
        """Admit a task.

        Returns:
            The worker that it was assigned to at once, or None: it waits.

        Raises:
            Closed: the pool accepts nothing any more.
            Full: the queue is at a limit.
        """
        if self.phase is not Phase.OPEN:
            raise Closed
        roster = self.roster
        lane = task.lane
        if (  # `takes_at_once`, without the call: this is on the path of each task
            roster.idle
            and not self.queue.runnable
            and roster.busy < roster.capacity
            and (lane.limit is None or lane.running < lane.limit)
        ):
            # Before the limits: they are of the queue, which this task does not enter. It may be
            # full of tasks of one function that is at its max_concurrency.
            task.sequence = next(self._sequence)
            task.queued_at = now
            worker = roster.idle.pop()
            roster.take(task, worker, now)
            # Nothing else has changed: on the path of each task there is a spare, as a rule.
            if len(roster.idle) < self.limits.spare_workers:
                self._grow(now)
            return worker
        self.queue.check_room(task, roster.free)
        task.sequence = next(self._sequence)
        task.queued_at = now
        task.worker = None
        self.queue.put(task)
        self._grow(now)
        return None

    def set_limit(self, lane: Lane, limit: int | None, now: float) -> None:
        """Change how many tasks of a lane may run at once."""
        lane.limit = limit
        self.queue.recount(lane)
        for _ in range(len(lane.parked)):  # they look anew whether they may run
            self.queue.unpark(lane)
        self._serve(now)
        self._grow(now)

    def requeue(self, task: Task, now: float) -> None:
        """Put a task back, at its old place, that its dead worker never received.

        The worker counts as leaving; report `gone` when its end is known.
        """
        worker = task.worker
        assert worker is not None
        if task.state is not TaskState.DONE:
            # Not `cancel`: that would serve others before this task is back among them.
            self.roster.end(worker, task)
            self._leave(worker, now, StopReason.DEAD)
        self.story.note(now, "requeue", worker.number, task.lane.name)
        self.growth.died(now, worker.tasks_done)
        if self.phase is Phase.CLOSED:
            self.actions.append(Refuse(task, Refusal.CLOSED))
            return
        task.worker = None
        self.queue.put(task)
        if self.is_failing:
            self._give_up(now)
        self._serve(now)
        self._grow(now)

    def finish(
        self, worker: Worker, now: float, *, recycle: bool = False, returned: bool = True
    ) -> Task | None:
        """The worker's task has ended, and the worker is free.

        Args:
            worker: a busy worker.
            now: monotonic seconds.
            recycle: replace the worker, whatever its count of tasks.
            returned: False if the task never ran, so that its time is not measured.

        Returns:
            The next task, already assigned to this same worker, or None.
        """
        task = worker.task
        assert task is not None
        if returned:
            worker.tasks_done += 1
            seconds = now - task.started_at
            self.estimates.run_time.add(seconds)
            task.lane.run_time.add(seconds)
        self.roster.end(worker, task)
        maximum = self.limits.max_tasks_per_worker
        if recycle or worker.is_recycled or (maximum is not None and worker.tasks_done >= maximum):
            self._leave(worker, now, StopReason.RECYCLE)
            self._serve(now)
            self._grow(now)
            return None
        if self.phase is Phase.CLOSED:
            self._leave(worker, now, StopReason.CLOSE)
            return None
        if self.queue.runnable and self.roster.busy < self.roster.capacity:
            following = self.queue.next(now)
            if following is not None:
                self.roster.take(following, worker, now)
                return following
        self.roster.rest(worker, now)
        return None

    def cancel(
        self, task: Task, reason: StopReason, now: float, *, grace: float = 0.0
    ) -> Cancelled:
        """End a task that is not to go on: out of the queue, or by stopping its worker.

        Args:
            task: a task that was admitted.
            reason: why.
            now: monotonic seconds.
            grace: seconds that a running task has to end by itself. Until its worker has recovered
                or is gone, it counts as one that runs its function.
        """
        if self.queue.withdraw(task):
            return Cancelled.WITHDRAWN
        worker = task.worker
        if worker is None or worker.task is not task or task.state is TaskState.UNWANTED:
            return Cancelled.TOO_LATE
        if task.state is TaskState.ASSIGNED and reason is StopReason.CANCEL:
            # Only its caller can know: it is sent on the caller's own thread. To anybody else,
            # "not sent yet" may be "being sent".
            following = self.finish(worker, now, returned=False)
            if following is not None:
                self.actions.append(Assign(following, worker))
            return Cancelled.UNUSED
        # It held a worker as others do: who is refused must be told so.
        seconds = now - task.started_at
        self.estimates.run_time.add(seconds)
        if reason is StopReason.TIMEOUT:
            task.lane.run_time.add_stopped(seconds)
        self.story.note(now, "cancel", worker.number, task.lane.name, reason.value)
        if not self.limits.can_stop:
            task.state = TaskState.UNWANTED
            return Cancelled.UNSTOPPABLE
        if grace > 0.0:
            self.roster.linger(worker, task.lane)
        self.roster.end(worker, task)
        self._leave(worker, now, reason, grace)
        self._serve(now)
        self._grow(now)
        return Cancelled.STOPPED

    # --- workers ---

    def ready(self, worker: Worker, now: float) -> None:
        """A worker that was starting can take tasks."""
        self.growth.started()
        self.story.note(now, "ready", worker.number)
        if self.phase is Phase.CLOSED:
            self._leave(worker, now, StopReason.CLOSE)
            return
        if worker.is_recycled:
            self._leave(worker, now, StopReason.RECYCLE)
            self._grow(now)
            return
        self.roster.rest(worker, now)
        self._serve(now)
        self._grow(now)

    def start_failed(self, worker: Worker, now: float) -> None:
        """A worker did not come up; the next attempt waits a little."""
        worker.state = WorkerState.GONE
        self.growth.failed(now)
        self.story.note(now, "start failed", worker.number)
        if self.is_failing:
            self._give_up(now)
        self._grow(now)

    def recycle(self, worker: Worker, now: float) -> bool:
        """Replace a worker: now if it is idle, when its task has ended if it has one.

        Returns:
            False if it is neither: it is starting or leaving anyway.
        """
        if worker.state is WorkerState.BUSY:
            worker.is_recycled = True
            return True
        if worker.state is not WorkerState.IDLE:
            return False
        # As many as there were, also where nothing has been asked of the pool for long.
        self.growth.keep_as_many()
        self.roster.idle.remove(worker)
        self._leave(worker, now, StopReason.RECYCLE)
        self._grow(now)
        return True

    def renew(self, workers: Iterable[Worker], now: float) -> None:
        """Give no more tasks to any of these workers; one that is starting is replaced when up."""
        for worker in workers:
            if worker.state is WorkerState.STARTING:
                worker.is_recycled = True
            else:
                self.recycle(worker, now)

    def recovered(self, worker: Worker, now: float) -> None:
        """A worker has ended its cancelled task by itself, and can be used again."""
        if worker.state is not WorkerState.LEAVING:
            return
        self.story.note(now, "recovered", worker.number)
        if self.phase is Phase.CLOSED:
            self.actions.append(StopWorker(worker, StopReason.CLOSE))
            return
        self.roster.stop_lingering(worker)
        self.roster.leaving -= 1
        self.growth.forget_floor()
        self.roster.rest(worker, now)
        self._serve(now)
        if worker in self.roster.idle and self.growth.is_surplus():
            # Another was started in its place meanwhile.
            self.roster.idle.remove(worker)
            self._leave(worker, now, StopReason.IDLE)
        self._grow(now)

    def gone(self, worker: Worker, now: float) -> Task | None:
        """A worker, once ready, has ended.

        Returns:
            The task that it had, which has ended with it; None if it had none.
        """
        task = worker.task
        self.story.note(now, "gone", worker.number, "" if task is None else task.lane.name)
        if worker.state is WorkerState.IDLE:
            self.roster.idle.remove(worker)
            self.growth.died(now, worker.tasks_done)
            if self.is_failing:
                self._give_up(now)
        elif worker.state is WorkerState.BUSY:
            assert task is not None
            self.roster.end(worker, task)
        elif worker.state is WorkerState.LEAVING:
            self.roster.stop_lingering(worker)
            self.roster.leaving -= 1
        worker.state = WorkerState.GONE
        self._serve(now)
        self._grow(now)
        return task

    # --- the pool and time ---

    def open(self, now: float) -> None:
        """Accept tasks and start `min_workers`, at least one: somebody wants the pool warm."""
        self.story.note(now, "open")
        if self.phase is Phase.DRAINING:
            self.phase = Phase.OPEN
        if not self.roster.idle and not self.roster.busy:
            # Until one is ready or all hope is lost: a first start that fails is tried again even
            # if no task waits, else whoever opens the pool would wait for ever.
            self.growth.want_first()
        self._grow(now)

    def close(self, now: float, *, kill: bool = False) -> None:
        """Accept nothing more; with `kill`, refuse what waits and stop every idle worker."""
        self.story.note(now, "kill" if kill else "drain")
        if self.phase is Phase.OPEN:
            self.phase = Phase.DRAINING
        if not kill:
            return
        self.phase = Phase.CLOSED
        self._refuse_all(Refusal.CLOSED)
        for worker in self.roster.idle:
            self._leave(worker, now, StopReason.CLOSE)
        self.roster.idle.clear()

    def set_limits(self, max_workers: int, max_queued: int | None, now: float) -> None:
        """Change how many tasks may run at once, and how many may wait.

        What runs goes on and what waits stays; idle workers too many leave.
        """
        self.story.note(now, "set limits", detail=f"{max_workers} run, {max_queued} wait")
        limits = replace(self.limits, max_workers=max_workers, max_queued=max_queued)
        self.limits = self.queue.limits = self.growth.limits = limits
        self.roster.set_max_workers(max_workers)
        if self.phase is Phase.CLOSED:
            return
        while self.roster.idle and self.growth.is_surplus():
            self._leave(self.roster.idle.pop(0), now, StopReason.IDLE)
        self._serve(now)
        self._grow(now)

    def tick(self, now: float) -> None:
        """Do what is due: retry a failed start, retire workers that the load does not need."""
        if self.phase is Phase.OPEN:
            for worker in self.growth.not_needed(now):
                self.roster.idle.remove(worker)
                self._leave(worker, now, StopReason.IDLE)
        self.growth.end_window()
        self._grow(now)

    def next_tick(self, now: float) -> float | None:
        """Return seconds until `tick` may have something to do; None: only after an event."""
        retry = self.growth.wait_to_retry(now)
        retire = self.growth.wait_to_retire(now) if self.phase is Phase.OPEN else None
        if retry is None or retire is None:
            return retire if retry is None else retry
        return min(retry, retire)

    # --- what it is ---

    @property
    def is_drained(self) -> bool:
        """Whether no task is left, nor one that was cancelled and may end by itself."""
        return (
            not self.queue.count
            and not self.roster.busy
            and self.roster.capacity == self.roster.max_workers
        )

    @property
    def is_full(self) -> bool:
        """Whether no more tasks may wait. One that an idle worker can take at once is accepted."""
        return self.queue.is_full(self.roster.free)

    @property
    def is_failing(self) -> bool:
        """Whether no worker lives, and several in a row could not be started."""
        return self.growth.is_failing

    # --- inside ---

    def _leave(self, worker: Worker, now: float, reason: StopReason, grace: float = 0.0) -> None:
        self.roster.leave(worker)
        self.growth.left(worker.tasks_done)
        self.story.note(now, "stop", worker.number, detail=reason.value)
        self.actions.append(StopWorker(worker, reason, grace))

    def _serve(self, now: float) -> None:
        while self.roster.idle and self.queue.runnable and self.roster.busy < self.roster.capacity:
            task = self.queue.next(now)
            if task is None:
                return
            worker = self.roster.idle.pop()
            self.roster.take(task, worker, now)
            self.actions.append(Assign(task, worker))

    def _grow(self, now: float) -> None:
        for _ in range(self.growth.start(now, self.phase)):
            self.story.note(now, "start")
            self.actions.append(StartWorker())

    def _give_up(self, now: float) -> None:
        self.story.note(now, "give up", detail="no worker can be started")
        self.growth.forget_floor()
        self._refuse_all(Refusal.START_FAILED)

    def _refuse_all(self, refusal: Refusal) -> None:
        self.actions += [Refuse(task, refusal) for task in self.queue.clear()]

    def _expire(self, task: Task) -> None:
        self.actions.append(Refuse(task, Refusal.TOO_LATE))
