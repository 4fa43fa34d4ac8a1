"""Schedules of a code base, apart from its application."""

import os
from pathlib import Path

from offload import offload
from offload.schedules import Every, schedule
from tests.roles import tasks
from tests.roles.tasks import jobs

__all__ = ["jobs", "tasks"]


def _tell(name: str) -> None:
    if path := os.environ.get(name):
        with Path(path).open("wb", buffering=0) as pipe:
            pipe.write(os.getpid().to_bytes(8, "little"))


@schedule(Every(0.5), jobs=jobs, name="as-job")
@offload
def tick_as_job() -> None:
    """Tell which process runs this, as a job."""
    _tell("ROLES_JOBS_FIFO")


@schedule(Every(0.5), name="in-memory")
@offload
def tick() -> None:
    """Tell which process runs this, in memory."""
    _tell("ROLES_MEMORY_FIFO")
