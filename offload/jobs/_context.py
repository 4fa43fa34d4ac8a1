"""Inside a job: which one this is, and how to tell how far it is."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["JobContext", "job_context"]


class Task(Protocol):
    """The pool's task that runs the attempt."""

    def cancelled(self) -> bool:
        """Return whether it is to stop."""
        ...

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell how far it is."""
        ...


class JobContext:
    """The job that is being run, as seen by its function.

    Attributes:
        id: of the job.
        function: the function, as `module:qualname`.
        queue: name of its queue.
        attempt: number of this attempt, from 1.
        max_attempts: errors and timeouts up to which the job is tried.
        enqueued_by: the program that enqueued it.
    """

    __slots__ = ("_task", "attempt", "enqueued_by", "function", "id", "max_attempts", "queue")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the field's name
        function: str,
        queue: str,
        attempt: int,
        max_attempts: int,
        enqueued_by: str,
        task: Task | None = None,
    ) -> None:
        self.id: Final = id
        self.function: Final = function
        self.queue: Final = queue
        self.attempt: Final = attempt
        self.max_attempts: Final = max_attempts
        self.enqueued_by: Final = enqueued_by
        self._task: Final = task

    def __repr__(self) -> str:
        """Return id and attempt."""
        return f"<JobContext {self.id} attempt {self.attempt}>"

    def cancelled(self) -> bool:
        """Return whether the attempt is to stop: cancelled, timed out, or handed back.

        A function that can stop early asks this now and then, given a `grace` in the options of
        `@offload`: so long after this has become true its process ends.
        """
        return self._task is not None and self._task.cancelled()

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell how far the job is. Cheap to call often: some reports a second are kept.

        Args:
            done: how much is done, in a unit of your choice.
            total: how much there is, None where unknown.
        """
        if self._task is not None:
            self._task.progress(done, total)


_current: ContextVar[JobContext | None] = ContextVar("offload_job", default=None)


def job_context() -> JobContext | None:
    """Return the job that this code runs in; None: in none, such as in a direct call."""
    return _current.get()


class entered:  # noqa: N801 - reads as a statement
    """While entered, `job_context` returns the context."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = _current.set(self._context)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


if TYPE_CHECKING:
    _: type[AbstractContextManager[None]] = entered
