"""The border between a pool and its workers: what either asks of the other, and reports to it.

    pool ──── WorkerBackend: start, close ─────────► the workers of one pool
    pool ──── PoolWorker: send, stop, revoke ──────► one worker
    pool ◄─── WorkerOwner: ready, replied, gone ───  all of them

Two backends stand behind it: processes of our own (`offload._workers.process`) and executors
(`offload._workers.executor`).
"""

from __future__ import annotations

import enum
import signal as signals
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from offload._decisions.words import Worker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from offload._decisions.words import StopReason
    from offload._wire.frames import Frame
    from offload._wire.payload import Request

__all__ = [
    "Exit",
    "PoolWorker",
    "Revoked",
    "Settings",
    "WorkerBackend",
    "WorkerOwner",
    "WorkerTask",
]


class Revoked(enum.Enum):
    """What came of keeping the function of a task from being entered."""

    UNSTARTED = "it was not entered, and will not be"
    FREED = "its worker is free; whether it was entered nobody knows"
    NO = "it was entered, or may have been"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended.

    Attributes:
        pid: process id, None where unknown.
        exit_code: its exit code, None if a signal ended it or where unknown.
        signal: number of the signal that ended it.
        received: whether it had taken its last task.
        started: whether it had entered the function of its last task.
        why: why it was killed, if that was by us.
    """

    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    received: bool = True
    started: bool = True
    why: str = ""

    def __str__(self) -> str:
        """Say it in words."""
        who = f"process {self.pid}" if self.pid else "its process"
        if self.signal is not None:
            try:
                name = signals.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            if self.why:
                return f"{who} was killed, since {self.why}"
            hint = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
            return f"{who} was killed by {name}{hint}"
        if self.exit_code is not None:
            return f"{who} exited with code {self.exit_code}"
        return f"{who} ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What workers are started with; see `offload.pool.Pool`.

    `initializer` is pickled once for all, or makes it anew for each worker: with locks, queues and
    the like of multiprocessing among its arguments. `walls` is what a worker is kept from, as
    `offload._child.hardening` takes it. `errors` are the exceptions that workers may have raised
    here, by name, where they send data only; None: they send pickles.
    """

    name: str
    os_priority: str
    start_method: str
    start_timeout: float
    initializer: bytes | Callable[[], bytes] | None
    preload: tuple[str, ...]
    env: dict[str, str | None]
    max_memory_bytes: int | None
    walls: dict[str, Any] | None
    errors: dict[str, type[Exception]] | None


class WorkerTask(Protocol):
    """A task, as its worker sees it."""

    loop: asyncio.AbstractEventLoop
    request: Request


class PoolWorker(Worker, ABC):
    """One worker of a pool: what is done to a worker is a method of it.

    Attributes:
        pid: its process id, None where unknown.
        stopped_task: that which it was stopped for, if somebody waits for the end of it.
    """

    __slots__ = ("pid", "stopped_task")

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.pid: int | None = None
        self.stopped_task: WorkerTask | None = None

    @abstractmethod
    def send(self, task: WorkerTask) -> bool:
        """Send a task, on the thread of its loop; `WorkerOwner.replied` follows.

        Returns:
            False if the worker is dead: it did not receive the task.
        """

    @abstractmethod
    def send_more(self, kind: int, body: bytes) -> None:
        """Send a frame that belongs to the stream that is running; on the thread of its loop."""

    @abstractmethod
    def stop(self, reason: StopReason, grace: float) -> None:
        """Stop the worker; on any thread.

        `WorkerOwner.worker_gone` follows, or `worker_recovered` if its task ends in time by itself.

        Args:
            reason: why; an urgent one is that of a task that must end.
            grace: seconds that the task has to end by itself.
        """

    @abstractmethod
    def revoke(self, task: WorkerTask) -> Revoked:
        """Keep the function of its task from being entered; after `stop`, on any thread."""

    def is_unresponsive(self, task: WorkerTask, seconds: float) -> bool:  # noqa: ARG002
        """Return whether it was sent a task so long ago, and does not take it, though it could."""
        return False

    def replace(self) -> None:
        """Kill one that does not take its task: `WorkerOwner.worker_gone` follows."""
        raise NotImplementedError

    @abstractmethod
    def has_replied(self, task: WorkerTask) -> bool:
        """Return whether the reply to a task is there, or about to be, and only not yet read."""


class WorkerOwner(Protocol):
    """The pool, as its workers see it. May be called on any thread, but where noted.

    Tasks are the owner's own, of which workers know no more than `WorkerTask`.
    """

    def worker_ready(self, worker: Any) -> None:
        """Report that a worker can take tasks."""
        ...

    def worker_failed(self, worker: Any, detail: str) -> None:
        """Report that a worker did not come up."""
        ...

    def worker_gone(self, worker: Any, how: Exit) -> None:
        """Report that a worker, once ready, has ended."""
        ...

    def worker_recovered(self, worker: Any) -> None:
        """Report that a worker which was told to stop ended its task by itself."""
        ...

    @property
    def replied(self) -> Replied:
        """Report a frame that belongs to a task, on the thread of the task's loop."""
        ...

    @property
    def ended_elsewhere(self) -> EndedElsewhere:
        """Report the end of a task of an executor, on any thread."""
        ...

    def modules(self) -> list[str]:
        """Return what a new worker should import before its first task."""
        ...


class Replied(Protocol):
    """Takes a frame of a task: its reply, an item, a report of progress. It owns the frame."""

    def __call__(self, task: Any, frame: Frame, /) -> bool:
        """Take the frame; False if the task has no use for it, which is then the worker's."""
        ...


class EndedElsewhere(Protocol):
    """Takes the reply of a task, or the error that it ended with."""

    def __call__(
        self, task: Any, frame: Frame | None, error: BaseException | None = None, /
    ) -> None:
        """Take it."""
        ...


class WorkerBackend(Protocol):
    """The workers of one pool. May be called on any thread.

    Attributes:
        has_descriptors: whether files can travel to a worker as descriptors.
        can_stop: whether a running task can be stopped.
        can_ask: whether a task that is to stop is asked first, and has its `grace`.
        os_priority: the OS priority of its workers, where it is for us to set.
        missing_walls: what workers were to be kept from, and this system does not keep them from.
    """

    os_priority: str
    has_descriptors: bool
    can_stop: bool
    can_ask: bool
    missing_walls: tuple[str, ...]

    def start(self) -> None:
        """Start one worker; `WorkerOwner.worker_ready` or `worker_failed` follows."""
        ...

    def renew(self) -> None:
        """Have workers that are started from now on share nothing with those before."""
        ...

    def close(self) -> Future[None]:
        """Kill every worker; the future is done when nothing of them is left."""
        ...

    def forget(self) -> None:
        """Let go of everything: this is a forked copy of the process that has the workers."""
        ...

    def workers(self) -> Sequence[PoolWorker]:
        """Return the workers that are alive."""
        ...
