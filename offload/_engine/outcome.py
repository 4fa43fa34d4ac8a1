"""What a call ends with when it is not a result: which error, and what its text says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from offload._child.task import summary
from offload._child.wire import Kind
from offload.errors import (
    ArgumentError,
    DeadlineError,
    FunctionNotFoundError,
    PoolClosedError,
    QueueFullError,
    QueueTimeoutError,
    RemoteError,
    RemoteTraceback,
    ResultError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)

if TYPE_CHECKING:
    from offload._engine.target import Target
    from offload._workers.base import Exit

__all__ = [
    "bad_result",
    "crash_error",
    "deadline_error",
    "has_started",
    "outcome_of",
    "raise_reply",
    "shared_deadline_error",
    "task_cancelled_error",
    "task_timeout_error",
]


_OUTCOMES: dict[type[Exception], str] = {
    DeadlineError: "timed_out",
    PoolClosedError: "cancelled",
    QueueFullError: "refused",
    QueueTimeoutError: "not_started",
    TaskCancelledError: "cancelled",
    TaskTimeoutError: "timed_out",
    WorkerCrashedError: "crashed",
    WorkerStartError: "not_started",
}


def task_timeout_error(
    function: str, timeout: float, *, started: bool, is_stopped: bool
) -> TaskTimeoutError:
    """Return the error of a call that a worker had for too long.

    Args:
        function: its name.
        timeout: in seconds.
        started: whether the function may have been entered.
        is_stopped: whether its worker can be stopped, and is.
    """
    if not started:
        why = (
            "Its worker was not done with reading its arguments and importing its module: give it "
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
            f"ran longer than its timeout of {timeout:g} s; it goes on, for nobody, since tasks of "
            "this executor cannot be stopped. Give it a longer timeout, or less to do"
        )
    return TaskTimeoutError(f"{function} {what}", timeout=timeout, started=started)


def deadline_error(
    function: str, deadline: float, *, started: bool, is_stopped: bool = True
) -> DeadlineError:
    """Return the error of a call that cannot end in time; arguments as `task_timeout_error`."""
    if not started:
        what = "cannot end before its deadline; it did not run"
    elif is_stopped:
        what = "was still running when its deadline came, and was stopped; it ran in part"
    else:
        what = (
            "was still running when its deadline came; it goes on, for nobody, since tasks of this "
            "executor cannot be stopped"
        )
    return DeadlineError(f"{function} {what}", deadline=deadline, started=started)


def shared_deadline_error(function: str, deadline: float) -> DeadlineError:
    """Return the error of a call that shares its run with others, which have more time."""
    return DeadlineError(
        f"{function} had not ended when the deadline of this call came. Its run, which identical "
        "calls share, goes on if any of them still waits; it may have run",
        deadline=deadline,
        started=True,
    )


def task_cancelled_error(function: str, pid: int, *, started: bool) -> TaskCancelledError:
    """Return the error of a call whose task somebody stopped by hand."""
    what = "it ran in part" if started else "it did not run"
    return TaskCancelledError(
        f"{function} was stopped by hand (Pool.cancel_task, process {pid}); {what}",
        pid=pid,
        started=started,
    )


def crash_error(function: str, how: Exit) -> WorkerCrashedError:
    """Return the error of a call whose worker died."""
    if how.started:
        when = "while running it; it ran in part"
    else:
        when = "before the function was entered; it did not run"
    return WorkerCrashedError(
        f"{function} lost its worker: {how}, {when}",
        pid=how.pid,
        exit_code=how.exit_code,
        signal=how.signal,
        started=how.started,
    )


def has_started(error: BaseException) -> bool:
    """Return whether the function may have run in the attempt that ended with `error`."""
    return bool(getattr(error, "started", False))


def outcome_of(error: BaseException) -> str:
    """Return what became of a call that ended with `error`, in one of the words of `CallRecord`."""
    if not isinstance(error, Exception):
        return "cancelled"
    # By its own class first: a storm of refusals comes here for each of them.
    outcome = _OUTCOMES.get(type(error)) or next(
        (word for kind, word in _OUTCOMES.items() if isinstance(error, kind)), "failed"
    )
    if outcome in ("timed_out", "cancelled") and not getattr(error, "started", True):
        return "not_started"
    return outcome


def bad_result(target: Target, error: BaseException) -> ResultError:
    """Return the error of a result that does not unpickle here."""
    return ResultError(
        f"{target.name} ran, but its result cannot be unpickled here: {summary(error)}",
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
        raise error from RemoteTraceback(text)
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
        "Return plain data, or what pickles"
    )
    raise ResultError(message, function=target.name) from RemoteTraceback(text)
