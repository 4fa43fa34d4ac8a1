"""`Jobs`: where functions are enqueued and their jobs are found again."""

from __future__ import annotations

import logging
import os
import re
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, ParamSpec, TypeVar, overload
from weakref import WeakSet

import anyio

from offload.jobs._call_options import checked
from offload.jobs._engines import ENVIRONMENT, engine_of, url_of
from offload.jobs._enqueuer import Enqueuer, JobsWithOptions
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._functions import reference_of
from offload.jobs._job import Job
from offload.jobs._options import JobOptions, JobState
from offload.jobs._statistics import EnqueueCounters
from offload.jobs._status import JobStatus
from offload.jobs._values import Query

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable
    from types import TracebackType
    from typing import Self, Unpack

    from offload.jobs._call_options import JobOptionsDict
    from offload.jobs._engine import Engine
    from offload.jobs._statistics import JobsStatistics
    from offload.jobs._values import Count, Health

__all__ = ["JobPage", "Jobs", "default_jobs"]

_logger: Final = logging.getLogger("offload.jobs")

P = ParamSpec("P")
R = TypeVar("R")

# The number of a job: what a store can hold, whoever has sent it back.
_CURSOR: Final = re.compile("[0-9]{1,18}")


class Jobs:
    """Durable jobs: functions that worker programs run, of this machine or of others.

    Opens by itself when it is first used, or before that with `open` or `async with`. It may be
    used on asyncio and trio, and by several event loops at once.

    Args:
        url: where jobs are kept: `sqlite:///path.db`, `redis://…` or `postgresql://…`, or a
            `Path` of an SQLite file; None: as the environment variable OFFLOAD_JOBS says, else the
            file `.offload/jobs.sqlite3`.
        max_queued: how many jobs may wait or be delayed in one queue; past it, `enqueue` raises
            `JobQueueFullError`. None: no limit.
        max_payload_bytes: size that the arguments of a job, and its result, may have as JSON.
            None: no limit.
        **options: defaults for all jobs; see `JobOptionsDict`.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, or the URL is wrong.
        ModuleNotFoundError: what the engine needs is not installed.
    """

    _everyone: ClassVar[WeakSet[Jobs]] = WeakSet()
    _changing: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        max_queued: int | None = 100_000,
        max_payload_bytes: int | None = 256 * 1024,
        **options: Unpack[JobOptionsDict],
    ) -> None:
        for name, value in (("max_queued", max_queued), ("max_payload_bytes", max_payload_bytes)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} must be an int or None, not {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        self._url: Final = url_of(url)
        self.max_payload_bytes: Final = max_payload_bytes
        self.max_queued: Final = max_queued
        self.default_queue: Final[str] = options.get("queue", "default")
        self.default_keep: Final[float | None] = options.get("keep", JobOptions().keep)
        # Beside those that the functions name; a worker program serves them all.
        self.served_queues: frozenset[str] = frozenset()
        self._engine: Engine = engine_of(self._url)
        self._is_open = False
        self._is_closed = False
        self._pid = os.getpid()
        self._counters: Final = EnqueueCounters()
        self._enqueuer: Final = Enqueuer(
            self,
            (checked(options, are_defaults=True),),
            max_queued,
            max_payload_bytes,
            self._counters,
        )
        with self._changing:
            self._everyone.add(self)

    def __repr__(self) -> str:
        """Return the engine."""
        return f"<Jobs {self._engine!r}>"

    @classmethod
    def all(cls) -> tuple[Jobs, ...]:
        """Return every `Jobs` of this process, for what looks at them from outside."""
        with cls._changing:
            return tuple(cls._everyone)

    @property
    def is_open(self) -> bool:
        """Whether it is open in this process."""
        return self._is_open and self._pid == os.getpid()

    def statistics(self) -> JobsStatistics:
        """Return what this process has enqueued with it."""
        return self._counters.statistics(self._engine.location)

    # Life

    async def open(self) -> None:
        """Connect, and create or migrate what is stored. Opening twice does nothing.

        Raises:
            JobsUnavailableError: the engine cannot be reached, or what is stored cannot be read.
        """
        self._is_closed = False
        await self.engine()

    async def aclose(self) -> None:
        """Disconnect. What is used meanwhile, and after that, raises `JobsUnavailableError`."""
        self._is_closed = True
        self._is_open = False
        if self._pid == os.getpid():
            await self._engine.aclose()

    async def __aenter__(self) -> Self:
        """Open."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        with anyio.CancelScope(shield=True):
            await self.aclose()

    async def engine(self) -> Engine:
        """Return the engine, open; for what is built on jobs.

        Raises:
            JobsUnavailableError: it cannot be reached, or these jobs were closed.
        """
        if self._is_open and self._pid == os.getpid():
            return self._engine
        if self._is_closed:
            raise JobsUnavailableError(
                f"{self!r} was closed; open() opens it again", location=repr(self._engine)
            )
        if self._pid != os.getpid():
            # A fork: threads and connections are those of the parent.
            self._pid = os.getpid()
            self._engine = engine_of(self._url)
        await self._engine.open()
        self._is_open = True
        return self._engine

    async def health(self) -> Health:
        """Check by a round trip that the engine can be reached, and look for bad settings.

        Raises:
            JobsUnavailableError: it cannot.
        """
        return await (await self.engine()).health()

    # Enqueuing

    def options(self, **changes: Unpack[JobOptionsDict]) -> JobsWithOptions:
        """Return these jobs with other options: `await jobs.options(delay=60).enqueue(f, x)`.

        Args:
            **changes: see `JobOptionsDict`; they go before those of the function.

        Raises:
            TypeError: unknown option, or wrong type.
            ValueError: out of range.
        """
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
        """Have a worker program run a function. The job is durable when this returns.

        Args:
            function: what `@offload` or `@job_options` was put on.
            *args: its arguments, which are checked against its annotations.
            **kwargs: its keyword arguments.

        Returns:
            The job; with `id` or `unique`, perhaps the one that there was before.

        Raises:
            FunctionError: the function cannot be run as a job, and why. Nothing was stored.
            JobArgumentError: an argument does not fit, has no JSON or is too large; likewise.
            JobQueueFullError: the queue has `max_queued` jobs; likewise.
            JobsUnavailableError: the engine cannot be reached, or cannot store; its
                `may_have_happened` says whether the job may be there all the same.

        Cancellation: the job may have been stored or not.
        """
        return await self._enqueuer.put(function, args, kwargs)

    async def enqueue_many(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
    ) -> list[Job[Any]]:
        """Enqueue a function once for each tuple of positional arguments.

        They are stored a thousand at a time: when this raises, those of earlier thousands are
        there.

        Args:
            function: as for `enqueue`.
            calls: a tuple of arguments for each job, such as `[("2026-11",), ("2026-12",)]`.

        Returns:
            The jobs, in the order of `calls`.

        Raises:
            TypeError: one of `calls` is no tuple.
            OffloadError: as `enqueue` does.
        """
        return await self._enqueuer.put_many(function, calls)

    @overload
    async def run(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Enqueue a function, and wait for its result: a call that other machines answer.

        Raises:
            Exception: as `enqueue` and `Job.result` do.

        Cancellation: cancels the job, and stops it if it runs.
        """
        return await self._enqueuer.run(function, args, kwargs)

    # Looking

    @overload
    async def get(self, job_id: str, function: None = None) -> Job[Any]: ...
    @overload
    async def get(self, job_id: str, function: Callable[..., Coroutine[Any, Any, R]]) -> Job[R]: ...
    @overload
    async def get(self, job_id: str, function: Callable[..., R]) -> Job[R]: ...
    async def get(self, job_id: str, function: Any = None) -> Job[Any]:
        """Return the job of an id.

        Args:
            job_id: its id.
            function: its function, for the type of its result; None: as far as this process knows.

        Raises:
            JobNotFoundError: there is no such job.
            JobsUnavailableError: the engine cannot be reached.
        """
        job: Job[Any] = Job(self, job_id, function)
        await job.status()
        return job

    async def find(
        self,
        *,
        states: Collection[JobState | str] = (),
        queues: Collection[str] = (),
        functions: Collection[str | Callable[..., Any]] = (),
        id_prefix: str = "",
        oldest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> JobPage:
        """Return one page of the jobs that match every condition; an empty one matches all.

        Args:
            states: any of these.
            queues: any of these.
            functions: any of these, as `module:qualname` or themselves.
            id_prefix: what the id begins with.
            oldest_first: order of arrival, instead of the latest first.
            limit: jobs per page, from 1 to 1000.
            cursor: of the page before.

        Raises:
            JobsUnavailableError: the engine cannot be reached.
            ValueError: `cursor` is none of a page.
        """
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise ValueError(f"cursor must be the cursor of a page of jobs, not {cursor!r:.100}")
        query = Query(
            states=frozenset(map(JobState, states)),
            queues=frozenset(queues),
            functions=frozenset(
                each if isinstance(each, str) else reference_of(each) for each in functions
            ),
            id_prefix=id_prefix,
            is_oldest_first=oldest_first,
            limit=limit,
            cursor=cursor,
        )
        page = await (await self.engine()).find(query)
        return JobPage(tuple(map(JobStatus.of, page.jobs)), page.cursor)

    async def counts(self, queues: Collection[str] | None = None) -> tuple[Count, ...]:
        """Return how many jobs there are by queue, function and state; None: of every queue."""
        return await (await self.engine()).counts(queues)

    # Care

    async def pause(self, queue: str) -> None:
        """Have nobody begin a job of `queue`, until `resume`. What runs goes on."""
        await (await self.engine()).pause(queue)

    async def resume(self, queue: str) -> None:
        """End a pause."""
        await (await self.engine()).resume(queue)

    async def paused(self) -> frozenset[str]:
        """Return the queues that are paused."""
        return await (await self.engine()).paused()

    async def remove(self, ids: Iterable[str]) -> int:
        """Forget those of `ids` that are over, and return how many those were."""
        return await (await self.engine()).remove(tuple(ids))


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of jobs.

    Attributes:
        jobs: what was found, in the order that was asked for.
        cursor: for the next page; None: there is none.
    """

    jobs: tuple[JobStatus, ...]
    cursor: str | None = None


@cache
def default_jobs() -> Jobs:
    """Return the jobs of this process where none are named: as OFFLOAD_JOBS says."""
    others = sorted({each.statistics().location for each in Jobs.all()})
    jobs = Jobs()
    location = jobs.statistics().location
    if others and location not in others and not os.environ.get(ENVIRONMENT):
        _logger.warning(
            "a function without jobs of its own is enqueued at %s, and not at %s: decorate it by "
            "@offload(jobs=…), use `jobs.enqueue(function, …)`, or set %s",
            location,
            " or ".join(others),
            ENVIRONMENT,
        )
    return jobs
