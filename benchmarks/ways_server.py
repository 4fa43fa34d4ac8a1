"""The web server of each way to run scheduled and heavy work that is of Python.

`/fast` answers at once; `/work` computes, and answers when that is done; `/crash` dies where
`/work` computes. `/fires?on=1` has a function fire each second, `/starts` tells by how many ms
after their fire times its runs had begun since this was last asked. `CONTENDER` names the way,
`LOOPS` says how much a fire computes, `WORKERS` how many worker processes there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from benchmarks.suite.contenders import OURS
from benchmarks.ways_functions import crash, crashed, fired, jobs, pool, scheduled, work, worked
from offload.jobs import JobsUnavailableError
from offload.roles import Program
from offload.schedules import EventKind, FireContext, Schedule, Scheduler
from offload.starlette import exception_handlers
from offload.starlette import lifespan as offload_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

    from offload.schedules import ScheduleEvent

_EACH_SECOND = "* * * * * *"
_WAY = os.environ["CONTENDER"]
_LOOPS = int(os.environ["LOOPS"])
starts: list[float] = []


async def _fired_inline(fire: FireContext) -> float:
    return fired(_LOOPS, fire)


async def _fired_in_thread(fire: FireContext) -> float:
    return await run_in_threadpool(fired, _LOOPS, fire)


async def _inline(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


async def _as_job(function: Callable[..., Any], *args: Any) -> Any:
    return await (await jobs.enqueue(function, *args)).result()


async def _on_pool(function: Callable[..., Any], *args: Any) -> Any:
    return await function(*args)


def _made() -> tuple[Schedule, Callable[..., Awaitable[Any]]]:
    """Return the schedule of the way, and how it runs what a request asks for."""
    match _WAY:
        case "inline":
            return Schedule(_EACH_SECOND, _fired_inline, name="each second"), _inline
        case "run_in_threadpool":
            run = run_in_threadpool
            return Schedule(_EACH_SECOND, _fired_in_thread, name="each second"), run
        case "offload-jobs":
            at = Schedule(_EACH_SECOND, scheduled, name="each second", args=(_LOOPS,), jobs=jobs)
            return at, _as_job
    if _WAY != OURS:
        raise ValueError(f"{_WAY} is no way to run it here")
    return Schedule(_EACH_SECOND, scheduled, name="each second", args=(_LOOPS,)), _on_pool


schedule, run = _made()
_has_pool = _WAY == OURS
_has_jobs = _WAY == "offload-jobs"
_decorated = _has_pool or _has_jobs
scheduler = Scheduler(jobs if _has_jobs else None)
scheduler.add(schedule)


def _note(event: ScheduleEvent) -> None:
    if event.kind is EventKind.FINISHED:
        starts.append(event.result)


async def fast(_: Request) -> PlainTextResponse:
    """Answer at once."""
    return PlainTextResponse("fast")


async def ask_work(request: Request) -> PlainTextResponse:
    """Compute, in the way of this server."""
    query = request.query_params
    function = work if _decorated else worked
    return PlainTextResponse(str(await run(function, int(query["n"]), query.get("path", ""))))


async def ask_crash(_: Request) -> PlainTextResponse:
    """Die where work is done."""
    with contextlib.suppress(Exception):
        await run(crash if _decorated else crashed)
    return PlainTextResponse("survived")


async def set_firing(request: Request) -> PlainTextResponse:
    """Begin to fire, or fire no more."""
    # It is so here in any case; that the engine has not noted it in time changes nothing for one.
    with contextlib.suppress(JobsUnavailableError):
        await (schedule.resume() if request.query_params["on"] == "1" else schedule.pause())
    return PlainTextResponse("done")


async def tell_starts(_: Request) -> JSONResponse:
    """Tell how late runs began."""
    told = [round(each, 3) for each in starts]
    starts.clear()
    return JSONResponse(told)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    # Without any, it opens the default pool: what has no pool is weighed without one.
    opened = (
        offload_lifespan(pool, scheduler=scheduler)(app)
        if _has_pool
        else Program(jobs=jobs if _has_jobs else None, scheduler=scheduler).running()
    )
    await schedule.pause()
    schedule.observe(_note)
    async with opened:
        await asyncio.gather(*(run(work if _decorated else worked, 1000) for _ in range(4)))
        yield


app = Starlette(
    routes=[
        Route("/fast", fast),
        Route("/work", ask_work),
        Route("/crash", ask_crash),
        Route("/fires", set_firing),
        Route("/starts", tell_starts),
    ],
    lifespan=_lifespan,
    exception_handlers=exception_handlers,
)
