"""What the page of jobs shows, as JSON: values of `offload.jobs` in, plain data out."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from offload.jobs import Attempt, Count, JobError, JobProgress, JobStatus, LogLine

__all__ = ["detail", "log_lines", "matching", "queues_of", "row"]

# Of arguments and results: a store may hold megabytes of them. What is cut is said.
_MOST_CHARACTERS: Final = 4000
_MESSAGE_CHARACTERS: Final = 300
_STATES: Final = ("waiting", "delayed", "active", "completed", "failed", "cancelled")


def queues_of(counts: Iterable[Count], paused: Collection[str]) -> list[dict[str, Any]]:
    """Return the queues, each with its jobs by state and by function."""
    found: dict[str, dict[str, Any]] = {}
    for name in paused:
        found[name] = _new_queue(name, is_paused=True)
    for each in counts:
        queue = found.setdefault(each.queue, _new_queue(each.queue, is_paused=False))
        queue[each.state] += each.count
        function = queue["functions"].setdefault(each.function, dict.fromkeys(_STATES, 0))
        function[each.state] += each.count
    for queue in found.values():
        functions = queue["functions"].items()
        queue["functions"] = [{"name": name, **states} for name, states in sorted(functions)]
    return [queue for _, queue in sorted(found.items())]


def _new_queue(name: str, *, is_paused: bool) -> dict[str, Any]:
    return {
        "name": name,
        "is_paused": is_paused,
        **dict.fromkeys(_STATES, 0),
        "functions": {},
    }


def matching(text: str, counts: Iterable[Count]) -> list[str]:
    """Return the functions whose name contains a text, whatever its case."""
    wanted = text.casefold()
    return sorted({each.function for each in counts if wanted in each.function.casefold()})


def row(status: JobStatus) -> dict[str, Any]:
    """Return what one line of the list has."""
    progress = status.progress
    error = status.error
    return {
        "id": status.id,
        "function": status.function,
        "queue": status.queue,
        "state": status.state,
        "attempts": status.attempts,
        "crashes": status.crashes,
        "max_attempts": status.options.max_attempts,
        "priority": status.options.priority,
        "is_cancel_asked": status.is_cancel_asked,
        "created_at": _at(status.created_at),
        "due_at": _at(status.due_at),
        "started_at": _at(status.started_at),
        "ended_at": _at(status.ended_at),
        "worker": status.worker,
        "progress": _finite(progress),
        "error": None
        if error is None
        else f"{error.type}: {error.message[:_MESSAGE_CHARACTERS]}".rstrip(": "),
    }


def detail(status: JobStatus) -> dict[str, Any]:
    """Return everything about one job but its log records; the traceback whole."""
    options = status.options
    return {
        **row(status),
        "arguments": _cut(status.arguments),
        "result": _cut(status.result),
        "failure": _error(status.error),
        "history": [_attempt(each) for each in status.history],
        "log_count": status.log_count,
        "enqueued_by": status.enqueued_by,
        "options": {
            "max_attempts": options.max_attempts,
            "max_crashes": options.max_crashes,
            "timeout": options.timeout,
            "deadline": _at(options.deadline),
            "keep": options.keep,
            "unique": None if options.unique is None else options.unique.key,
        },
    }


def log_lines(lines: Iterable[LogLine]) -> list[dict[str, Any]]:
    """Return log records."""
    return [
        {
            "at": _at(line.at),
            "level": logging.getLevelName(line.level),
            "is_bad": line.level >= logging.WARNING,
            "message": line.message,
        }
        for line in lines
    ]


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "outcome": attempt.outcome,
        "started_at": _at(attempt.started_at),
        "ended_at": _at(attempt.ended_at),
        "worker": attempt.worker,
        "failure": _error(attempt.error),
    }


def _error(error: JobError | None) -> dict[str, str] | None:
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "traceback": error.traceback}


def _finite(progress: JobProgress | None) -> list[float | None] | None:
    # JSON knows neither infinity nor NaN, and a function may report either.
    if progress is None or not math.isfinite(progress.done):
        return None
    total = progress.total
    return [progress.done, total if total is not None and math.isfinite(total) else None]


def _cut(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    return {"text": text[:_MOST_CHARACTERS], "characters": len(text)}


def _at(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
