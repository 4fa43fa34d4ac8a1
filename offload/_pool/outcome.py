"""What a call ends with when it is not a result: which error, and what its text says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from offload._values.outcome import Outcome
from offload._wire.exceptions import summary
from offload._wire.frames import Kind
from offload.errors import (
    ArgumentError,
    DeadlineError,
    FunctionNotFoundError,
    OffloadError,
    RemoteError,
    RemoteTraceback,
    ResultError,
    TaskKilledError,
    TaskTimeoutError,
    WorkerCrashedError,
)

if TYPE_CHECKING:
    from offload._pool.target import Target
    from offload._workers.backend import Exit

__all__ = [
    "bad_result",
    "crash_error",
    "deadline_error",
    "outcome_of",
    "raise_reply",
    "shared_deadline_error",
    "task_killed_error",
    "task_timeout_error",
]


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
    return TaskTimeoutError(f"{function} {what}", timeout=timeout, may_have_run=started)


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
    return DeadlineError(f"{function} {what}", deadline=deadline, may_have_run=started)


def shared_deadline_error(function: str, deadline: float) -> DeadlineError:
    """Return the error of a call that shares its run with others, which have more time."""
    return DeadlineError(
        f"{function} had not ended when the deadline of this call came. Its run, which identical "
        "calls share, goes on if any of them still waits; it may have run",
        deadline=deadline,
        may_have_run=True,
    )


def task_killed_error(function: str, pid: int, *, started: bool) -> TaskKilledError:
    """Return the error of a call whose task somebody stopped by hand."""
    what = "it ran in part" if started else "it did not run"
    return TaskKilledError(
        f"{function} was stopped by hand (Pool.kill_task, process {pid}); {what}",
        pid=pid,
        may_have_run=started,
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
        may_have_run=how.started,
    )


def outcome_of(error: BaseException) -> Outcome:
    """Return what became of a call that ended with `error`."""
    if not isinstance(error, Exception):
        return Outcome.CANCELLED
    # What the function raised is the function's, also where it is an error of ours.
    if not isinstance(error, OffloadError) or isinstance(error.__cause__, RemoteTraceback):
        return Outcome.FAILED
    outcome = error.outcome
    if outcome in (Outcome.TIMED_OUT, Outcome.CANCELLED) and not error.may_have_run:
        return Outcome.NOT_STARTED
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
