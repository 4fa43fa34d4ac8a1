"""A code base that is not split: its functions are in the module of its application."""

import os

from starlette.applications import Starlette

from offload import Pool, offload
from offload.jobs import Jobs
from offload.starlette import lifespan

pool = Pool("default", os_priority="normal", max_workers=1)
jobs = Jobs(os.environ.get("ROLES_JOBS"))


@offload
def add(first: int, second: int) -> int:
    """Add."""
    return first + second


app = Starlette(lifespan=lifespan(jobs=jobs))
