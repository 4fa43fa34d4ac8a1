"""A worker program within another program, such as a web server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from offload._child.context import asyncio_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from offload.jobs import WorkerProgram

__all__ = ["worker_loop"]

_logger: Final = logging.getLogger("offload.roles")


@asynccontextmanager
async def worker_loop(program: WorkerProgram) -> AsyncGenerator[None]:
    """Run jobs for as long as this is open; drain at the end.

    One that fails later is told of in the log, and takes nothing else with it.

    Raises:
        RuntimeError: the event loop is not asyncio's.
        ValueError: there is no function to run.
    """
    if asyncio_loop() is None:
        raise RuntimeError(
            "the role worker needs asyncio, and this program runs on trio: start a program of its "
            "own, `offload worker`"
        )
    task = asyncio.create_task(program.run())
    # What it can run is settled in its first step.
    await asyncio.sleep(0)
    if task.done():
        task.result()
    task.add_done_callback(_ended)
    try:
        yield
        program.stop()
        await asyncio.wait({task})
    except BaseException:
        # Cancelled, be it while it drains: what runs is handed back, which takes a moment.
        program.stop()
        program.stop()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
        raise


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("this program no longer runs jobs; its other parts continue", exc_info=error)
