"""Run CPU-bound functions in worker processes, and await them without blocking the event loop.

Names are imported when they are first used: every worker imports this package, and needs next to
nothing of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from offload._child.context import TaskContext, in_worker, task_context
    from offload._pool.scope import deadline_after
    from offload._values.call_record import CallRecord, Observer
    from offload._values.histogram import HistogramSnapshot
    from offload._values.statistics import (
        FailureRecord,
        FunctionStatistics,
        PoolStatistics,
        WorkerStatistics,
    )
    from offload._wire.shared_file import SharedFile
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
        TaskKilledError,
        TaskTimeoutError,
        WorkerCrashedError,
        WorkerStartError,
    )
    from offload.function import Offloaded, OffloadedGenerator, offload
    from offload.pool import Pool
    from offload.stream import Stream

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
    "SharedFile",
    "Stream",
    "TaskContext",
    "TaskKilledError",
    "TaskTimeoutError",
    "WorkerCrashedError",
    "WorkerStartError",
    "WorkerStatistics",
    "deadline_after",
    "in_worker",
    "offload",
    "task_context",
]

_HOMES = {
    "ArgumentError": "offload.errors",
    "CallRecord": "offload._values.call_record",
    "ClientDisconnectedError": "offload.errors",
    "DeadlineError": "offload.errors",
    "FailureRecord": "offload._values.statistics",
    "FunctionError": "offload.errors",
    "FunctionNotFoundError": "offload.errors",
    "FunctionStatistics": "offload._values.statistics",
    "HistogramSnapshot": "offload._values.histogram",
    "Observer": "offload._values.call_record",
    "OffloadError": "offload.errors",
    "Offloaded": "offload.function",
    "OffloadedGenerator": "offload.function",
    "Pool": "offload.pool",
    "PoolClosedError": "offload.errors",
    "PoolNotFoundError": "offload.errors",
    "PoolStatistics": "offload._values.statistics",
    "QueueFullError": "offload.errors",
    "QueueTimeoutError": "offload.errors",
    "RemoteError": "offload.errors",
    "RemoteTraceback": "offload.errors",
    "ResultError": "offload.errors",
    "SharedFile": "offload._wire.shared_file",
    "Stream": "offload.stream",
    "TaskKilledError": "offload.errors",
    "TaskContext": "offload._child.context",
    "TaskTimeoutError": "offload.errors",
    "WorkerCrashedError": "offload.errors",
    "WorkerStartError": "offload.errors",
    "WorkerStatistics": "offload._values.statistics",
    "task_context": "offload._child.context",
    "deadline_after": "offload._pool.scope",
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
