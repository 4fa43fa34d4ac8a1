"""An application whose clients follow their jobs; OFFLOAD_JOBS says where those are."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from offload.jobs import Jobs
from offload.starlette import accepted, job_routes, jobs_lifespan
from tests.jobs import job_functions as functions

jobs = Jobs()


async def make(request: Request) -> Response:
    """Store a job."""
    return accepted(request, await jobs.enqueue(functions.add, 1))


app = Starlette(
    routes=[Route("/make", make, methods=["POST"]), *job_routes(jobs, authorize=lambda *_: True)],
    lifespan=jobs_lifespan(jobs),
)
