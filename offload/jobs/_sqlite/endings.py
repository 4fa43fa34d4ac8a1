"""How the end of an attempt, or of a job, is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from offload.jobs._decisions import Settlement, expire, forget_at
from offload.jobs._sqlite.clock import from_seconds, to_seconds
from offload.jobs._sqlite.schema import STATE_NUMBERS
from offload.jobs._value_json import decode_error, encode_error
from offload.jobs._values import AttemptOutcome, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload.jobs._sqlite.rows import Held
    from offload.jobs._sqlite.transaction import Transaction

__all__ = ["cancel_now", "expire_now", "forget", "store", "store_completed"]

_COMPLETED: Final = STATE_NUMBERS[JobState.COMPLETED]
_ACTIVE: Final = STATE_NUMBERS[JobState.ACTIVE]
# A job that is handed back again and again shall not grow without limit.
_MAX_HISTORY: Final = 100


def store(
    transaction: Transaction, job: Held, settlement: Settlement, *, result: str | None = None
) -> None:
    """Store what becomes of a job; of an active one, also what became of its attempt."""
    history = job.history
    if job.state == _ACTIVE and settlement.outcome is not AttemptOutcome.COMPLETED:
        _keep_attempt(transaction, job, settlement)
        history += 1
    state = STATE_NUMBERS[settlement.state]
    error = encode_error(settlement.error) if settlement.error else job.error
    common = (state, settlement.attempts, settlement.crashes, history)
    if settlement.state.is_over:
        if settlement.state is JobState.COMPLETED:
            error = None
        _end_all(transaction, [(job, (*common, result, error))])
    else:
        due_at = None if settlement.due_at is None else to_seconds(settlement.due_at)
        position = None if settlement.keeps_place else transaction.next_position()
        transaction.connection.execute(
            "UPDATE jobs SET state = ?, attempts = ?, crashes = ?, history = ?, error = ?, "
            "due_at = ?, position = ifnull(?, position), token = NULL, lease = NULL, "
            "leased_until = NULL, is_cancel_asked = 0 WHERE seq = ?",
            (*common, error, due_at, position, job.seq),
        )
    transaction.left(job.queue, job.function, job.state)
    transaction.entered(job.id, job.queue, job.function, state)


def store_completed(
    transaction: Transaction, completed: Sequence[tuple[Held, Settlement, str | None]]
) -> None:
    """Store the ends of jobs that have completed: as `store`, by one statement for all."""
    _end_all(
        transaction,
        [
            (job, (_COMPLETED, each.attempts, each.crashes, job.history, result, None))
            for job, each, result in completed
        ],
    )
    for job, _, _ in completed:
        transaction.left(job.queue, job.function, _ACTIVE)
        transaction.entered(job.id, job.queue, job.function, _COMPLETED)


def cancel_now(transaction: Transaction, job: Held) -> None:
    """Cancel a job that waits or is delayed."""
    outcome = AttemptOutcome.CANCELLED
    store(transaction, job, Settlement(JobState.CANCELLED, job.attempts, job.crashes, outcome))


def expire_now(transaction: Transaction, job: Held, deadline: float) -> None:
    """Fail a job that waits or is delayed, since its deadline has passed."""
    error = expire(from_seconds(deadline), decode_error(job.error))
    outcome = AttemptOutcome.FAILED
    store(transaction, job, Settlement(JobState.FAILED, job.attempts, job.crashes, outcome, error))


def forget(transaction: Transaction, jobs: Sequence[tuple[int, str, str, int]]) -> None:
    """Remove jobs that are over, given as seq, queue, function and state."""
    seqs = [(seq,) for seq, _, _, _ in jobs]
    for table in ("jobs", "bodies", "attempts", "logs"):
        transaction.connection.executemany(f"DELETE FROM {table} WHERE seq = ?", seqs)  # noqa: S608
    for _, queue, function, state in jobs:
        transaction.left(queue, function, state)


# State, attempts, crashes, history, result and error.
_Values: TypeAlias = "tuple[int, int, int, int, str | None, str | None]"


def _end_all(transaction: Transaction, jobs: Sequence[tuple[Held, _Values]]) -> None:
    now = from_seconds(transaction.now)
    rows: list[tuple[object, ...]] = []
    for job, values in jobs:
        forgotten = forget_at(now, job.keep)
        until = None if forgotten is None else to_seconds(forgotten)
        rows.append((*values, transaction.now, until, job.seq))
    transaction.connection.executemany(
        "UPDATE jobs SET state = ?, attempts = ?, crashes = ?, history = ?, result = ?, error = ?, "
        "ended_at = ?, forget_at = ?, due_at = NULL, token = NULL, lease = NULL, "
        "leased_until = NULL, is_cancel_asked = 0 WHERE seq = ?",
        rows,
    )
    for job, _ in jobs:
        if job.unique_key is not None:
            transaction.connection.execute(
                "DELETE FROM unique_keys WHERE queue = ? AND name = ? AND id = ? AND until IS NULL",
                (job.queue, job.unique_key, job.id),
            )


def _keep_attempt(transaction: Transaction, job: Held, settlement: Settlement) -> None:
    transaction.connection.execute(
        "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            job.seq,
            job.history,
            settlement.outcome.value,
            job.started_at,
            transaction.now,
            job.worker,
            encode_error(settlement.error),
        ),
    )
    if job.history >= _MAX_HISTORY:
        transaction.connection.execute(
            "DELETE FROM attempts WHERE seq = ? AND number = ?",
            (job.seq, job.history - _MAX_HISTORY),
        )
