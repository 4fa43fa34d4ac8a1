"""Durable jobs: the same functions, kept in a store and run by worker programs.

Names are imported when they are first used: worker processes import this package with what they
run, and need next to nothing of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from offload.jobs._call_options import JobOptionsDict, job_options
    from offload.jobs._codec_errors import JobArgumentError, JobResultError
    from offload.jobs._context import JobContext, job_context
    from offload.jobs._enqueuer import JobsWithOptions
    from offload.jobs._errors import (
        JobCancelledError,
        JobConflictError,
        JobFailedError,
        JobNotFoundError,
        JobQueueFullError,
        JobsCorruptError,
        JobsUnavailableError,
        JobTimeoutError,
        LeaseLapsedError,
    )
    from offload.jobs._job import Job, JobEvents
    from offload.jobs._jobs import JobPage, Jobs, default_jobs
    from offload.jobs._options import (
        AttemptOutcome,
        Backoff,
        CancelOutcome,
        JobOptions,
        JobState,
        Unique,
    )
    from offload.jobs._statistics import EnqueueCount, JobsStatistics
    from offload.jobs._status import JobProgress, JobStatus
    from offload.jobs._values import Attempt, Count, Health, JobError, LogLine
    from offload.jobs._worker import JobFunctionStatistics, WorkerProgram, WorkerProgramStatistics

__all__ = [
    "Attempt",
    "AttemptOutcome",
    "Backoff",
    "CancelOutcome",
    "Count",
    "EnqueueCount",
    "Health",
    "Job",
    "JobArgumentError",
    "JobCancelledError",
    "JobConflictError",
    "JobContext",
    "JobError",
    "JobEvents",
    "JobFailedError",
    "JobFunctionStatistics",
    "JobNotFoundError",
    "JobOptions",
    "JobOptionsDict",
    "JobPage",
    "JobProgress",
    "JobQueueFullError",
    "JobResultError",
    "JobState",
    "JobStatus",
    "JobTimeoutError",
    "Jobs",
    "JobsCorruptError",
    "JobsStatistics",
    "JobsUnavailableError",
    "JobsWithOptions",
    "LeaseLapsedError",
    "LogLine",
    "Unique",
    "WorkerProgram",
    "WorkerProgramStatistics",
    "default_jobs",
    "job_context",
    "job_options",
]

_HOMES = {
    "_call_options": ("JobOptionsDict", "job_options"),
    "_codec_errors": ("JobArgumentError", "JobResultError"),
    "_context": ("JobContext", "job_context"),
    "_errors": (
        "JobCancelledError",
        "JobConflictError",
        "JobFailedError",
        "JobNotFoundError",
        "JobQueueFullError",
        "JobTimeoutError",
        "JobsCorruptError",
        "JobsUnavailableError",
        "LeaseLapsedError",
    ),
    "_job": ("Job", "JobEvents"),
    "_enqueuer": ("JobsWithOptions",),
    "_jobs": ("JobPage", "Jobs", "default_jobs"),
    "_options": (
        "AttemptOutcome",
        "Backoff",
        "CancelOutcome",
        "JobOptions",
        "JobState",
        "Unique",
    ),
    "_statistics": ("EnqueueCount", "JobsStatistics"),
    "_status": ("JobProgress", "JobStatus"),
    "_values": ("Attempt", "Count", "Health", "JobError", "LogLine"),
    "_worker": ("JobFunctionStatistics", "WorkerProgram", "WorkerProgramStatistics"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its home."""
    module = _MODULE_OF.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
