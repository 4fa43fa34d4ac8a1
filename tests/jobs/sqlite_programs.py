"""Programs that share a file of jobs, each a process of its own: `python -m … ROLE PATH …`."""

import os
import sys

import anyio

from offload.jobs._sqlite import SqliteEngine
from offload.jobs._values import Complete
from tests.jobs.values import new_job, wanted


async def produce(path, name, count):
    """Put jobs one by one, and say each id once it is accepted."""
    engine = SqliteEngine(f"sqlite:///{path}")
    await engine.open()
    for number in range(int(count)):
        (job_id,) = await engine.put([new_job(f"{name}-{number}")])
        # One write to a pipe, so that a kill leaves no half of a line.
        os.write(1, f"{job_id}\n".encode())
    await engine.aclose()


async def work(path, name, idle):
    """Claim and finish until nothing has come for `idle` seconds, and say each id."""
    engine = SqliteEngine(f"sqlite:///{path}")
    await engine.open()

    async def run():
        wish = wanted(worker=name)
        claimed = await engine.claim(wish, wait=float(idle))
        while claimed:
            (one,) = claimed
            finished = await engine.finish(one.claim, Complete("1"), then=wish)
            assert finished.is_stored
            os.write(1, f"{one.job.id}\n".encode())
            claimed = finished.claimed or await engine.claim(wish, wait=float(idle))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(run)
    await engine.aclose()


async def hold_lock(path):
    """Stand still in the middle of a transaction, until the end."""
    engine = SqliteEngine(f"sqlite:///{path}")
    await engine.open()

    def stand_still(_):
        os.write(1, b"held\n")
        os.read(0, 1)

    await engine._store.write(stand_still)
    await engine.aclose()


if __name__ == "__main__":
    _, role, *arguments = sys.argv
    anyio.run({"produce": produce, "work": work, "hold_lock": hold_lock}[role], *arguments)
