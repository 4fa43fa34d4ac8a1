"""The values that cross the seam between the job layer and its engines: frozen, and plain data.

Arguments, results and progress are JSON text here: engines keep them and never look inside.
Durations are seconds; instants are aware datetimes, which engines keep and return in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = [
    "DEFAULT_BACKOFF",
    "Attempt",
    "AttemptOutcome",
    "Backoff",
    "Cancel",
    "CancelOutcome",
    "Claim",
    "Claimed",
    "Complete",
    "Count",
    "Ending",
    "EventKind",
    "Extended",
    "Fail",
    "Finished",
    "Health",
    "JobError",
    "JobEvent",
    "JobOptions",
    "JobRecord",
    "JobState",
    "LogLine",
    "NewJob",
    "Page",
    "Query",
    "Release",
    "Retry",
    "Swept",
    "Unique",
    "Wanted",
]

_NO_TRACE: Final[Mapping[str, str]] = MappingProxyType({})


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


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be put.

    Attributes:
        id: unique in the store; any text of 1 to 200 characters.
        function: `module:qualname`.
        arguments: JSON text.
        queue: name of its queue.
        options: how it is treated.
        due_at: not before this instant; None: at once.
        enqueued_by: who put it, for people to read.
        trace: headers of the trace context (`traceparent`, …).
    """

    id: str
    function: str
    arguments: str
    queue: str = "default"
    options: JobOptions = field(default_factory=JobOptions)
    due_at: datetime | None = None
    enqueued_by: str = ""
    trace: Mapping[str, str] = _NO_TRACE


@dataclass(frozen=True, slots=True)
class JobError:
    """What an attempt, or a job, failed of.

    Attributes:
        type: qualified name of the exception's class, `module.Name`; bare for builtins.
        message: its text.
        traceback: formatted by the process that raised it; empty where there is none.
    """

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job that has ended.

    Attributes:
        outcome: how it ended.
        started_at: when it was claimed.
        ended_at: when its end was stored.
        worker: the worker program that had claimed it.
        error: None where `outcome` says it all.
    """

    outcome: AttemptOutcome
    started_at: datetime
    ended_at: datetime
    worker: str
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that an engine knows of a job, but for its log lines; see `Engine.logs`.

    Attributes:
        id: as put.
        function: as put.
        arguments: as put.
        queue: as put.
        options: as put.
        state: where the job is.
        created_at: when it was put.
        due_at: when a delayed job becomes waiting; None unless delayed.
        started_at: when the latest attempt was claimed; None before the first.
        ended_at: when the job ended; None before.
        attempts: attempts that returned or raised; compared with `options.max_attempts`.
        crashes: attempts that crashed or lapsed; compared with `options.max_crashes`.
        starts: how often the job was claimed, the present time included.
        worker: the worker program that claimed the latest attempt; empty before the first.
        progress: JSON text, as last reported; None: nothing reported since the attempt began.
        result: JSON text of a completed job, else None.
        error: of a failed job, of a cancelled one perhaps, or of the last failed attempt.
        history: attempts that have ended, in order; engines may drop the oldest past 100.
        log_count: log lines kept.
        is_cancel_asked: whether an active job was cancelled, and its worker program not yet done.
        enqueued_by: as put.
        trace: as put.
    """

    id: str
    function: str
    arguments: str
    queue: str
    options: JobOptions
    state: JobState
    created_at: datetime
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 0
    crashes: int = 0
    starts: int = 0
    worker: str = ""
    progress: str | None = None
    result: str | None = None
    error: JobError | None = None
    history: tuple[Attempt, ...] = ()
    log_count: int = 0
    is_cancel_asked: bool = False
    enqueued_by: str = ""
    trace: Mapping[str, str] = _NO_TRACE


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log record kept with a job.

    Attributes:
        at: when it was logged.
        level: as in `logging`.
        message: formatted.
    """

    at: datetime
    level: int
    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one attempt, until it ends or its lease runs out.

    Attributes:
        id: of the job.
        queue: of the job.
        token: new with each claim; whoever presents an old one is refused (a fencing token).
    """

    id: str
    queue: str
    token: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim and its job, as it was right after claiming."""

    claim: Claim
    job: JobRecord


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker program would claim.

    Attributes:
        queues: names of queues.
        functions: what it can run, as `module:qualname`; jobs of others stay for others.
        worker: its identity, kept with the attempts.
        lease: seconds until the claim lapses unless extended.
        limit: how many jobs at most, at least 1; an engine may give fewer than there are.
    """

    queues: frozenset[str]
    functions: frozenset[str]
    worker: str
    lease: float
    limit: int = 1


