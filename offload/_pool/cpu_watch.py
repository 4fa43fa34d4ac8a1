"""Sees that workers get next to no CPU time, which nothing else tells of, and says so once."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, cast

from offload._cpu_time import throttled_seconds
from offload._decisions.starvation import BusyWorker, Starvation
from offload._decisions.words import WorkerState
from offload._workers.logs import log_safely
from offload._workers.thread_times import times_of_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._decisions.starvation import ThreadTime, Verdict
    from offload._pool.accounts import Accounts
    from offload._pool.task import PoolTask
    from offload._workers.backend import PoolWorker, WorkerBackend

__all__ = ["CpuWatch"]

_logger = logging.getLogger("offload.pool")

_ADVICE = {
    "idle": (
        'os_priority="idle" gives way to every busy process of normal priority in the same session '
        'or container. Set os_priority="normal" for this pool, or leave CPUs to it: fewer busy '
        "neighbours"
    ),
    "low": (
        'os_priority="low" gets next to nothing beside busy processes of normal priority in the '
        'same session or container. Set os_priority="normal" for this pool, or leave CPUs to it: '
        "fewer busy neighbours"
    ),
    "normal": (
        "More processes want the CPUs than there are. Set a lower max_workers, have fewer busy "
        "neighbours, or add CPUs"
    ),
}
_QUOTA_ADVICE = (
    "and the event loop with them, whatever their priorities. Set a lower max_workers, so that "
    "workers leave some of the quota to the server, or raise the quota (cpu.max)"
)


class CpuWatch:
    """Looks at the CPU time of workers that have something to do; on the keeper's thread.

    Args:
        pool: name of the pool.
        backend: knows the workers.
        accounts: the pool's books.
        times: reads the times of a process.
        throttled: reads how long a quota has stopped the cgroup.
    """

    def __init__(
        self,
        pool: str,
        backend: WorkerBackend,
        accounts: Accounts,
        *,
        times: Callable[[int], dict[int, ThreadTime]] = times_of_threads,
        throttled: Callable[[], float | None] = throttled_seconds,
    ) -> None:
        self._pool = pool
        self._backend = backend
        self._accounts = accounts
        self._times = times
        self._throttled = throttled
        self._starvation = Starvation()

    def is_starved(self, worker: PoolWorker) -> bool:
        """Return whether a worker has something to do and got next to no CPU time of late."""
        return _is_at_work(worker) and worker.number in self._starvation.starved

    def look(self) -> bool:
        """Look at the workers; return whether one of them is starting, and to be looked at."""
        workers = self._backend.workers()
        busy = [seen for worker in workers if (seen := self._seen(worker)) is not None]
        verdict = self._starvation.look(
            busy,
            time.monotonic(),
            alive={worker.number for worker in workers},
            throttled=self._throttled() if busy else None,
        )
        self._accounts.starved_seconds += verdict.waited
        self._accounts.throttled_seconds += verdict.throttled
        if verdict.is_news:
            self._tell(verdict, len(busy))
        if verdict.is_quota_news:
            self._tell_quota(verdict)
        return any(worker.state is WorkerState.STARTING for worker in workers)

    def _seen(self, worker: PoolWorker) -> BusyWorker | None:
        """Return what is to be seen of a worker; None if it has nothing to do."""
        pid = worker.pid
        # A slot of an executor of threads is in this very process.
        if pid is None or pid == os.getpid() or not _is_at_work(worker):
            return None
        task = cast("PoolTask | None", worker.task)
        return BusyWorker(
            number=worker.number,
            pid=pid,
            function=None if task is None else task.function,
            since=None if task is None else task.started_at,
            threads=self._times(pid),
        )

    def _tell(self, verdict: Verdict, busy: int) -> None:
        starved = verdict.starved
        first = starved[0]
        names = sorted({each.function for each in starved if each.function is not None})
        what = ", ".join(names) or "still starting"
        log_safely(
            _logger,
            logging.WARNING,
            "workers of pool %r get next to no CPU time: %d of %d ran for %.3f s and waited %.1f s "
            "for a CPU (%s). %s. Logged once; the pool's statistics keep counting.",
            self._pool,
            len(starved),
            busy,
            verdict.ran,
            verdict.waited,
            what,
            _ADVICE[self._backend.os_priority],
            extra={
                "offload_pool": self._pool,
                "offload_function": first.function,
                "offload_pid": first.pid,
            },
        )

    def _tell_quota(self, verdict: Verdict) -> None:
        log_safely(
            _logger,
            logging.WARNING,
            "a CPU quota stopped the workers of pool %r for %.2f s of the last second, %s. "
            "Logged once; the pool's statistics keep counting.",
            self._pool,
            verdict.throttled,
            _QUOTA_ADVICE,
            extra={"offload_pool": self._pool},
        )


def _is_at_work(worker: PoolWorker) -> bool:
    if worker.state is WorkerState.STARTING:
        return True
    return worker.state is WorkerState.BUSY and worker.task is not None
