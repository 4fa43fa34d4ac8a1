"""`offload.tracing`: one trace from the request through the queue to what the worker does."""

import subprocess
import sys
import time

import anyio
import anyio.lowlevel
import httpx
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from offload import Pool, QueueFullError, offload, tracing
from offload._values.call_record import CallRecord
from offload.tracing import _instant
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.functions import traced as traced_functions
from tests.support.functions import untraced as untraced_functions
from tests.support.processes import Fifo

pytestmark = pytest.mark.anyio
TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736
PARENT = 0x00F067AA0BA902B7
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on both kinds of loop: the caller's context gets to the worker in another way on each."""
    return request.param


class Spans:
    """What the server records."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def finished(self):
        """The spans that have ended, in the order of their ends."""
        return self._exporter.get_finished_spans()

    def named(self, name):
        """Return the one span of this name."""
        (span,) = [span for span in self.finished if span.name == name]
        return span


@pytest.fixture
def spans():
    """Record spans of this test's server in memory."""
    spans = Spans()
    yield spans
    spans.provider.shutdown()


@pytest.fixture
async def pool():
    """Return an open pool of one worker in which the SDK is set up."""
    pool = Pool(
        "traced",
        max_workers=1,
        spare_workers=0,
        max_queued=1,
        os_priority="normal",
        initializer=traced_functions.set_up_tracing,
    )
    async with pool:
        yield pool
    inside.forget("traced")


