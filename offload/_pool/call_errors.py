"""What a call ends with when it is not a result: which error, and what its text says."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, NoReturn

from offload._values.outcome import Outcome
from offload._wire.exceptions import summary
from offload._wire.frames import Kind
from offload.errors import (
    ArgumentError,
    ClientDisconnectedError,
    DeadlineError,
    FunctionError,
    FunctionNotFoundError,
    OffloadError,
    PoolClosedError,
    QueueFullError,
    QueueTimeoutError,
    RemoteError,
    RemoteTraceback,
    ResultError,
    TaskCpuError,
    TaskKilledError,
    TaskMemoryError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)

if TYPE_CHECKING:
    from offload._pool.target import Target
    from offload._workers.backend import Exit

__all__ = [
    "FORGERY_ADVICE",
    "bad_result",
    "check_reply",
    "closed_error",
    "crash_error",
    "deadline_error",
    "full_error",
    "limits_error",
    "opening_error",
    "outcome_of",
    "queue_timeout_error",
    "raise_reply",
    "shared_deadline_error",
    "start_error",
    "task_killed_error",
    "task_timeout_error",
]

# Of what no worker of ours says.
FORGERY_ADVICE = "Look for code in it that writes to descriptors which are not its own"
_RUNS_ON = (
    "it is still running and its result will be discarded: this executor cannot stop a running task"
)


def full_error(
    function: str, pool: str, *, waiting: int, limit: str, retry_after: float
) -> QueueFullError:
    """Return the error of a call that found the queue full.

    Args:
        function: the function as `module:qualname`.
        pool: name of the pool.
        waiting: how many calls wait.
        limit: the option that was hit.
        retry_after: seconds until a place is likely to be free.
    """
    return QueueFullError(
        f"{function} was refused: the queue of pool {pool!r} is full ({waiting} waiting, {limit}); "
        f"it did not run. Try again in about {retry_after:.2g} s",
        retry_after=retry_after,
        limit=limit,
        function=function,
        pool=pool,
    )


def queue_timeout_error(
    function: str, pool: str, *, timeout: float, retry_after: float
) -> QueueTimeoutError:
    """Return the error of a call that waited longer than its `queue_timeout`."""
    return QueueTimeoutError(
        f"{function} waited longer than its queue_timeout of {timeout:g} s for a worker of pool "
        f"{pool!r}; it did not run",
        timeout=timeout,
        retry_after=retry_after,
        function=function,
        pool=pool,
    )


def closed_error(function: str, pool: str, *, may_have_run: bool = False) -> PoolClosedError:
    """Return the error of a call whose pool was closed before it or under it."""
    what = "was stopped, having run in part" if may_have_run else "did not run"
    return PoolClosedError(
        f"{function} {what}: pool {pool!r} is closed. A pool that was closed can be opened again "
        "with `await pool.open()`",
        may_have_run=may_have_run,
        function=function,
        pool=pool,
    )


def start_error(function: str, pool: str, detail: str) -> WorkerStartError:
    """Return the error of a call for which no worker comes up; `detail` is the last attempt's."""
    return WorkerStartError(
        f"{function} did not run: no worker of pool {pool!r} can be started. The last attempt "
        f"said: {detail}",
        detail=detail,
        function=function,
        pool=pool,
    )


def opening_error(pool: str, detail: str) -> WorkerStartError:
    """Return the error of opening a pool none of whose workers comes up."""
    return WorkerStartError(
        f"pool {pool!r} cannot start workers. The last attempt said: "
        f"{detail or 'the pool was closed meanwhile'}",
        detail=detail,
        pool=pool,
    )


