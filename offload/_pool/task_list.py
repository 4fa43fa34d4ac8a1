"""The tasks of a pool, for people: those that run and those that wait, in plain data."""

from __future__ import annotations

import time
from heapq import nsmallest
from typing import TYPE_CHECKING, cast

from offload._decisions.words import WAITING, TaskState
from offload._pool.progress import progress_in
from offload._values.statistics import TaskStatistics

if TYPE_CHECKING:
    from offload._pool.shell import Shell
    from offload._pool.task import PoolTask

__all__ = ["find_task", "progress_of", "task_id_of", "task_told", "tasks_of"]

_STATES = {TaskState.QUEUED: "waiting", TaskState.PARKED: "held", TaskState.UNWANTED: "unwanted"}


def tasks_of(shell: Shell, period: str, limit: int) -> tuple[TaskStatistics, ...]:
    """Return the tasks that run, the longest first, and then those that wait, the next first.

    Args:
        shell: the pool's.
        period: what tells the tasks of one opening of the pool from those of another.
        limit: how many of those that wait to return at most.
    """
    with shell.decider.lock:
        running = shell.running()
        # A copy, which is quick; put in order without the lock, since many may wait.
        entries = shell.dispatcher.queue.entries()
    waiting = nsmallest(limit, (entry for entry in entries if entry[2].state in WAITING))
    running.sort(key=lambda task: task.started_at)
    tasks = [*running, *(cast("PoolTask", task) for _, _, task in waiting)]
    now = time.monotonic()
    return tuple(task_told(task, period, now) for task in tasks)


def find_task(shell: Shell, period: str, task_id: str) -> PoolTask | None:
    """Return the task of this id that runs or waits; None if there is none."""
    begin, _, number = task_id.rpartition("-")
    if begin != period or not number.isdecimal():
        return None
    with shell.decider.lock:
        running = shell.running()
        entries = shell.dispatcher.queue.entries()
    sequence = int(number)
    waiting = (cast("PoolTask", task) for _, _, task in entries if task.state in WAITING)
    return next((task for task in (*running, *waiting) if task.sequence == sequence), None)


def task_id_of(task: PoolTask, period: str) -> str:
    """Return what a task is called."""
    return f"{period}-{task.sequence}"


def progress_of(task: PoolTask) -> tuple[float, float | None] | None:
    """Return what the function of a task has reported last; None if nothing that is numbers."""
    frame = task.progress
    if frame is None:
        return None
    try:
        done, total = progress_in(frame)
        return float(done), None if total is None else float(total)
    except Exception:  # noqa: BLE001 - whatever a function reports, whoever looks sees the rest
        return None


def task_told(task: PoolTask, period: str, now: float) -> TaskStatistics:
    """Return a task in plain data, as it is now."""
    state = _STATES.get(task.state, "running")
    is_waiting = state in ("waiting", "held")
    begun = now if is_waiting else task.started_at
    shown = None
    if task.arguments is not None:
        from offload._pool.argument_text import argument_text

        shown = argument_text(*task.arguments)
    return TaskStatistics(
        id=task_id_of(task, period),
        function=task.function,
        state=state,
        priority=task.priority,
        wait_seconds=max(begun - task.queued_at, 0.0),
        run_seconds=None if is_waiting else max(now - begun, 0.0),
        pid=None if is_waiting else task.pid,
        timeout=task.timeout,
        size_bytes=task.size_bytes,
        progress=None if is_waiting else progress_of(task),
        arguments=shown,
        context=task.context,
    )
