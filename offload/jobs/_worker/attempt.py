"""One attempt, from its claim to the report of its end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from datetime import UTC, datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import anyio

from offload.jobs._attempt import AttemptFailedError, run
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._trace import continued
from offload.jobs._values import Cancel, Complete, Fail, JobError, Release
from offload.jobs._worker.endings import ending_of

if TYPE_CHECKING:
    from offload.jobs._attempt import Runnable
    from offload.jobs._engine import Engine
    from offload.jobs._values import Claimed, Ending
    from offload.jobs._worker.leases import Leases
    from offload.jobs._worker.records import RecordKeeper

__all__ = ["RunningAttempt", "Stop"]

_logger: Final = logging.getLogger("offload.jobs")

# Records travel beside the result, on a thread of the pool: so long, in seconds, the last ones are
# waited for. Those of a process that died cannot be counted.
_RECORDS_SECONDS: Final = 0.5
_RECORDS_OF_CRASHED_SECONDS: Final = 0.05


class Stop(Enum):
    """Why an attempt is stopped."""

    LOST = auto()
    """Its claim is another's by now, or its lease may have run out: there is nothing to report."""
    CANCELLED = auto()
    """Somebody has cancelled the job."""
    HANDED_BACK = auto()
    """The program ends, or the attempt waits in vain for a worker process."""


class RunningAttempt:
    """One attempt.

    Attributes:
        claimed: its claim and its job.
        runnable: its function.
        grace: seconds between asking it to stop and ending its process.
        started_at: `time.monotonic()` instant at which a worker process was given it; None: it
            waits for one.
        ended_at: when it ended; None: it has not.
        stop_reason: why it is stopped; None: it is not.
    """

    def __init__(
        self,
        claimed: Claimed,
        runnable: Runnable,
        grace: float,
        records: RecordKeeper,
        leases: Leases,
    ) -> None:
        self.claimed: Final = claimed
        self.runnable: Final = runnable
        self.grace: Final = grace
        self.claimed_at: Final = time.monotonic()
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.stop_reason: Stop | None = None
        self._records = records
        self._leases = leases
        self._task: asyncio.Task[object] | None = None
        self._progress: str | None = None
        self._told_progress: str | None = None
        self._key = claimed.claim.token

    def __repr__(self) -> str:
        """Return the job and how long it runs."""
        job = self.claimed.job
        return f"<attempt of {job.id} {job.function}>"

    @property
    def run_seconds(self) -> float:
        """How long it has run."""
        if self.started_at is None:
            return 0.0
        return (self.ended_at or time.monotonic()) - self.started_at

    @property
    def progress(self) -> str | None:
        """The latest progress, as JSON."""
        return self._progress

    def stop(self, reason: Stop) -> None:
        """Stop it: the process that computes is ended. The first reason counts."""
        if self.stop_reason is None and self.ended_at is None:
            self.stop_reason = reason
            if self._task is not None:
                self._task.cancel()

    async def run(self, max_bytes: int | None) -> Ending | None:
        """Run it, and return what to report, once nothing of it runs any more; None: nothing.

        Args:
            max_bytes: size that the result may have.
        """
        self._records.begin(self._key)
        self._task = task = asyncio.current_task()
        try:
            if self.stop_reason is not None:
                return self._stopped()
            if self.claimed.job.problem:
                return self._refused()
            return await self._run(max_bytes)
        except asyncio.CancelledError:
            # Not a cancel scope: it would take as long as all the rest of a short attempt.
            if self.stop_reason is None or task is None or task.uncancel():
                raise
            return self._stopped()
        finally:
            self._task = None
            self.ended_at = time.monotonic()

    def _refused(self) -> Ending:
        """Fail a job that is none: somebody else has written it to the store."""
        job = self.claimed.job
        message = (
            f"job {job.id} cannot be read and did not run: {job.problem}. Somebody else has "
            "written it to the store, or another version of this package"
        )
        _logger.error("%s", message)
        return Fail(JobError("ValueError", message))

    async def _run(self, max_bytes: int | None) -> Ending:
        job = self.claimed.job
        deadline = None
        if job.options.deadline is not None:
            left = (job.options.deadline - datetime.now(UTC)).total_seconds()
            deadline = time.monotonic() + left
        facts = (
            job.id,
            job.function,
            job.queue,
            job.attempts + job.crashes + 1,
            job.options.max_attempts,
            job.enqueued_by,
            self._key,
            max_bytes,
        )
        count: int | None = None
        ending: Ending
        try:
            with continued(job.trace):
                done = await run(
                    self.runnable,
                    job.arguments,
                    facts,
                    timeout=job.options.timeout,
                    deadline=deadline,
                    grace=self.grace,
                    on_progress=self._note_progress,
                    may_start=self._note_start,
                )
            count, ending = done.record_count, Complete(done.result)
        except AttemptFailedError as error:
            count, ending = error.record_count, ending_of(job, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt has ended with it
            ending = ending_of(job, error)
        if count != 0:
            await self._wait_for_records(count)
        return ending

    def _note_start(self) -> bool:
        now = time.monotonic()
        if not self._leases.may_begin(self.claimed.claim, now):
            # This program stood still, or the engine took its time.
            self.stop(Stop.LOST)
            return False
        self.started_at = now
        return True

    def _note_progress(self, done: float, total: float | None) -> None:
        value = {"done": done} if total is None else {"done": done, "total": total}
        self._progress = json.dumps(value, separators=(",", ":"))

    async def _wait_for_records(self, count: int | None) -> None:
        limit = _RECORDS_OF_CRASHED_SECONDS if count is None else _RECORDS_SECONDS
        with anyio.move_on_after(limit):
            # They arrive on a thread that knows no event loop, in a millisecond as a rule.
            while count is None or self._records.count(self._key) < count:  # noqa: ASYNC110
                await anyio.sleep(0.002)

    def _stopped(self) -> Ending | None:
        match self.stop_reason:
            case Stop.CANCELLED:
                return Cancel()
            case Stop.HANDED_BACK:
                return Release()
            case _:
                return None

    @property
    def has_news(self) -> bool:
        """Whether there may be something to tell the engine beside the end."""
        return self._progress is not None or self._records.has_any(self._key)

    async def tell(self, engine: Engine) -> None:
        """Have the engine keep progress and log records that are new.

        Raises:
            JobsUnavailableError: the engine cannot be reached; it is told next time.
        """
        progress = self._progress
        if progress is not None and progress != self._told_progress:
            await engine.progress(self.claimed.claim, progress)
            self._told_progress = progress
        lines = self._records.take(self._key)
        if lines:
            try:
                await engine.log(self.claimed.claim, lines)
            except JobsUnavailableError:
                self._records.put_back(self._key, lines)
                raise

    async def tell_last(self, engine: Engine) -> None:
        """Have the engine keep the rest, right before the end is reported."""
        try:
            await self.tell(engine)
        except JobsUnavailableError:
            # The end of the attempt is what matters.
            _logger.debug("the last log records of %s were not kept", self)
