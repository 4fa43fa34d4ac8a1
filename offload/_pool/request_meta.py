"""What a worker must know of a call beside its function and arguments."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import ContextVar

    from offload._values.options import ResolvedOptions

__all__ = ["has_limits", "is_plain", "request_meta"]

_UNSET: Any = object()


def has_limits(options: ResolvedOptions) -> bool:
    """Return whether the kernel is to limit what the task takes."""
    return options.max_memory_bytes is not None or options.max_cpu_seconds is not None


def is_plain(options: ResolvedOptions) -> bool:
    """Return whether a call is one attempt, not shared and without limits of the kernel's."""
    return not options.single_flight and not options.max_crash_retries and not has_limits(options)


def request_meta(
    options: ResolvedOptions,
    variables: Mapping[str, ContextVar[Any]],
    *,
    same_clock: bool,
    window: int | None = None,
    carriers: list[dict[str, str]] | None = None,
) -> dict[str, Any] | None:
    """Return what goes with a request, None if there is nothing.

    Args:
        options: how the call is treated.
        variables: context variables whose value crosses, by "module:name".
        same_clock: whether the worker is on this host, so that an instant means the same there.
        window: how many items a stream may be ahead of its consumer; None: no stream.
        carriers: what observers want the worker to be told.
    """
    timeout, deadline, limit = options.timeout, options.deadline, options.max_payload_bytes
    if (
        timeout is None
        and deadline is None
        and limit is None
        and not has_limits(options)
        and window is None
        and not carriers
        and not variables
    ):
        return None
    meta: dict[str, Any] = {"timeout": timeout}
    if deadline is not None:
        if same_clock:
            meta["deadline"] = deadline
        else:
            left = max(deadline - time.monotonic(), 0.0)
            meta["timeout"] = left if timeout is None else min(left, timeout)
    if limit is not None:
        meta["max_payload_bytes"] = limit
    if has_limits(options):
        meta["limits"] = options.max_memory_bytes, options.max_cpu_seconds
    if window is not None:
        meta["window"] = window
    if carriers:
        meta["carriers"] = carriers
    if variables:
        meta["context"] = {
            home: value
            for home, variable in variables.items()
            if (value := variable.get(_UNSET)) is not _UNSET
        }
    return meta
