"""Operations of those who enqueue, cancel and look after single jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from offload.jobs._decisions import cancel_outcome, is_expired
from offload.jobs._errors import JobConflictError, JobNotFoundError, JobQueueFullError
from offload.jobs._sqlite.clock import from_seconds, to_seconds
from offload.jobs._sqlite.endings import cancel_now, forget
from offload.jobs._sqlite.rows import HELD, Held
from offload.jobs._sqlite.schema import STATE_NUMBERS, STATES
from offload.jobs._value_json import decode_options, encode_options, encode_trace
from offload.jobs._values import CancelOutcome, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload.jobs._sqlite.transaction import Transaction
    from offload.jobs._values import JobOptions, NewJob

__all__ = ["cancel", "put", "remove", "requeue"]

_WAITING: Final = STATE_NUMBERS[JobState.WAITING]
_DELAYED: Final = STATE_NUMBERS[JobState.DELAYED]


def put(
    transaction: Transaction, jobs: Sequence[NewJob], max_queued: int | None
) -> tuple[str, ...]:
    """Insert all jobs, or none."""
    if len(jobs) == 1 and max_queued is None:
        return (_put_one(transaction, jobs[0]),)
    with transaction.all_or_nothing():
        ids = tuple(_put_one(transaction, job) for job in jobs)
        if max_queued is not None:
            transaction.save_counts()
            for queue in {job.queue for job in jobs}:
                _check_length(transaction, queue, max_queued)
    return ids


def _put_one(transaction: Transaction, job: NewJob) -> str:
    connection, options = transaction.connection, job.options
    unique = options.unique
    if unique is not None:
        holder = _take_key(transaction, job)
        if holder is not None:
            return holder
    elif connection.execute("SELECT 1 FROM jobs WHERE id = ?", (job.id,)).fetchone():
        return job.id
    due_at = None if job.due_at is None else to_seconds(job.due_at)
    if due_at is not None and due_at <= transaction.now:
        due_at = None
    state = _WAITING if due_at is None else _DELAYED
    seq = transaction.next_position()
    connection.execute(
        "INSERT INTO jobs (seq, id, queue, function, state, priority, position, created_at, "
        "due_at, deadline, keep, max_crashes, unique_key) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seq,
            job.id,
            job.queue,
            job.function,
            state,
            options.priority,
            seq,
            transaction.now,
            due_at,
            None if options.deadline is None else to_seconds(options.deadline),
            options.keep,
            options.max_crashes,
            None if unique is None else unique.key,
        ),
    )
    connection.execute(
        "INSERT INTO bodies VALUES (?, ?, ?, ?, ?)",
        (seq, encode_options(options), encode_trace(job.trace), job.enqueued_by, job.arguments),
    )
    transaction.entered(job.id, job.queue, job.function, state)
    return job.id


def _take_key(transaction: Transaction, job: NewJob) -> str | None:
    """Take the key for a new job; return the id of the job that there is instead, if any."""
    connection, unique = transaction.connection, job.options.unique
    assert unique is not None
    if connection.execute("SELECT 1 FROM jobs WHERE id = ?", (job.id,)).fetchone():
        return job.id
    found: tuple[str] | None = connection.execute(
        "SELECT id FROM unique_keys WHERE queue = ? AND name = ? AND ifnull(until > ?, 1)",
        (job.queue, unique.key, transaction.now),
    ).fetchone()
    if found is not None:
        return found[0]
    until = None if unique.lifetime is None else transaction.now + unique.lifetime
    connection.execute(
        "INSERT OR REPLACE INTO unique_keys VALUES (?, ?, ?, ?)",
        (job.queue, unique.key, job.id, until),
    )
    return None


def _check_length(transaction: Transaction, queue: str, limit: int) -> None:
    (length,) = transaction.connection.execute(
        "SELECT total(jobs) FROM counts WHERE state IN (0, 1) AND queue = ?", (queue,)
    ).fetchone()
    if length > limit:
        raise JobQueueFullError(
            f"queue {queue!r} may have {limit} waiting jobs, and would have {length:.0f}: run more "
            "worker programs, or enqueue less",
            queue=queue,
            limit=limit,
        )


def cancel(transaction: Transaction, job_id: str) -> CancelOutcome:
    """Cancel at once, or ask for it."""
    job = _find(transaction, job_id)
    outcome = cancel_outcome(STATES[job.state])
    if outcome is CancelOutcome.REMOVED:
        cancel_now(transaction, job)
    elif outcome is CancelOutcome.ASKED:
        transaction.connection.execute(
            "UPDATE jobs SET is_cancel_asked = 1 WHERE seq = ?", (job.seq,)
        )
    return outcome


def requeue(transaction: Transaction, job_id: str) -> None:
    """Have a failed or cancelled job wait again."""
    job = _find(transaction, job_id)
    state = STATES[job.state]
    if state not in (JobState.FAILED, JobState.CANCELLED):
        raise JobConflictError(
            f"job {job_id!r} is {state}; only failed and cancelled jobs can be requeued",
            job_id=job_id,
            state=state.value,
        )
    connection = transaction.connection
    (text,) = connection.execute("SELECT options FROM bodies WHERE seq = ?", (job.seq,)).fetchone()
    options: JobOptions = decode_options(text)
    if is_expired(options.deadline, from_seconds(transaction.now)):
        options = replace(options, deadline=None)
        connection.execute(
            "UPDATE bodies SET options = ? WHERE seq = ?", (encode_options(options), job.seq)
        )
    deadline = None if options.deadline is None else to_seconds(options.deadline)
    connection.execute(
        "UPDATE jobs SET state = ?, position = ?, attempts = 0, crashes = 0, deadline = ?, "
        "error = NULL, progress = NULL, ended_at = NULL, forget_at = NULL WHERE seq = ?",
        (_WAITING, transaction.next_position(), deadline, job.seq),
    )
    if options.unique is not None and options.unique.lifetime is None:
        # Another job may have taken the key meanwhile, and keeps it.
        connection.execute(
            "INSERT OR IGNORE INTO unique_keys VALUES (?, ?, ?, NULL)",
            (job.queue, options.unique.key, job.id),
        )
    transaction.left(job.queue, job.function, job.state)
    transaction.entered(job.id, job.queue, job.function, _WAITING)


def remove(transaction: Transaction, ids: Sequence[str]) -> int:
    """Forget those that are over."""
    found = [
        row
        for job_id in dict.fromkeys(ids)
        for row in transaction.connection.execute(
            "SELECT seq, queue, function, state FROM jobs WHERE id = ? AND state >= 3", (job_id,)
        )
    ]
    forget(transaction, found)
    return len(found)


def _find(transaction: Transaction, job_id: str) -> Held:
    row = transaction.connection.execute(HELD + " WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise JobNotFoundError(
            f"there is no job {job_id!r}: there never was, or its retention has ended",
            job_id=job_id,
        )
    return Held.of(row)
