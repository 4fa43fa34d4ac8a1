"""What becomes of a job: pure functions of its standing, of what happened and of the time.

The job layer asks `after_error` and `after_crash` what to report of an attempt; engines ask the
rest what to store. Time is handed in, and so is chance: `draw` is a number from 0.0 up to 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

from offload.jobs._values import (
    DEFAULT_BACKOFF,
    AttemptOutcome,
    Cancel,
    CancelOutcome,
    Complete,
    Fail,
    JobError,
    JobState,
    Release,
    Retry,
)

if TYPE_CHECKING:
    from datetime import datetime

    from offload.jobs._values import Backoff, Ending, JobRecord

__all__ = [
    "Settlement",
    "Standing",
    "after_crash",
    "after_error",
    "backoff_delay",
    "cancel_outcome",
    "expire",
    "forget_at",
    "is_expired",
    "lapse",
    "settle",
]

# `factor ** n` overflows long before the limit of `maximum` would matter.
_MAX_EXPONENT = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """What decisions need to know of a job; attributes as in `JobRecord` and `JobOptions`."""

    attempts: int = 0
    crashes: int = 0
    max_attempts: int = 1
    max_crashes: int = 2
    backoff: Backoff = DEFAULT_BACKOFF
    deadline: datetime | None = None
    is_cancel_asked: bool = False

    @classmethod
    def of(cls, job: JobRecord) -> Standing:
        """Return the standing of `job`."""
        return cls(
            attempts=job.attempts,
            crashes=job.crashes,
            max_attempts=job.options.max_attempts,
            max_crashes=job.options.max_crashes,
            backoff=job.options.backoff,
            deadline=job.options.deadline,
            is_cancel_asked=job.is_cancel_asked,
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an engine stores when an attempt ends.

    Attributes:
        state: where the job is now.
        attempts: its new counter.
        crashes: its new counter.
        outcome: of the attempt, for the history.
        error: of the attempt, and of the job if that has failed.
        due_at: when a delayed job becomes waiting.
        keeps_place: whether a waiting job has its old place in the queue, instead of the last.
    """

    state: JobState
    attempts: int
    crashes: int
    outcome: AttemptOutcome
    error: JobError | None = None
    due_at: datetime | None = None
    keeps_place: bool = False


def backoff_delay(backoff: Backoff, failures: int, draw: float) -> float:
    """Return the seconds to wait after the `failures`-th failure, which is at least the first."""
    exponent = min(max(failures - 1, 0), _MAX_EXPONENT)
    try:
        delay = backoff.initial * backoff.factor**exponent
    except OverflowError:
        delay = backoff.maximum
    delay = min(delay, backoff.maximum)
    return delay * (1.0 - backoff.jitter * draw)


def after_error(job: Standing, error: JobError, *, now: datetime, draw: float) -> Retry | Fail:
    """Return what to report of an attempt whose function raised, or whose timeout came.

    A retry that would begin past the deadline is not worth its wait: the job fails at once, with
    the error that the function raised instead of one that only names the deadline.
    """
    attempts = job.attempts + 1
    if attempts >= job.max_attempts:
        return Fail(error)
    delay = backoff_delay(job.backoff, attempts, draw)
    if _is_late(job, now, delay):
        return Fail(error)
    return Retry(error, delay)


def after_crash(job: Standing, error: JobError, *, now: datetime, draw: float) -> Retry | Fail:
    """Return what to report of an attempt whose process died.

    The limit on crashes ends poison jobs: those that kill whatever runs them.
    """
    crashes = job.crashes + 1
    if crashes > job.max_crashes:
        return Fail(error, AttemptOutcome.CRASHED)
    delay = backoff_delay(job.backoff, crashes, draw)
    if _is_late(job, now, delay):
        return Fail(error, AttemptOutcome.CRASHED)
    return Retry(error, delay, AttemptOutcome.CRASHED)


def settle(job: Standing, ending: Ending, *, now: datetime) -> Settlement:
    """Return what to store of an attempt that a worker program has reported the end of."""
    match ending:
        case Complete():
            return Settlement(
                JobState.COMPLETED, job.attempts + 1, job.crashes, AttemptOutcome.COMPLETED
            )
        case Fail(error, outcome):
            attempts, crashes = _counted(job, outcome)
            return Settlement(JobState.FAILED, attempts, crashes, outcome, error)
        case Retry(error, delay, outcome):
            attempts, crashes = _counted(job, outcome)
            state, due_at = JobState.WAITING, None
            if job.is_cancel_asked:
                state = JobState.CANCELLED
            elif delay > 0:
                state, due_at = JobState.DELAYED, now + timedelta(seconds=delay)
            return Settlement(state, attempts, crashes, outcome, error, due_at)
        case Release():
            state = JobState.CANCELLED if job.is_cancel_asked else JobState.WAITING
            outcome = AttemptOutcome.RELEASED
            return Settlement(state, job.attempts, job.crashes, outcome, keeps_place=True)
        case Cancel():
            return Settlement(
                JobState.CANCELLED, job.attempts, job.crashes, AttemptOutcome.CANCELLED
            )
        case _:  # pragma: no cover
            assert_never(ending)


def lapse(job: Standing, worker: str) -> Settlement:
    """Return what to store of an attempt whose lease has run out.

    The worker program may be dead, stopped or cut off. A job that brings this about again and again
    is poison, and fails.
    """
    crashes = job.crashes + 1
    error = JobError(
        "offload.jobs.LeaseLapsedError",
        f"worker program {worker} did not extend its lease in time: it died, was stopped or was "
        "cut off",
    )
    if job.is_cancel_asked:
        state = JobState.CANCELLED
    elif crashes > job.max_crashes:
        state = JobState.FAILED
    else:
        state = JobState.WAITING
    outcome = AttemptOutcome.LAPSED
    return Settlement(state, job.attempts, crashes, outcome, error, keeps_place=True)


def is_expired(deadline: datetime | None, now: datetime) -> bool:
    """Return whether a job that has not ended can no longer end in time."""
    return deadline is not None and now >= deadline


def expire(deadline: datetime, last_error: JobError | None) -> JobError:
    """Return the error of a job whose deadline passed before its next attempt began."""
    message = f"the deadline {deadline.isoformat()} passed before an attempt could begin"
    if last_error is not None:
        message += f"; the last one failed with {last_error.type}: {last_error.message}"
    return JobError("offload.errors.DeadlineError", message)


def cancel_outcome(state: JobState) -> CancelOutcome:
    """Return what cancelling a job in `state` comes to."""
    if state.is_over:
        return CancelOutcome.OVER
    return CancelOutcome.ASKED if state is JobState.ACTIVE else CancelOutcome.REMOVED


def forget_at(ended_at: datetime, keep: float | None) -> datetime | None:
    """Return when a job that is over may be forgotten; None: never."""
    if keep is None:
        return None
    try:
        return ended_at + timedelta(seconds=keep)
    except OverflowError:
        return None


def _counted(job: Standing, outcome: AttemptOutcome) -> tuple[int, int]:
    if outcome is AttemptOutcome.CRASHED:
        return job.attempts, job.crashes + 1
    return job.attempts + 1, job.crashes


def _is_late(job: Standing, now: datetime, delay: float) -> bool:
    return job.deadline is not None and now + timedelta(seconds=delay) >= job.deadline
