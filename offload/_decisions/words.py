"""The words of the border between `_pool` and `_workers`, until `_decisions` is rebuilt."""

from __future__ import annotations

import enum

from offload._decisions.dispatch import Task, Worker, WorkerState

__all__ = ["StopReason", "Task", "Worker", "WorkerState"]


class StopReason(enum.Enum):
    """Why a worker is stopped."""

    IDLE = "idle"
    RECYCLE = "recycle"
    CLOSE = "close"
    DEAD = "dead"
    CANCEL = "cancel"
    KILL = "kill"
    TIMEOUT = "timeout"
    CLOSE_UNDER_LOAD = "close under load"

    @property
    def is_urgent(self) -> bool:
        """Whether the worker has a task that must end now."""
        return self in _URGENT


_URGENT = frozenset(
    {StopReason.CANCEL, StopReason.KILL, StopReason.TIMEOUT, StopReason.CLOSE_UNDER_LOAD}
)
