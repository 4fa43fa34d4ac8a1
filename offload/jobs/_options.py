"""The words of jobs, as enums, and the options of one job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "DEFAULT_BACKOFF",
    "AttemptOutcome",
    "Backoff",
    "CancelOutcome",
    "EventKind",
    "JobOptions",
    "JobState",
    "Unique",
]


class JobState(StrEnum):
    """Where a job is. The last three are final, until somebody requeues the job by hand."""

    WAITING = "waiting"
    """Ready for any worker that has its function."""
    DELAYED = "delayed"
    """Not due yet: enqueued for later, or between two attempts."""
    ACTIVE = "active"
    """Claimed by a worker, whose lease has not been swept."""
    COMPLETED = "completed"
    """It has a result."""
    FAILED = "failed"
    """Out of attempts, out of crashes, or past its deadline. It has an error."""
    CANCELLED = "cancelled"
    """Cancelled before it ran, or stopped while it ran."""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self in _OVER


_OVER: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})


class AttemptOutcome(StrEnum):
    """How one attempt ended, and which of the two counters of its job it adds to."""

    COMPLETED = "completed"
    """The function returned. Counted in `attempts`."""
    FAILED = "failed"
    """The function raised, or its timeout came. Counted in `attempts`."""
    CRASHED = "crashed"
    """The process that ran it died, and its worker program told so. Counted in `crashes`."""
    LAPSED = "lapsed"
    """The lease ran out: the worker program is dead, stopped or cut off. Counted in `crashes`."""
    RELEASED = "released"
    """The worker program handed it back. Counted nowhere."""
    CANCELLED = "cancelled"
    """Stopped since the job was cancelled. Counted nowhere."""


class CancelOutcome(StrEnum):
    """What `Engine.cancel` found."""

    REMOVED = "removed"
    """The job was waiting or delayed. It is cancelled, and never runs."""
    ASKED = "asked"
    """The job is active: `Engine.extend` tells its worker program, which stops it."""
    OVER = "over"
    """The job has ended already. Nothing changes."""


class EventKind(StrEnum):
    """What may have happened to a job: a state that it entered, or one of the last three."""

    WAITING = "waiting"
    DELAYED = "delayed"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PROGRESS = "progress"
    LOG = "log"
    MISSED = "missed"
    """Events may have been lost, of any job: look again. Its `id` and `queue` are empty."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between attempts: `initial * factor ** n`, at most `maximum`, less some jitter.

    Attributes:
        initial: seconds before the second attempt.
        factor: what each further delay is multiplied by; 1.0 for a fixed delay.
        maximum: upper limit in seconds.
        jitter: share of the delay that is random, from 0.0 to 1.0: a delay `d` is drawn evenly
            from `d * (1 - jitter)` to `d`.
    """

    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 3600.0
    jitter: float = 0.5


DEFAULT_BACKOFF: Final = Backoff()


@dataclass(frozen=True, slots=True)
class Unique:
    """Deduplication: putting a job under a taken key gives back the id of the first job.

    Attributes:
        key: compared within one queue.
        lifetime: seconds for which the key is taken, whatever becomes of the job; None: until the
            job is over.
    """

    key: str
    lifetime: float | None = None


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a job is treated. Checked by the job layer, not here.

    Attributes:
        priority: larger runs first; equal ones in order of arrival.
        max_attempts: errors and timeouts up to which the job is tried, the first included.
        backoff: delays between attempts.
        max_crashes: crashes that the job survives; with one more it has failed.
        timeout: seconds that one attempt may run; None: no limit.
        deadline: instant by which the job must have ended; past it, it fails; None: none.
        keep: seconds that the job is kept after its end; None: until it is removed by hand.
        unique: deduplication key; None: none.
        max_logs: log lines that are kept, the first ones; the rest is dropped.
    """

    priority: int = 0
    max_attempts: int = 1
    backoff: Backoff = DEFAULT_BACKOFF
    max_crashes: int = 2
    timeout: float | None = None
    deadline: datetime | None = None
    keep: float | None = 7 * 86400.0
    unique: Unique | None = None
    max_logs: int = 1000
