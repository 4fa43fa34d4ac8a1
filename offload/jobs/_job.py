"""The handle of a job: what becomes of it, from any process."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from offload.jobs._codec import Signature
from offload.jobs._errors import JobNotFoundError, JobsUnavailableError, JobTimeoutError
from offload.jobs._failures import failure_of
from offload.jobs._functions import known
from offload.jobs._options import CancelOutcome, EventKind, JobState
from offload.jobs._status import JobStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from offload.jobs._engine import Engine
    from offload.jobs._values import JobEvent, LogLine

__all__ = ["Job", "JobEvents"]

R = TypeVar("R")

# Events are hints, and may get lost: so often, in seconds, the job is looked at without one.
_LOOK_SECONDS: Final = 2.0
# A longer text is decoded on a thread, so that the event loop gets its turn meanwhile.
_LARGE: Final = 32 * 1024
_ENDS: Final = frozenset(
    {EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELLED, EventKind.MISSED}
)


class Opened(Protocol):
    """What a handle needs of its `Jobs`."""

    async def engine(self) -> Engine:
        """Return the engine, open."""
        ...


class Job(Generic[R]):
    """A job by its id. Cheap to make, and equal to every other handle of that job.

    Attributes:
        id: its id.
    """

    __slots__ = ("_function", "_jobs", "id")

    def __init__(self, jobs: Opened, job_id: str, function: Any = None) -> None:
        self._jobs = jobs
        self._function = function
        self.id: Final = job_id

    def __repr__(self) -> str:
        """Return the id."""
        return f"<Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        """Return whether both are handles of one job."""
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        """Return the hash of the id."""
        return hash(self.id)

    async def status(self) -> JobStatus:
        """Return what is known of the job now.

        Raises:
            JobNotFoundError: there is no such job.
            JobsUnavailableError: the engine cannot be reached.
        """
        engine = await self._jobs.engine()
        return await _look(engine, self.id)

    # An error of our own, which says that the job goes on.
    async def wait(self, *, timeout: float | None = None) -> JobStatus:  # noqa: ASYNC109
        """Wait until the job has ended, however it does.

        Args:
            timeout: seconds to wait; None: no limit.

        Raises:
            JobTimeoutError: it has not ended by then. The job goes on.
            JobNotFoundError: there is no such job, or no longer.
            JobsUnavailableError: the engine cannot be reached.

        Cancellation: the wait ends; the job goes on.
        """
        with anyio.move_on_after(timeout):
            status, _ = await self._wait()
            return status
        raise self._late(timeout)

    async def result(self, *, timeout: float | None = None) -> R:  # noqa: ASYNC109 - as for wait
        """Wait for the job and return what its function returned.

        The result has the annotated type if this process knows the function: since it enqueued
        the job, has imported its module or gave it to `Jobs.get`. Otherwise it is plain JSON data.

        Args:
            timeout: seconds to wait; None: no limit.

        Raises:
            Exception: what the function raised, where its class can be made of its text; its
                `__cause__` is the `JobFailedError`.
            JobFailedError: the job has failed, for whatever other reason.
            JobCancelledError: it was cancelled.
            JobTimeoutError: it has not ended by then. The job goes on.
            JobNotFoundError: there is no such job, or no longer.
            JobResultError: the stored result does not fit the function's annotation here.
            JobsUnavailableError: the engine cannot be reached.

        Cancellation: the wait ends; the job goes on.
        """
        found = None
        with anyio.move_on_after(timeout):
            found = await self._wait(takes_result=True)
        if found is None:
            raise self._late(timeout)
        status, told = found
        if told is None and status.state is not JobState.COMPLETED:
            raise failure_of(status)
        text = told or status.result or "null"
        function = self._function if self._function is not None else known(status.function)
        decode: Any = json.loads if function is None else Signature.of(function).decode_result
        if len(text) > _LARGE:
            result: R = await anyio.to_thread.run_sync(decode, text)
        else:
            result = decode(text)
        return result

    async def cancel(self) -> CancelOutcome:
        """Cancel the job: one that waits never runs, one that runs is stopped within a second.

        Returns:
            What was found: REMOVED, it had not begun; ASKED, its worker program has been told;
            OVER, it had ended.

        Raises:
            JobNotFoundError: there is no such job.
            JobsUnavailableError: the engine cannot be reached.
        """
        engine = await self._jobs.engine()
        return await engine.cancel(self.id)

    async def retry(self) -> None:
        """Have a failed or cancelled job run again, with its counters at 0 and its history kept.

        Raises:
            JobNotFoundError: there is no such job.
            JobConflictError: it has not failed, nor was it cancelled.
            JobsUnavailableError: the engine cannot be reached.
        """
        engine = await self._jobs.engine()
        await engine.requeue(self.id)

    async def logs(self, *, start: int = 0, limit: int = 1000) -> tuple[LogLine, ...]:
        """Return log records that its attempts made, the oldest first; none of an unknown job.

        Args:
            start: number of the first one.
            limit: how many at most.

        Raises:
            JobsUnavailableError: the engine cannot be reached.
        """
        engine = await self._jobs.engine()
        return await engine.logs(self.id, start=start, limit=limit)

    def events(self) -> JobEvents:
        """Follow the job: its status now, after each change, and when it has ended.

        Changes that come fast are told together. To be used as
        `async with job.events() as events: async for status in events: …`; without `async with`
        it is closed when the job has ended.
        """
        return JobEvents(self._jobs, self.id)

    def _late(self, timeout: float | None) -> JobTimeoutError:
        assert timeout is not None
        return JobTimeoutError(
            f"job {self.id} had not ended within {timeout:g} s, and continues; cancel() ends it",
            job_id=self.id,
            timeout=timeout,
        )

    async def _wait(self, *, takes_result: bool = False) -> tuple[JobStatus, str | None]:
        """Wait for the end, and return the status.

        Args:
            takes_result: whether a result will do that an event has told. Then it is returned, too,
                and the status is the one before.
        """
        engine = await self._jobs.engine()
        async with engine.events([self.id]) as events:
            while True:
                # Listening already, so that nothing is missed between look and wait.
                status = await _look(engine, self.id)
                if status.state.is_over:
                    return status, None
                with anyio.move_on_after(_LOOK_SECONDS):
                    while (event := await _next(events)).kind not in _ENDS:
                        pass
                    # An older one is of a job that had the same id, and was removed.
                    is_of_this = event.at is not None and event.at >= status.created_at
                    if takes_result and event.result is not None and is_of_this:
                        return status, event.result


async def _look(engine: Engine, job_id: str) -> JobStatus:
    (record,) = await engine.get([job_id])
    if record is None:
        raise JobNotFoundError(
            f"there is no job {job_id}: there never was, or it was kept no longer", job_id=job_id
        )
    return JobStatus.of(record)


async def _next(events: AsyncIterator[JobEvent]) -> JobEvent:
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise JobsUnavailableError("the jobs were closed meanwhile", location="") from None


class JobEvents:
    """The changes of one job: an async iterator of `JobStatus`, and a context manager."""

    def __init__(self, jobs: Opened, job_id: str) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._stack = AsyncExitStack()
        self._events: AsyncIterator[JobEvent] | None = None
        self._engine: Engine | None = None
        self._last: JobStatus | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._engine = await self._jobs.engine()
        self._events = await self._stack.enter_async_context(self._engine.events([self._job_id]))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening."""
        await self._stack.aclose()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> JobStatus:
        """Return the status, at once for the first time, and then when it has changed.

        Raises:
            StopAsyncIteration: the job had ended with the last one.
            JobNotFoundError: there is no such job, or no longer.
            JobsUnavailableError: the engine cannot be reached.
        """
        if self._last is not None and self._last.state.is_over:
            await self.aclose()
            raise StopAsyncIteration
        if self._engine is None or self._events is None:
            await self.__aenter__()
            assert self._engine is not None
            assert self._events is not None
        while True:
            status = await _look(self._engine, self._job_id)
            if status != self._last:
                self._last = status
                return status
            with anyio.move_on_after(_LOOK_SECONDS):
                await _next(self._events)
