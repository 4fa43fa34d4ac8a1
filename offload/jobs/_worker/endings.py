"""What to report of an attempt, by what it came to."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from offload._values.outcome import Outcome
from offload.errors import DeadlineError, OffloadError, PoolClosedError, WorkerCrashedError
from offload.jobs._attempt import AttemptFailedError
from offload.jobs._decisions import Standing, after_crash, after_error
from offload.jobs._failures import job_error
from offload.jobs._options import AttemptOutcome
from offload.jobs._values import Cancel, Complete, Fail, Release, Retry

if TYPE_CHECKING:
    from offload.jobs._values import Ending, JobRecord

__all__ = ["ending_of", "outcome_of"]


def ending_of(job: JobRecord, error: Exception) -> Ending:
    """Return what to report of an attempt that has failed of `error`."""
    standing, now, draw = Standing.of(job), datetime.now(UTC), random.random()  # noqa: S311
    if isinstance(error, AttemptFailedError):
        if error.is_final:
            return Fail(error.error)
        return after_error(standing, error.error, now=now, draw=draw)
    told = job_error(error)
    if isinstance(error, WorkerCrashedError):
        return after_crash(standing, told, now=now, draw=draw)
    if isinstance(error, DeadlineError):
        return Fail(told)
    if _is_of_the_pool(error):
        # The job is handed back, and has not used up an attempt.
        return Release()
    return after_error(standing, told, now=now, draw=draw)


def _is_of_the_pool(error: Exception) -> bool:
    """Return whether the pool refused or stopped the attempt, through no fault of the job."""
    return isinstance(error, PoolClosedError) or (
        isinstance(error, OffloadError) and error.outcome in (Outcome.REFUSED, Outcome.NOT_STARTED)
    )


def outcome_of(ending: Ending) -> AttemptOutcome:
    """Return the outcome that an ending stands for."""
    match ending:
        case Complete():
            return AttemptOutcome.COMPLETED
        case Retry(outcome=outcome) | Fail(outcome=outcome):
            return outcome
        case Release():
            return AttemptOutcome.RELEASED
        case Cancel():
            return AttemptOutcome.CANCELLED
