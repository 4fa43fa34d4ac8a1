"""Refusals before a call is in the queue, and what is on its way there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from offload._decisions.words import Phase
from offload._pool.call_errors import closed_error, full_error
from offload._workers.keeper import keeper

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from offload._decisions.dispatcher import Dispatcher
    from offload._pool.task import PoolTask
    from offload.errors import QueueFullError

__all__ = ["Admission"]


class Admission:
    """Counts the calls that are being pickled, and refuses what will not fit into the queue.

    Args:
        pool: name of the pool.
        dispatcher: what has the last word.
        lock: the dispatcher's.
        running: returns the tasks that run.
    """

    def __init__(
        self,
        pool: str,
        dispatcher: Dispatcher,
        lock: threading.Lock,
        running: Callable[[], list[PoolTask]],
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._lock = lock
        self._running = running
        # How many calls are being pickled, and how large they are at the least.
        self._arriving = 0
        self._arriving_bytes = 0

    def refuse_early(self, function: str) -> None:
        """Refuse before arguments are pickled, which may be dear; `submit` has the last word.

        Raises:
            PoolClosedError: the pool accepts nothing any more.
            QueueFullError: the queue is at its limit.
        """
        dispatcher = self._dispatcher
        if dispatcher.phase is not Phase.OPEN:
            raise closed_error(function, self._pool)
        # Without the lock: what is read here may be old by a call or two, and `submit` looks again.
        if dispatcher.is_full and not (dispatcher.roster.idle and dispatcher.roster.free):
            with self._lock:
                raise self.full_error(function, "max_queued")

    def reserve(self, function: str, size_bytes: int) -> int:
        """Refuse what will not fit into the queue; else count it as on its way there.

        Until it is pickled a call is not in the queue, and a thousand at once would all be.

        Returns:
            How many bytes to `release` when it is pickled.
        """
        dispatcher = self._dispatcher
        most = dispatcher.limits.max_queued_bytes
        if most is None or not size_bytes:
            return 0
        with self._lock:
            queue = dispatcher.queue
            waiting = queue.count + self._arriving
            together = queue.size_bytes + self._arriving_bytes + size_bytes
            if waiting < max(dispatcher.roster.free, 1) or together <= most:
                self._arriving += 1
                self._arriving_bytes += size_bytes
                return size_bytes
            # Not by way of a variable: the error's traceback would refer to it.
            raise self.full_error(function, "max_queued_bytes")

    def release(self, size_bytes: int) -> None:
        """Take back what `reserve` has counted."""
        if not size_bytes:
            return
        # Not by waiting for the lock: the collector may be finalizing this call, on a thread that
        # has the lock (see `Shell.drop`).
        if not self._lock.acquire(blocking=False):
            keeper.post(self.release, size_bytes)
            return
        try:
            self._arriving -= 1
            self._arriving_bytes -= size_bytes
        finally:
            self._lock.release()

    def retry_after(self) -> float:
        """Return seconds until a newcomer is likely to be served; under the lock."""
        return self._dispatcher.estimates.retry_after(time.monotonic(), self._running())

    def full_error(self, function: str, limit: str) -> QueueFullError:
        """Return the error of a call that found the queue at this limit; under the lock."""
        return full_error(
            function,
            self._pool,
            waiting=self._dispatcher.queue.count,
            limit=limit,
            retry_after=self.retry_after(),
        )
