"""The life of a worker program: start, keep the leases, care for the store, drain, end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import threading
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakSet

import anyio.lowlevel

from offload._pool.hold import Hold
from offload.errors import OffloadError
from offload.jobs._attempt import attempt_of, pool_of
from offload.jobs._errors import JobsCorruptError, JobsUnavailableError
from offload.jobs._functions import discover, options_of, reference_of
from offload.jobs._worker.attempt import Stop
from offload.jobs._worker.connection import Connection
from offload.jobs._worker.consumer import Consumer
from offload.jobs._worker.duties import Duties
from offload.jobs._worker.leases import Leases
from offload.jobs._worker.parts import Parts
from offload.jobs._worker.pulse import Pulse
from offload.jobs._worker.records import RecordKeeper
from offload.jobs._worker.statistics import Counters, WorkerProgramStatistics
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from offload.jobs._attempt import Runnable
    from offload.jobs._engine import Engine
    from offload.jobs._jobs import Jobs
    from offload.jobs._worker.statistics import JobFunctionStatistics

__all__ = ["ProgramState", "WorkerProgram"]

_logger: Final = logging.getLogger("offload.jobs")

# The pool takes up to a second to have ended a process, and a clock needs some room besides.
_MIN_LEASE: Final = 2.0
_IDLE_SECONDS: Final = 0.05
# For handing back, at the end: engines answer or raise within seconds.
_HAND_BACK_SECONDS: Final = 5.0


class ProgramState(StrEnum):
    """Where a worker program is."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class _Options:
    """What a program was given; see `WorkerProgram`."""

    queues: frozenset[str] | None
    concurrency: int | None
    lease: float
    drain: float
    pool: str | None
    burst: bool
    max_over: int | None

    def __post_init__(self) -> None:
        """Check."""
        _check_seconds("lease", self.lease, _MIN_LEASE)
        _check_seconds("drain", self.drain, 0.0)
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency!r}")


