"""What the workers of `test_starlette` import: functions, and endpoints that are functions."""

import os
import signal

from starlette.requests import Request
from starlette.responses import JSONResponse

from offload import Pool, offload

pool = Pool("starlette-tests", max_workers=1)


@offload(pool=pool)
def pid() -> int:
    """Return the worker's process id."""
    return os.getpid()


@offload(pool=pool)
def crash(_secret: str) -> None:
    """End as the out-of-memory killer would end it."""
    os.kill(os.getpid(), signal.SIGKILL)


@offload(pool=pool, timeout=0.05)
def spin_for_ever() -> None:
    """Run into the timeout."""
    while True:
        pass


@offload(pool=pool)
def fail(text: str) -> None:
    """Raise an exception of the application."""
    raise ZeroDivisionError(text)


@offload(pool=pool)
def take(_argument: object) -> None:
    """Do nothing with what crossed."""


@offload(pool=pool)
def leave() -> None:
    """Raise what would end the server."""
    raise SystemExit("secret-of-the-worker")


@offload(pool=pool)
def describe(request: Request) -> JSONResponse:
    """Answer what a worker knows of the request."""
    return JSONResponse(
        {
            "pid": os.getpid(),
            "method": request.method,
            "url": str(request.url),
            "query": dict(request.query_params),
            "path": request.path_params,
            "header": request.headers.get("x-test"),
            "cookies": request.cookies,
        }
    )
