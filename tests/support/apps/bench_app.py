"""What `offload bench` measures in its tests: an application, and the same with a fault in it."""

import asyncio
import contextlib
import time

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

_reports = 0


async def ping(_):
    """Answer at once."""
    return PlainTextResponse("pong")


async def report(_):
    """Take as long as a report on a worker would, and leave the event loop alone."""
    global _reports  # noqa: PLW0603 - a server's state
    _reports += 1
    try:
        await asyncio.sleep(0.2)
    finally:
        _reports -= 1
    return PlainTextResponse("done")


async def block_once_a_second():
    """Hold the loop for 20 ms, once a second, while there are reports to make."""
    while True:
        await asyncio.sleep(1)
        end = time.thread_time() + 0.02
        while _reports and time.thread_time() < end:
            pass


@contextlib.asynccontextmanager
async def with_fault(_):
    """Let the fault live as long as the application."""
    task = asyncio.create_task(block_once_a_second())
    yield
    task.cancel()


ROUTES = [Route("/ping", ping), Route("/report", report)]
healthy = Starlette(routes=ROUTES)
faulty = Starlette(routes=ROUTES, lifespan=with_fault)