def task_timeout_error(
    function: str, timeout: float, *, may_have_run: bool, is_stopped: bool
) -> TaskTimeoutError:
    """Return the error of a call that a worker had for too long.

    Args:
        function: the function as `module:qualname`.
        timeout: in seconds.
        may_have_run: whether the function may have been entered.
        is_stopped: whether its worker can be stopped, and is.
    """
    if not may_have_run:
        why = (
            "Its worker was still reading its arguments or importing its module: give it "
            "a longer timeout, less to read, or have the module imported before (Pool(preload=…))"
            if is_stopped
            else "It waited in the queue of its executor, which others use as well"
        )
        what = f"had not begun when its timeout of {timeout:g} s was over; it did not run. {why}"
    elif is_stopped:
        what = (
            f"ran longer than its timeout of {timeout:g} s and was stopped; it ran in part. "
            "Give it a longer timeout, or less to do"
        )
    else:
        what = (
            f"ran longer than its timeout of {timeout:g} s; {_RUNS_ON}. Give it a longer timeout, "
            "or less to do"
        )
    return TaskTimeoutError(
        f"{function} {what}", timeout=timeout, may_have_run=may_have_run, function=function
    )


def deadline_error(
    function: str, deadline: float, *, may_have_run: bool, is_stopped: bool = True
) -> DeadlineError:
    """Return the error of a call that cannot end in time; arguments as `task_timeout_error`."""
    if not may_have_run:
        what = "cannot end before its deadline; it did not run"
    elif is_stopped:
        what = "was still running when its deadline came, and was stopped; it ran in part"
    else:
        what = f"was still running when its deadline came; {_RUNS_ON}"
    return DeadlineError(
        f"{function} {what}", deadline=deadline, may_have_run=may_have_run, function=function
    )


def shared_deadline_error(function: str, deadline: float) -> DeadlineError:
    """Return the error of a call that shares its run with others, which have more time."""
    return DeadlineError(
        f"{function} had not ended when the deadline of this call came. Its run, which identical "
        "calls share, goes on if any of them still waits; it may have run",
        deadline=deadline,
        may_have_run=True,
        function=function,
    )


def task_killed_error(function: str, pid: int | None, *, may_have_run: bool) -> TaskKilledError:
    """Return the error of a call whose task somebody stopped by hand."""
    what = "it ran in part" if may_have_run else "it did not run"
    where = "while it waited for a worker" if pid is None else f"in process {pid}"
    return TaskKilledError(
        f"{function} was stopped by hand (Pool.kill_task or Pool.stop_task), {where}; {what}",
        pid=pid,
        may_have_run=may_have_run,
        function=function,
    )


def limits_error(function: str, pool: str) -> FunctionError:
    """Return the error of a call whose limits nobody can keep."""
    return FunctionError(
        f"{function} did not run: max_memory_bytes and max_cpu_seconds are kept by the kernel, in "
        f"workers that are processes of the pool; those of pool {pool!r} are an executor's",
        function=function,
        pool=pool,
    )


def crash_error(
    function: str, how: Exit, max_cpu_seconds: float | None = None
) -> WorkerCrashedError | TaskCpuError:
    """Return the error of a call whose worker died.

    Args:
        function: the function as `module:qualname`.
        how: it died.
        max_cpu_seconds: the limit of the call.
    """
    if max_cpu_seconds is not None and how.signal == signal.SIGXCPU:
        return TaskCpuError(
            f"{function} took more CPU time than its max_cpu_seconds of {max_cpu_seconds:g} and "
            "was stopped; it ran in part. Give it more, or less to do",
            max_cpu_seconds=max_cpu_seconds,
            function=function,
        )
    if how.started:
        when = "while running it; it ran in part"
    else:
        when = "before the function was entered; it did not run"
    return WorkerCrashedError(
        f"{function} lost its worker: {how}, {when}",
        pid=how.pid,
        exit_code=how.exit_code,
        signal=how.signal,
        may_have_run=how.started,
        function=function,
    )


