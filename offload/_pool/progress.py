"""Progress that a running function reports: kept for who looks, and told to its caller."""

from __future__ import annotations

import logging
import pickle
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

from offload._wire.frames import Flag
from offload._wire.pickling import without_exits
from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from offload._pool.task import PoolTask
    from offload._wire.frames import Frame

__all__ = ["progress_in", "tell_progress"]

_logger = logging.getLogger("offload.pool")


def tell_progress(task: PoolTask, frame: Frame) -> None:
    """Keep what the function of a task has reported, and call `on_progress`, if it has that."""
    task.progress = frame
    if task.on_progress is None:
        return
    try:
        done, total = progress_in(frame)
        task.on_progress(done, total)
    except (Exception, CancelledError):  # noqa: BLE001 - it is logged
        # What came with it is still to be told, the result perhaps, whatever handlers do.
        log_safely(
            _logger,
            logging.ERROR,
            "on_progress of %s failed",
            task.function,
            exc_info=True,
            extra={"offload_function": task.function},
        )


def progress_in(frame: Frame) -> tuple[Any, Any]:
    """Return what a function has reported: two numbers, as a rule.

    Raises:
        Exception: it cannot be read.
    """
    if frame.flags & Flag.DATA:
        from offload._pool.data_replies import numbers_in

        return numbers_in(frame)
    done, total = without_exits(pickle.loads, frame.body)
    return done, total
