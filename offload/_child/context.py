"""Where am I: inside a worker or not, and in which task."""

from __future__ import annotations

import sys
import time

from offload._wire.lean import contextvars
from offload._wire.page import CANCEL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TaskContext", "asyncio_loop", "in_async_code", "in_worker", "task_context"]

_REPORT_SECONDS = 0.05


class _Process:
    """What this process is; one instance, changed when a worker begins, and at each task."""

    is_worker = False
    page: memoryview | None = None
    report: Callable[[float, float | None], None] | None = None
    task: TaskContext | None = None


process = _Process()


class TaskContext:
    """The task that is being run, as seen by its function.

    Attributes:
        function: the function as `module:qualname`.
        started_at: `time.monotonic()` instant at which the worker began with it.
    """

    __slots__ = ("_deadline", "_last_total", "_next_report", "_timeout", "function", "started_at")

    def __init__(self, function: str, timeout: float | None, deadline: float | None = None) -> None:
        self.function: str = function
        self._timeout = timeout
        # The instant itself only where both processes have one clock, which they have on one
        # host: a duration, as executors are given, forgets what passes until the task begins.
        self._deadline = deadline
        self.started_at: float = time.monotonic()
        self._next_report = 0.0
        self._last_total: float | None = None

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` instant at which the task will be stopped; None: no limit."""
        if self._timeout is None:
            return self._deadline
        stop = self.started_at + self._timeout
        return stop if self._deadline is None else min(stop, self._deadline)

    def cancelled(self) -> bool:
        """Return whether nobody waits for the result any more.

        A function that can stop early asks this now and then, given a `grace` in its options. It
        reads one byte of shared memory, so asking often costs next to nothing. Always False in a
        worker of an executor, which has no such memory.
        """
        page = process.page
        return page is not None and page[CANCEL] != 0

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell the caller how far this is, if it asked with `on_progress`.

        Cheap to call often: at most some twenty reports a second cross to the caller, and the
        first one where `done` equals `total`. Nothing in a worker of an executor.

        Args:
            done: how much is done, in a unit of your choice.
            total: how much there is, None where unknown.
        """
        report = process.report
        # A thread that a task has left behind would report to the caller of the next one.
        if report is None or process.task is not self:
            return
        now = time.monotonic()
        is_last = total is not None and done == total and total != self._last_total
        if is_last or now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            if is_last:
                self._last_total = total
            report(done, total)


running_task: contextvars.ContextVar[TaskContext | None] = contextvars.ContextVar(
    "offload_task", default=None
)


def task_context() -> TaskContext | None:
    """Return the task that this code runs in, None outside a worker."""
    return running_task.get()


def enter(context: TaskContext | None) -> None:
    """Make `context` the current task of this thread, and of a worker."""
    running_task.set(context)
    process.task = context


def in_worker() -> bool:
    """Return whether this code runs in a worker of a pool."""
    return process.is_worker or running_task.get(None) is not None


def asyncio_loop() -> object:
    """Return asyncio's running loop, None under trio and in plain threads."""
    # None under trio, and where asyncio has not even been imported.
    asyncio = sys.modules.get("asyncio")
    return asyncio._get_running_loop() if asyncio is not None else None  # noqa: SLF001


def in_async_code() -> bool:
    """Return whether an event loop runs in this thread: asyncio's, or trio's.

    What is called then may be called by plain code inside of a coroutine; it is async all the same,
    and must not hold up the loop.
    """
    if asyncio_loop() is not None:
        return True
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_trio_token()
    except (AttributeError, RuntimeError):  # AttributeError: it is being imported
        return False
    return True
