"""Jobs over HTTP: opened with the application, answered with 202, followed and cancelled.

```python
def may_see(request: Request, job: JobStatus) -> bool:
    return request.user.is_authenticated

app = Starlette(
    routes=[Route("/reports", make_report, methods=["POST"]), *job_routes(jobs, authorize=may_see)],
    lifespan=lifespan(jobs=jobs),
)

async def make_report(request):
    return accepted(request, await jobs.enqueue(report, "2026-11"))
```
"""

from __future__ import annotations

import inspect
import json
import logging
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

# Errors alone: workers import this with the application, and states and the like take their time.
from offload.jobs import JobNotFoundError, JobsUnavailableError
from offload.roles._program import opened

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Lifespan

    from offload.jobs import Job, Jobs, JobStatus

    Authorize = Callable[[Request, JobStatus], bool | Awaitable[bool]]

__all__ = ["accepted", "job_routes", "jobs_lifespan"]

_logger: Final = logging.getLogger("offload.starlette")

_NAME: Final = "offload-job"
_RETRY_SECONDS: Final = 1
# A connection on which nothing comes for longer is closed by many proxies.
_SILENCE_SECONDS: Final = 15.0


def jobs_lifespan(jobs: Jobs, *, inner: Lifespan[Any] | None = None) -> Lifespan[Any]:
    """Open jobs with an application that has no pools, and close them with it.

    With pools: `lifespan(jobs=jobs)`.

    An engine that cannot be reached does not keep the application from starting: what needs it
    raises until it is there.

    Args:
        jobs: closed by the last application of the process that holds them.
        inner: the application's own lifespan, which runs inside.

    Raises:
        JobsCorruptError: what is stored cannot be read.
    """

    @asynccontextmanager
    async def bound(app: object) -> AsyncGenerator[Any]:
        async with opened(jobs), nullcontext() if inner is None else inner(app) as state:
            yield state

    return bound


def accepted(request: Request, job: Job[Any], *, retry_after: int = _RETRY_SECONDS) -> Response:
    """Answer 202: `Location` is where the job can be followed, `Retry-After` when to ask.

    Args:
        request: the one that is answered, of an application with `job_routes`.
        job: what was enqueued for it.
        retry_after: seconds.
    """
    url = request.url_for(_NAME, job_id=job.id).path
    headers = {"Location": url, "Retry-After": str(retry_after)}
    return JSONResponse({"id": job.id, "url": url}, 202, headers)


def job_routes(jobs: Jobs, *, authorize: Authorize, path: str = "/jobs") -> list[Route]:
    """Return routes for one job: `GET {path}/{id}`, `GET {path}/{id}/events`, `DELETE {path}/{id}`.

    `GET` answers its state, progress, and the result or error; `events` the same after each change,
    as server-sent events, until it has ended; `DELETE` cancels it. A client learns neither
    tracebacks nor arguments.

    Args:
        jobs: where they are.
        authorize: asked for each request whether its client may see and cancel this job; may be
            async. A job that one may not see is not there: 404.
        path: where the routes are.
    """
    handlers = _Handlers(jobs, authorize)
    return [
        Route(f"{path}/{{job_id}}", handlers.one, methods=["GET", "DELETE"], name=_NAME),
        Route(f"{path}/{{job_id}}/events", handlers.events, name=f"{_NAME}-events"),
    ]


class _Handlers:
    def __init__(self, jobs: Jobs, authorize: Authorize) -> None:
        self._jobs = jobs
        self._authorize = authorize

    async def one(self, request: Request) -> Response:
        """Tell of a job, or cancel it."""
        job, status = await self._find(request)
        if request.method == "DELETE":
            return await _cancel(job)
        headers = {"Cache-Control": "no-store"}
        if not status.state.is_over:
            headers["Retry-After"] = str(_RETRY_SECONDS)
        return JSONResponse(_as_json(status), headers=headers)

    async def events(self, request: Request) -> Response:
        """Follow a job."""
        job, _ = await self._find(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(job), media_type="text/event-stream", headers=headers)

    async def _find(self, request: Request) -> tuple[Job[Any], JobStatus]:
        try:
            job = await self._jobs.get(request.path_params["job_id"])
            status = await job.status()
        except JobNotFoundError:
            raise HTTPException(404, "there is no such job") from None
        except JobsUnavailableError as error:
            raise _unavailable(error) from error
        allowed = self._authorize(request, status)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if not allowed:
            raise HTTPException(404, "there is no such job")
        return job, status


async def _cancel(job: Job[Any]) -> Response:
    try:
        outcome = await job.cancel()
    except JobNotFoundError:
        raise HTTPException(404, "there is no such job") from None
    except JobsUnavailableError as error:
        raise _unavailable(error) from error
    codes = {"removed": 200, "asked": 202, "over": 409}
    return JSONResponse({"id": job.id, "outcome": outcome}, codes[outcome])


def _unavailable(error: JobsUnavailableError) -> HTTPException:
    _logger.error("jobs cannot be reached: %s", error)
    headers = {"Retry-After": str(_RETRY_SECONDS)}
    return HTTPException(503, "jobs cannot be reached at the moment", headers)


async def _stream(job: Job[Any]) -> AsyncIterator[str]:
    try:
        async with job.events() as events:
            while True:
                status: JobStatus | None = None
                with anyio.move_on_after(_SILENCE_SECONDS):
                    status = await anext(events, None)
                    if status is None:
                        return
                if status is None:
                    yield ": still there\n\n"
                else:
                    yield f"event: {status.state}\ndata: {json.dumps(_as_json(status))}\n\n"
    except (JobNotFoundError, JobsUnavailableError) as error:
        # The head of the response is long gone: the client connects again, and is told then.
        _logger.info("a client could not follow a job any longer: %s", error)


def _as_json(status: JobStatus) -> dict[str, Any]:
    progress = status.progress
    data: dict[str, Any] = {
        "id": status.id,
        "state": status.state,
        "attempts": status.attempts,
        "crashes": status.crashes,
        "progress": progress and {"done": progress.done, "total": progress.total},
        "created_at": status.created_at.isoformat(),
        "started_at": status.started_at and status.started_at.isoformat(),
        "ended_at": status.ended_at and status.ended_at.isoformat(),
    }
    if status.state == "completed" and status.result is not None:
        data["result"] = json.loads(status.result)
    if status.state == "failed" and status.error is not None:
        # What the function raised is the application's affair, its text perhaps not the client's.
        data["error"] = status.error.type
    return data
