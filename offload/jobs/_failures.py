"""What a job failed of: as JSON in the worker, and as an exception where its result is awaited.

An exception crosses as the name of its class and its text, never as a pickle. Its class is taken
only from the builtins and from modules that are imported already, and only if it is made of its
text alone: then the same text comes out of it. Whatever else there was, such as attributes, is
lost. All others are told as `JobFailedError`.
"""

from __future__ import annotations

import ast
import builtins
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

from offload.errors import OffloadError
from offload.jobs._errors import JobCancelledError, JobFailedError
from offload.jobs._options import JobState
from offload.jobs._values import JobError

if TYPE_CHECKING:
    from types import TracebackType

    from offload.jobs._status import JobStatus

__all__ = ["failure_of", "job_error", "restored", "type_name"]

# Of one error: a store keeps it, and so does the history of each attempt.
_MAX_MESSAGE: Final = 8 * 1024
_MAX_TRACEBACK: Final = 32 * 1024


def type_name(kind: type[BaseException]) -> str:
    """Return the name of an exception's class, bare for builtins."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def job_error(error: BaseException, tb: TracebackType | None = None) -> JobError:
    """Return an exception as an engine keeps it.

    Args:
        error: the exception.
        tb: what of its traceback is of interest; None: nothing is.
    """
    text = ""
    if tb is not None:
        text = "".join(traceback.format_exception(type(error), error, tb))
    return JobError(type_name(type(error)), _cut(_text_of(error), _MAX_MESSAGE), _tail(text))


def failure_of(status: JobStatus) -> BaseException:
    """Return what to raise for a job that has failed, or was cancelled."""
    if status.state is JobState.CANCELLED:
        started = status.starts > 0
        when = "while it ran" if started else "before it ran"
        return JobCancelledError(
            f"job {status.id} of {status.function} was cancelled {when}",
            job_id=status.id,
            may_have_run=started,
        )
    error = status.error or JobError("", "no error was stored")
    failed = JobFailedError(
        _message(status, error),
        job_id=status.id,
        type_name=error.type,
        remote_message=error.message,
        remote_traceback=error.traceback,
        attempts=status.attempts,
        crashes=status.crashes,
    )
    original = restored(error)
    if original is None:
        return failed
    # What is known of the job travels with the function's own error.
    original.__cause__ = failed
    return original


def _message(status: JobStatus, error: JobError) -> str:
    count = status.attempts + status.crashes
    attempts = "1 attempt" if count == 1 else f"{count} attempts"
    text = f"job {status.id} of {status.function} failed after {attempts}"
    if status.crashes:
        text += f" ({status.crashes} of them crashed)"
    text += f": {error.type}: {error.message}"
    return f"{text}\n\n{error.traceback}" if error.traceback else text


def restored(error: JobError) -> Exception | None:
    """Return the exception that the function raised, or None where it cannot be made again."""
    kind = _class_of(error.type)
    if kind is None:
        return None
    argument: Any = error.message
    if kind.__str__ is KeyError.__str__:
        # The text of a KeyError is the repr of its key.
        try:
            argument = ast.literal_eval(error.message)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    try:
        made = kind(argument) if error.message else kind()
        return made if str(made) == error.message else None
    except Exception:  # noqa: BLE001 - whatever its __init__ or __str__ does with a text
        return None


def _class_of(name: str) -> type[Exception] | None:
    module_name, _, class_name = name.rpartition(".")
    found = _look_up(name) if module_name else getattr(builtins, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    if issubclass(found, OffloadError) and found.__module__.startswith("offload."):
        # Ours have attributes which are not in the text.
        return None
    # An own `__init__` may want anything, and do anything.
    is_plain = found.__module__ == "builtins" or (
        _home(found, "__init__") == "builtins" and _home(found, "__new__") == "builtins"
    )
    return found if is_plain else None


def _look_up(name: str) -> Any:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:length]))
        if found is None:
            continue
        for part in parts[length:]:
            # Never by `__getattr__`, which may import.
            found = getattr(found, "__dict__", {}).get(part)
        return found
    return None


def _home(kind: type, method: str) -> str:
    return next(base.__module__ for base in kind.__mro__ if method in base.__dict__)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - of a class of the user
        return f"<its text failed: {type(failure).__name__}>"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + " … (cut)"


def _tail(text: str) -> str:
    # The innermost frames and the error itself are at the end.
    return text if len(text) <= _MAX_TRACEBACK else "(cut) … " + text[-_MAX_TRACEBACK:]
