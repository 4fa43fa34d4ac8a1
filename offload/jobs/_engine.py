"""The seam between the job layer and what keeps jobs.

    Jobs, Job          worker program          schedules
        │ put, get, find,   │ claim, extend,        │ put
        │ cancel, events    │ finish, sweep         │
        └───────────────────┴─────────┬─────────────┘
                                   Engine
                      SQLite file │ BullMQ: Redis, Postgres

Guarantees of every engine, each proven by the conformance suite in `tests/jobs`:

1. *Accepted is kept.* When `put` has returned, the jobs survive the death of every process.
2. *It ends once.* Every claim has a new token. Whatever is reported with an old one is refused,
   and nothing of it is stored.
3. *Seldom twice.* A job is claimed again only after its attempt ended, or was swept since its
   lease had lapsed. A lease that is extended in time never lapses.
4. *Errors and crashes are counted apart.* See `AttemptOutcome`.
5. *Never a hang.* Within seconds a method returns or raises `JobsUnavailableError`.

The job layer owns the rest: retries and back-off, extending leases, stopping attempts whose claim
is lost, draining, waiting for results, and what the JSON means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from offload.jobs._ended import Ended
    from offload.jobs._notes import Notes
    from offload.jobs._values import (
        CancelOutcome,
        Claim,
        Claimed,
        Count,
        Ending,
        Extended,
        Finished,
        Health,
        JobEvent,
        JobRecord,
        LogLine,
        NewJob,
        Page,
        Query,
        Swept,
        Wanted,
    )

__all__ = ["Engine"]


class Engine(Protocol):
    """Keeps jobs. Every method may be called on asyncio and on trio, by many tasks at once.

    Cancellation: a method that is cancelled may or may not have taken effect, as if the process
    had died at that moment; but no claim stays held by a `claim` or `finish` that was cancelled.

    Raises:
        JobsUnavailableError: from every method: the engine cannot be reached, or cannot store.
            Whether the change took effect is told by its `may_have_happened`.
    """

    @property
    def notes(self) -> Notes:
        """What is kept beside the jobs; to be used between `open` and `aclose`."""
        ...

    # Life

    @property
    def location(self) -> str:
        """Where the jobs are, as a URL without secrets."""
        ...

    async def open(self) -> None:
        """Connect, and create or migrate what is stored. Opening twice does nothing."""
        ...

    async def aclose(self) -> None:
        """End running methods with `JobsUnavailableError` and disconnect. Claims lapse."""
        ...

    async def health(self) -> Health:
        """Check by a round trip that the engine can be reached, and look for bad settings."""
        ...

    # Producers

    async def put(
        self, jobs: Sequence[NewJob], *, max_queued: int | None = None
    ) -> tuple[str, ...]:
        """Keep jobs durably: all of them, or, if this raises, none.

        Idempotent by id: a job whose id is known already, even of a job that is over, changes
        nothing. A job whose `unique` key is taken is not kept either.

        Args:
            jobs: what to keep; the queue sees them in this order.
            max_queued: how many jobs may wait or be delayed in one queue afterwards; None: no
                limit.

        Returns:
            Ids in the order of `jobs`: its own, or that of the job that holds its `unique` key.

        Raises:
            JobQueueFullError: one of the queues would exceed `max_queued`.
        """
        ...

    async def get(self, ids: Sequence[str]) -> tuple[JobRecord | None, ...]:
        """Return the records of `ids`, in that order; None for those that are not known."""
        ...

    async def logs(self, job_id: str, *, start: int = 0, limit: int = 1000) -> tuple[LogLine, ...]:
        """Return kept log lines, the oldest first; none for an unknown job."""
        ...

    async def find(self, query: Query) -> Page:
        """Return one page of the jobs that match.

        Paging through all pages shows every job that matches throughout exactly once.
        """
        ...

    async def counts(self, queues: Collection[str] | None = None) -> tuple[Count, ...]:
        """Return how many jobs there are by queue, function and state; None: of every queue."""
        ...

    async def ended(self, step: int, steps: int) -> Ended:
        """Return how many jobs have ended within each of the last steps of time.

        Steps begin at multiples of `step` since the epoch, the last one is that of now. Jobs that
        were forgotten or requeued meanwhile may or may not be counted.

        Args:
            step: seconds, a multiple of `ENDED_STEP`.
            steps: how many, from 1 to 400; together at most `ENDED_SECONDS`.
        """
        ...

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel a job that waits, or ask for the end of one that is active.

        Raises:
            JobNotFoundError: there is no such job.
        """
        ...

    async def requeue(self, job_id: str) -> None:
        """Have a failed or cancelled job run again, with its counters at 0 and its history kept.

        A deadline that has passed is dropped; its `unique` key is taken again if it is free.

        Raises:
            JobNotFoundError: there is no such job.
            JobConflictError: it is not failed or cancelled.
        """
        ...

    async def remove(self, ids: Sequence[str]) -> int:
        """Forget those of `ids` that are over, and return how many those were."""
        ...

    def events(
        self, ids: Collection[str] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[JobEvent]]:
        """Listen to what happens to jobs, in any process.

        Once the context is entered, no event is missed without a `MISSED` in its place, as far as
        the engine can tell; look at the job by `get` then, and again now and then. The iterator
        ends when the engine is closed.

        Args:
            ids: listen to these jobs only; None: to all.
        """
        ...

    # Worker programs

    async def claim(self, wanted: Wanted, *, wait: float = 0.0) -> tuple[Claimed, ...]:
        """Claim jobs that wait: by priority and then in order of arrival within each queue.

        Delayed jobs are claimed when they are due. Jobs whose deadline has passed are failed
        instead of being returned; paused queues give none.

        Args:
            wanted: what to claim.
            wait: seconds to wait for a first job; it returns as soon as there is one.

        Returns:
            At most `wanted.limit` claims; none if `wait` was over.
        """
        ...

    async def extend(self, claims: Collection[Claim], lease: float) -> Extended:
        """Extend claims to `lease` seconds from now: all of them in one round trip.

        A claim whose lease has lapsed and that was not swept yet is extended, too.
        """
        ...

    async def finish(self, claim: Claim, ending: Ending, *, then: Wanted | None = None) -> Finished:
        """Report the end of an attempt, and claim what is next in the same round trip.

        The claim is over when this returns. Where `then` is given and the claim was fenced,
        engines may still claim.
        """
        ...

    async def finish_all(
        self, reports: Sequence[tuple[Claim, Ending]], *, then: Wanted | None = None
    ) -> Finished:
        """Report the ends of many attempts in one round trip; each is stored or fenced by itself.

        Where this raises, any of them may have been stored, as `may_have_happened` says.
        """
        ...

    async def progress(self, claim: Claim, value: str) -> bool:
        """Keep the latest progress, JSON text. False: fenced, nothing was stored."""
        ...

    async def log(self, claim: Claim, lines: Sequence[LogLine]) -> bool:
        """Keep log lines. False: fenced, nothing was stored."""
        ...

    # Care of the store: any process may do it at any time, several at once.

    async def sweep(self) -> Swept:
        """End attempts whose lease has lapsed, and fail waiting jobs whose deadline has passed.

        A swept job waits again in its old place, or fails once `crashes` exceeds `max_crashes`;
        if it had been cancelled, it is cancelled.
        """
        ...

    async def prune(self, *, max_over: int | None = None) -> int:
        """Forget jobs that ended longer ago than their `keep`, and return how many those were.

        Args:
            max_over: how many jobs that are over may be kept altogether: those put last.
        """
        ...

    async def pause(self, queue: str) -> None:
        """Give no jobs of `queue` to anybody, until `resume`. What is active goes on."""
        ...

    async def resume(self, queue: str) -> None:
        """End a pause."""
        ...

    async def paused(self) -> frozenset[str]:
        """Return the queues that are paused."""
        ...
