"""Spans of calls, for OpenTelemetry: from the request through the queue to the worker, one trace.

    from offload import tracing

    tracing.instrument()                     # once, when the server starts

Needs `pip install 'offload[tracing]'` (the API alone; the SDK and its exporters are yours). Each
call becomes a span, a child of whatever span its caller is in:

    GET /report                   yours, or that of an instrumentation
    └─ offload work:report        the call, until its caller has been told
       ├─ offload queue           from the call to its start on a worker
       ├─ offload run             from the start to the reply, of the last attempt
       └─ offload attempt         in the worker, for each time that it is run
          └─ …                    what the function itself traces

| attribute | on | what it tells |
|---|---|---|
| `offload.pool`, `offload.function` | call | the pool's name, and `module:qualname` |
| `offload.outcome` | call | how it ended, in the words of `CallRecord.outcome` |
| `offload.attempts` | call | how often a worker was given it; 0 if it never started |
| `offload.worker.pid` | call, run, attempt | process id of the worker |
| `error.type` | call | class of what the caller got instead of a result |

The trace context crosses to the worker as W3C `traceparent`, `tracestate` and `baggage`, so that
logs and requests that the function makes there belong to the trace in any case. For spans that are
made in the worker to be recorded, the SDK must be set up there as well:

    Pool("reports", initializer=set_up_tracing)        # what the server itself calls when it starts

A worker that is killed takes the spans with it that its exporter has not sent yet. The first traced
call of each worker imports OpenTelemetry there; `Pool(preload=["opentelemetry.propagate"])` does it
once for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload._values.outcome import Outcome
from offload.pool import Pool

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        f"offload.tracing needs opentelemetry ({_error}): pip install 'offload[tracing]'",
        name=_error.name,
    ) from _error

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, TracerProvider

    from offload._values.call_record import CallRecord

__all__ = ["instrument"]

_SPAN = "offload.tracing"
_HOOK = "offload._child.tracing"
_NANOSECONDS = 1e9


def instrument(*pools: Pool, tracer_provider: TracerProvider | None = None) -> Callable[[], None]:
    """Make spans of all calls from now on.

    Args:
        pools: of which pools; none: of all, present and future.
        tracer_provider: what makes the spans; None: the global one, even if it is set later.

    Returns:
        Undoes it.
    """
    tracer = _Tracing(trace.get_tracer("offload", tracer_provider=tracer_provider))
    if not pools:
        return Pool.observe_all(tracer)
    ends = [pool.observe(tracer) for pool in pools]

    def undo() -> None:
        for end in ends:
            end()

    return undo


class _Tracing:
    """An observer of pools that makes spans."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def submitted(self, call: CallRecord) -> dict[str, str] | None:
        """Begin the span of a call, and tell its worker the trace that it belongs to."""
        span = self._tracer.start_span(
            f"offload {call.function}",
            start_time=_instant(call, call.queued_at),
            attributes={"offload.pool": call.pool, "offload.function": call.function},
        )
        call.context[_SPAN] = span
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        if not carrier:  # there is no SDK, and the caller is in no trace
            return None
        carrier["hook"] = _HOOK
        return carrier

    def ended(self, call: CallRecord) -> None:
        """End the span of a call, with what is known of its way."""
        span: Span | None = call.context.pop(_SPAN, None)
        if span is None:  # it was made before this was installed
            return
        end = _instant(call, call.ended_at)
        if span.is_recording():
            self._describe(call, span, end)
        span.end(end)

    def _describe(self, call: CallRecord, span: Span, end: int) -> None:
        inside = trace.set_span_in_context(span)
        start = _instant(call, call.started_at) if call.started_at else end
        queue = self._tracer.start_span(
            "offload queue", inside, start_time=_instant(call, call.queued_at)
        )
        queue.end(start)
        if call.started_at:
            run = self._tracer.start_span("offload run", inside, start_time=start)
            if call.worker_pid is not None:
                run.set_attribute("offload.worker.pid", call.worker_pid)
            run.end(end)
        if call.outcome is not None:
            span.set_attribute("offload.outcome", call.outcome.value)
        span.set_attribute("offload.attempts", call.attempts)
        if call.worker_pid is not None:
            span.set_attribute("offload.worker.pid", call.worker_pid)
        error = call.error
        if error is not None:
            kind = type(error)
            module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
            span.set_attribute("error.type", f"{module}{kind.__qualname__}")
        if call.outcome not in (Outcome.COMPLETED, Outcome.CANCELLED):
            span.set_status(trace.StatusCode.ERROR, _text_of(error))


def _text_of(error: BaseException | None) -> str | None:
    try:
        return None if error is None else str(error)
    except Exception:  # noqa: BLE001 - whatever the class of a user does
        return None


def _instant(call: CallRecord, at: float) -> int:
    """Return nanoseconds since the epoch for an instant of the monotonic clock."""
    # By the one instant that is known on both clocks: the wall clock may be set meanwhile, and a
    # span must not end before it begins.
    return int((call.queued_unix + (at - call.queued_at)) * _NANOSECONDS)
