"""Puts what a worker runs into the trace of its caller; imported only where a caller has one."""

from __future__ import annotations

import os
from contextlib import contextmanager

from opentelemetry import context, propagate, trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

__all__ = ["enter"]

# Of the provider that an initializer has set, or sets later; without one it only passes the trace
# on that it is given.
_tracer = trace.get_tracer("offload")


@contextmanager
def enter(carrier: Mapping[str, str]) -> Generator[None]:
    """Make the span that a carrier tells of the parent of what is traced inside.

    Args:
        carrier: W3C `traceparent` and what goes with it, as `offload.tracing` has sent it.
    """
    token = context.attach(propagate.extract(carrier))
    try:
        with _tracer.start_as_current_span(
            "offload attempt", attributes={"offload.worker.pid": os.getpid()}
        ):
            yield
    finally:
        context.detach(token)
