"""What a pool tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offload._core.histogram import HistogramSnapshot

__all__ = ["PoolStatistics", "WorkerStatistics"]


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """One worker at one instant.

    Attributes:
        pid: process id, None where unknown.
        state: "starting", "idle", "busy" or "leaving".
        function: what it runs, as `module:qualname`; None if nothing.
        tasks_done: tasks that it has completed.
        run_seconds: seconds since its current task was sent; None if it has none.
    """

    pid: int | None
    state: str
    function: str | None
    tasks_done: int
    run_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """A pool at one instant. Counters start at zero each time the pool opens.

    Attributes:
        name: the pool's.
        state: "new" (no call yet), "open", "draining" or "closed".
        max_workers: how many tasks may run at once.
        starting: workers that are starting.
        idle: workers that wait for a task.
        busy: workers that run one.
        leaving: workers that are ending.
        queued: calls that wait for a worker.
        queued_bytes: size of their pickled arguments.
        completed: calls whose function returned.
        failed: calls whose function raised, or whose payload did not cross.
        refused: calls that found the queue full.
        timed_out: calls that ran longer than their timeout.
        cancelled: calls whose caller left.
        crashed: calls whose worker died.
        recycled: workers replaced by plan.
        wait: seconds between admission and start.
        run: seconds between start and reply, as the server sees them.
        workers: each worker.
    """

    name: str
    state: str
    max_workers: int
    wait: HistogramSnapshot
    run: HistogramSnapshot
    starting: int = 0
    idle: int = 0
    busy: int = 0
    leaving: int = 0
    queued: int = 0
    queued_bytes: int = 0
    completed: int = 0
    failed: int = 0
    refused: int = 0
    timed_out: int = 0
    cancelled: int = 0
    crashed: int = 0
    recycled: int = 0
    workers: tuple[WorkerStatistics, ...] = ()
