"""What a pool does next: admission, order, assignment, growth, recycling, retirement, back-off.

Events in, actions out. The shell (`offload.pool`) calls a method for everything that happens,
under its lock, and then carries out what was appended to `Dispatcher.actions`. Nothing here reads
a clock or touches a process, so that a test can drive it through any history.

    submit ──► QUEUED ──────────────► RUNNING ──► DONE        (a task)
                 │  ▲                    ▲
                 ▼  │ (its lane is full) │ assigned
               PARKED                    │
    StartWorker ──► STARTING ──► IDLE ◄──┴─► BUSY ──► LEAVING ──► GONE   (a worker)

Guarantees:
1. A task is in exactly one place, and ends exactly once.
2. No worker idles while a runnable task waits and fewer than `max_workers` are busy, those among
   them that still have a task which was abandoned and is given time to end by itself.
3. Order is (priority, arrival) among the tasks whose function is below its `max_concurrency`.
4. A task whose `start_by` has passed is never assigned.
5. After `close` no task is accepted; after `close(now, kill=True)` none is assigned.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# A run-time average that follows a change of load within some ten runs; arbitrary, not critical.
_MEMORY_RUNS = 10
# What a refusal by estimate leaves of the estimate. Arbitrary, does not matter much.
_TRUST = 0.95
# What a refused caller is told before anything has been measured.
_UNKNOWN_RETRY_SECONDS = 1.0
_SOON_SECONDS = 0.001
_BACKOFF_FIRST_SECONDS = 0.1
_BACKOFF_MAX_SECONDS = 30.0
# Starting may fail once for a passing reason (EAGAIN); three times in a row is a broken pool.
_FAILED_STARTS_UNTIL_REFUSAL = 3
# Withdrawn tasks stay in their heap until they surface; rebuild it when they are most of it.
_STALE_WORTH_A_REBUILD = 64


class TaskState(enum.Enum):
    """The one place that a task is in."""

    NEW = "new"
    QUEUED = "queued"
    PARKED = "parked"
    RUNNING = "running"
    DONE = "done"


# For a worker, or for its function to be below its `max_concurrency`.
WAITING = (TaskState.QUEUED, TaskState.PARKED)


class WorkerState(enum.Enum):
    """What a worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"
    GONE = "gone"


class Phase(enum.Enum):
    """Life of a pool."""

    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Refusal(enum.Enum):
    """Why a queued task will not run."""

    DEADLINE = "its deadline passed"
    START_FAILED = "no worker can be started"
    CLOSED = "the pool was closed"


