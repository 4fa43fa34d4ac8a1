"""The flow of the jobs of one pool: claim, run, report and claim the next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

import anyio

from offload.jobs._errors import JobsUnavailableError
from offload.jobs._options import AttemptOutcome
from offload.jobs._values import Release, Wanted
from offload.jobs._worker.attempt import RunningAttempt, Stop
from offload.jobs._worker.connection import Connection
from offload.jobs._worker.endings import outcome_of
from offload.jobs._worker.leases import max_grace
from offload.jobs._worker.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offload.jobs._attempt import Runnable
    from offload.jobs._values import Claimed, Ending, JobRecord
    from offload.jobs._worker.parts import Parts
    from offload.jobs._worker.reports import Report
    from offload.pool import Pool

__all__ = ["Consumer"]

_logger: Final = logging.getLogger("offload.jobs")

# Seconds of work that may be claimed beyond what runs, and how many jobs at most.
_AHEAD_SECONDS: Final = 0.02
_MAX_AHEAD: Final = 64
# A claim that waits so long for a worker process is handed back: what runs takes longer than it
# used to, and another program may be idle.
_PATIENCE_SECONDS: Final = 0.25
# Where not even a worker process could be started, nothing is claimed for a while.
_REST_SECONDS: Final = 1.0
_MAX_WAIT: Final = 5.0


class _Eligible:
    """The functions of which another attempt may begin."""

    def __init__(self, runnables: Mapping[str, Runnable]) -> None:
        limits = {name: each.max_concurrency for name, each in runnables.items()}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        self._unlimited = frozenset(limits.keys() - self._limits.keys())

    def now(self, running: Counter[str]) -> frozenset[str]:
        """Return them, given how many attempts of each are running."""
        free = [name for name, limit in self._limits.items() if running[name] < limit]
        return self._unlimited.union(free) if free else self._unlimited


class Consumer:
    """The jobs of one pool.

    Attributes:
        attempts: those under way, by the token of their claim; also those whose end is not stored.
        is_idle: whether nothing is under way, and nothing was found to claim.
    """

    def __init__(self, parts: Parts, pool: Pool, runnables: Mapping[str, Runnable]) -> None:
        self._parts: Final = parts
        self.pool: Final = pool
        self.runnables: Final = runnables
        self.attempts: dict[str, RunningAttempt] = {}
        self.is_idle = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._is_claiming = True
        # Attempts that hold a worker process or wait for one, by function.
        self._running: Counter[str] = Counter()
        # Jobs that may come out of requests under way.
        self._asked = 0
        self._eligible = _Eligible(runnables)
        self._reports = Reports(parts, self, self._tasks)
        self._mean_seconds = float("inf")
        self._rests_until = 0.0
        self._waiting: tuple[anyio.CancelScope, frozenset[str]] | None = None

    @property
    def slots(self) -> int:
        """How many attempts its pool can run at once."""
        return self.pool.max_workers

    # Claiming

    async def claim(self) -> None:
        """Claim whenever there is room, until `stop_claiming`."""
        tries = 0
        while self._is_claiming:
            rest = self._rests_until - time.monotonic()
            if rest > 0:
                await anyio.sleep(rest)
                continue
            # A report that is under way claims as well, in the same round trip.
            wanted = None if self._reports.are_under_way else self.ask()
            if wanted is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await self._claim(wanted)
            except JobsUnavailableError as error:
                self._parts.connection.failed(error)
                await Connection.pause(tries)
                tries += 1
            else:
                self._parts.connection.succeeded()
                tries = 0

    async def _claim(self, wanted: Wanted) -> None:
        self.asked(wanted.limit)
        claimed: tuple[Claimed, ...] = ()
        asked_at = 0.0
        try:
            with anyio.CancelScope() as scope:
                self._waiting = scope, wanted.functions
                wait = min(self._parts.lease / 8, _MAX_WAIT)
                # Not sooner: the first scope of a process imports anyio's other half.
                asked_at = time.monotonic()
                claimed = await self._parts.engine.claim(wanted, wait=wait)
        finally:
            self._waiting = None
            self.asked(-wanted.limit)
        self.begin(claimed, asked_at)
        self.is_idle = not self.attempts

    def stop_claiming(self) -> None:
        """Claim no more."""
        self._is_claiming = False
        self._changed.set()
        if self._waiting is not None:
            self._waiting[0].cancel()

    def _room(self) -> int:
        """Return how many jobs to claim now; 0: none, or too few to be worth a round trip."""
        ahead = min(int(_AHEAD_SECONDS / self._mean_seconds * self.slots), _MAX_AHEAD)
        running = self._running.total() + self._asked
        room = self.slots + ahead - running
        # As long as no worker process waits for it, many are claimed at once.
        return room if running < self.slots or room * 4 >= ahead else 0

    def ask(self) -> Wanted | None:
        """Return what to claim now; None: nothing."""
        if not self._is_claiming:
            return None
        room = self._room()
        if room <= 0 or time.monotonic() < self._rests_until:
            return None
        functions = self._eligible.now(self._running)
        if not functions:
            return None
        parts = self._parts
        return Wanted(parts.queues, functions, parts.worker, parts.lease, room)

    # Running

    @property
    def spare(self) -> int:
        """How many attempts wait for a worker process."""
        return self._running.total() - self.slots

    def has_room(self) -> None:
        """Have more claimed, if there is room, unless reports do that."""
        if not self._reports.are_under_way:
            self._changed.set()

    def asked(self, change: int) -> None:
        """Note that so many more jobs may come out of a round trip, or no longer."""
        self._asked += change

    def begin(self, claimed: tuple[Claimed, ...], asked_at: float) -> None:
        """Begin what was claimed."""
        for each in claimed:
            self.is_idle = False
            self._note_begin(each.job)
            runnable = self.runnables[each.job.function]
            grace = min(runnable.grace, max_grace(self._parts.lease))
            self._parts.leases.claimed(each.claim, asked_at, grace)
            attempt = RunningAttempt(each, runnable, grace, self._parts.records, self._parts.leases)
            self.attempts[each.claim.token] = attempt
            self._running[each.job.function] += 1
            self._tasks.add(asyncio.create_task(self._attend(attempt)))

    def _note_begin(self, job: JobRecord) -> None:
        wait = None
        if job.starts == 1 and job.started_at is not None:
            wait = (job.started_at - job.created_at).total_seconds()
        self._parts.counters.begin(job.queue, job.function, wait)

    async def _attend(self, attempt: RunningAttempt) -> None:
        parts = self._parts
        if attempt.claimed.job.is_cancel_asked:
            attempt.stop(Stop.CANCELLED)
        try:
            ending = await attempt.run(parts.max_bytes)
            self._note_end(attempt, ending)
            if ending is not None:
                if attempt.has_news:
                    await attempt.tell_last(parts.engine)
                self._reports.add(attempt, ending)
                return
            await self._give_up(attempt)
        except BaseException as error:
            self._is_over(attempt)
            if not isinstance(error, Exception):
                raise
            job = attempt.claimed.job
            _logger.exception("%s cannot be reported; its lease will run out", job.id)
        else:
            self._is_over(attempt)
        finally:
            # Not by a callback of the task: the loop would have to turn for it once more.
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _is_over(self, attempt: RunningAttempt) -> None:
        claim = attempt.claimed.claim
        self._parts.leases.over(claim)
        self._parts.records.end(claim.token)
        self.attempts.pop(claim.token, None)
        self.has_room()

    def _note_end(self, attempt: RunningAttempt, ending: Ending | None) -> None:
        function = attempt.claimed.job.function
        self._running[function] -= 1
        self.has_room()
        if self._waiting is not None and function not in self._waiting[1]:
            # What waits for jobs does not wait for those of this function.
            self._waiting[0].cancel()
        if attempt.started_at is not None:
            seconds = attempt.run_seconds
            self._parts.counters.ran(attempt.claimed.job.queue, function, seconds)
            # One that takes longer than all that may be claimed ahead counts at once. What is
            # shorter and varies is noise: of a CPU that others had, as a rule.
            mean = self._mean_seconds
            is_longer = seconds > max(mean, _AHEAD_SECONDS) or mean == float("inf")
            self._mean_seconds = max(seconds if is_longer else mean * 0.9 + seconds * 0.1, 1e-6)
        if isinstance(ending, Release) and attempt.stop_reason is None:
            _logger.error("no worker process could run %s; it was handed back", attempt)
            self._rests_until = time.monotonic() + _REST_SECONDS

    def reported(self, report: Report, *, is_stored: bool) -> None:
        """Note that a report was stored or refused."""
        parts, attempt = self._parts, report.attempt
        if is_stored:
            outcome = outcome_of(report.ending)
            self._count(attempt, outcome)
            self._log(attempt, outcome, report.ending)
        else:
            parts.counters.fenced += 1
            self._count(attempt, AttemptOutcome.LAPSED)
            _logger.warning("%s was overtaken, its report was refused: %s", attempt, self._why())
        self._is_over(attempt)

    def gave_up(self, report: Report) -> None:
        """Note that a report is over, which the engine can neither store nor refuse."""
        self._is_over(report.attempt)

    async def _give_up(self, attempt: RunningAttempt) -> None:
        """Hand back what may still be ours, as far as we know; it costs nothing to try.

        Nothing of it runs any more. Where that took longer than the lease, it is another's by now.
        """
        parts = self._parts
        self._count(attempt, AttemptOutcome.LAPSED)
        _logger.warning("%s was stopped, its lease was not extended: %s", attempt, self._why())
        if parts.leases.is_held(attempt.claimed.claim):
            try:
                await parts.engine.finish(attempt.claimed.claim, Release())
            except JobsUnavailableError as error:
                parts.connection.failed(error)

    def _why(self) -> str:
        """Return why leases were not extended in time, as far as that can be told."""
        parts = self._parts
        still = parts.pulse.longest(time.monotonic() - 2 * parts.lease)
        if still >= parts.lease / 4:
            return (
                f"this program stood still for {still:.1f} s, as it was stopped or no CPU was free "
                f"for it; a longer lease than {parts.lease:g} s outlasts that"
            )
        if not parts.connection.is_up:
            return "the engine does not answer"
        return "the engine was away, or slow"

    def _count(self, attempt: RunningAttempt, outcome: AttemptOutcome) -> None:
        job = attempt.claimed.job
        self._parts.counters.note(job.queue, job.function, outcome)

    def _log(self, attempt: RunningAttempt, outcome: AttemptOutcome, ending: Ending) -> None:
        job = attempt.claimed.job
        level = logging.DEBUG
        if outcome in (AttemptOutcome.FAILED, AttemptOutcome.CRASHED):
            level = logging.WARNING
        if not _logger.isEnabledFor(level):
            return
        error = getattr(ending, "error", None)
        tail = "" if error is None else f": {error.type}: {error.message}"
        _logger.log(
            level,
            "%s %s %s after %.3f s%s",
            job.function,
            job.id,
            outcome,
            attempt.run_seconds,
            tail,
        )

    # Care

    def look_after(self) -> None:
        """Stop attempts that wait for a worker process in vain: others may be idle."""
        for attempt in self.attempts.values():
            # What is slower than it used to be is known before it has ended.
            longest = max(self._mean_seconds, _AHEAD_SECONDS)
            if attempt.ended_at is None and attempt.run_seconds > longest:
                self._mean_seconds = attempt.run_seconds
        excess = self._running.total() - self.slots
        if excess <= 0:
            return
        late = time.monotonic() - _PATIENCE_SECONDS
        for attempt in reversed(self.attempts.values()):
            if excess > 0 and attempt.started_at is None and attempt.claimed_at < late:
                attempt.stop(Stop.HANDED_BACK)
                excess -= 1

    async def drained(self) -> None:
        """Wait until every attempt has ended and was reported."""
        while self._tasks:
            done, _ = await asyncio.wait(self._tasks)
            # One that was cancelled before it began.
            self._tasks -= done

    def abandon(self) -> None:
        """Cancel what cannot be reported: leases run out."""
        for task in self._tasks:
            task.cancel()
