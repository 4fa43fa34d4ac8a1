"""Makes jobs of calls, and has the engine keep them."""

from __future__ import annotations

import os
import socket
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

import anyio
import anyio.lowlevel

from offload.jobs._call_options import checked, new_id, resolve
from offload.jobs._codec import Signature
from offload.jobs._errors import JobQueueFullError, JobsUnavailableError
from offload.jobs._functions import options_of, reference_of
from offload.jobs._job import Job
from offload.jobs._options import Unique
from offload.jobs._trace import current_trace
from offload.jobs._values import NewJob

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from typing import Unpack

    from offload.jobs._call_options import JobOptionsDict
    from offload.jobs._job import Opened
    from offload.jobs._statistics import EnqueueCounters

__all__ = ["Enqueuer", "JobsWithOptions", "this_program"]

P = ParamSpec("P")
R = TypeVar("R")

# Of one transaction of `put_many`.
_BATCH: Final = 1000
# How long encoding may hold the event loop, in seconds, before others get their turn.
_TURN_SECONDS: Final = 0.0005
# What a caller that goes away has for telling the engine so, in seconds.
_CANCEL_SECONDS: Final = 5.0


class Enqueuer:
    """Enqueues with certain options.

    Args:
        jobs: where.
        levels: options of `Jobs`, then of each `options(…)`; later ones win. The function's own
            options rank just above the first level.
        max_queued: how many jobs may wait in one queue; None: no limit.
        max_bytes: size of the arguments as JSON; None: no limit.
        counters: of all that these jobs enqueue.
    """

    __slots__ = ("_counters", "_jobs", "_levels", "_max_bytes", "_max_queued")

    def __init__(
        self,
        jobs: Opened,
        levels: tuple[Mapping[str, Any], ...],
        max_queued: int | None,
        max_bytes: int | None,
        counters: EnqueueCounters,
    ) -> None:
        self._jobs = jobs
        self._levels = levels
        self._max_queued = max_queued
        self._max_bytes = max_bytes
        self._counters = counters

    def with_options(self, changes: Mapping[str, Any]) -> Enqueuer:
        """Return one with further options."""
        levels = (*self._levels, changes)
        return Enqueuer(self._jobs, levels, self._max_queued, self._max_bytes, self._counters)

    async def put(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        """See `Jobs.enqueue`."""
        new = self._new_job(function, args, kwargs)
        (job_id,) = await self._store([new])
        return Job(self._jobs, job_id, function)

    async def put_many(self, function: Any, calls: Iterable[tuple[Any, ...]]) -> list[Job[Any]]:
        """See `Jobs.enqueue_many`."""
        ids: list[str] = []
        batch: list[NewJob] = []
        turn = time.perf_counter()
        for call in calls:
            if not isinstance(call, tuple):
                raise TypeError(f"each of calls must be a tuple of arguments, not {call!r:.100}")
            batch.append(self._new_job(function, call, {}))
            if len(batch) >= _BATCH:
                ids += await self._store(batch)
                batch = []
            elif time.perf_counter() - turn > _TURN_SECONDS:
                await anyio.lowlevel.checkpoint()
                turn = time.perf_counter()
        if batch:
            ids += await self._store(batch)
        return [Job(self._jobs, job_id, function) for job_id in ids]

    async def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `Jobs.run`."""
        new = self._new_job(function, args, kwargs)
        job: Job[Any] = Job(self._jobs, new.id, function)
        try:
            (job_id,) = await self._store([new])
            job = Job(self._jobs, job_id, function)
            return await job.result()
        except BaseException as error:
            if not isinstance(error, Exception):
                # The job may have been stored although `put` was cancelled.
                with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
                    await _give_up(job)
            raise

    async def _store(self, batch: list[NewJob]) -> tuple[str, ...]:
        begin, outcome = time.perf_counter(), "stored"
        try:
            engine = await self._jobs.engine()
            return await engine.put(batch, max_queued=self._max_queued)
        except JobQueueFullError:
            outcome = "refused"
            raise
        except JobsUnavailableError:
            outcome = "unavailable"
            raise
        except BaseException:
            # Cancelled: nobody knows what came of it.
            outcome = ""
            raise
        finally:
            if outcome:
                self._counters.note(batch, outcome, time.perf_counter() - begin)

    def _new_job(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NewJob:
        reference = reference_of(function)
        wanted = resolve(self._levels[0], options_of(function), *self._levels[1:])
        signature = Signature.of(function)
        arguments = signature.encode_arguments(args, kwargs, max_bytes=self._max_bytes)
        options = wanted.options
        if wanted.is_unique_by_arguments:
            options = wanted.options_with(Unique(signature.fingerprint(arguments)))
        return NewJob(
            id=wanted.id or new_id(),
            function=reference,
            arguments=arguments,
            queue=wanted.queue,
            options=options,
            due_at=wanted.due(),
            enqueued_by=this_program(),
            trace=current_trace(),
        )


async def _give_up(job: Job[Any]) -> None:
    try:
        await job.cancel()
    except (LookupError, JobsUnavailableError):
        # It was not stored; or the engine is gone, and the job runs for nobody.
        return


class JobsWithOptions:
    """`Jobs` with other options for what is enqueued; made by `Jobs.options`."""

    __slots__ = ("_enqueuer",)

    def __init__(self, enqueuer: Enqueuer) -> None:
        self._enqueuer = enqueuer

    def options(self, **changes: Unpack[JobOptionsDict]) -> JobsWithOptions:
        """Return the same with further options."""
        return JobsWithOptions(self._enqueuer.with_options(checked(changes)))

    @overload
    async def enqueue(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[R]: ...
    async def enqueue(self, function: Any, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Have a worker program run a function; see `Jobs.enqueue`."""
        return await self._enqueuer.put(function, args, kwargs)

    async def enqueue_many(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
    ) -> list[Job[Any]]:
        """Enqueue a function once for each tuple of arguments; see `Jobs.enqueue_many`."""
        return await self._enqueuer.put_many(function, calls)

    @overload
    async def run(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Enqueue a function, and wait for its result; see `Jobs.run`."""
        return await self._enqueuer.run(function, args, kwargs)


@cache
def this_program() -> str:
    """Return what is told of this process as the one that enqueues."""
    return f"{socket.gethostname()}:{os.getpid()}"