@dataclass(frozen=True, slots=True)
class Extended:
    """What became of the claims that were not simply extended.

    Attributes:
        lost: overtaken, ended, or gone with their job: stop the attempt, report nothing.
        cancelled: extended, but somebody cancelled the job: stop the attempt, finish by `Cancel`.
    """

    lost: frozenset[Claim] = frozenset()
    cancelled: frozenset[Claim] = frozenset()


@dataclass(frozen=True, slots=True)
class Complete:
    """The attempt returned: the job is completed.

    Attributes:
        result: JSON text.
    """

    result: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed, and there will be another one.

    Attributes:
        error: of this attempt.
        delay: seconds until the job is waiting again; 0.0: at once.
        outcome: FAILED, or CRASHED, which adds to `crashes` instead of `attempts`.
    """

    error: JobError
    delay: float = 0.0
    outcome: AttemptOutcome = AttemptOutcome.FAILED


@dataclass(frozen=True, slots=True)
class Fail:
    """The attempt failed, and the job with it.

    Attributes:
        error: of this attempt.
        outcome: FAILED, or CRASHED, which adds to `crashes` instead of `attempts`.
    """

    error: JobError
    outcome: AttemptOutcome = AttemptOutcome.FAILED


@dataclass(frozen=True, slots=True)
class Release:
    """The attempt is handed back uncounted: the job waits again, in its old place."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The attempt was stopped since the job was cancelled: the job is cancelled."""


Ending: TypeAlias = Complete | Retry | Fail | Release | Cancel
"""What a worker program reports of a claim.

A job that was cancelled meanwhile ends: `Retry` and `Release` make it cancelled; `Complete` and
`Fail` stand, since the attempt has ended by itself.
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """What `Engine.finish` did.

    Attributes:
        is_stored: False: fenced, the claim was no longer valid and nothing was stored.
        claimed: new claims, if any were wanted and there were jobs.
    """

    is_stored: bool
    claimed: tuple[Claimed, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """Which jobs `Engine.find` looks for: those that match every condition.

    Attributes:
        states: any of these; empty: all.
        queues: any of these; empty: all.
        functions: any of these; empty: all.
        id_prefix: what the id begins with.
        is_oldest_first: order of arrival, instead of the latest first.
        limit: jobs per page, from 1 to 1000.
        cursor: `Page.cursor` of the page before; None: the first page.
    """

    states: frozenset[JobState] = frozenset()
    queues: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    id_prefix: str = ""
    is_oldest_first: bool = False
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of jobs.

    Attributes:
        jobs: the jobs, in the order of the query.
        cursor: for the next page; None: there is none.
    """

    jobs: tuple[JobRecord, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """How many jobs of one function in one queue are in one state; never 0."""

    queue: str
    function: str
    state: JobState
    count: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A hint that something happened to a job; the truth is `Engine.get`."""

    kind: EventKind
    id: str = ""
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Swept:
    """What `Engine.sweep` found; each a tuple of ids.

    Attributes:
        retried: their lease had lapsed, and they wait again.
        failed: their lease had lapsed once too often, or their deadline had passed.
        cancelled: their lease had lapsed after they had been cancelled.
    """

    retried: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """The state of an engine, for readiness checks, `offload doctor` and the dashboard.

    Attributes:
        engine: `sqlite`, `redis` or `postgres`.
        version: of its library or server.
        location: where its data are, without secrets.
        round_trip: seconds that the check took.
        problems: what its operator should change, each a sentence; empty: none.
        details: further facts, for people to read.
    """

    engine: str
    version: str
    location: str
    round_trip: float
    problems: tuple[str, ...] = ()
    details: Mapping[str, str] = _NO_TRACE
