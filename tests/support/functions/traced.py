"""What runs in workers that are traced; the SDK is set up there as a user would."""

import os
from collections.abc import Iterator

from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from offload import offload

Seen = tuple[str, int, int, int | None, dict[str, object]]

exporter = InMemorySpanExporter()
tracer = trace.get_tracer("tests")


def set_up_tracing() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def seen(spans: tuple[ReadableSpan, ...]) -> list[Seen]:
    """Return name, trace id, span id, parent's span id and attributes of each span."""
    return [
        (
            span.name,
            span.context.trace_id,
            span.context.span_id,
            None if span.parent is None else span.parent.span_id,
            dict(span.attributes or {}),
        )
        for span in spans
    ]


def finished() -> list[Seen]:
    """Return the spans that this worker has recorded, and forget them."""
    spans = exporter.get_finished_spans()
    exporter.clear()
    return seen(spans)


@offload(pool="traced")
def report(n: int) -> int:
    with tracer.start_as_current_span("computing"):
        return sum(range(n))


def context_here() -> tuple[int, int, str]:
    """Return the trace and span that this code is in, and the tenant of its baggage."""
    here = trace.get_current_span().get_span_context()
    return here.trace_id, here.span_id, str(baggage.get_baggage("tenant"))


def fail() -> None:
    raise LookupError("nothing there")


def die_once(path: str) -> int:
    """Die when it is called first, and succeed then."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return os.getpid()
    os._exit(3)


def contexts(count: int) -> Iterator[tuple[int, int, str]]:
    for _ in range(count):
        yield context_here()
