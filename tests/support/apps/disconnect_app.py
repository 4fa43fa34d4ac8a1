"""What the server of `test_disconnect_server` serves: calls that clients wait for, or do not."""

import json
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from offload.starlette import CancelOnDisconnect, WorkerStreamResponse, exception_handlers, lifespan
from tests.support.functions import requests as functions

DIRECTORY = Path(os.environ.get("DISCONNECT_DIRECTORY", ""))


async def hold(request):
    """Hold a worker until the gate opens, or the client leaves."""
    entered, gate = str(DIRECTORY / "entered"), str(DIRECTORY / "gate")
    return PlainTextResponse(await functions.hold(entered, gate, request.query_params["value"]))


async def echo(request):
    """Call, read the body, call again."""
    first = await functions.echo("first")
    body = await request.body()
    return PlainTextResponse(f"{first} {await functions.echo(body.decode())}")


async def stream(request):
    """Send what a generator makes, without end."""

    async def parts():
        async for item in functions.endless.stream():
            yield f"{item}\n"

    return StreamingResponse(parts())


async def whole(request):
    """Send a few items that workers make, and then hold a worker in the background."""

    async def parts():
        for number in range(3):
            yield f"{await functions.echo(number)} "

    held = str(DIRECTORY / "entered"), str(DIRECTORY / "gate")
    return WorkerStreamResponse(parts(), background=BackgroundTask(functions.hold, *held))


async def burn(request):
    """Use CPU, and note how much."""
    query = request.query_params
    path, slot, seconds = str(DIRECTORY / "used"), int(query["slot"]), float(query["seconds"])
    return PlainTextResponse(str(await functions.burn(path, slot, seconds)))


async def state(request):
    """Tell how many calls wait and run, and how many were cancelled."""
    now = functions.pool.statistics()
    return PlainTextResponse(
        json.dumps({"queued": now.queued, "busy": now.busy, "cancelled": now.cancelled})
    )


endpoints = (hold, echo, stream, whole, burn, state)
routes = [Route(f"/{each.__name__}", each, methods=["GET", "POST"]) for each in endpoints]
watched = Starlette(
    routes=routes,
    middleware=[Middleware(CancelOnDisconnect)],
    exception_handlers=exception_handlers,
)
app = Starlette(
    routes=[Mount("/plain", routes=routes), Mount("/", watched)],
    lifespan=lifespan(functions.pool, drain=0),
    exception_handlers=exception_handlers,
)
