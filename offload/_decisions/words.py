"""What the decisions are about: tasks, workers, functions' lanes, and the actions that follow."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from offload._decisions.run_time import RunTime

__all__ = [
    "WAITING",
    "Action",
    "Assign",
    "Cancelled",
    "Closed",
    "Full",
    "Lane",
    "Limits",
    "Phase",
    "Refusal",
    "Refuse",
    "StartWorker",
    "StopReason",
    "StopWorker",
    "Task",
    "TaskState",
    "Worker",
    "WorkerState",
]


class TaskState(enum.Enum):
    """The one place that a task is in."""

    NEW = "new"
    """Not admitted yet."""

    QUEUED = "queued"
    """Waiting for a worker."""

    PARKED = "parked"
    """Waiting for its function to be below its `max_concurrency`."""

    ASSIGNED = "assigned"
    """Given to a worker, and not sent to it yet."""

    RUNNING = "running"
    """Sent to its worker."""

    UNWANTED = "unwanted"
    """Running on, for nobody: its worker cannot be stopped."""

    DONE = "done"
    """Ended."""


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

    TOO_LATE = "it had to start by an instant that has passed"
    START_FAILED = "no worker can be started"
    CLOSED = "the pool was closed"


class StopReason(enum.Enum):
    """Why a worker is stopped."""

    IDLE = "idle"
    """The load does not need it."""

    RECYCLE = "recycle"
    """It is replaced by plan."""

    CLOSE = "close"
    """The pool was closed."""

    DEAD = "dead"
    """It had ended before its task reached it: nothing is left to stop."""

    CANCEL = "cancel"
    """The caller of its task has left."""

    KILL = "kill"
    """Somebody stopped its task by hand."""

    TIMEOUT = "timeout"
    """Its task took too long."""

    CLOSE_UNDER_LOAD = "close under load"
    """The pool was closed while it ran a task."""

    @property
    def is_urgent(self) -> bool:
        """Whether the worker has a task that must end now."""
        return self in _URGENT


_URGENT = frozenset(
    {StopReason.CANCEL, StopReason.KILL, StopReason.TIMEOUT, StopReason.CLOSE_UNDER_LOAD}
)


class Cancelled(enum.Enum):
    """What the cancellation of a task has come to."""

    WITHDRAWN = "it waited, and will not run"
    UNUSED = "it had not been sent to its worker, and will not run"
    STOPPED = "it runs, and its worker is told to stop"
    UNSTOPPABLE = "it runs on, for nobody: its worker cannot be stopped"
    TOO_LATE = "it had ended"


class Full(Exception):  # noqa: N818 - a signal between dispatcher and shell, which raises QueueFullError
    """The task was not admitted; `limit` names the option that it hit."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Closed(Exception):  # noqa: N818 - as Full; the shell raises PoolClosedError
    """The pool no longer accepts tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers that the decisions depend on; see `offload.pool.Pool` for their meaning.

    Attributes:
        can_stop: whether a worker that runs a task can be stopped.
    """

    min_workers: int = 0
    max_workers: int = 1
    spare_workers: int = 1
    max_queued: int | None = 1000
    max_queued_bytes: int | None = None
    idle_timeout: float | None = 60.0
    max_tasks_per_worker: int | None = None
    can_stop: bool = True


class Lane:
    """All tasks of one function, which may be limited to `limit` running at once."""

    __slots__ = ("claim", "limit", "name", "parked", "ready", "run_time", "running", "stale")

    def __init__(self, limit: int | None = None, name: str = "") -> None:
        self.limit = limit
        self.name = name
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
    """One attempt at a call, on its way through the pool; the pool subclasses it."""

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
    """One worker as the decisions see it; `offload._workers` subclasses it."""

    __slots__ = (
        "idle_since",
        "is_recycled",
        "lingers_in",
        "number",
        "state",
        "task",
        "tasks_done",
    )

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.state = WorkerState.STARTING
        # Whether it is to be replaced when its task has ended.
        self.is_recycled = False
        # The lane of its last task, which was cancelled and is given time to end by itself.
        self.lingers_in: Lane | None = None
        self.task: Task | None = None
        self.tasks_done = 0
        self.idle_since = 0.0


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start one worker, then report `ready` or `start_failed`."""


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Stop this worker, then report `gone`; or `recovered`, if its task ends by itself in time.

    Attributes:
        worker: the worker.
        reason: why.
        grace: seconds that its task has to end by itself.
    """

    worker: Worker
    reason: StopReason
    grace: float = 0.0


@dataclass(frozen=True, slots=True)
class Assign:
    """Run the task on the worker, then report `finish`, `cancel` or `gone`."""

    task: Task
    worker: Worker


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the waiting caller that its task did not run."""

    task: Task
    refusal: Refusal


Action = StartWorker | StopWorker | Assign | Refuse
