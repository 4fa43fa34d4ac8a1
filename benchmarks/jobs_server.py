"""The server of benchmarks/fast_beside_jobs.py: `/fast`, and `/job` that enqueues one and answers.

The store is `OFFLOAD_JOBS`. A job computes for `JOB_LOOPS` loops.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.functions import burn
from offload import offload
from offload.jobs import Jobs
from offload.starlette import jobs_lifespan

if TYPE_CHECKING:
    from starlette.requests import Request

_LOOPS = int(os.environ["JOB_LOOPS"])
# Nobody may wait for all of them: more are enqueued than two CPUs compute.
jobs = Jobs(max_queued=None)


@offload(jobs=jobs)
def compute(loops: int) -> int:
    """Keep a core busy."""
    return burn(loops)


async def fast(_: Request) -> PlainTextResponse:
    """Answer at once."""
    return PlainTextResponse("fast")


async def job(_: Request) -> PlainTextResponse:
    """Enqueue a job."""
    stored = await compute.enqueue(_LOOPS)
    return PlainTextResponse(stored.id, status_code=202)


app = Starlette(routes=[Route("/fast", fast), Route("/job", job)], lifespan=jobs_lifespan(jobs))
