"""All errors of the library, each of which says whether the function may have run.

Every error pickles, and every error has the attributes `function`, `pool` and `may_have_run`. A
class that has a fitting builtin also inherits it, so that code that only knows `TimeoutError` or
`LookupError` keeps working.

An error is declared here, and nowhere else: `outcome` is how statistics, metrics and traces count a
call that ends with it, `may_have_run` what holds where an instance does not know better.
"""

from __future__ import annotations

from typing import Any, ClassVar

from offload._values.outcome import Outcome

__all__ = [
    "ArgumentError",
    "ClientDisconnectedError",
    "DeadlineError",
    "FunctionError",
    "FunctionNotFoundError",
    "OffloadError",
    "PoolClosedError",
    "PoolNotFoundError",
    "QueueFullError",
    "QueueTimeoutError",
    "RemoteError",
    "RemoteTraceback",
    "ResultError",
    "TaskCpuError",
    "TaskKilledError",
    "TaskMemoryError",
    "TaskTimeoutError",
    "WorkerCrashedError",
    "WorkerStartError",
]


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    # Not through cls(*args): subclasses take keywords that are not in `args`, the classic way to
    # make an exception that pickles but does not unpickle (cpython#79492).
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class OffloadError(Exception):
    """Base of all errors of this library.

    Attributes:
        function: the function as `module:qualname`; None where the error is of no function.
        pool: name of the pool; None where the error is of no pool.
        may_have_run: False if the function did not run; True if it ran, in part or whole, and
            where that is unknown.
    """

    outcome: ClassVar[Outcome] = Outcome.FAILED
    may_have_run: bool = True

    def __init__(
        self,
        message: str = "",
        *,
        function: str | None = None,
        pool: str | None = None,
        may_have_run: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.function = function
        self.pool = pool
        if may_have_run is not None:
            self.may_have_run = may_have_run

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by class, args and attributes, whatever the signature of `__init__`."""
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class FunctionError(OffloadError, TypeError):
    """The function cannot be offloaded at all; raised when decorated or called. It did not run.

    Raised for `async def`, lambdas, functions defined inside functions, and for everything else
    that a worker process could not find by module and name.
    """

    may_have_run = False


class FunctionNotFoundError(OffloadError, LookupError):
    """A worker could not import the function by module and name. It did not run."""

    may_have_run = False


class PoolNotFoundError(OffloadError, LookupError):
    """A function names a pool that does not exist. It did not run."""

    outcome = Outcome.NOT_STARTED
    may_have_run = False


class ArgumentError(OffloadError, TypeError):
    """An argument cannot cross to the worker: it does not pickle or unpickle. It did not run.

    Also raised where memory or descriptors ran out for a large one; its cause is the `OSError`.

    Attributes:
        parameter: name of the parameter that holds the culprit, None where unknown.
    """

    may_have_run = False

    def __init__(self, message: str, *, parameter: str | None = None, **common: Any) -> None:
        super().__init__(message, **common)
        self.parameter = parameter


class ResultError(OffloadError, TypeError):
    """The result cannot cross back: it does not pickle or unpickle. The function ran.

    Also raised where memory or descriptors ran out for a large one.
    """


class QueueFullError(OffloadError):
    """The pool's wait queue is full and the call was refused at once. It did not run.

    Attributes:
        retry_after: seconds until a place is likely to be free.
        limit: the option that was hit, `max_queued` or `max_queued_bytes`.
    """

    outcome = Outcome.REFUSED
    may_have_run = False

    def __init__(
        self, message: str, *, retry_after: float, limit: str = "max_queued", **common: Any
    ) -> None:
        super().__init__(message, **common)
        self.retry_after = retry_after
        self.limit = limit


class QueueTimeoutError(OffloadError, TimeoutError):
    """The call waited in the queue longer than its `queue_timeout`. It did not run.

    Attributes:
        timeout: the `queue_timeout` in seconds.
        retry_after: seconds until the queue is likely to be short enough.
    """

    outcome = Outcome.NOT_STARTED
    may_have_run = False

    def __init__(self, message: str, *, timeout: float, retry_after: float, **common: Any) -> None:
        super().__init__(message, **common)
        self.timeout = timeout
        self.retry_after = retry_after


class ClientDisconnectedError(OffloadError):
    """The client of the HTTP request left, and the call was stopped. It may have run in part.

    Raised where `offload.starlette.CancelOnDisconnect` is in force: in calls that wait or run when
    the client leaves, and in calls that are made after that, which do not run.
    """

    outcome = Outcome.CANCELLED


class DeadlineError(OffloadError, TimeoutError):
    """The call could not end by its `deadline`. It may have run if it was running by then.

    A call whose deadline has passed, or would pass while it waits and runs for as long as its
    function usually does, is not started.

    Attributes:
        deadline: the `time.monotonic()` instant in seconds.
    """

    outcome = Outcome.TIMED_OUT

    def __init__(self, message: str, *, deadline: float, **common: Any) -> None:
        super().__init__(message, **common)
        self.deadline = deadline


class TaskTimeoutError(OffloadError, TimeoutError):
    """A worker had the call for longer than its `timeout`, and was stopped. It may have run.

    It did not run if the worker was still busy with its arguments or its module.

    Attributes:
        timeout: the run `timeout` in seconds.
    """

    outcome = Outcome.TIMED_OUT

    def __init__(self, message: str, *, timeout: float, **common: Any) -> None:
        super().__init__(message, **common)
        self.timeout = timeout


class TaskCpuError(OffloadError, TimeoutError):
    """The task took more CPU time than its `max_cpu_seconds`, and its worker was ended. It ran.

    Attributes:
        max_cpu_seconds: the limit in seconds.
    """

    outcome = Outcome.TIMED_OUT

    def __init__(self, message: str, *, max_cpu_seconds: float, **common: Any) -> None:
        super().__init__(message, **common)
        self.max_cpu_seconds = max_cpu_seconds


class TaskMemoryError(OffloadError):
    """The task, or the pickling of its result, reached its `max_memory_bytes`. It ran.

    Attributes:
        max_memory_bytes: the limit in bytes.
    """

    def __init__(self, message: str, *, max_memory_bytes: int, **common: Any) -> None:
        super().__init__(message, **common)
        self.max_memory_bytes = max_memory_bytes


class WorkerCrashedError(OffloadError):
    """The worker died while it had the call. It may have run if the function had been entered.

    Attributes:
        pid: process id of the dead worker, None where unknown.
        exit_code: its exit code, None if a signal ended it or where unknown.
        signal: number of the signal that ended it, None if it exited or where unknown.
    """

    outcome = Outcome.CRASHED

    def __init__(
        self,
        message: str,
        *,
        pid: int | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.pid = pid
        self.exit_code = exit_code
        self.signal = signal


class WorkerStartError(OffloadError):
    """No worker could be started, several times in a row. The function did not run.

    Attributes:
        detail: what the last attempt said, such as the traceback of the initializer.
    """

    outcome = Outcome.NOT_STARTED
    may_have_run = False

    def __init__(self, message: str, *, detail: str = "", **common: Any) -> None:
        super().__init__(message, **common)
        self.detail = detail


class PoolClosedError(OffloadError, RuntimeError):
    """The pool was closed. The call may have run if a worker had it when the pool was closed."""

    outcome = Outcome.CANCELLED


class TaskKilledError(OffloadError):
    """Somebody stopped the task by hand. It may have run in part; `may_have_run` says so.

    By `Pool.kill_task` or `Pool.stop_task`, or an action of the dashboard.

    Attributes:
        pid: process id of its worker; None if it had none yet.
    """

    outcome = Outcome.CANCELLED

    def __init__(self, message: str, *, pid: int | None, **common: Any) -> None:
        super().__init__(message, **common)
        self.pid = pid


class RemoteError(OffloadError):
    """The function raised something that cannot be raised here. It ran.

    Stands in for exceptions that do not survive pickling, and for `SystemExit`,
    `KeyboardInterrupt` and other non-`Exception`s, which would otherwise end the server.

    Attributes:
        type_name: qualified name of the exception's class.
        remote_message: its text.
        remote_traceback: the worker's formatted traceback.
    """

    def __init__(
        self,
        message: str,
        *,
        type_name: str,
        remote_message: str,
        remote_traceback: str,
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback


class RemoteTraceback(Exception):  # noqa: N818 - it is the text of a traceback, never raised itself
    """The worker's formatted traceback, as the `__cause__` of the exception that it raised."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)

    def __str__(self) -> str:
        """Return the text between quotes of its own, as `concurrent.futures` shows it."""
        return f'\n"""\n{self.args[0]}"""'
