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
import logging
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# Errors alone: workers import this with the application, and states and the like take their time.
from offload.jobs import JobNotFoundError, JobsUnavailableError
from offload.roles._program import opened
from offload.starlette._job_events import JobEventsResponse, as_json, is_known

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Lifespan

    from offload.jobs import Job, Jobs, JobStatus

    Authorize = Callable[[Request, JobStatus], bool | Awaitable[bool]]

__all__ = ["accepted", "job_routes", "jobs_lifespan"]

_logger: Final = logging.getLogger("offload.starlette")

_NAME: Final = "offload-job"
_RETRY_SECONDS: Final = 1


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
    as server-sent events, until it has ended; `DELETE` cancels it: 200 if it never ran, 202 if it
    runs and is being stopped, 409 if it was over. A client learns neither tracebacks nor arguments.

    `events` ends with the job, and with the server: a browser's `EventSource` connects again by
    itself, is told the state of then, and stays away once it knows how the job has ended.

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
        return JSONResponse(as_json(status), headers=headers)

    async def events(self, request: Request) -> Response:
        """Follow a job."""
        job, status = await self._find(request)
        if is_known(request, status):
            return Response(status_code=204)  # To an EventSource: do not connect again.
        return JobEventsResponse(job)

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
