"""What no event tells of.

Tasks whose time is over while their event loop is held, or is closed; tasks that the worker that
was idle does not take; and workers that get no CPU time.

As a rule a timer of the task's own loop stops it, which costs next to nothing. The keeper looks
once a second, only while there is something to look for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from offload._workers.keeper import keeper

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from offload._pool.task import PoolTask

__all__ = ["Overdue"]

# Such loops are rare, and a look costs a microsecond for each worker.
_LOOK_SECONDS = 1.0
# A timer of an event loop that is later than this has been held up.
_LATE_SECONDS = 0.25
# A worker has taken its task by then, unless it is stopped, hangs, or has no core.
_TAKE_SECONDS = 0.25


class Overdue:
    """Looks for tasks that are late and for loops that were closed, on the keeper's thread.

    Args:
        running: returns the tasks that run.
        stop_late: stops a task whose time is over, and tells its caller.
        replace_unresponsive: replaces the worker of a task that does not take it.
        abandon: stops a task that has no caller any more.
        has_queue: returns whether calls wait for a worker.
        look_at_workers: looks whether workers get CPU time; returns whether one is starting.

    Attributes:
        is_watching: whether it looks for late tasks; to be read after each task that was sent.
    """

    def __init__(
        self,
        running: Callable[[], list[PoolTask]],
        *,
        stop_late: Callable[[PoolTask], None],
        replace_unresponsive: Callable[[PoolTask], object],
        abandon: Callable[[PoolTask], object],
        has_queue: Callable[[], bool],
        look_at_workers: Callable[[], bool],
    ) -> None:
        self._running = running
        self._stop_late = stop_late
        self._replace_unresponsive = replace_unresponsive
        self._abandon = abandon
        self._has_queue = has_queue
        self._look_at_workers = look_at_workers
        self._timer: asyncio.TimerHandle | None = None
        self.is_watching = False
        self._is_looking = False

    def watch(self) -> None:
        """Look for tasks whose time is over, or that their worker does not take.

        Also if their event loop is held or does not run. And whether workers get CPU time, while
        one has a task or is starting.
        """
        self.is_watching = True
        keeper.post(self._look_later)

    def watch_loops(self) -> None:
        """Free workers whose event loop was closed under their task, while calls wait for one.

        Nobody reads the sockets of such workers: nothing tells that their task has ended.
        """
        if not self._is_looking:
            self._is_looking = True
            keeper.post(self._look_for_closed)

    def _look_later(self) -> None:
        # Not now: nothing can be late yet, and calls that take less than this hop would each cost
        # one.
        if self._timer is None:
            self._timer = keeper.loop.call_later(_LOOK_SECONDS, self._look_for_late)

    def _look_for_late(self) -> None:
        self._timer = None
        now = time.monotonic()
        is_starting = False
        try:
            is_starting = self._look_at_workers()
            for task in self._running():
                if task.stop_at is not None and task.stop_at + _LATE_SECONDS < now:
                    self._stop_late(task)
                elif now - task.started_at > _TAKE_SECONDS:
                    self._replace_unresponsive(task)
        finally:
            # In this order: a task that begins now sees the one, or we see it.
            self.is_watching = False
            if is_starting or self._running():
                self.is_watching = True
                self._look_later()

    def _look_for_closed(self) -> None:
        for task in self._running():
            if task.loop.is_closed():
                self._abandon(task)
        self._is_looking = self._has_queue()
        if self._is_looking:
            keeper.loop.call_later(_LOOK_SECONDS, self._look_for_closed)
