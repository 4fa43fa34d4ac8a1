"""The values that cross the seam between the job layer and its engines: frozen, and plain data.

Arguments, results and progress are JSON text here: engines keep them and never look inside.
Durations are seconds; instants are aware datetimes, which engines keep and return in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from offload.jobs._health import Health
from offload.jobs._options import (
    DEFAULT_BACKOFF,
    AttemptOutcome,
    Backoff,
    CancelOutcome,
    EventKind,
    JobOptions,
    JobState,
    Unique,
)
from offload.jobs._texts import JobError, LogLine

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
    trace: Mapping[str, str] = field(default_factory=dict[str, str])


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
        problem: why the job cannot be read, where somebody else has written to the store; then the
            rest says little, and whoever claims it fails it. "" of every other job.
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
    trace: Mapping[str, str] = field(default_factory=dict[str, str])
    problem: str = ""


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
    """What `Engine.finish` and `finish_all` did.

    Attributes:
        stored: of each report. False: fenced, the claim was no longer valid and nothing was stored.
        claimed: new claims, if any were wanted and there were jobs.
    """

    stored: tuple[bool, ...]
    claimed: tuple[Claimed, ...] = ()

    @property
    def is_stored(self) -> bool:
        """Whether every report was stored."""
        return all(self.stored)


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
    """A hint that something happened to a job; the truth is `Engine.get`.

    Attributes:
        kind: what happened.
        id: of the job.
        queue: of the job.
        result: JSON text of what a completed job returned, where the engine tells that along.
        at: when that was, by the clock that `JobRecord.created_at` is of; told with a result.
    """

    kind: EventKind
    id: str = ""
    queue: str = ""
    result: str | None = None
    at: datetime | None = None


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
