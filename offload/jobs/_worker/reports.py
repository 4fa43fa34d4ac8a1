"""Reports of attempts on their way to the engine: those of one moment in one round trip.

    attempt ended ──► queue ──► one round trip at a time ──► stored or refused
                        ▲  what ends meanwhile goes with the next
                        └─── not reached: again, one alone first

A round trip costs about the same for one report and for thirty, and it claims what is next. So as
long as worker processes have enough to do, a report waits a few milliseconds for others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from offload.jobs._errors import JobsUnavailableError
from offload.jobs._worker.connection import Connection

if TYPE_CHECKING:
    from offload.jobs._values import Claimed, Ending, Finished, Wanted
    from offload.jobs._worker.attempt import RunningAttempt
    from offload.jobs._worker.parts import Parts

__all__ = ["Report", "Reporter", "Reports"]

_logger: Final = logging.getLogger("offload.jobs")

# In one round trip: some 5 ms of a server that does nothing else meanwhile.
_MAX_AT_ONCE: Final = 64
# As many are worth a round trip, and for so many seconds at most others are waited for.
_WORTH: Final = 32
_GATHER_SECONDS: Final = 0.005


class Report:
    """What one attempt came to, until the engine has stored or refused it."""

    __slots__ = ("attempt", "ending", "may_be_stored")

    def __init__(self, attempt: RunningAttempt, ending: Ending) -> None:
        self.attempt = attempt
        self.ending = ending
        self.may_be_stored = False


class Reporter(Protocol):
    """Who has attempts to report."""

    @property
    def spare(self) -> int:
        """How many attempts wait for a worker process: time that the engine may take."""
        ...

    def ask(self) -> Wanted | None:
        """Return what to claim together with the next reports; None: nothing."""
        ...

    def begin(self, claimed: tuple[Claimed, ...], asked_at: float) -> None:
        """Begin what was claimed."""
        ...

    def has_room(self) -> None:
        """Note that no report is under way any more that would claim."""
        ...

    def asked(self, change: int) -> None:
        """Note that so many more jobs may come out of a round trip, or no longer."""
        ...

    def reported(self, report: Report, *, is_stored: bool) -> None:
        """Note that a report was stored or refused, and is over."""
        ...

    def gave_up(self, report: Report) -> None:
        """Note that a report is over, which the engine can neither store nor refuse."""
        ...


class Reports:
    """The reports of one consumer.

    Args:
        parts: of the program.
        reporter: whose reports these are.
        tasks: where the asyncio task is kept that carries them.
    """

    def __init__(self, parts: Parts, reporter: Reporter, tasks: set[asyncio.Task[None]]) -> None:
        self._parts: Final = parts
        self._reporter: Final = reporter
        self._tasks: Final = tasks
        self._waiting: deque[Report] = deque()
        self._task: asyncio.Task[None] | None = None
        self._limit = _MAX_AT_ONCE
        self._tries = 0
        # Set while others are waited for.
        self._gathered: asyncio.Future[None] | None = None

    @property
    def are_under_way(self) -> bool:
        """Whether a round trip is under way, or about to be, which may claim as well."""
        return self._task is not None and self._tries == 0

    def add(self, attempt: RunningAttempt, ending: Ending) -> None:
        """Report the end of an attempt, until the engine has stored or refused it."""
        self._waiting.append(Report(attempt, ending))
        if self._task is None:
            self._task = task = asyncio.create_task(self._carry())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._gathered is not None and not self._can_wait():
            _wake(self._gathered)

    def _can_wait(self) -> bool:
        # While it is under way, worker processes live on what is left.
        return len(self._waiting) < min(_WORTH, self._reporter.spare)

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        self._gathered = loop.create_future()
        # Neither a scope nor `asyncio.timeout`, which take longer than all the rest of it.
        timer = loop.call_later(_GATHER_SECONDS, _wake, self._gathered)
        try:
            await self._gathered
        finally:
            timer.cancel()
            self._gathered = None

    async def _carry(self) -> None:
        try:
            while self._waiting:
                if self._can_wait():
                    await self._gather()
                count = min(len(self._waiting), self._limit)
                batch = [self._waiting.popleft() for _ in range(count)]
                try:
                    await self._carry_one(batch)
                except BaseException:
                    self._waiting.extendleft(reversed(batch))
                    raise
        finally:
            self._task = None
            left = list(self._waiting)
            self._waiting.clear()
            for report in left:
                self._reporter.gave_up(report)
            self._reporter.has_room()

    async def _carry_one(self, batch: list[Report]) -> None:
        try:
            finished = await self._finish(batch)
        except JobsUnavailableError as error:
            self._parts.connection.failed(error)
            self._put_back(batch, may_be_stored=error.may_have_happened)
            self._tries += 1
            self._reporter.has_room()
            await Connection.pause(self._tries - 1)
        except Exception:
            if len(batch) > 1:
                # One of them may be to blame. Which were stored is not known.
                self._put_back(batch, may_be_stored=True)
            else:
                job = batch[0].attempt.claimed.job
                _logger.exception("%s cannot be reported; its lease will run out", job.id)
                self._reporter.gave_up(batch[0])
        else:
            self._parts.connection.succeeded()
            self._tries = 0
            self._limit = min(self._limit * 2, _MAX_AT_ONCE)
            for report, is_stored in zip(batch, finished.stored, strict=True):
                # One that was stored, and not told so, is refused the next time.
                is_known = is_stored or report.may_be_stored
                self._reporter.reported(report, is_stored=is_known)

    async def _finish(self, batch: list[Report]) -> Finished:
        wanted = self._reporter.ask()
        limit = 0 if wanted is None else wanted.limit
        self._reporter.asked(limit)
        asked_at = time.monotonic()
        try:
            reports = [(each.attempt.claimed.claim, each.ending) for each in batch]
            finished = await self._parts.engine.finish_all(reports, then=wanted)
        finally:
            self._reporter.asked(-limit)
        self._reporter.begin(finished.claimed, asked_at)
        return finished

    def _put_back(self, batch: list[Report], *, may_be_stored: bool) -> None:
        """Have reports carried again: one by one first, and those that were tried behind others.

        So one that no engine takes, whatever is wrong with it, keeps none of the others.
        """
        self._limit = 1
        for report in batch:
            report.may_be_stored = report.may_be_stored or may_be_stored
            if self._parts.leases.is_held(report.attempt.claimed.claim):
                self._waiting.append(report)
            else:
                # Told meanwhile: the job is over, or another's.
                self._reporter.reported(report, is_stored=report.may_be_stored)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
