"""Jobs that a store has, and that are none: somebody else has written to it.

Whoever reads such a job gets a record that says so (`JobRecord.problem`). A worker program that
claims it fails it, and goes on; a page that lists it shows the others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._value_json import decode_error
from offload.jobs._values import JobOptions, JobRecord

if TYPE_CHECKING:
    from offload.jobs._values import JobState

__all__ = ["UNREADABLE", "checked", "unreadable"]

# What reading a job raises that is none.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_CHARACTERS: Final = 200
_TEXT: Final = (str,)
_NUMBER: Final = (int,)
_TEXT_OR_NOTHING: Final = (str, type(None))
# Of what a worker program computes with, or hands on.
_TYPES: Final = {
    "id": _TEXT,
    "function": _TEXT,
    "arguments": _TEXT,
    "queue": _TEXT,
    "attempts": _NUMBER,
    "crashes": _NUMBER,
    "starts": _NUMBER,
    "worker": _TEXT,
    "progress": _TEXT_OR_NOTHING,
    "result": _TEXT_OR_NOTHING,
    "log_count": _NUMBER,
    "enqueued_by": _TEXT,
}


def checked(job: JobRecord) -> JobRecord:
    """Return a record, if each of its parts is of its type.

    Raises:
        ValueError: one is not.
    """
    for name, kinds in _TYPES.items():
        value = getattr(job, name)
        if type(value) not in kinds:
            raise ValueError(f"{name} is {value!r:.50}")
    return job


def unreadable(  # noqa: PLR0917 - what there is of a row, in its order
    job_id: Any, queue: Any, function: Any, state: JobState, failure: Any, error: Exception
) -> JobRecord:
    """Return the record of a job of which something cannot be read.

    Args:
        job_id: as the store has it, like the next two.
        queue: its queue.
        function: its function.
        state: where the job is.
        failure: what it has failed of, as JSON text, if it is known.
        error: what was raised when it was read.
    """
    problem = f"{type(error).__name__}: {error}"[:_MOST_CHARACTERS]
    return JobRecord(
        id=str(job_id),
        function=str(function),
        arguments="{}",
        queue=str(queue),
        options=JobOptions(),
        state=state,
        created_at=_EPOCH,
        error=decode_error(failure) if type(failure) is str else None,
        problem=problem,
    )