async def test_one_trace_from_request_to_worker(pool, spans):
    """The trace that a client began goes through the server, the queue and into the worker."""
    tracer = spans.provider.get_tracer("server")

    async def heavy(request):
        # What an instrumentation of the framework does.
        with tracer.start_as_current_span("GET /heavy", propagate.extract(request.headers)):
            return PlainTextResponse(str(await traced_functions.report(1000)))

    undo = tracing.instrument(pool, tracer_provider=spans.provider)
    app = Starlette(routes=[Route("/heavy", heavy)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        response = await client.get("/heavy", headers={"traceparent": TRACEPARENT})
    undo()
    assert response.text == "499500"

    inside = await pool.run(traced_functions.finished)
    here = traced_functions.seen(spans.finished)
    found = {name: (trace_id, own, parent) for name, trace_id, own, parent, _ in [*here, *inside]}
    assert {trace_id for trace_id, _, _ in found.values()} == {TRACE}
    call = "offload tests.support.functions.traced:report"
    parents = {name: parent for name, (_, _, parent) in found.items()}
    ids = {name: own for name, (_, own, _) in found.items()}
    assert parents == {
        "GET /heavy": PARENT,
        call: ids["GET /heavy"],
        "offload queue": ids[call],
        "offload run": ids[call],
        "offload attempt": ids[call],
        "computing": ids["offload attempt"],
    }
    attempt = next(attributes for name, _, _, _, attributes in inside if name == "offload attempt")
    assert attempt["offload.worker.pid"] == await pool.run(functions.pid)


async def test_spans_tell_what_became_of_a_call(pool, spans):
    """Outcome, attempts, worker and error are on the span of the call; its parts fill its time."""
    tracing.instrument(pool, tracer_provider=spans.provider)
    pid = await pool.run(functions.pid)
    call = spans.named("offload tests.support.functions.pool:pid")
    queue, run = spans.named("offload queue"), spans.named("offload run")
    assert dict(call.attributes) == {
        "offload.pool": "traced",
        "offload.function": "tests.support.functions.pool:pid",
        "offload.outcome": "completed",
        "offload.attempts": 1,
        "offload.worker.pid": pid,
    }
    assert call.status.is_ok
    assert call.start_time == queue.start_time
    assert queue.end_time == run.start_time
    assert run.end_time == call.end_time
    assert abs(call.start_time / 1e9 - time.time()) < 3600


async def test_call_that_fails(pool, spans):
    """An error makes the call's span an error, with its type and text."""
    tracing.instrument(pool, tracer_provider=spans.provider)
    with pytest.raises(LookupError):
        await pool.run(traced_functions.fail)
    call = spans.named("offload tests.support.functions.traced:fail")
    assert not call.status.is_ok
    assert call.status.description == "nothing there"
    assert call.attributes["error.type"] == "LookupError"
    assert call.attributes["offload.outcome"] == "failed"
    (attempt,) = await pool.run(traced_functions.finished)
    assert attempt[0] == "offload attempt"


async def test_call_that_never_starts(pool, spans, tmp_path):
    """A call that is refused has no part in a worker, and says that it was refused."""
    tracing.instrument(pool, tracer_provider=spans.provider)
    with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, functions.hold, entered.path, gate.path)
            await entered.heard()
            group.start_soon(pool.run, functions.echo, 1)
            while not pool.statistics().queued:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(QueueFullError):
                await pool.run(functions.length, "")
            gate.let()
    refused = spans.named("offload tests.support.functions.pool:length")
    assert refused.attributes["offload.outcome"] == "refused"
    assert refused.attributes["offload.attempts"] == 0
    assert refused.attributes["error.type"] == "offload.errors.QueueFullError"
    parts = [span.name for span in spans.finished if span.parent == refused.context]
    assert parts == ["offload queue"]


async def test_each_attempt_is_in_the_trace(pool, spans, tmp_path):
    """A call that is run again is one span, with the attempt that succeeded inside."""
    tracing.instrument(pool, tracer_provider=spans.provider)
    again = offload(pool=pool, max_crash_retries=1)(traced_functions.die_once)
    await again(str(tmp_path / "flag"))
    call = spans.named("offload tests.support.functions.traced:die_once")
    assert call.attributes["offload.attempts"] == 2
    assert call.attributes["offload.outcome"] == "completed"
    spans_inside = await pool.run(traced_functions.finished)
    assert [(name, parent) for name, _, _, parent, _ in spans_inside] == [
        ("offload attempt", call.context.span_id)
    ]


async def test_baggage_and_streams(pool, spans):
    """Baggage crosses as well; all items of a stream are made inside of its span."""
    tracing.instrument(pool, tracer_provider=spans.provider)
    token = context.attach(baggage.set_baggage("tenant", "7"))
    try:
        stream = offload(pool=pool)(traced_functions.contexts).stream(3)
        items = [item async for item in stream]
    finally:
        context.detach(token)
    call = spans.named("offload tests.support.functions.traced:contexts")
    assert len(set(items)) == 1
    assert items[0][0] == call.context.trace_id
    assert items[0][2] == "7"


async def test_without_an_sdk_the_trace_is_passed_on(pool):
    """A server that records nothing itself still hands the trace of its caller to the worker."""
    tracing.instrument(pool, tracer_provider=trace.NoOpTracerProvider())
    token = context.attach(propagate.extract({"traceparent": TRACEPARENT}))
    try:
        trace_id, _, _ = await pool.run(traced_functions.context_here)
    finally:
        context.detach(token)
    assert trace_id == TRACE


async def test_worker_imports_nothing_for_calls_without_a_trace():
    """Where nobody traces, or there is nothing to trace, no worker imports OpenTelemetry."""
    async with Pool("untraced", max_workers=1, os_priority="normal") as pool:
        names = ("offload._child.tracing", "opentelemetry")
        assert await pool.run(untraced_functions.imported, *names) == []
        tracing.instrument(pool, tracer_provider=trace.NoOpTracerProvider())
        assert await pool.run(untraced_functions.imported, *names) == []
    inside.forget("untraced")


async def test_undone(pool, spans):
    """After the undoing there are no more spans, and calls take the short way again."""
    undo = tracing.instrument(tracer_provider=spans.provider)
    await pool.run(functions.echo, 1)
    undo()
    recorded = len(spans.finished)
    await pool.run(functions.echo, 1)
    assert recorded == len(spans.finished) == 3
    assert inside.takes_short_cut(pool)


def test_wall_clock_that_is_set_meanwhile():
    """Instants are told by the monotonic clock: no span ends before it begins."""
    call = CallRecord("work:f", "p", queued_at=100.0, queued_unix=1e9)
    assert _instant(call, 100.0) == 10**18
    assert _instant(call, 101.5) == 10**18 + 1_500_000_000


def test_without_the_extra():
    """Where opentelemetry is not installed the error names the extra; `offload` works."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import offload, offload.pool\n"
        "try: import offload.tracing\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "pip install 'offload[tracing]'" in done.stdout, done.stderr
