"""`offload jobs dashboard`: the page of one store of jobs, with no application around it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offload.jobs import Jobs

__all__ = ["serve"]

_LOOPBACK = "127.0.0.1"
# Where `offload top` looks for it.
_PATH = "/dashboard"


async def serve(jobs: Jobs, *, port: int, actions: bool) -> None:
    """Serve the page to this machine, until SIGTERM or Ctrl+C.

    Args:
        jobs: open.
        port: where, on the loopback address; 0: any free one.
        actions: whether those who use this machine may act.

    Raises:
        ModuleNotFoundError: Starlette or uvicorn is not installed.
        OSError: the port is taken.
    """
    try:
        import uvicorn
        from starlette.applications import Starlette
        from starlette.responses import RedirectResponse
        from starlette.routing import Mount, Route

        from offload.dashboard import Dashboard
    except ModuleNotFoundError as error:
        message = f"the dashboard needs more ({error}): pip install 'offload[dashboard]'"
        raise ModuleNotFoundError(message, name=error.name) from error

    async def home(request: Any) -> RedirectResponse:  # noqa: ARG001 - Starlette passes it
        return RedirectResponse(f"{_PATH}/jobs")

    # No `authorize`: it refuses whatever does not come from this machine.
    dashboard = Dashboard(pools=[], jobs=[jobs], actions=actions)
    app = Starlette(routes=[Route("/", home), Mount(_PATH, dashboard)])
    listener = socket.create_server((_LOOPBACK, port))
    url = f"http://{_LOOPBACK}:{listener.getsockname()[1]}{_PATH}/jobs"
    if dashboard.token is not None:
        url += f"?token={dashboard.token}"
    may = "may act on them" if actions else "is for looking only; --actions allows more"
    print(f"{jobs.statistics().location} at {url}, which {may}. Ctrl+C ends it.", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    await uvicorn.Server(config).serve(sockets=[listener])
