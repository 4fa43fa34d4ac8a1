"""The server of every contender of Python: `/fast`, and `/heavy` in the way that `CONTENDER` names.

`CONTENDER`, `WORKERS`, `MAX_QUEUED` and `WATCHES` are read from the environment. It is ready when
all workers have run something, whoever the contender is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.functions import burn, digest, hold, note
from benchmarks.suite.contenders import CONTENDERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from benchmarks.suite.contenders import Call

_CONTENDER = CONTENDERS[os.environ["CONTENDER"]]
_WORKERS = int(os.environ.get("WORKERS", "2"))
_MAX_QUEUED = int(os.environ["MAX_QUEUED"]) if "MAX_QUEUED" in os.environ else None
_WATCHES = os.environ.get("WATCHES") == "1"
_LAG_EVERY_SECONDS = 0.005
_WARM_SECONDS = 0.02
_MAX_BODY_BYTES = 256 << 20


class State:
    """What the handlers share.

    Attributes:
        call: the open contender.
        lags: by how many seconds the event loop was late, since somebody asked.
        under_way: calls that wait or run.
    """

    call: Call

    def __init__(self) -> None:
        self.lags: list[float] = []
        self.under_way = 0


state = State()


async def fast(_: Request) -> PlainTextResponse:
    """Answer at once."""
    return PlainTextResponse("fast")


async def heavy(request: Request) -> PlainTextResponse:
    """Burn CPU, somewhere."""
    return PlainTextResponse(str(await state.call(burn, int(request.query_params["n"]))))


async def noted(request: Request) -> PlainTextResponse:
    """Burn CPU for the client with this number, and note how much."""
    query = request.query_params
    state.under_way += 1
    try:
        await state.call(note, query["path"], int(query["client"]), float(query["seconds"]))
    finally:
        state.under_way -= 1
    return PlainTextResponse("done")


async def upload(request: Request) -> Response:
    """Have a worker read what comes, and send back what it returns."""
    if not _CONTENDER.takes_files:
        return Response(await state.call(digest, await request.body()))
    from offload.starlette import BytesResponse, receive_file

    with await receive_file(request, max_bytes=_MAX_BODY_BYTES) as file:
        return BytesResponse(await state.call(digest, file))


async def under_way(_: Request) -> PlainTextResponse:
    """Tell how many calls of `/noted` there are."""
    return PlainTextResponse(str(state.under_way))


async def lag(_: Request) -> JSONResponse:
    """Return how late the loop was since this was last asked, in milliseconds."""
    lags, state.lags = state.lags, []
    return JSONResponse([round(each * 1e3, 3) for each in lags])


async def watch() -> None:
    """Note how late the event loop is, again and again."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(_LAG_EVERY_SECONDS)
        state.lags.append(max(time.perf_counter() - begin - _LAG_EVERY_SECONDS, 0.0))


@contextlib.asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Open the contender and warm it up."""
    assert _CONTENDER.open is not None  # noqa: S101 - one of Node never comes here
    async with _CONTENDER.open(_WORKERS, max_queued=_MAX_QUEUED) as state.call:
        # Twice: a pool may give all of the first calls to the worker that started first.
        for _ in range(2):
            await asyncio.gather(*(state.call(hold, _WARM_SECONDS) for _ in range(2 * _WORKERS)))
        watching = asyncio.create_task(watch())
        yield
        watching.cancel()


def _handlers() -> dict[object, object]:
    if not _CONTENDER.is_ours:
        return {}
    from offload.starlette import exception_handlers

    return dict(exception_handlers)


def _middleware() -> list[Middleware]:
    if not _WATCHES:
        return []
    from offload.starlette import CancelOnDisconnect

    return [Middleware(CancelOnDisconnect)]


app = Starlette(
    routes=[
        Route("/fast", fast),
        Route("/heavy", heavy),
        Route("/noted", noted),
        Route("/upload", upload, methods=["POST"]),
        Route("/under_way", under_way),
        Route("/lag", lag),
    ],
    lifespan=lifespan,
    middleware=_middleware(),
    exception_handlers=_handlers(),  # type: ignore[arg-type]
)
