"""The same heavy work as a job: kept in a store, and run by a worker program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from demo_server import work
from demo_server.settings import SettingsError
from demo_server.worker_program import Keeper
from offload.jobs import JobQueueFullError, Jobs, JobsUnavailableError
from offload.starlette import accepted, job_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from demo_server.settings import Settings
    from offload.jobs import JobStatus

__all__ = ["HeavyJobs"]

# A page of another site cannot send it without asking first, which nobody here answers.
_ACTION_HEADER = "X-Demo-Action"
_LOOPBACK = ("127.0.0.1", "::1")


class HeavyJobs:
    """Endpoints of jobs.

    Args:
        settings: where they are, and how they are run.
        n_of: reads `n` from a request.

    Raises:
        SettingsError: jobs cannot be kept there.
    """

    def __init__(self, settings: Settings, n_of: Callable[[Request], int]) -> None:
        self.keeper = Keeper(settings.jobs, settings.workers, settings.os_priority)
        try:
            self.jobs = Jobs(self.keeper.url, max_queued=10_000, keep=3600.0, max_crashes=5)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"jobs: {error}") from error
        self._n_of = n_of

    def routes(self) -> list[BaseRoute]:
        """Return a route for each endpoint."""
        return [
            Route("/heavy/job", self.enqueue, methods=["POST"]),
            # In a real application: is this job one of the client's own?
            *job_routes(self.jobs, authorize=_anybody),
            Route("/worker", self.worker),
            Route("/worker/kill", self.kill, methods=["POST"]),
        ]

    async def enqueue(self, request: Request) -> Response:
        """Keep a job, and answer 202 with where to follow it."""
        n = self._n_of(request)
        try:
            job = await self.jobs.enqueue(work.count_primes, n)
        except JobQueueFullError as error:
            raise HTTPException(503, "Too many jobs wait.", {"Retry-After": "1"}) from error
        except JobsUnavailableError as error:
            raise HTTPException(503, "Jobs cannot be kept now.", {"Retry-After": "1"}) from error
        return accepted(request, job)

    async def worker(self, request: Request) -> Response:  # noqa: ARG002 - Starlette passes it
        """Tell of the worker program."""
        return JSONResponse(self.keeper.state(), headers={"Cache-Control": "no-store"})

    async def kill(self, request: Request) -> Response:
        """Kill the worker program, to see its jobs come back; from this machine only."""
        host = request.client.host if request.client else ""
        if host not in _LOOPBACK or _ACTION_HEADER not in request.headers:
            raise HTTPException(403, f"Only from this machine, with the header {_ACTION_HEADER}: 1")
        pid = self.keeper.kill()
        if pid is None:
            raise HTTPException(409, "No worker program runs at the moment; one is being started.")
        return JSONResponse({"killed": pid})


def _anybody(request: Request, status: JobStatus) -> bool:  # noqa: ARG001 - what a hook is given
    return True
