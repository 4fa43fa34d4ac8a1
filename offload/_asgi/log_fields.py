"""What log records about errors carry for programs that read logs."""

from __future__ import annotations

from typing import Any

from offload._pool.call_errors import outcome_of
from offload.errors import OffloadError

__all__ = ["innermost", "log_fields"]


def log_fields(error: BaseException) -> dict[str, Any]:
    """Return what a log record about the end of a call carries: outcome, function, pool, pid."""
    error = innermost(error)
    fields: dict[str, Any] = {"offload_outcome": outcome_of(error).value}
    for name in ("function", "pool", "pid"):
        value = getattr(error, name, None)
        if value is not None:
            fields[f"offload_{name}"] = value
    return fields


def innermost(error: BaseException) -> BaseException:
    """Return the error of ours in a group or behind another error: of several, one of them."""
    while not isinstance(error, OffloadError):
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None:
            break
        error = inner
    return error
