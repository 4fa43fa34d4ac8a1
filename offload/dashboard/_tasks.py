"""Single tasks as JSON: what runs, what waits, and for which request of which trace."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from offload._pool.scope import current_scope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    from offload._values.statistics import TaskStatistics
    from offload.pool import Pool

__all__ = ["finite", "task_detail", "task_rows"]

# More than anybody reads; the rest is counted. Among how many of those that wait is searched.
_MOST_ROWS = 100
_MOST_SEARCHED = 5000


def task_rows(pool: Pool, text: str) -> dict[str, Any]:
    """Return the tasks of a pool whose function or request contains a text, and how many wait."""
    wanted = text.casefold()
    tasks = pool.tasks(limit=_MOST_SEARCHED if wanted else _MOST_ROWS)
    rows = [task_row(each) for each in tasks]
    found = [
        each
        for each in rows
        if wanted in each["function"].casefold() or wanted in (each["request"] or "").casefold()
    ]
    shown = found[:_MOST_ROWS]
    return {"tasks": shown, "left_out": len(found) - len(shown), "queued": pool.statistics().queued}


def task_row(task: TaskStatistics) -> dict[str, Any]:
    """Return what one line of the list has."""
    return {
        "id": task.id,
        "function": task.function,
        "state": task.state,
        "priority": task.priority,
        "wait_seconds": task.wait_seconds,
        "run_seconds": task.run_seconds,
        "pid": task.pid,
        "progress": finite(task.progress),
        "request": _request_of(task.context),
    }


def task_detail(task: TaskStatistics) -> dict[str, Any]:
    """Return everything about one task."""
    return {
        **task_row(task),
        "timeout": task.timeout,
        "size_bytes": task.size_bytes,
        "trace_id": _trace_id_of(task.context),
        "arguments": task.arguments,
    }


def finite(progress: tuple[float, float | None] | None) -> list[float | None] | None:
    """Return progress as JSON, which knows neither infinity nor NaN."""
    if progress is None or not math.isfinite(progress[0]):
        return None
    done, total = progress
    return [done, total if total is not None and math.isfinite(total) else None]


def _request_of(context: Context) -> str | None:
    """Return method and route of the request that a call was made in, where somebody knows it.

    That is one of our middleware: `Watchdog`, or `CancelOnDisconnect`.
    """
    from offload.watchdog._requests import route_of, scope_of_context

    scope: Mapping[str, Any] | None = scope_of_context(context)
    if scope is None:
        calls = context.get(current_scope)
        while calls is not None and scope is None:
            scope = getattr(calls.client, "scope", None)
            calls = calls.outer()
    return None if scope is None else route_of(scope)


def _trace_id_of(context: Context) -> str | None:
    """Return the trace that a call was made in, as 32 hexadecimal digits."""
    # Not imported here: where there are traces, somebody has done so.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    # A copy: two may look at the same task at once, and a context is entered once.
    span = context.copy().run(trace.get_current_span).get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else None
