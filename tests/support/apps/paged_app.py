"""A server with dashboards: `python -m tests.support.apps.paged_app`."""

import socket
import time

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from offload import OffloadError, Pool
from offload.dashboard import Dashboard
from offload.starlette import lifespan
from offload.watchdog import Watchdog
from tests.support.functions.paged import POOL, double, fail, spin, tell_and_spin


async def failing(request: Request) -> PlainTextResponse:
    """Make a function fail with the text that is asked for."""
    try:
        await fail(request.query_params["text"])
    except ValueError as error:
        return PlainTextResponse(str(error))
    raise AssertionError


async def doubling(request: Request) -> PlainTextResponse:
    """Make a function succeed."""
    return PlainTextResponse(str(await double(int(request.query_params["number"]))))


async def spinning(_: Request) -> PlainTextResponse:
    """Keep a worker busy until somebody stops it, and tell by which error."""
    try:
        await spin()
    except OffloadError as error:
        return PlainTextResponse(type(error).__name__)
    raise AssertionError


async def telling(request: Request) -> PlainTextResponse:
    """Keep a worker busy that tells its progress, until somebody stops it."""
    try:
        await tell_and_spin(request.path_params["name"])
    except OffloadError as error:
        return PlainTextResponse(type(error).__name__)
    raise AssertionError


async def blocking(_: Request) -> PlainTextResponse:
    """Hold the event loop."""
    time.sleep(0.5)  # noqa: ASYNC251 - that is the fault
    return PlainTextResponse("held")


def make_app() -> Starlette:
    """Return the application, with its pool."""
    pool = Pool(POOL, min_workers=2, max_workers=2, show_arguments=True)
    return Starlette(
        routes=[
            Route("/fail", failing),
            Route("/double", doubling),
            Route("/spin", spinning),
            Route("/tell/{name}", telling),
            Route("/block", blocking),
            Mount("/dashboard", Dashboard(actions=lambda _: True)),
            Mount("/read-only", Dashboard()),
        ],
        lifespan=lifespan(pool),
        middleware=[Middleware(Watchdog)],
    )


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    # Whoever has started this waits for it.
    print(listener.getsockname()[1], flush=True)  # noqa: T201
    # Without a limit for its end: open pages alone must not keep it.
    config = uvicorn.Config(make_app(), lifespan="on", log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])
