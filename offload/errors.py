"""Every error that `offload` raises, and what each says about whether the function ran.

An error crosses process borders, ends up in logs and is turned into HTTP responses, so each one
pickles, carries its facts as typed attributes, and says in its text what happened, to what, and
what to do about it. A class that has a fitting builtin also inherits it, so that code that only
knows `TimeoutError` or `LookupError` keeps working.
"""

from __future__ import annotations

from typing import Any

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
    "TaskCancelledError",
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
    """Base of all errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by class, args and attributes, whatever the signature of `__init__`."""
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class FunctionError(OffloadError, TypeError):
    """The function cannot be offloaded at all; raised when decorated or called. It did not run.

    Raised for `async def`, lambdas, functions defined inside functions, and for everything else
    that a worker process could not find by module and name.
    """


class FunctionNotFoundError(OffloadError, LookupError):
    """A worker could not import the function by module and name. It did not run.

    Attributes:
        function: the function as `module:qualname`.
    """

    def __init__(self, message: str, *, function: str) -> None:
        super().__init__(message)
        self.function = function


class PoolNotFoundError(OffloadError, LookupError):
    """A function names a pool that does not exist. It did not run.

    Attributes:
        pool: the name that was looked up.
    """

    def __init__(self, message: str, *, pool: str) -> None:
        super().__init__(message)
        self.pool = pool


class ArgumentError(OffloadError, TypeError):
    """An argument cannot cross to the worker: it does not pickle or unpickle. It did not run.

    Also raised where memory or descriptors ran out for a large one; its cause is the `OSError`.

    Attributes:
        function: the function as `module:qualname`.
        parameter: name of the parameter that holds the culprit, None where unknown.
    """

    def __init__(self, message: str, *, function: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.function = function
        self.parameter = parameter


class ResultError(OffloadError, TypeError):
    """The result cannot cross back: it does not pickle or unpickle. The function ran.

    Also raised where memory or descriptors ran out for a large one.

    Attributes:
        function: the function as `module:qualname`.
    """

    def __init__(self, message: str, *, function: str) -> None:
        super().__init__(message)
        self.function = function


class QueueFullError(OffloadError):
    """The pool's wait queue is full and the call was refused at once. It did not run.

    Attributes:
        retry_after: seconds until a place is likely to be free.
        limit: the option that was hit, `max_queued` or `max_queued_bytes`.
    """

    def __init__(self, message: str, *, retry_after: float, limit: str = "max_queued") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.limit = limit


class QueueTimeoutError(OffloadError, TimeoutError):
    """The call waited in the queue longer than its `queue_timeout`. It did not run.

    Attributes:
        timeout: the `queue_timeout` in seconds.
        retry_after: seconds until the queue is likely to be short enough.
    """

    def __init__(self, message: str, *, timeout: float, retry_after: float) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.retry_after = retry_after


class ClientDisconnectedError(OffloadError):
    """The client of the HTTP request left, and the call was stopped. It may have run if `started`.

    Raised where `offload.starlette.CancelOnDisconnect` is in force: in calls that wait or run when
    the client leaves, and in calls that are made after that.

    Attributes:
        function: the function as `module:qualname`.
        started: False if no worker had been given the call; True if one had, and where unknown.
    """

    def __init__(self, message: str, *, function: str, started: bool) -> None:
        super().__init__(message)
        self.function = function
        self.started = started


class DeadlineError(OffloadError, TimeoutError):
    """The call could not end by its `deadline`. It ran in part if, and only if, `started`.

    A call whose deadline has passed, or would pass while it waits and runs for as long as its
    function usually does, is not started.

    Attributes:
        deadline: the `time.monotonic()` instant in seconds.
        started: True if it was running when the deadline came, and was stopped; and where unknown.
    """

    def __init__(self, message: str, *, deadline: float, started: bool) -> None:
        super().__init__(message)
        self.deadline = deadline
        self.started = started


class TaskTimeoutError(OffloadError, TimeoutError):
    """A worker had the call for longer than its `timeout`, and was stopped. It ran if `started`.

    Attributes:
        timeout: the run `timeout` in seconds.
        started: True if the function had been entered, and where unknown; False if the worker was
            still busy with its arguments or its module, and it did not run.
    """

    def __init__(self, message: str, *, timeout: float, started: bool = True) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.started = started


class WorkerCrashedError(OffloadError):
    """The worker died while it had the call. It may have run if, and only if, `started`.

    Attributes:
        pid: process id of the dead worker, None where unknown.
        exit_code: its exit code, None if a signal ended it or where unknown.
        signal: number of the signal that ended it, None if it exited or where unknown.
        started: True if the function had been entered.
    """

    def __init__(
        self,
        message: str,
        *,
        pid: int | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        started: bool = True,
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exit_code = exit_code
        self.signal = signal
        self.started = started


class WorkerStartError(OffloadError):
    """No worker could be started, several times in a row. It did not run.

    Attributes:
        detail: what the last attempt said, such as the traceback of the initializer.
    """

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class PoolClosedError(OffloadError, RuntimeError):
    """The pool was closed, before the call or under it. It may have run if `started`.

    Attributes:
        started: True if a worker had been given the call when the pool was closed.
    """

    def __init__(self, message: str, *, started: bool = False) -> None:
        super().__init__(message)
        self.started = started


class TaskCancelledError(OffloadError):
    """Somebody stopped the task by hand, with `Pool.cancel_task`. It ran in part if `started`.

    Attributes:
        pid: process id of its worker.
        started: True if the function had been entered, and where unknown.
    """

    def __init__(self, message: str, *, pid: int, started: bool = True) -> None:
        super().__init__(message)
        self.pid = pid
        self.started = started


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
        self, message: str, *, type_name: str, remote_message: str, remote_traceback: str
    ) -> None:
        super().__init__(message)
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
