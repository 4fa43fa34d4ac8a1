"""What to report of an attempt, by what it came to."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from offload.errors import (
    DeadlineError,
    PoolClosedError,
    QueueFullError,
    QueueTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)
from offload.jobs._attempt import AttemptFailedError
from offload.jobs._decisions import Standing, after_crash, after_error
from offload.jobs._failures import job_error
from offload.jobs._options import AttemptOutcome
from offload.jobs._values import Cancel, Complete, Fail, Release, Retry

if TYPE_CHECKING:
    from offload.jobs._values import Ending, JobRecord

__all__ = ["ending_of", "outcome_of"]

# The pool refused or stopped it: the job is handed back, and has not used up an attempt.
_REFUSED_BY_POOL = (PoolClosedError, QueueFullError, QueueTimeoutError, WorkerStartError)


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
    if isinstance(error, _REFUSED_BY_POOL):
        return Release()
    if isinstance(error, DeadlineError):
        return Fail(told)
    return after_error(standing, told, now=now, draw=draw)


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