class Full(Exception):  # noqa: N818 - an internal signal; the shell raises QueueFullError
    """The task was not admitted; `limit` names the option that it hit."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Closed(Exception):  # noqa: N818 - an internal signal; the shell raises PoolClosedError
    """The pool no longer accepts tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers that the decisions depend on; see `offload.pool.Pool` for their meaning."""

    min_workers: int = 0
    max_workers: int = 1
    spare_workers: int = 1
    max_queued: int | None = 1000
    max_queued_bytes: int | None = None
    idle_timeout: float | None = 60.0
    max_tasks_per_worker: int | None = None


class RunTime:
    """How long tasks took of late: a mean in seconds, 0.0 where none has ended."""

    __slots__ = ("_count", "mean")

    def __init__(self) -> None:
        self.mean = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        """Take note of one run."""
        count = self._count = self._count + 1
        if count == 2 and seconds < self.mean:  # noqa: PLR2004 - the second one
            # The first run of a function imports what it needs, and says little of the others.
            self.mean = seconds
        else:
            self.mean += (seconds - self.mean) / min(count, _MEMORY_RUNS)

    def add_stopped(self, seconds: float) -> None:
        """Take note of a run that was stopped after so long.

        How long it would have taken nobody knows: longer. Without this, attempts that end at their
        deadline would let the estimate only ever sink.
        """
        if self.mean:
            self.mean += (2.0 * seconds - self.mean) / _MEMORY_RUNS


class Lane:
    """All tasks of one function, which may be limited to `limit` running at once."""

    __slots__ = ("claim", "limit", "parked", "ready", "run_time", "running", "stale")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.running = 0
        self.run_time = RunTime()
        self.ready = 0
        # How many of the ready ones could run now, were there workers enough.
        self.claim = 0
        self.parked: list[tuple[int, int, Task]] = []
        # How many of the parked ones were withdrawn.
        self.stale = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self.ready + len(self.parked) - self.stale

    @property
    def is_full(self) -> bool:
        """Whether as many as allowed are running."""
        return self.limit is not None and self.running >= self.limit


class Task:
    """One call on its way through the pool; the shell subclasses it."""

    __slots__ = (
        "lane",
        "priority",
        "queued_at",
        "sequence",
        "size_bytes",
        "start_by",
        "started_at",
        "state",
        "worker",
    )

    def __init__(
        self, lane: Lane, priority: int = 0, size_bytes: int = 0, start_by: float | None = None
    ) -> None:
        self.lane = lane
        self.priority = priority
        self.size_bytes = size_bytes
        self.start_by = start_by
        self.state = TaskState.NEW
        self.worker: Worker | None = None
        self.sequence = 0
        self.queued_at = 0.0
        self.started_at = 0.0


class Worker:
    """One worker as the decisions see it; the shell subclasses it."""

    __slots__ = ("idle_since", "is_recycled", "lingers_in", "number", "state", "task", "tasks_done")

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.state = WorkerState.STARTING
        # Whether it is to be replaced when its task has ended.
        self.is_recycled = False
        # The lane of its last task, which was abandoned and is given time to end by itself.
        self.lingers_in: Lane | None = None
        self.task: Task | None = None
        self.tasks_done = 0
        self.idle_since = 0.0


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start one worker, then report `ready` or `start_failed`."""


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Stop this worker, then report `gone`."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Run the task on the worker, then report `finish`, `abandon` or `gone`."""

    task: Task
    worker: Worker


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the waiting caller that its task did not run."""

    task: Task
    refusal: Refusal


Action = StartWorker | StopWorker | Assign | Refuse


class Dispatcher:
    """All decisions of one pool. Not thread-safe: the shell holds its lock around every call."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        # How many may be busy: `max_workers`, less those that end an abandoned task by themselves.
        self.capacity = limits.max_workers
        self.actions: list[Action] = []
        self.phase = Phase.OPEN
        self.idle: list[Worker] = []
        self.starting = 0
        self.busy = 0
        self.leaving = 0
        self.queued = 0
        self.queued_bytes = 0
        self.runnable = 0
        self.failed_starts = 0
        # How many of the workers that are starting were so when the last one failed.
        self._failing = 0
        self.run_time = RunTime()
        # Workers to keep alive whatever the load: `min_workers`, at least one while a pool opens.
        self._floor = limits.min_workers
        self._ready: list[tuple[int, int, Task]] = []
        self._parking: set[Lane] = set()
        # The lanes that had a task waiting when they were looked at last, or since.
        self._queues: set[Lane] = set()
        # How many wait, by priority.
        self._waiting: dict[int, int] = {}
        self._stale = 0
        self._sequence = count()
        self._retry_start_at = 0.0
        # Whether workers are missing that were not started, since that time had not come.
        self._is_held_back = False
        self._early_deaths = 0
        self._hold_until = 0.0
        self._peak_busy = 0

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
        limits = self.limits
        if (  # `_takes_at_once`, without the call: this is on the path of each task
            self.idle and not self.runnable and self.busy < self.capacity and not task.lane.is_full
        ):
            # Before the limits: they are of the queue, which this task does not enter. It may be
            # full of tasks of one function that is at its max_concurrency.
            task.sequence = next(self._sequence)
            task.queued_at = now
            worker = self.idle.pop()
            self._take(task, worker, now)
            self._grow(now)
            return worker
        if self.is_full:
            limit = "max_queued"
            raise Full(limit)
        if (
            limits.max_queued_bytes is not None
            and self.queued
            and self.queued_bytes + task.size_bytes > limits.max_queued_bytes
        ):
            limit = "max_queued_bytes"
            raise Full(limit)
        task.sequence = next(self._sequence)
        task.queued_at = now
        self._enqueue(task)
        self._grow(now)
        return None

    def set_limit(self, lane: Lane, limit: int | None, now: float) -> None:
        """Change how many tasks of a lane may run at once."""
        lane.limit = limit
        self._recount(lane)
        for _ in range(len(lane.parked)):  # they look anew whether they may run
            self._unpark(lane)
        self._serve(now)
        self._grow(now)

    def requeue(self, task: Task, now: float) -> None:
        """Put a running task back, at its old place, that its dead worker never received.

        The worker counts as leaving; report `gone` when its end is known.
        """
        worker = task.worker
        assert worker is not None
        if task.state is TaskState.RUNNING:
            # Not `abandon`: that would serve others before this task is back among them.
            self._end(worker, task)
            self._leave(worker, "dead")
        self._note_death(worker, now)
        if self.phase is Phase.CLOSED:
            self.actions.append(Refuse(task, Refusal.CLOSED))
            return
        self._enqueue(task)
        if self.is_failing:
            self._give_up()
        self._serve(now)
        self._grow(now)

    def withdraw(self, task: Task) -> bool:
        """Take a waiting task out; False if it is not waiting."""
        if task.state is TaskState.QUEUED:
            task.state = TaskState.DONE
            self._leave_ready(task.lane)
            self._leave_queue(task)
            self._unpark(task.lane)
            self._stale += 1
            if self._stale > _STALE_WORTH_A_REBUILD and self._stale * 2 > len(self._ready):
                self._ready = _without_stale(self._ready)
                self._stale = 0
        elif task.state is TaskState.PARKED:
            task.state = TaskState.DONE
            self._leave_queue(task)
            lane = task.lane
            lane.stale += 1
            if lane.stale > _STALE_WORTH_A_REBUILD and lane.stale * 2 > len(lane.parked):
                lane.parked = _without_stale(lane.parked)
                lane.stale = 0
        else:
            return False
        return True

    def finish(
        self, worker: Worker, now: float, *, recycle: bool = False, returned: bool = True
    ) -> Task | None:
        """Take note that the worker's task has ended and the worker is free.

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
        self._end(worker, task)
        if returned:
            worker.tasks_done += 1
            seconds = now - task.started_at
            self.run_time.add(seconds)
            task.lane.run_time.add(seconds)
        maximum = self.limits.max_tasks_per_worker
        if recycle or worker.is_recycled or (maximum is not None and worker.tasks_done >= maximum):
            self._leave(worker, "recycle")
            self._serve(now)
            self._grow(now)
            return None
        if self.phase is Phase.CLOSED:
            self._leave(worker, "close")
            return None
        if self.runnable and self.busy < self.capacity:
            following = self._next(now)
            if following is not None:
                self._take(following, worker, now)
                return following
        self._rest(worker, now)
        return None

    def abandon(
        self, worker: Worker, now: float, reason: str, *, is_given_time: bool = False
    ) -> None:
        """End the worker's task, which nobody waits for any more, and stop the worker.

        Args:
            worker: a busy worker.
            now: monotonic seconds.
            reason: for the action.
            is_given_time: whether the task is asked first to end by itself. Until the worker has
                recovered or is gone, it counts as one that runs its function.
        """
        task = worker.task
        assert task is not None
        if is_given_time:
            self._linger(worker, task.lane)
        self._end(worker, task)
        self._leave(worker, reason)
        self._serve(now)
        self._grow(now)

    # --- workers ---

    def ready(self, worker: Worker, now: float) -> None:
        """Take note that a started worker can take tasks."""
        self.starting -= 1
        self.failed_starts = self._failing = 0
        self._retry_start_at = self._hold_until
        self._floor = self.limits.min_workers
        if self.phase is Phase.CLOSED:
            self._leave(worker, "close")
            return
        self._rest(worker, now)
        self._serve(now)
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
        self._floor = max(self._floor, self.starting + self.busy + len(self.idle))
        self.idle.remove(worker)
        self._leave(worker, "recycle")
        self._grow(now)
        return True

    def recovered(self, worker: Worker, now: float) -> None:
        """Take note that an abandoned worker ended its task by itself and can be used again."""
        if worker.state is not WorkerState.LEAVING:
            return
        if self.phase is Phase.CLOSED:
            self.actions.append(StopWorker(worker, "close"))
            return
        self._stop_lingering(worker)
        self.leaving -= 1
        limits = self.limits
        self._floor = limits.min_workers
        self._rest(worker, now)
        self._serve(now)
        alive = self.starting + self.busy + len(self.idle)
        if worker in self.idle and alive > limits.max_workers + limits.spare_workers:
            # Another was started in its place meanwhile.
            self.idle.remove(worker)
            self._leave(worker, "idle")
        self._grow(now)

    def start_failed(self, worker: Worker, now: float) -> None:
        """Take note that a worker did not come up; the next attempt waits a little."""
        worker.state = WorkerState.GONE
        self.starting -= 1
        if self._failing:
            self._failing -= 1
        else:
            # One cause, such as the end of their supervisor, may fail all that were on their way.
            self._failing = self.starting
            self.failed_starts += 1
        self._retry_start_at = max(self._retry_start_at, now + _backoff(self.failed_starts))
        if self.is_failing:
            self._give_up()
        self._grow(now)

    def gone(self, worker: Worker, now: float) -> Task | None:
        """Take note that a worker, once ready, has ended.

        Returns:
            The task that it had, which has ended with it; None if it had none.
        """
        task = worker.task
        if worker.state is WorkerState.IDLE:
            self.idle.remove(worker)
            self._note_death(worker, now)
            if self.is_failing:
                self._give_up()
        elif worker.state is WorkerState.BUSY:
            assert task is not None
            self._end(worker, task)
        elif worker.state is WorkerState.LEAVING:
            self._stop_lingering(worker)
            self.leaving -= 1
        worker.state = WorkerState.GONE
        self._serve(now)
        self._grow(now)
        return task

    def open(self, now: float) -> None:
        """Accept tasks and start `min_workers`, at least one: somebody wants the pool warm."""
        if self.phase is Phase.DRAINING:
            self.phase = Phase.OPEN
        if not self.idle and not self.busy:
            # Until one is ready or all hope is lost: a first start that fails is tried again even
            # if no task waits, else whoever opens the pool would wait for ever.
            self._floor = max(self.limits.min_workers, 1)
        self._grow(now)

    def tick(self, now: float) -> None:
        """Do what is due: retry a failed start, retire workers that the load does not need."""
        idle_timeout = self.limits.idle_timeout
        if idle_timeout is not None and self.phase is Phase.OPEN:
            # Keep what the recent past needed: retiring by idle time alone would stop and start
            # the spare of a steadily loaded pool for ever.
            peak = min(self._peak_busy, self.limits.max_workers)
            keep = max(self.limits.min_workers, peak + self.limits.spare_workers if peak else 0)
            surplus = self.starting + self.busy + len(self.idle) - keep
            for worker in [w for w in self.idle if w.idle_since + idle_timeout <= now]:
                if surplus <= 0:
                    break
                surplus -= 1
                self.idle.remove(worker)
                self._leave(worker, "idle")
        self._peak_busy = self.busy
        self._is_held_back = False
        self._grow(now)

    def next_tick(self, now: float) -> float | None:
        """Return seconds until `tick` may have something to do; None: only after an event."""
        due: list[float] = []
        if self._retry_start_at > now:
            due.append(self._retry_start_at - now)
        elif self._is_held_back:  # whoever asks is late
            due.append(_SOON_SECONDS)
        idle_timeout = self.limits.idle_timeout
        if idle_timeout is not None and self.phase is Phase.OPEN:
            alive = self.starting + self.busy + len(self.idle)
            if alive > self.limits.min_workers:
                # A worker that is busy now, or kept because of a recent peak, is looked at again
                # one window later.
                oldest = min((worker.idle_since for worker in self.idle), default=now)
                wait = oldest + idle_timeout - now
                due.append(wait if wait > 0 else idle_timeout)
        return min(due) if due else None

    def close(self, *, kill: bool = False) -> None:
        """Accept nothing more; with `kill`, end what waits and stop every worker."""
        if self.phase is Phase.OPEN:
            self.phase = Phase.DRAINING
        if not kill:
            return
        self.phase = Phase.CLOSED
        self._refuse_all(Refusal.CLOSED)
        for worker in self.idle:
            self._leave(worker, "close")
        self.idle.clear()

    @property
    def is_drained(self) -> bool:
        """Whether no task is left, nor one that was abandoned and may end by itself."""
        return not self.queued and not self.busy and self.capacity == self.limits.max_workers

    @property
    def is_full(self) -> bool:
        """Whether no more tasks may wait. One that an idle worker can take at once is accepted."""
        limits = self.limits
        if limits.max_queued is None:
            return False
        # Those that wait for a worker that is still starting do not count as queued: else a pool
        # with max_queued=0 could never take its first call.
        return self.queued >= limits.max_queued + max(self.capacity - self.busy, 0)

    @property
    def is_failing(self) -> bool:
        """Whether no worker lives, and several in a row could not be started."""
        return self.has_failed_often and not (self.starting or self.busy or self.idle)

    @property
    def has_failed_often(self) -> bool:
        """Whether several workers in a row could not be started."""
        return max(self.failed_starts, self._early_deaths) >= _FAILED_STARTS_UNTIL_REFUSAL

    def retry_after(self, now: float, running: Iterable[Task] = ()) -> float:
        """Return seconds until a newcomer would be served, going by measured runs.

        All the work that is there, of which each function's runs take as long as they did of late,
        over the workers (Little's law).

        Args:
            now: monotonic seconds.
            running: the tasks that run.
        """
        work = 0.0
        # Where nothing was measured: a run takes as long again as the longest one has until now.
        unmeasured = self.run_time.mean
        for task in running:
            elapsed = now - task.started_at
            mean = task.lane.run_time.mean
            if not mean:
                mean = self.run_time.mean
                unmeasured = max(unmeasured, elapsed)
            # One that takes longer than usual has no end in sight.
            work += mean - elapsed if mean > elapsed else elapsed - mean
        for lane in self._lanes_that_wait():
            work += lane.waiting * (lane.run_time.mean or unmeasured)
        return work / self.limits.max_workers or unmeasured or _UNKNOWN_RETRY_SECONDS

    def is_too_late(self, task: Task, deadline: float, now: float) -> bool:
        """Return whether a newcomer could not end by its deadline, going by measured runs."""
        run = task.lane.run_time
        if deadline > now + self._wait(task) + run.mean:
            return False
        if deadline > now:
            # An estimate says so. Trust it a little less each time: else a function whose one
            # measured run was slow would be refused for ever, and never be measured again.
            run.mean *= _TRUST
        return True

    # --- inside ---

    def _wait(self, task: Task) -> float:
        """Return seconds that a newcomer would wait, going by measured runs."""
        if self._takes_at_once(task):
            return 0.0
        work = 0.0
        for lane in self._lanes_that_wait():
            # The rest of a function that is at its limit is behind whatever may run.
            work += lane.claim * (lane.run_time.mean or self.run_time.mean)
        ahead = sum(each for priority, each in self._waiting.items() if priority >= task.priority)
        share = min(ahead / self.runnable, 1.0) if self.runnable else 0.0
        wait = work * share / self.limits.max_workers
        lane = task.lane
        if lane.limit is None:
            return wait
        # Except that of its own function.
        return max(wait, min(lane.waiting, ahead) * lane.run_time.mean / lane.limit)

    def _lanes_that_wait(self) -> list[Lane]:
        self._queues = {lane for lane in self._queues if lane.waiting}
        return list(self._queues)

    def _takes_at_once(self, task: Task) -> bool:
        """Return whether an idle worker would be given a newcomer."""
        return bool(
            self.idle and not self.runnable and self.busy < self.capacity and not task.lane.is_full
        )

    def _enqueue(self, task: Task) -> None:
        task.state = TaskState.QUEUED
        task.worker = None
        self.queued += 1
        self.queued_bytes += task.size_bytes
        self._waiting[task.priority] = self._waiting.get(task.priority, 0) + 1
        self._make_ready(task)

    def _make_ready(self, task: Task) -> None:
        task.state = TaskState.QUEUED
        heappush(self._ready, (-task.priority, task.sequence, task))
        task.lane.ready += 1
        self._queues.add(task.lane)
        self._recount(task.lane)

    def _leave_ready(self, lane: Lane) -> None:
        lane.ready -= 1
        self._recount(lane)

    def _leave_queue(self, task: Task) -> None:
        self.queued -= 1
        self.queued_bytes -= task.size_bytes
        left = self._waiting[task.priority] - 1
        if left:
            self._waiting[task.priority] = left
        else:  # priorities may be of any number
            del self._waiting[task.priority]

    def _recount(self, lane: Lane) -> None:
        claim = lane.ready
        if lane.limit is not None:
            claim = min(claim, max(lane.limit - lane.running, 0))
        self.runnable += claim - lane.claim
        lane.claim = claim

    def _unpark(self, lane: Lane) -> None:
        # One task of the lane left the ready heap or a worker, so one parked task takes its
        # place, always: the heap then restores the order among it and later arrivals.
        while lane.parked:
            _, _, task = heappop(lane.parked)
            if task.state is TaskState.PARKED:
                self._make_ready(task)
                return
            lane.stale -= 1
        self._parking.discard(lane)

    def _next(self, now: float) -> Task | None:
        while self._ready:
            _, _, task = heappop(self._ready)
            if task.state is not TaskState.QUEUED:
                self._stale -= 1
                continue
            lane = task.lane
            self._leave_ready(lane)
            if task.start_by is not None and task.start_by <= now:
                self._leave_queue(task)
                task.state = TaskState.DONE
                self.actions.append(Refuse(task, Refusal.DEADLINE))
                self._unpark(lane)
            elif lane.is_full:
                task.state = TaskState.PARKED
                heappush(lane.parked, (-task.priority, task.sequence, task))
                self._parking.add(lane)
            else:
                self._leave_queue(task)
                return task
        return None

    def _take(self, task: Task, worker: Worker, now: float) -> None:
        task.state = TaskState.RUNNING
        task.worker = worker
        task.started_at = now
        lane = task.lane
        lane.running += 1
        if lane.limit is not None:
            self._recount(lane)
        worker.state = WorkerState.BUSY
        worker.task = task
        self.busy += 1
        if self.busy > self._peak_busy:  # noqa: PLR1730 - max() is a call on the path of each task
            self._peak_busy = self.busy

    def _end(self, worker: Worker, task: Task) -> None:
        task.state = TaskState.DONE
        worker.task = None
        self.busy -= 1
        lane = task.lane
        lane.running -= 1
        if lane.limit is not None:
            self._recount(lane)
            self._unpark(lane)

    def _linger(self, worker: Worker, lane: Lane) -> None:
        worker.lingers_in = lane
        self.capacity -= 1
        lane.running += 1  # `_end` takes it back

    def _stop_lingering(self, worker: Worker) -> None:
        lane, worker.lingers_in = worker.lingers_in, None
        if lane is None:
            return
        self.capacity += 1
        lane.running -= 1
        if lane.limit is not None:
            self._recount(lane)
            self._unpark(lane)

    def _rest(self, worker: Worker, now: float) -> None:
        worker.state = WorkerState.IDLE
        worker.idle_since = now
        # Last in, first out: the warmest worker is used again, the coldest one can retire.
        self.idle.append(worker)

    def _leave(self, worker: Worker, reason: str) -> None:
        worker.state = WorkerState.LEAVING
        self.leaving += 1
        if worker.tasks_done:
            self._early_deaths = 0
        self.actions.append(StopWorker(worker, reason))

    def _serve(self, now: float) -> None:
        while self.idle and self.runnable and self.busy < self.capacity:
            task = self._next(now)
            if task is None:
                return
            worker = self.idle.pop()
            self._take(task, worker, now)
            self.actions.append(Assign(task, worker))

    def _grow(self, now: float) -> None:
        limits = self.limits
        if (
            len(self.idle) >= limits.spare_workers
            and not self.runnable
            and self.busy + len(self.idle) + self.starting >= self._floor
        ):
            # On the path of each task: there is a spare, and nobody waits.
            return
        if self.phase is Phase.CLOSED:
            return
        wanted = min(self.busy + self.runnable, self.capacity)
        if wanted and self.phase is Phase.OPEN:
            wanted += limits.spare_workers
        if self.phase is Phase.OPEN:
            wanted = max(wanted, self._floor)
        missing = wanted - self.busy - self.starting - len(self.idle)
        if missing <= 0:
            return
        if now < self._retry_start_at:
            self._is_held_back = True
            return
        if self.failed_starts:
            # Probe with one worker; the others follow when it has come up.
            missing = 0 if self.starting else 1
        for _ in range(missing):
            self.starting += 1
            self.actions.append(StartWorker())

    def _note_death(self, worker: Worker, now: float) -> None:
        # A worker that comes up and dies before its first task has failed to start, only later:
        # else it would be replaced, and its task put back, in a tight loop for ever. `ready` does
        # not reset this count, since each of them was ready.
        if worker.tasks_done:
            self._early_deaths = 0
            return
        if now >= self._hold_until + _BACKOFF_MAX_SECONDS:
            # The last one was long ago: this is news, not a loop.
            self._early_deaths = 0
        self._early_deaths += 1
        self._hold_until = now + _backoff(self._early_deaths)
        self._retry_start_at = max(self._retry_start_at, self._hold_until)

    def _give_up(self) -> None:
        self._floor = self.limits.min_workers
        self._refuse_all(Refusal.START_FAILED)

    def _refuse_all(self, refusal: Refusal) -> None:
        waiting = [task for _, _, task in self._ready if task.state is TaskState.QUEUED]
        for lane in self._parking:
            waiting += [task for _, _, task in lane.parked if task.state is TaskState.PARKED]
            lane.parked.clear()
            lane.stale = 0
        self._parking.clear()
        self._ready.clear()
        self._stale = 0
        for task in sorted(waiting, key=lambda task: task.sequence):
            if task.state is TaskState.QUEUED:
                self._leave_ready(task.lane)
            self._leave_queue(task)
            task.state = TaskState.DONE
            self.actions.append(Refuse(task, refusal))


def _backoff(failures: int) -> float:
    """Return the seconds to wait after a failure, the `failures`-th in a row."""
    return min(_BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 16), _BACKOFF_MAX_SECONDS)


def _without_stale(heap: list[tuple[int, int, Task]]) -> list[tuple[int, int, Task]]:
    live = [entry for entry in heap if entry[2].state is not TaskState.DONE]
    heapify(live)
    return live
