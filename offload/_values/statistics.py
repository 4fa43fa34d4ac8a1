"""What a pool tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextvars import Context

    from offload._values.histogram import HistogramSnapshot
    from offload._values.outcome import Outcome

__all__ = [
    "FailureRecord",
    "FunctionStatistics",
    "PoolStatistics",
    "TaskStatistics",
    "WorkerStatistics",
]


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """One worker at one instant.

    Attributes:
        pid: process id, None where unknown.
        state: "starting", "idle", "busy" or "leaving".
        function: what it runs, as `module:qualname`; None if nothing.
        tasks_done: tasks that it has completed.
        run_seconds: seconds since its current task was sent; None if it has none.
        recycling: whether it will be replaced when its task has ended.
        starved: whether it got next to no CPU time of late (Linux).
        task_id: its current task, see `TaskStatistics`; None if it has none.
        progress: what the function of its task has reported last, with the total if there is one.
    """

    pid: int | None
    state: str
    function: str | None
    tasks_done: int
    run_seconds: float | None
    recycling: bool = False
    starved: bool = False
    task_id: str | None = None
    progress: tuple[float, float | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatistics:
    """A task that waits or runs, at one instant.

    Attributes:
        id: its name in this pool, for `Pool.stop_task`; no other task of that pool has it.
        function: `module:qualname`.
        state: "waiting" for a worker; "held", until its function is below its `max_concurrency`;
            "running"; or "unwanted", which runs on although nobody wants it, in an executor that
            cannot stop it.
        priority: those of a higher one go first.
        wait_seconds: between admission and start; until now, where it has not started.
        run_seconds: since it was given to its worker; None while it waits.
        pid: process id of its worker, None where it has none or it is unknown.
        timeout: seconds that it may run; None: no limit.
        size_bytes: size of its pickled arguments.
        progress: what its function has reported last, with the total if there is one.
        arguments: as they would be written, cut; None unless the pool has `show_arguments`.
        context: the context variables of its caller when it called.
    """

    id: str
    function: str
    state: str
    priority: int
    wait_seconds: float
    run_seconds: float | None
    pid: int | None
    timeout: float | None
    size_bytes: int
    progress: tuple[float, float | None] | None
    arguments: str | None
    context: Context = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStatistics:
    """What became of the calls of one function in a pool. Counters start with the pool object.

    Each call is counted once, by its `Outcome`, where its caller gets the result.

    Attributes:
        name: `module:qualname`.
        running: tasks that run now.
        queued: calls that wait now.
        max_concurrency: how many of its tasks may run at once; None: as many as there are workers.
        completed: calls whose function returned.
        failed: calls whose function raised, or whose payload did not cross.
        refused: calls that found the queue full.
        not_started: calls that waited and did not run.
        timed_out: calls that ran longer than their timeout or deadline.
        cancelled: calls whose caller left, or that were stopped by hand.
        crashed: calls whose worker died.
        attempts: tasks that have ended; a call that was run again has several.
        crashes: attempts whose worker died, those of calls that were run again included.
        wait: seconds between admission and start.
        run: seconds between start and reply, as the server sees them.
    """

    name: str
    running: int
    queued: int
    max_concurrency: int | None
    completed: int
    failed: int
    refused: int
    not_started: int
    timed_out: int
    cancelled: int
    crashed: int
    attempts: int
    crashes: int
    wait: HistogramSnapshot
    run: HistogramSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """A call that ended in an error, as its caller got it.

    Attributes:
        at: when, as `time.time()`.
        function: `module:qualname`.
        kind: its outcome, such as "failed" or "crashed".
        error: name of the error's type.
        message: its text, at most 2,000 characters.
        traceback: the worker's traceback, its last 32,000 characters; "" where there is none.
        pid: process id of the worker; None if it had none.
        story: what happened to the pool before that, the oldest first; see `Pool.story`.
    """

    at: float
    function: str
    kind: Outcome
    error: str
    message: str
    traceback: str
    pid: int | None
    story: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """A pool at one instant. Counters start with the pool object, and survive its closing.

    Attributes:
        name: the pool's.
        state: "new" (no call yet), "open", "draining" or "closed".
        max_workers: how many tasks may run at once.
        starting: workers that are starting.
        idle: workers that wait for a task.
        busy: workers that run one.
        leaving: workers that are ending.
        queued: calls that wait for a worker.
        queued_bytes: size of their pickled arguments.
        running_bytes: size of the pickled arguments of the calls that run.
        completed: calls whose function returned.
        failed: calls whose function raised, or whose payload did not cross.
        refused: calls that found the queue full.
        not_started: calls that waited and did not run.
        timed_out: calls that ran longer than their timeout.
        cancelled: calls whose caller left, or that were stopped by hand.
        crashed: calls whose worker died.
        attempts: tasks that have ended; a call that was run again has several.
        crashes: attempts whose worker died, those of calls that were run again included.
        recycled: workers replaced by plan.
        starved_workers: workers that start or run a task, and got less than a twentieth of the CPU
            time that they could have used in the last second or so. Known on Linux.
        starved_seconds: seconds that such workers have waited for a CPU, added up.
        throttled_seconds: seconds in which a CPU quota stopped the cgroup while workers had
            something to do. Known on Linux.
        wait: seconds between admission and start.
        run: seconds between start and reply, as the server sees them.
        workers: each worker.
        functions: each function that was called, by name.
        failures: the last calls that failed, at most 50, the oldest first.
        opened_at: when this period of the pool began, as `time.time()`; 0.0 while it is new.
        max_queued: how many calls may wait; None: no limit.
        max_queued_bytes: how large their pickled arguments may be together; None: no limit.
        missing_walls: what `harden` asks for and this system does not allow, such as "network".
        results: how what workers say is read: "pickle" or "data".
    """

    name: str
    state: str
    max_workers: int
    wait: HistogramSnapshot
    run: HistogramSnapshot
    starting: int = 0
    idle: int = 0
    busy: int = 0
    leaving: int = 0
    queued: int = 0
    queued_bytes: int = 0
    running_bytes: int = 0
    completed: int = 0
    failed: int = 0
    refused: int = 0
    not_started: int = 0
    timed_out: int = 0
    cancelled: int = 0
    crashed: int = 0
    attempts: int = 0
    crashes: int = 0
    recycled: int = 0
    starved_workers: int = 0
    starved_seconds: float = 0.0
    throttled_seconds: float = 0.0
    workers: tuple[WorkerStatistics, ...] = ()
    functions: tuple[FunctionStatistics, ...] = ()
    failures: tuple[FailureRecord, ...] = ()
    opened_at: float = 0.0
    max_queued: int | None = None
    max_queued_bytes: int | None = None
    missing_walls: tuple[str, ...] = ()
    results: str = "pickle"
