"""Rows of the tables as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from offload.jobs._decisions import Standing
from offload.jobs._sqlite.clock import from_seconds
from offload.jobs._sqlite.schema import STATES
from offload.jobs._unreadable import UNREADABLE, checked, unreadable
from offload.jobs._value_json import decode_error, decode_options, decode_trace
from offload.jobs._values import Attempt, AttemptOutcome, JobRecord, JobState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from datetime import datetime

__all__ = ["HELD", "HELD_WITH_TOKEN", "RECORD", "Held", "batched", "places", "record"]

RECORD: Final = (
    "SELECT seq, id, queue, function, state, created_at, due_at, started_at, ended_at, attempts, "
    "crashes, starts, worker, progress, result, error, history, logs, is_cancel_asked, options, "
    "trace, enqueued_by, arguments FROM jobs JOIN bodies USING (seq)"
)

# Its place among them.
_ERROR: Final = 15

HELD: Final = (
    "SELECT seq, id, queue, function, state, attempts, crashes, max_crashes, is_cancel_asked, "
    "keep, history, started_at, worker, unique_key, error FROM jobs"
)
HELD_WITH_TOKEN: Final = HELD.replace("SELECT ", "SELECT token, ", 1)

_T = TypeVar("_T")
# Of a statement: older versions of SQLite take 999 at most.
_MAX_PLACES: Final = 200


def batched(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Return as many values at a time as one statement takes."""
    for start in range(0, len(values), _MAX_PLACES):
        yield values[start : start + _MAX_PLACES]


def places(count: int) -> str:
    """Return placeholders for so many values, as a list."""
    return f"({','.join('?' * count)})"


class Held(NamedTuple):
    """What is needed of a job to store how its attempt, or the job, has ended."""

    seq: int
    id: str
    queue: str
    function: str
    state: int
    attempts: int
    crashes: int
    max_crashes: int
    is_cancel_asked: int
    keep: float | None
    history: int
    started_at: float | None
    worker: str
    unique_key: str | None
    error: str | None

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Held:
        """Return what a row that `HELD` selected says; for what cannot be, what does no harm."""
        return cls(*row)._replace(
            **{
                name: default
                for (name, (kinds, default)), value in zip(_HELD_TYPES.items(), row, strict=True)
                if type(value) not in kinds
            }
        )

    def standing(self) -> Standing:
        """Return what decisions need."""
        return Standing(
            attempts=self.attempts,
            crashes=self.crashes,
            max_crashes=self.max_crashes,
            is_cancel_asked=bool(self.is_cancel_asked),
        )


_NUMBER: Final = (int, float, type(None))
_TEXT: Final = (str, type(None))
_HELD_TYPES: Final[dict[str, tuple[tuple[type, ...], Any]]] = {
    "seq": ((int,), 0),
    "id": ((str,), ""),
    "queue": ((str,), ""),
    "function": ((str,), ""),
    "state": ((int,), 0),
    "attempts": ((int,), 0),
    "crashes": ((int,), 0),
    "max_crashes": ((int,), 0),
    "is_cancel_asked": ((int,), 0),
    "keep": (_NUMBER, None),
    "history": ((int,), 0),
    "started_at": (_NUMBER, 0.0),
    "worker": ((str,), ""),
    "unique_key": (_TEXT, None),
    "error": (_TEXT, None),
}


def record(connection: sqlite3.Connection, row: tuple[Any, ...]) -> JobRecord:
    """Return the record of a row that `RECORD` selected."""
    try:
        return checked(_record(connection, row))
    except UNREADABLE as error:
        _, job_id, queue, function, number, *_ = row
        known = type(number) is int and 0 <= number < len(STATES)
        state = STATES[number] if known else JobState.FAILED
        failure = row[_ERROR]
        return unreadable(job_id, queue, function, state, failure, error)


def _record(connection: sqlite3.Connection, row: tuple[Any, ...]) -> JobRecord:
    (
        seq,
        job_id,
        queue,
        function,
        state,
        created_at,
        due_at,
        started_at,
        ended_at,
        attempts,
        crashes,
        starts,
        worker,
        progress,
        result,
        error,
        history,
        logs,
        is_cancel_asked,
        options,
        trace,
        enqueued_by,
        arguments,
    ) = row
    past = _history(connection, seq) if history else ()
    started, ended = _instant(started_at), _instant(ended_at)
    if STATES[state] is JobState.COMPLETED and started is not None and ended is not None:
        # Most attempts complete, and have no row of their own.
        past += (Attempt(AttemptOutcome.COMPLETED, started, ended, worker),)
    return JobRecord(
        id=job_id,
        function=function,
        arguments=arguments,
        queue=queue,
        options=decode_options(options),
        state=STATES[state],
        created_at=from_seconds(created_at),
        due_at=_instant(due_at),
        started_at=started,
        ended_at=ended,
        attempts=attempts,
        crashes=crashes,
        starts=starts,
        worker=worker,
        progress=progress,
        result=result,
        error=decode_error(error),
        history=past,
        log_count=logs,
        is_cancel_asked=bool(is_cancel_asked),
        enqueued_by=enqueued_by,
        trace=decode_trace(trace),
    )


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else from_seconds(seconds)


def _history(connection: sqlite3.Connection, seq: int) -> tuple[Attempt, ...]:
    rows = connection.execute(
        "SELECT outcome, started_at, ended_at, worker, error FROM attempts WHERE seq = ? "
        "ORDER BY number",
        (seq,),
    )
    return tuple(
        Attempt(
            AttemptOutcome(outcome),
            from_seconds(started_at),
            from_seconds(ended_at),
            worker,
            decode_error(error),
        )
        for outcome, started_at, ended_at, worker, error in rows
    )
