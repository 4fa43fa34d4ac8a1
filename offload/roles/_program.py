"""`Program`: what lives as long as a server, a worker program or a script does."""

from __future__ import annotations

import logging
import math
import sys
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import anyio

from offload._pool.hold import Hold
from offload.pool import Pool
from offload.roles._role import Role, role_entered, role_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from offload.jobs import Jobs, WorkerProgram
    from offload.schedules import Scheduler

__all__ = ["Program", "opened"]

T = TypeVar("T")

_logger: Final = logging.getLogger("offload.roles")


class Program:
    """What a program opens and closes with its life, as its role says.

    Args:
        *pools: pools, or names of pools that exist when the program starts; opened, with their
            workers warm, in the role web. Others open at their first call, as ever.
        jobs: where functions are enqueued; opened in every role. In the role worker, they are run,
            too.
        worker: makes the worker program; None: `WorkerProgram(jobs, drain=drain)`.
        scheduler: what has schedules, which fire in the role scheduler; None: the
            `default_scheduler()`, if it has any.
        role: what this program does, as a `Role` or its name: "web", "worker", "scheduler",
            "web,worker", "all". None: what `OFFLOAD_ROLE` says when it starts; if that says
            nothing, web, and scheduler where a `scheduler` is given.
        drain: seconds that running and queued calls are given at the end, for all pools together.

    Raises:
        TypeError: a pool is neither a `Pool` nor a name, or `role` neither a `Role` nor a name.
        ValueError: there is no such role; `drain` is negative, infinite or not a number.
    """

    def __init__(
        self,
        *pools: Pool | str,
        jobs: Jobs | None = None,
        worker: Callable[[Jobs], WorkerProgram] | None = None,
        scheduler: Scheduler | None = None,
        role: Role | str | None = None,
        drain: float = 10.0,
    ) -> None:
        for pool in pools:
            if not isinstance(pool, Pool | str):
                raise TypeError(
                    f"a program takes pools and names of pools, not {type(pool).__name__}"
                )
        if not 0 <= drain < math.inf:
            raise ValueError(f"drain must be 0 or more seconds and finite, not {drain!r}")
        self._pools: Final = pools
        self._jobs: Final = jobs
        self._worker: Final = worker
        self._scheduler: Final = scheduler
        # Only one that is given now can be looked at now.
        self._role: Final = None if role is None else role_of(role)
        self._drain: Final = drain

    @overload
    def running(self, inner: None = None) -> AbstractAsyncContextManager[None]: ...
    @overload
    def running(
        self, inner: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AbstractAsyncContextManager[T]: ...
    def running(
        self, inner: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """Return a context manager that is the life of the program. It may be used again.

        Args:
            inner: makes a context manager that is entered when pools and jobs are open, before
                anything runs by itself, and left when nothing does any more. What it gives is
                given on.

        Cancellation:
            Cancelled while starting or serving, pools are closed without a drain; cancelled while
            draining, what still runs is killed. Either way everything is closed when it returns,
            except for what another program of the process holds.
        """
        return self._running(inner)

    @asynccontextmanager
    async def _running(
        self, inner: Callable[[], AbstractAsyncContextManager[Any]] | None
    ) -> AsyncGenerator[Any]:
        role = self._role or role_of(None) or self._role_by_itself()
        scheduler = self._scheduler_to_run()
        self._tell(role, scheduler)
        pools = _Pools()
        served = False
        with role_entered(role):
            try:
                if Role.WEB in role:
                    await pools.open(self._pools)
                async with (
                    nullcontext() if self._jobs is None else opened(self._jobs),
                    nullcontext() if inner is None else inner() as state,
                    AsyncExitStack() as loops,
                ):
                    if Role.WORKER in role and self._jobs is not None:
                        await loops.enter_async_context(self._working(self._jobs))
                    if Role.SCHEDULER in role and scheduler is not None:
                        await loops.enter_async_context(scheduler)
                    yield state
                    # Not reached when the server is cancelled: only an orderly end is worth a
                    # drain.
                    served = True
            finally:
                if served:
                    await pools.release(self._drain)
                else:
                    with anyio.CancelScope(shield=True):
                        await pools.release(0.0)

    def _role_by_itself(self) -> Role:
        """Return what is done where nobody says; to run jobs is asked for, never assumed."""
        return Role.WEB if self._scheduler is None else Role.WEB | Role.SCHEDULER

    def _scheduler_to_run(self) -> Scheduler | None:
        # An empty one is false.
        if self._scheduler is not None or "offload.schedules._scheduler" not in sys.modules:
            return self._scheduler
        # Imported with the first `@schedule`: without one there is nothing to look for.
        from offload.schedules import default_scheduler

        return default_scheduler() if len(default_scheduler()) else None

    def _working(self, jobs: Jobs) -> AbstractAsyncContextManager[None]:
        from offload.jobs import WorkerProgram
        from offload.roles._worker_loop import worker_loop

        make = self._worker or partial(WorkerProgram, drain=self._drain)
        return worker_loop(make(jobs))

    def _tell(self, role: Role, scheduler: Scheduler | None) -> None:
        """Say what is not started here."""
        if self._pools and Role.WEB not in role:
            names = ", ".join(each if isinstance(each, str) else each.name for each in self._pools)
            _logger.info("role %s: not started here: pools (%s), which role web does", role, names)
        if self._jobs is not None and Role.WORKER not in role:
            _logger.info("role %s: not started here: running of jobs, which role worker does", role)
        if scheduler is not None and Role.SCHEDULER not in role:
            _logger.info(
                "role %s: not started here: schedules (%d), which role scheduler fires",
                role,
                len(scheduler),
            )
        if self._jobs is None and self._role is not None and Role.WORKER in self._role:
            _logger.warning("role %s: there are no jobs to run: jobs=… names them", role)


class _Pools:
    """The pools that a program holds."""

    def __init__(self) -> None:
        self._holds: list[Hold[Pool]] = []

    async def open(self, pools: Sequence[Pool | str]) -> None:
        """Open them, one after the other."""
        # Names are looked up only now, so that a program may be declared before its pools.
        found = [Pool.named(pool) if isinstance(pool, str) else pool for pool in pools]
        # The same pool twice, as itself and by name, is one pool; a dict keeps the order.
        for pool in dict.fromkeys(found):
            # Noted before it is opened: one that fails or is cancelled halfway has workers.
            self._holds.append(await Hold.take(pool))
            await pool.open()

    async def release(self, drain: float) -> None:
        """Let go of all of them."""
        # At the same time, so that the drain is that of the program and not one per pool.
        async with anyio.create_task_group() as group:
            for hold in self._holds:
                group.start_soon(hold.release, partial(_close, hold.of, drain))


async def _close(pool: Pool, drain: float) -> None:
    try:
        await pool.aclose(drain=drain)
    except BaseException:
        # Cancelled while draining, or by the failure of another pool: without this the workers
        # would live until the server process itself is gone.
        with anyio.CancelScope(shield=True):
            await pool.aclose(drain=0.0)
        raise
    finally:
        # A program has ended, and not the process: a test client without a lifespan, or whatever
        # comes next, uses the pool as if it was new.
        pool.rest()


@asynccontextmanager
async def opened(jobs: Jobs) -> AsyncGenerator[None]:
    """Have jobs open; an engine that cannot be reached keeps no program from starting.

    Raises:
        JobsCorruptError: what is stored cannot be read.
    """
    from offload.jobs import JobsCorruptError, JobsUnavailableError

    hold = await Hold.take(jobs)
    try:
        try:
            await jobs.open()
        except JobsCorruptError:
            raise
        except JobsUnavailableError as error:
            # The text says it all; where in our code it came up is of no use to an operator.
            _logger.error(  # noqa: TRY400
                "the program starts without its jobs, and tries again when one is enqueued: %s",
                error,
            )
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await hold.release(jobs.aclose)
