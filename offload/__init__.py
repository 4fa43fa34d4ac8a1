"""Run CPU-bound functions in worker processes, and await them without blocking the event loop.

Names are imported when they are first used: every worker imports this package, and needs next to
nothing of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from offload._child.context import TaskContext, current_task, in_worker
    from offload._child.spool import SpooledFile
    from offload._core.events import CallRecord, Observer
    from offload._core.histogram import HistogramSnapshot
    from offload._core.statistics import (
        FailureRecord,
        FunctionStatistics,
        PoolStatistics,
        WorkerStatistics,
    )
    from offload._engine.guard import deadline_after
    from offload.errors import (
        ArgumentError,
        ClientDisconnectedError,
        DeadlineError,
        FunctionError,
        FunctionNotFoundError,
        OffloadError,
        PoolClosedError,
        PoolNotFoundError,
        QueueFullError,
        QueueTimeoutError,
        RemoteError,
        RemoteTraceback,
        ResultError,
        TaskCancelledError,
        TaskTimeoutError,
        WorkerCrashedError,
        WorkerStartError,
    )
    from offload.function import Offloaded, OffloadedGenerator, Stream, offload
    from offload.pool import Pool

__all__ = [
    "ArgumentError",
    "CallRecord",
    "ClientDisconnectedError",
    "DeadlineError",
    "FailureRecord",
    "FunctionError",
    "FunctionNotFoundError",
    "FunctionStatistics",
    "HistogramSnapshot",
    "Observer",
    "OffloadError",
    "Offloaded",
    "OffloadedGenerator",
    "Pool",
    "PoolClosedError",
    "PoolNotFoundError",
    "PoolStatistics",
    "QueueFullError",
    "QueueTimeoutError",
    "RemoteError",
    "RemoteTraceback",
    "ResultError",
    "SpooledFile",
    "Stream",
    "TaskCancelledError",
    "TaskContext",
    "TaskTimeoutError",
    "WorkerCrashedError",
    "WorkerStartError",
    "WorkerStatistics",
    "current_task",
    "deadline_after",
    "in_worker",
    "offload",
]

_HOMES = {
    "ArgumentError": "offload.errors",
    "CallRecord": "offload._core.events",
    "ClientDisconnectedError": "offload.errors",
    "DeadlineError": "offload.errors",
    "FailureRecord": "offload._core.statistics",
    "FunctionError": "offload.errors",
    "FunctionNotFoundError": "offload.errors",
    "FunctionStatistics": "offload._core.statistics",
    "HistogramSnapshot": "offload._core.histogram",
    "Observer": "offload._core.events",
    "OffloadError": "offload.errors",
    "Offloaded": "offload.function",
    "OffloadedGenerator": "offload.function",
    "Pool": "offload.pool",
    "PoolClosedError": "offload.errors",
    "PoolNotFoundError": "offload.errors",
    "PoolStatistics": "offload._core.statistics",
    "QueueFullError": "offload.errors",
    "QueueTimeoutError": "offload.errors",
    "RemoteError": "offload.errors",
    "RemoteTraceback": "offload.errors",
    "ResultError": "offload.errors",
    "SpooledFile": "offload._child.spool",
    "Stream": "offload.function",
    "TaskCancelledError": "offload.errors",
    "TaskContext": "offload._child.context",
    "TaskTimeoutError": "offload.errors",
    "WorkerCrashedError": "offload.errors",
    "WorkerStartError": "offload.errors",
    "WorkerStatistics": "offload._core.statistics",
    "current_task": "offload._child.context",
    "deadline_after": "offload._engine.guard",
    "in_worker": "offload._child.context",
    "offload": "offload.function",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home."""
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
