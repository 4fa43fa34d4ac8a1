"""The application of a code base."""

import json
import os
import sys
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from offload.roles import current_role
from offload.starlette import exception_handlers, lifespan
from tests.roles.tasks import add, jobs, wait, where


async def call(request):
    """Tell who answers, after a call of a function."""
    told = {"sum": await add(3, 4), "where": await where(), "pid": os.getpid()}
    return JSONResponse(told | {"role": str(current_role())})


async def job(request):
    """Have a job run by another program."""
    return JSONResponse({"sum": await jobs.run(add, 1, 2)})


async def write(request):
    """Write to both streams."""
    print("to standard output", flush=True)  # noqa: T201 - what is tested
    print("to standard error", file=sys.stderr, flush=True)  # noqa: T201 - likewise
    return JSONResponse({})


@asynccontextmanager
async def started(app):
    """Enqueue what a test has its programs begin with."""
    if held := json.loads(os.environ.get("ROLES_HELD", "null")):
        await jobs.enqueue(wait, *held)
    yield


app = Starlette(
    routes=[Route("/", call), Route("/job", job), Route("/write", write)],
    lifespan=lifespan(jobs=jobs, drain=1.0, inner=started),
    exception_handlers=exception_handlers,
)
