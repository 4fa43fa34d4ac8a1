"""What is scheduled and asked for in the ways to run it; as its users would write it down.

`WORKERS` says how many worker processes the program has that runs it.
"""

from __future__ import annotations

import os
import time

from benchmarks.functions import burn
from offload import Pool, offload
from offload.jobs import Jobs, job_options
from offload.schedules import FireContext  # noqa: TC001 - schedules look for it at run time

# Where `OFFLOAD_JOBS` says; opened by nobody but the way that needs it.
jobs = Jobs()
pool = Pool("ways", max_workers=int(os.environ.get("WORKERS", "2")))


def fired(loops: int, fire: FireContext) -> float:
    """Compute; return how many ms after its fire time it had begun."""
    late = (time.time() - fire.fire_time.timestamp()) * 1e3
    burn(loops)
    return late


def worked(loops: int, path: str = "") -> int:
    """Compute, and then note in a file, if there is one, that it is done."""
    total = burn(loops)
    if path:
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - as cheap as it gets
            file.write("done\n")
    return total


def crashed() -> None:
    """Die, as native code does that goes wrong."""
    os._exit(3)


@offload(pool=pool)
def scheduled(loops: int, fire: FireContext) -> float:
    """Do as `fired`, in a worker."""
    return fired(loops, fire)


@offload(pool=pool)
def work(loops: int, path: str = "") -> int:
    """Do as `worked`, in a worker."""
    return worked(loops, path)


# Not again: a second try would die as well.
@job_options(max_crashes=1)
@offload(pool=pool)
def crash() -> None:
    """Do as `crashed`, in a worker."""
    crashed()
