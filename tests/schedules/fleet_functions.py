"""What a fleet of schedulers fires, and the program that each of them is."""

import os
import signal
import sys
from pathlib import Path

import anyio

from offload import Pool, offload
from offload.jobs import Jobs
from offload.schedules import Coalesce, Every, FireContext, Overlap, Schedule, Scheduler

# At idle priority a worker waits for every other process of a shared machine.
pool = Pool("default", os_priority="normal", max_workers=2)
jobs = Jobs()
# Every fire must run, however late.
POLICY = {"coalesce": Coalesce.ALL, "max_catch_up": 10_000, "overlap": Overlap.ALLOW}


def write(path: str, line: str) -> None:
    """Add a line to a file, in one piece."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@offload(pool=pool)
def as_job(path: str, fire: FireContext) -> None:
    """Write down that the job of a fire runs."""
    write(path, fire.id)


async def in_memory(path: str, fire: FireContext) -> None:
    """Write down that a fire runs in this process."""
    write(path, f"{fire.id} {os.getpid()}")


async def main(directory: Path) -> None:
    """Fire each second, until SIGTERM."""
    scheduler = Scheduler(jobs)
    for name, function in (("job", as_job), ("memory", in_memory)):
        path = str(directory / name)
        own = jobs if function is as_job else None
        scheduler.add(Schedule(Every(1), function, name=name, args=(path,), jobs=own, **POLICY))
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with scheduler, jobs:
            write(str(directory / "ready"), str(os.getpid()))
            async for _ in signals:
                break


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
