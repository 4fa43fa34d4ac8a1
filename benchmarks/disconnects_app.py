"""The server of `disconnects`: work whose CPU seconds are noted, client by client."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from offload import Pool
from offload.starlette import CancelOnDisconnect, exception_handlers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

_PATH = os.environ.get("USED_PATH", "")
_SECONDS = float(os.environ.get("SECONDS", "0.05"))
_WATCHES = os.environ.get("WATCHES") == "1"

pool = Pool("disconnects-benchmark", max_workers=2, max_queued=None)


def burn(path: str, slot: int, seconds: float) -> None:
    """Use so many seconds of CPU; note in the slot of a file how many have been used so far."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as used:  # noqa: PTH123 - as cheap as it gets
        cells = memoryview(used).cast("d")
        start = time.process_time()
        while (done := time.process_time() - start) < seconds:
            cells[slot] = done
        cells[slot] = done
        cells.release()


async def heavy(request: Request) -> PlainTextResponse:
    """Burn for the client with this number."""
    await pool.run(burn, _PATH, int(request.query_params["client"]), _SECONDS)
    return PlainTextResponse("done")


async def state(_: Request) -> PlainTextResponse:
    """Tell how many calls there are."""
    now = pool.statistics()
    return PlainTextResponse(str(now.busy + now.queued))


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Open the pool."""
    async with pool:
        yield


app = Starlette(
    routes=[Route("/heavy", heavy), Route("/state", state)],
    lifespan=lifespan,
    middleware=[Middleware(CancelOnDisconnect)] if _WATCHES else [],
    exception_handlers=exception_handlers,
)
