"""The trace of a request goes on in the attempts of its jobs, where OpenTelemetry is in use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["continued", "current_trace"]

_NO_TRACE: dict[str, str] = {}


def current_trace() -> Mapping[str, str]:
    """Return the headers of the current trace (`traceparent`, …); none where nobody traces."""
    # Whoever traces has imported it.
    propagate: Any = sys.modules.get("opentelemetry.propagate")
    if propagate is None:
        return _NO_TRACE
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


class continued:  # noqa: N801 - reads as a statement
    """While entered, spans of this asyncio task are part of a trace.

    Args:
        trace: its headers.
    """

    __slots__ = ("_token", "_trace")

    def __init__(self, trace: Mapping[str, str]) -> None:
        self._trace = trace
        self._token: Any = None

    def __enter__(self) -> None:
        propagate: Any = sys.modules.get("opentelemetry.propagate")
        if self._trace and propagate is not None:
            context: Any = sys.modules["opentelemetry.context"]
            self._token = context.attach(propagate.extract(dict(self._trace)))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            sys.modules["opentelemetry.context"].detach(self._token)
