"""What the servers of `test_servers` serve: work that ends, and work that does not."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from offload import Pool
from offload.starlette import exception_handlers, lifespan
from tests.support.functions import pool as functions

DIRECTORY = Path(os.environ.get("SERVED_DIRECTORY", ""))
REPORT, GATE = str(DIRECTORY / "report"), str(DIRECTORY / "gate")

pool = Pool("served", max_workers=3)


async def fast(request):
    """Answer without the pool."""
    return PlainTextResponse("fast")


async def hold(request):
    """Hold a worker until the gate opens."""
    await pool.run(functions.hold, REPORT, GATE)
    return PlainTextResponse("held")


async def hang(request):
    """Hold a worker for ever."""
    await pool.run(functions.run_fault, request.query_params["how"], REPORT)


async def family(request):
    """Hold a worker for ever, in native code, and its children with it."""
    await pool.run(functions.hang_with_children, REPORT)


app = Starlette(
    routes=[Route(f"/{each.__name__}", each) for each in (fast, hold, hang, family)],
    # Long: what ends at once does so before it is over.
    lifespan=lifespan(pool, drain=300),
    exception_handlers=exception_handlers,
)
