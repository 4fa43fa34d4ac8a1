"""Pools, jobs and what runs them, for as long as the application."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from offload.pool import Pool
from offload.roles import Program

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.types import Lifespan

    from offload.jobs import Jobs, WorkerProgram
    from offload.roles import Role
    from offload.schedules import Scheduler

__all__ = ["lifespan"]

AppT = TypeVar("AppT")


@overload
def lifespan(
    *pools: Pool | str,
    drain: float = 10.0,
    inner: None = None,
    jobs: Jobs | None = None,
    worker: Callable[[Jobs], WorkerProgram] | None = None,
    role: Role | str | None = None,
    scheduler: Scheduler | None = None,
) -> Callable[[object], AbstractAsyncContextManager[None]]: ...
@overload
def lifespan(
    *pools: Pool | str,
    drain: float = 10.0,
    inner: Lifespan[AppT],
    jobs: Jobs | None = None,
    worker: Callable[[Jobs], WorkerProgram] | None = None,
    role: Role | str | None = None,
    scheduler: Scheduler | None = None,
) -> Lifespan[AppT]: ...
def lifespan(
    *pools: Pool | str,
    drain: float = 10.0,
    inner: Lifespan[Any] | None = None,
    jobs: Jobs | None = None,
    worker: Callable[[Jobs], WorkerProgram] | None = None,
    role: Role | str | None = None,
    scheduler: Scheduler | None = None,
) -> Lifespan[Any]:
    """Bind pools, and jobs if there are any, to the life of an application.

    Opens the pools one after the other, with their workers warm, before the server takes
    requests; drains them all at the same time when the server ends. After that a call opens its
    pool again, as it does one that is new. A pool that several
    applications of the process hold, on whatever event loops and threads, goes on until the last
    of them ends; one that starts while the last one before it closes the pool waits for that.

    Args:
        pools: pools, or names of pools that exist when the application starts; the pool named
            "default" if there are none.
        drain: seconds that running and queued calls are given at the end, for all pools
            together. It begins when the server ends the lifespan, which is after the last request
            has been answered (uvicorn waits for that without limit unless it is given
            `--timeout-graceful-shutdown`): what still runs then are calls of background tasks.
            Keep the sum below what the process manager waits before it kills the server.
        inner: the application's own lifespan. It runs inside: its startup can use the pools, and
            they are closed only after its shutdown. Its state, if any, is passed on.
        jobs: opened with the pools, to be enqueued. An engine that cannot be reached does not keep
            the application from starting: what needs it raises until it is there.
        worker: makes the worker program that runs `jobs` in this process, where the role says so;
            None: `WorkerProgram(jobs, drain=drain)`.
        role: what this program does of it, as for `offload.roles.Program`: "web" is what is said
            above, "worker" runs `jobs`, "scheduler" fires schedules, "all" is all of it. None:
            what `OFFLOAD_ROLE` says; if that says nothing, web, and scheduler where a `scheduler`
            is given.
        scheduler: fires its schedules while the application serves: it begins after the startup of
            `inner` and has ended before the shutdown of that. Its own `drain` comes before that of
            the pools. None: the `default_scheduler()`, if it has schedules.

    Returns:
        What `Starlette(lifespan=...)` and `FastAPI(lifespan=...)` take. It can be entered again
        after it has ended, as test clients do.

    Raises:
        TypeError: a pool is neither a `Pool` nor a name, as when `lifespan` itself, and not its
            result, is given to the application.
        ValueError: `drain` is negative, infinite or not a number; there is no such role.

    Cancellation:
        Cancelled while starting or serving, the pools are closed without a drain; cancelled while
        draining, what still runs is killed. Either way the pools are closed when it returns, except
        for those that another application holds.
    """
    for pool in pools:
        if not isinstance(pool, Pool | str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise TypeError(
                f"lifespan() takes pools and names of pools, not {type(pool).__name__}; "
                "call it and pass its result to the application: Starlette(lifespan=lifespan())"
            )
    program = Program(
        *(pools or ("default",)),
        drain=drain,
        jobs=jobs,
        worker=worker,
        role=role,
        scheduler=scheduler,
    )

    @asynccontextmanager
    async def bound(app: object) -> AsyncGenerator[Any]:
        within = None if inner is None else partial(inner, app)
        async with program.running(within) as state:
            yield state

    return bound
