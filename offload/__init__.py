"""Run CPU-bound functions in worker processes, and await them without blocking the event loop.

Names are imported when they are first used: every worker imports this package, and needs next to
nothing of it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from offload._child.context import TaskContext, in_worker, task_context
    from offload._pool.scope import deadline_after
    from offload._values.call_record import CallRecord, Observer
    from offload._values.hardening import Hardening
    from offload._values.histogram import HistogramSnapshot
    from offload._values.outcome import Outcome
    from offload._values.statistics import (
        FailureRecord,
        FunctionStatistics,
        PoolStatistics,
        TaskStatistics,
        WorkerStatistics,
    )
    from offload._version import __version__ as __version__
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
        TaskCpuError,
        TaskKilledError,
        TaskMemoryError,
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
    "Hardening",
    "HistogramSnapshot",
    "Observer",
    "OffloadError",
    "Offloaded",
    "OffloadedGenerator",
    "Outcome",
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
    "TaskCpuError",
    "TaskKilledError",
    "TaskMemoryError",
    "TaskStatistics",
    "TaskTimeoutError",
    "WorkerCrashedError",
    "WorkerStartError",
    "WorkerStatistics",
    "deadline_after",
    "in_worker",
    "offload",
    "task_context",
]

# Where they are found, those first that every program imports anyway.
_HOMES = (
    "offload._child.context",
    "offload.errors",
    "offload.stream",
    "offload.function",
    "offload._wire.shared_file",
    "offload._pool.scope",
    "offload.pool",
    "offload._values.call_record",
    "offload._values.hardening",
    "offload._values.histogram",
    "offload._values.outcome",
    "offload._values.statistics",
)


def __getattr__(name: str) -> object:
    """Import a public name from its home."""
    value: object
    if name == "__version__":
        from offload._version import __version__ as value
    elif name in __all__:
        from importlib import import_module

        homes = map(import_module, _HOMES)
        value = next(getattr(home, name) for home in homes if name in vars(home))
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__, "__version__"})


# Last: code of the program that is run then imports this package. An interpreter that has not come
# to our first line yet may have been told to import us before that, by a `sitecustomize`.
if "OFFLOAD_CHILD" in os.environ and sys.argv[:1] != ["-c"]:  # `offload._wire.interpreter.MARK`
    from offload._child.program import take_over

    take_over()
