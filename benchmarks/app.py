"""The servers under test: one `/fast`, one `/heavy` in the way that `CONTENDER` names."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from anyio import to_process, to_thread
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.functions import burn
from offload import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

_WORKERS = int(os.environ.get("WORKERS", "2"))
# About 200 ms of one core.
_LOOPS = int(os.environ.get("LOOPS", "4000000"))
_CONTENDER = os.environ.get("CONTENDER", "offload")
_state: dict[str, Any] = {}


async def fast(_: Request) -> PlainTextResponse:
    """Answer at once."""
    return PlainTextResponse("fast")


async def heavy(_: Request) -> PlainTextResponse:
    """Burn CPU, somewhere."""
    match _CONTENDER:
        case "inline":
            result = burn(_LOOPS)
        case "thread":
            result = await to_thread.run_sync(burn, _LOOPS)
        case "anyio":
            result = await to_process.run_sync(burn, _LOOPS)
        case "executor":
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(_state["executor"], burn, _LOOPS)
        case _:
            result = await _state["pool"].run(burn, _LOOPS)
    return PlainTextResponse(str(result))


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Start what the contender needs."""
    if _CONTENDER.startswith("offload"):
        priority: Any = _CONTENDER.partition("-")[2] or "idle"
        async with Pool("bench", max_workers=_WORKERS, os_priority=priority) as _state["pool"]:
            yield
    elif _CONTENDER == "executor":
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(_WORKERS, mp_context=context) as _state["executor"]:
            yield
    else:
        to_process.current_default_process_limiter().total_tokens = _WORKERS
        yield


app = Starlette(routes=[Route("/fast", fast), Route("/heavy", heavy)], lifespan=lifespan)