class WorkerProgram:
    """Runs jobs until it is told to stop. On asyncio; `offload worker` is this with signals.

    Attempts run on the pools that their functions are decorated for, as direct calls do. At its end
    the pools are closed that nothing else in the process has open with its life.

    Args:
        jobs: where they are; opened by `run` and left open.
        functions: what it can run, decorated by `@offload` or `@job_options`; None: all of these
            that are imported when `run` begins. Jobs of other functions stay waiting.
        queues: names of queues; None: "default", and those that the options of `jobs` and of the
            functions name.
        concurrency: attempts that the pool named "default" runs at once, where the application has
            not made that pool itself; None: as many as the pool would have by itself.
        lease: seconds after which a job is another's if this program dies; at least 2.
        drain: seconds that running attempts are given at the end.
        pool: name of the pool that runs all attempts; None: each function's own.
        burst: end by itself when there is nothing left to run; delayed jobs are not waited for.
        name: identity of this program in the history of jobs; None: host and process id.
        max_over: how many jobs that are over are kept in the store, the latest ones; None: all, as
            long as their `keep` says.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range.
    """

    _everyone: ClassVar[WeakSet[WorkerProgram]] = WeakSet()
    _changing: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        jobs: Jobs,
        functions: Iterable[Callable[..., Any]] | None = None,
        *,
        queues: Collection[str] | None = None,
        concurrency: int | None = None,
        lease: float = 10.0,
        drain: float = 10.0,
        pool: str | None = None,
        burst: bool = False,
        name: str | None = None,
        max_over: int | None = None,
    ) -> None:
        self._options: Final = _Options(
            None if queues is None else frozenset(queues),
            concurrency,
            lease,
            drain,
            pool,
            burst,
            max_over,
        )
        self._jobs: Final = jobs
        self._given: Final = None if functions is None else tuple(functions)
        self.name: Final = name or f"{socket.gethostname()}:{os.getpid()}"
        self.state: ProgramState = ProgramState.STARTING
        self._consumers: list[Consumer] = []
        self._functions: dict[str, Any] = {}
        self._counters = Counters()
        self._connection = Connection()
        self._stops = 0
        self._stopped = asyncio.Event()
        self._hurried = asyncio.Event()
        with self._changing:
            self._everyone.add(self)

    # Told from outside

    def stop(self) -> None:
        """Claim no more, drain and end `run`; the second time: hand back at once. On its loop."""
        self._stops += 1
        self._stopped.set()
        if self._stops > 1:
            self._hurried.set()

    @property
    def is_ready(self) -> bool:
        """Whether it claims jobs, and the engine answers."""
        return self.state is ProgramState.RUNNING and self._connection.is_up

    @property
    def is_healthy(self) -> bool:
        """Whether it is in order; an engine that is away does not count."""
        return self.state is not ProgramState.ENDED

    def statistics(self) -> WorkerProgramStatistics:
        """Return the state and the counters of this instant."""
        return WorkerProgramStatistics(
            worker=self.name,
            state=self.state,
            functions=sum(len(consumer.runnables) for consumer in self._consumers),
            slots=sum(consumer.slots for consumer in self._consumers),
            active=sum(len(consumer.attempts) for consumer in self._consumers),
            claimed=self._counters.claimed,
            ended=dict(self._counters.ended),
            fenced=self._counters.fenced,
            swept=self._counters.swept,
            run_seconds=self._counters.run_seconds,
            outages=self._connection.outages,
            is_connected=self._connection.is_up,
        )

    def function_statistics(self) -> tuple[JobFunctionStatistics, ...]:
        """Return what it has done, by queue and function; on any thread."""
        return self._counters.by_function()

    @classmethod
    def all(cls) -> tuple[WorkerProgram, ...]:
        """Return the worker programs of this process, for what looks at them from outside."""
        with cls._changing:
            return tuple(cls._everyone)

    @property
    def location(self) -> str:
        """Where its jobs are, as a URL without secrets."""
        return self._jobs.statistics().location

    # Life

    async def run(self) -> None:
        """Run jobs until `stop`, and hand back what has not ended then.

        Raises:
            JobsCorruptError: what is stored cannot be read.
            ValueError: there is no function to run.

        Cancellation: stops all attempts and hands them back, for a few seconds.
        """
        records = RecordKeeper()
        by_pool = self._runnables()
        # The server of this process may have the same pools, and go on with them.
        holds: list[Hold[Pool]] = []
        # The pools send what worker processes log through the handlers of this process.
        logging.root.addHandler(records)
        try:
            for pool in by_pool:
                # One by one: what was taken is let go of, even if the next one cannot be.
                holds.append(await Hold.take(pool))  # noqa: PERF401
            engine = await self._open()
            if engine is not None:
                parts = self._make_parts(engine, records)
                self._consumers = [Consumer(parts, *each) for each in by_pool.items()]
                await self._run(parts)
        finally:
            logging.root.removeHandler(records)
            self.state = ProgramState.ENDED
            with anyio.CancelScope(shield=True):
                for hold in holds:
                    await hold.release(partial(hold.of.aclose, drain=0.0))

    async def _open(self) -> Engine | None:
        """Return the engine when it answers; None: told to stop before it did."""
        tries = 0
        while not self._stopped.is_set():
            try:
                engine = await self._jobs.engine()
            except JobsCorruptError:
                raise
            except JobsUnavailableError as error:
                self._connection.failed(error)
                pause = asyncio.create_task(Connection.pause(tries))
                stop = asyncio.create_task(self._stopped.wait())
                await asyncio.wait({pause, stop}, return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                stop.cancel()
                tries += 1
            else:
                self._connection.succeeded()
                return engine
        return None

    async def _run(self, parts: Parts) -> None:
        for consumer in self._consumers:
            await consumer.pool.open()
        # Before there is a lease: what anyio imports at its first use holds the loop for a tenth
        # of a second, and on a machine that is short of CPUs for two.
        with anyio.move_on_after(0):
            await anyio.lowlevel.checkpoint()
        duties = Duties(parts, self._consumers, max_over=self._options.max_over)
        background = [
            asyncio.create_task(each)
            for each in (
                duties.extend(),
                duties.watch(),
                duties.tell(),
                duties.care(),
            )
        ]
        if self._options.burst:
            background.append(asyncio.create_task(self._stop_when_idle()))
        claims = [asyncio.create_task(consumer.claim()) for consumer in self._consumers]
        self.state = ProgramState.RUNNING
        self._log_start(parts)
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            # None of them ends by itself, unless it is broken.
            await asyncio.wait({stopped, *claims, *background}, return_when=asyncio.FIRST_COMPLETED)
            for task in (*claims, *background):
                if task.done() and not self._stopped.is_set():
                    task.result()
        except BaseException:
            # Nobody waits for a program that is cancelled, or broken.
            self._hurried.set()
            raise
        finally:
            stopped.cancel()
            with anyio.CancelScope(shield=True):
                await self._end(claims)
                for task in (*claims, *background):
                    task.cancel()
                await asyncio.gather(*claims, *background, return_exceptions=True)

    async def _end(self, claims: list[asyncio.Task[None]]) -> None:
        """Drain, and hand back what is left."""
        self.state = ProgramState.DRAINING
        for consumer in self._consumers:
            consumer.stop_claiming()
        await asyncio.wait(claims, timeout=_HAND_BACK_SECONDS)
        active = sum(len(consumer.attempts) for consumer in self._consumers)
        if active:
            _logger.info("draining: %d attempts have %g s to end", active, self._options.drain)
        drained = asyncio.create_task(self._drained())
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait(
            {drained, hurried}, timeout=self._options.drain, return_when=asyncio.FIRST_COMPLETED
        )
        hurried.cancel()
        if not drained.done():
            left = [each for consumer in self._consumers for each in consumer.attempts.values()]
            for attempt in left:
                attempt.stop(Stop.HANDED_BACK)
            grace = max((attempt.grace for attempt in left), default=0.0)
            await asyncio.wait({drained}, timeout=grace + _HAND_BACK_SECONDS)
        if not drained.done():
            drained.cancel()
            _logger.warning("the engine does not answer: what was not reported will lapse")
            for consumer in self._consumers:
                consumer.abandon()
        _logger.info("worker program %s ends", self.name)

    async def _stop_when_idle(self) -> None:
        while not all(consumer.is_idle for consumer in self._consumers):  # noqa: ASYNC110
            # No event: it is over when a claim has waited in vain, on each consumer.
            await asyncio.sleep(_IDLE_SECONDS)
        self.stop()

    async def _drained(self) -> None:
        for consumer in self._consumers:
            await consumer.drained()

    # What it can run

    def _runnables(self) -> dict[Pool, dict[str, Runnable]]:
        if self._given is None:
            self._functions = discover()
        else:
            self._functions = {reference_of(each): each for each in self._given}
        if not self._functions:
            raise ValueError(
                "there is no function to run: import the modules whose functions are decorated by "
                "@offload before the program begins"
            )
        by_pool: dict[Pool, dict[str, Runnable]] = {}
        for reference, function in self._functions.items():
            pool = self._pool_for(function)
            by_pool.setdefault(pool, {})[reference] = attempt_of(reference, function, pool)
        return by_pool

    def _make_parts(self, engine: Engine, records: RecordKeeper) -> Parts:
        return Parts(
            engine=engine,
            worker=self.name,
            queues=self._served_queues(),
            lease=self._options.lease,
            max_bytes=self._jobs.max_payload_bytes,
            leases=Leases(self._options.lease),
            connection=self._connection,
            records=records,
            counters=self._counters,
            pulse=Pulse(),
        )

    def _pool_for(self, function: Any) -> Pool:
        wanted = self._options.pool or pool_of(function)
        if isinstance(wanted, Pool):
            return wanted
        if wanted == "default" and not any(each.name == "default" for each in Pool.all()):
            # No more calls than that: the queue is of a consumer's making, and short.
            return Pool("default", max_workers=self._options.concurrency)
        try:
            return Pool.named(wanted)
        except OffloadError as error:
            raise ValueError(str(error)) from error

    def _served_queues(self) -> frozenset[str]:
        if self._options.queues is not None:
            return self._options.queues
        named = {options_of(each).get("queue") for each in self._functions.values()}
        jobs = self._jobs
        return jobs.served_queues.union({"default", jobs.default_queue, *filter(None, named)})

    def _log_start(self, parts: Parts) -> None:
        _logger.info(
            "worker program %s: functions %d, queues %s, slots %d, lease %g s",
            self.name,
            len(self._functions),
            ", ".join(sorted(parts.queues)),
            sum(consumer.slots for consumer in self._consumers),
            self._options.lease,
        )


def _check_seconds(name: str, value: object, minimum: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not math.isfinite(value) or value < minimum:
        raise ValueError(f"{name} must be finite and at least {minimum:g}, not {value!r}")
