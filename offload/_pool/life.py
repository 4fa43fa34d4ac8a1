"""The life of an open pool: open, drain, kill."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from offload._decisions.words import StopReason
from offload._pool.call_errors import closed_error
from offload._pool.event_loops import call_soon_on_loop_of
from offload._pool.waiters import settle
from offload._workers.keeper import keeper

if TYPE_CHECKING:
    from offload._pool.decider import Decider
    from offload._pool.shell import Shell
    from offload._pool.task import PoolTask

__all__ = ["PoolLife"]


class PoolLife:
    """Opens, drains and ends a pool; on any thread.

    Args:
        shell: the pool's tasks and workers.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._decider: Decider = shell.decider
        # Done when nothing is left of a pool that was killed; None while it lives.
        self._closed: Future[None] | None = None

    def open(self) -> Future[None]:
        """Accept calls and start the first workers; the future is done when they are ready.

        It fails with `WorkerStartError` if none comes up.
        """
        future: Future[None] = Future()
        decider = self._decider

        def decide() -> None:
            decider.dispatcher.open(time.monotonic())
            decider.waiters.wait_open(future)

        decider.act(decide)
        return future

    def drain(self) -> Future[None]:
        """Accept nothing more; the future is done when no call is left."""
        future: Future[None] = Future()
        decider = self._decider

        def decide() -> None:
            decider.dispatcher.close(time.monotonic())
            decider.waiters.wait_drained(future)

        decider.act(decide)
        return future

    def kill(self) -> Future[None]:
        """End everything now; the future is done when nothing is left."""
        # A signal handler runs on a thread that may have the lock: then the keeper does it.
        if self._decider.lock.acquire(blocking=False):
            self._decider.lock.release()
            return self._kill()
        if self._closed is not None:
            return self._closed
        later: Future[None] = Future()
        keeper.post(lambda: self._kill().add_done_callback(lambda _: settle(later)))
        return later

    def _kill(self) -> Future[None]:
        shell = self._shell
        running, closed, is_first = self._decider.act(self._close)
        for task in running:
            may_have_run = shell.stop(task, StopReason.CLOSE_UNDER_LOAD)
            if may_have_run is not None:
                error = closed_error(task.function, shell.pool, may_have_run=may_have_run)
                call_soon_on_loop_of(task, task.fail, error)
        if is_first:
            closed.add_done_callback(lambda _: keeper.release())
            self._decider.stop_ticking()
            # Last: once it has been told, the keeper lets go of workers as they end.
            shell.backend.close().add_done_callback(lambda _: settle(closed))
        return closed

    def _close(self) -> tuple[list[PoolTask], Future[None], bool]:
        if self._closed is not None:
            return [], self._closed, False
        self._decider.dispatcher.close(time.monotonic(), kill=True)
        self._closed = Future()
        return self._shell.running(), self._closed, True
