"""The role scheduler: schedules that fire until the program is told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Final

from offload.roles import Program, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload.schedules import Scheduler

__all__ = ["fire"]

_logger: Final = logging.getLogger("offload.roles")


async def fire(scheduler: Scheduler, ready: Callable[[], None]) -> None:
    """Fire until SIGTERM or SIGINT; then drain, until the next one.

    Args:
        scheduler: what has the schedules.
        ready: called when they fire.
    """
    loop = asyncio.get_running_loop()
    # The first signal ends the wait, the second the drain.
    stops = [asyncio.Event(), asyncio.Event()]

    def stop() -> None:
        stops[stops[0].is_set()].set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    firing = asyncio.create_task(_fire(scheduler, ready, stops[0]))
    hurried = asyncio.create_task(stops[1].wait())
    await asyncio.wait({firing, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not firing.done():
        firing.cancel()
    try:
        await firing
    except asyncio.CancelledError:
        _logger.info("what still ran was stopped")


async def _fire(scheduler: Scheduler, ready: Callable[[], None], stopped: asyncio.Event) -> None:
    async with Program(scheduler=scheduler, role=Role.SCHEDULER).running():
        _logger.info("scheduler: schedules %d", len(scheduler))
        ready()
        await stopped.wait()
        _logger.info("scheduler: fires no more")