def outcome_of(error: BaseException) -> Outcome:
    """Return what became of a call that ended with `error`."""
    if not isinstance(error, Exception):
        return Outcome.CANCELLED
    # What the function raised is the function's, also where it is an error of ours.
    if not isinstance(error, OffloadError) or isinstance(error.__cause__, RemoteTraceback):
        return Outcome.FAILED
    outcome = error.outcome
    if error.may_have_run or isinstance(error, ClientDisconnectedError):
        return outcome  # whoever leaves has cancelled the call, whether it had begun or not
    if outcome in (Outcome.TIMED_OUT, Outcome.CANCELLED):
        return Outcome.NOT_STARTED
    return outcome


def bad_result(target: Target, error: BaseException) -> ResultError:
    """Return the error of a result that does not unpickle here."""
    return ResultError(
        f"{target.name} ran, but its result cannot be unpickled here: {summary(error)}",
        function=target.name,
    )


_TEXTS = (str, str)
# What a worker says, by kind of reply, where that is no result; a text may be missing.
_DETAILS: dict[int, tuple[type, ...]] = {
    Kind.RAISED: (bytes, str, str, str),
    Kind.RESULT_TOO_LARGE: (int, int),
    Kind.OVER_MEMORY: (int, str),
    Kind.NOT_FOUND: _TEXTS,
    Kind.BAD_ARGUMENT: _TEXTS,
    Kind.BAD_RESULT: _TEXTS,
    Kind.NOT_DATA: (str,),
}


def check_reply(kind: int, detail: Any, target: Target) -> None:
    """Check what a worker replied instead of a result: code of others may have sent it.

    Raises:
        ResultError: it is not what a worker says.
    """
    kinds = _DETAILS.get(kind, ())
    if not kinds or type(detail) is not tuple or len(detail) != len(kinds):
        known = False
    else:
        pairs = zip(detail, kinds, strict=True)
        known = all(
            type(part) is kind or (part is None and kind is not int) for part, kind in pairs
        )
    if not known:
        raise ResultError(
            f"{target.name} ran, but its worker sent a reply that no worker sends. "
            f"{FORGERY_ADVICE}",
            function=target.name,
        )


def raise_reply(kind: int, detail: Any, target: Target, error: Exception | None = None) -> NoReturn:
    """Raise what a worker replied instead of a result.

    Args:
        kind: of the reply.
        detail: what it said, unpickled.
        target: the function.
        error: what the function raised, if that crosses.
    """
    if kind == Kind.RAISED:
        _, type_name, message, text = detail
        if error is None:
            error = RemoteError(
                f"{target.name} raised {type_name}: {message}",
                type_name=type_name,
                remote_message=message,
                remote_traceback=text,
            )
        try:
            raise error from RemoteTraceback(text)
        finally:
            error = None  # its traceback refers to this frame
    if kind == Kind.OVER_MEMORY:
        limit, text = detail
        raise TaskMemoryError(
            f"{target.name} reached its max_memory_bytes ({limit:,}); it ran in part. Give it "
            "more, or less to do",
            max_memory_bytes=limit,
            function=target.name,
        ) from RemoteTraceback(text)
    if kind == Kind.RESULT_TOO_LARGE:
        size, limit = detail
        raise ResultError(
            f"{target.name} ran, but its result takes {size:,} bytes pickled, more than "
            f"max_payload_bytes ({limit:,}). Return less, or in parts (`.stream`)",
            function=target.name,
        )
    summary, text = detail
    if kind == Kind.NOT_FOUND:
        message = f"{target.name} did not run: {summary}"
        raise FunctionNotFoundError(message, function=target.name) from RemoteTraceback(text)
    if kind == Kind.BAD_ARGUMENT:
        message = (
            f"{target.name} did not run: its arguments cannot be unpickled in the worker: {summary}"
        )
        raise ArgumentError(message, function=target.name) from RemoteTraceback(text)
    message = (
        f"{target.name} ran, but its result cannot be sent back: {summary}. "
        "Return plain data, or objects that can be pickled"
    )
    raise ResultError(message, function=target.name) from RemoteTraceback(text)
