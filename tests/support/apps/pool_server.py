"""A server in miniature, to be ended: `python -m tests.support.apps.pool_server how folder`.

It keeps workers busy with the worst there is, tells that by the FIFO `report` of the folder, and
waits.
"""

import asyncio
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from offload import Pool
from tests.support.functions import pool as functions

_KINDS = {
    "forkserver": {"start_method": "forkserver"},
    "spawn": {"start_method": "spawn"},
    "executor": {"executor": ProcessPoolExecutor, "start_method": "forkserver"},
    "spawned executor": {"executor": ProcessPoolExecutor, "start_method": "spawn"},
}


async def serve(pool: Pool, folder: Path) -> None:
    """Hold every worker, each in its own way, until somebody ends us."""
    report = str(folder / "report")
    async with asyncio.TaskGroup() as group:
        for fault in ("hang in Python", "hang in native code"):
            group.create_task(pool.run(functions.run_fault, fault, report))
        if sys.argv[1] in ("forkserver", "spawn"):
            group.create_task(pool.run(functions.hang_with_children, report))


async def leave(pool: Pool, folder: Path) -> None:
    """Return with workers busy and idle, without closing anything."""
    report = str(folder / "report")
    await pool.run(functions.pid)
    task = asyncio.create_task(pool.run(functions.run_fault, "hang in native code", report))
    while not pool.statistics().busy:  # noqa: ASYNC110 - a number has no event
        await asyncio.sleep(0)
    await asyncio.to_thread(functions.pass_gate, str(folder / "go"))
    del task


def fork_and_serve(pool: Pool, folder: Path) -> None:
    """Fork, as a server before ours did, with the pool open; the copy outlives us."""
    asyncio.run(pool.open())
    report = str(folder / "report")
    if not os.fork():
        try:
            own = asyncio.run(pool.run(functions.pid))
            functions.tell(report, os.getpid())
            functions.tell(report, own)
            signal.pause()
        finally:
            os._exit(1)
    # The pool of the parent is as good as before.
    functions.tell(report, asyncio.run(pool.run(functions.pid)))
    asyncio.run(serve(pool, folder))


def run_in_a_thread(pool: Pool, folder: Path) -> None:
    """Use the pool from an event loop that is not in the main thread."""
    threading.Thread(target=lambda: asyncio.run(serve(pool, folder)), daemon=True).start()
    signal.pause()


def main() -> None:
    """Run."""
    kind, how, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    pool = Pool("server", max_workers=3, os_priority="normal", **_KINDS[kind])
    if how == "serve":
        asyncio.run(serve(pool, folder))
    elif how == "leave":
        asyncio.run(leave(pool, folder))
    elif how == "fork":
        fork_and_serve(pool, folder)
    elif how == "thread":
        run_in_a_thread(pool, folder)


if __name__ == "__main__":
    main()
