"""`offload.starlette`: pools bound to the life of an application, and errors turned to HTTP."""

import contextlib
import copyreg
import inspect
import json
import logging
import os
import pickle
import queue
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient

import offload.errors
from offload import (
    ArgumentError,
    ClientDisconnectedError,
    DeadlineError,
    FunctionError,
    FunctionNotFoundError,
    OffloadError,
    Pool,
    PoolClosedError,
    PoolNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    RemoteError,
    ResultError,
    TaskCpuError,
    TaskKilledError,
    TaskMemoryError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)
from offload._wire.pickling import dumps
from offload.starlette import ProblemResponse, add_exception_handlers, exception_handlers, lifespan
from tests.support.apps import starlette_app
from tests.support.functions import requests as request_functions
from tests.support.processes import PATIENCE

SECRET = "secret-argument"  # noqa: S105 - no password, but as private as one

# Every error, made as the library makes it, with a text that must not reach a client; and what
# a client gets: status, `may_have_run`, level of the log.
ANSWERS = [
    (QueueFullError(SECRET, retry_after=2.1), 503, False, "INFO"),
    (QueueTimeoutError(SECRET, timeout=1.0, retry_after=2.1), 503, False, "INFO"),
    (PoolClosedError(SECRET, may_have_run=False), 503, False, "INFO"),
    (PoolClosedError(SECRET, may_have_run=True), 503, True, "INFO"),
    (WorkerStartError(SECRET, detail=SECRET), 503, False, "ERROR"),
    (TaskTimeoutError(SECRET, timeout=1.0), 504, True, "WARNING"),
    (DeadlineError(SECRET, deadline=1.0, may_have_run=True), 504, True, "INFO"),
    (DeadlineError(SECRET, deadline=1.0, may_have_run=False), 504, False, "INFO"),
    (TaskCpuError(SECRET, max_cpu_seconds=1), 504, True, "WARNING"),
    (TaskKilledError(SECRET, pid=1), 500, True, "WARNING"),
    (TaskMemoryError(SECRET, max_memory_bytes=1), 500, True, "WARNING"),
    (WorkerCrashedError(SECRET, pid=1, signal=9, may_have_run=True), 500, True, "ERROR"),
    (WorkerCrashedError(SECRET, pid=1, signal=9, may_have_run=False), 500, False, "ERROR"),
    (
        RemoteError(SECRET, type_name=SECRET, remote_message=SECRET, remote_traceback=SECRET),
        500,
        True,
        "ERROR",
    ),
    (ResultError(SECRET, function=SECRET), 500, True, "ERROR"),
    (ArgumentError(SECRET, function=SECRET, parameter=SECRET), 500, False, "ERROR"),
    (FunctionError(SECRET), 500, False, "ERROR"),
    (FunctionNotFoundError(SECRET, function=SECRET), 500, False, "ERROR"),
    (PoolNotFoundError(SECRET, pool=SECRET), 500, False, "ERROR"),
    (OffloadError(SECRET), 500, True, "ERROR"),
]
answers = pytest.mark.parametrize(
    "error,status,may_have_run,level",
    [pytest.param(*row, id=f"{type(row[0]).__name__}-{row[2]}") for row in ANSWERS],
)


class RecordedPool(Pool):
    """A pool that starts nothing and notes what it is asked, for the order of things."""

    def __init__(self, name, events):
        super().__init__(name)
        self.events = events

    async def open(self):
        self.events.append(f"open {self.name}")

    async def aclose(self, *, drain=10.0):
        self.events.append(f"close {self.name} {drain:g}")


@pytest.fixture
def events():
    """Collect what happens, in order."""
    return []


@pytest.fixture
def make_pool(events):
    """Make recorded pools, whose real names clash with those of no other test."""

    def make(label, kind=RecordedPool):
        pool = kind(f"{label}-{uuid.uuid4().hex}", events)
        pool.name = label
        return pool

    return make


def raising(error):
    """Return an application whose only endpoint raises this."""

    async def endpoint(request):
        raise error

    return Starlette(
        routes=[Route("/work", endpoint, methods=["GET", "POST"])],
        exception_handlers=exception_handlers,
    )


def client(app):
    """Return a client that gets the response to an error, as over a real server."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.anyio
class TestLifespan:
    async def test_inner_lifespan_runs_while_pools_are_open(self, make_pool, events):
        """The application's own startup and shutdown can use the pools."""

        @contextlib.asynccontextmanager
        async def inner(app):
            events.append(f"start {app}")
            yield {"answer": 42}
            events.append("stop")

        bound = lifespan(make_pool("a"), make_pool("b"), drain=3, inner=inner)
        async with bound("app") as state:
            events.append("serve")

        assert events[:5] == ["open a", "open b", "start app", "serve", "stop"]
        assert sorted(events[5:]) == ["close a 3", "close b 3"]
        assert state == {"answer": 42}

    async def test_pool_that_fails_to_open_closes_all(self, make_pool, events):
        """A failed startup leaves no worker behind, not even of the pool that failed halfway."""

        class Failing(RecordedPool):
            async def open(self):
                await super().open()
                raise WorkerStartError("broken initializer")

        bound = lifespan(make_pool("a"), make_pool("b", Failing), make_pool("c"))
        with pytest.raises(WorkerStartError, match="broken initializer"):
            async with bound(None):
                pytest.fail("must not serve")

        assert events[:2] == ["open a", "open b"]
        assert sorted(events[2:]) == ["close a 0", "close b 0"]

    async def test_cancelled_startup_closes_what_was_touched(self, make_pool, events):
        """A server that is ended while a pool starts does not wait for it, and leaves nothing."""

        class Endless(RecordedPool):
            async def open(self):
                await super().open()
                group.cancel_scope.cancel()
                await anyio.sleep_forever()

        async def serve():
            async with lifespan(make_pool("a"), make_pool("b", Endless))(None):
                pytest.fail("must not serve")

        async with anyio.create_task_group() as group:
            group.start_soon(serve)

        assert events[:2] == ["open a", "open b"]
        assert sorted(events[2:]) == ["close a 0", "close b 0"]

    async def test_failing_inner_startup_closes_pools_at_once(self, make_pool, events):
        """Nobody is served yet, so there is nothing to wait for."""

        @contextlib.asynccontextmanager
        async def inner(app):
            raise LookupError("no database")
            yield

        with pytest.raises(LookupError, match="no database"):
            async with lifespan(make_pool("a"), inner=inner)(None):
                pytest.fail("must not serve")

        assert events == ["open a", "close a 0"]

    async def test_failing_inner_shutdown_still_drains(self, make_pool, events):
        """What the application does wrong at its end costs no running call its drain."""

        @contextlib.asynccontextmanager
        async def inner(app):
            yield
            raise LookupError("no database")

        with pytest.raises(LookupError, match="no database"):
            async with lifespan(make_pool("a"), drain=3, inner=inner)(None):
                pass

        assert events == ["open a", "close a 3"]

    async def test_cancelled_service_closes_pools_at_once(self, make_pool, events):
        """A server that is not given time to end does not drain."""
        with anyio.CancelScope() as scope:
            async with lifespan(make_pool("a"), drain=3)(None):
                scope.cancel()
                await anyio.sleep_forever()

        assert events == ["open a", "close a 0"]

    async def test_pools_drain_at_the_same_time(self, make_pool):
        """The drain is the limit for the application, not for each of its pools."""
        arrived = {"a": anyio.Event(), "b": anyio.Event()}

        class Meeting(RecordedPool):
            async def aclose(self, *, drain=10.0):
                arrived[self.name].set()
                for other in arrived.values():
                    await other.wait()

        with anyio.fail_after(PATIENCE):
            async with lifespan(make_pool("a", Meeting), make_pool("b", Meeting))(None):
                pass

        assert all(event.is_set() for event in arrived.values())

    async def test_cancelled_drain_still_closes(self, make_pool, events):
        """A second Ctrl+C during the drain ends it, and what runs with it."""

        class Draining(RecordedPool):
            async def aclose(self, *, drain=10.0):
                await super().aclose(drain=drain)
                if drain:
                    scope.cancel()
                    await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            async with lifespan(make_pool("a", Draining), drain=3)(None):
                pass

        assert events == ["open a", "close a 3", "close a 0"]

    async def test_same_pool_twice_is_opened_once(self, make_pool, events):
        """A pool and its name are the same pool."""
        pool = make_pool("a")

        async with lifespan(pool, pool)(None):
            assert events == ["open a"]

    async def test_pool_goes_on_until_its_last_application_ends(self, make_pool, events):
        """Who ends first takes no pool from those that go on, and who ends last closes it."""
        pool = make_pool("a")
        first, second = lifespan(pool, drain=3)(None), lifespan(pool, make_pool("b"), drain=4)(None)

        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        assert events == ["open a", "open a", "open b"]
        await second.__aexit__(None, None, None)

        assert sorted(events[3:]) == ["close a 4", "close b 4"]

    async def test_failed_startup_takes_no_pool_from_others(self, make_pool, events):
        """An application that does not come up lets go of what it held, and closes its own."""

        class Failing(RecordedPool):
            async def open(self):
                raise WorkerStartError("broken initializer")

        pool = make_pool("a")
        async with lifespan(pool, drain=3)(None):
            with pytest.raises(WorkerStartError):
                async with lifespan(pool, make_pool("b", Failing))(None):
                    pytest.fail("must not serve")
            assert events == ["open a", "open a", "close b 0"]

        assert events[3:] == ["close a 3"]

    async def test_cancelled_service_takes_no_pool_from_others(self, make_pool, events):
        """An application that is ended in a hurry leaves the others their drain."""
        pool = make_pool("a")
        async with lifespan(pool, drain=3)(None):
            with anyio.CancelScope() as scope:
                async with lifespan(pool)(None):
                    scope.cancel()
                    await anyio.sleep_forever()
            assert events == ["open a", "open a"]

        assert events[2:] == ["close a 3"]

    @pytest.mark.parametrize("ending", ["drained", "cancelled"])
    async def test_startup_waits_for_the_pool_to_be_closed(
        self, ending, make_pool, events, anyio_backend_name
    ):
        """An application of another thread that starts meanwhile gets a pool that stays open."""

        class Draining(RecordedPool):
            async def aclose(self, *, drain=10.0):
                await super().aclose(drain=drain)
                if drain == 3:
                    draining.set()
                    await let.wait()
                events.append("closed")

        async def serve_another():
            async with anyio.create_task_group() as group:
                # One that gives up waiting had nothing yet.
                group.start_soon(serve)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            async with anyio.create_task_group() as group:
                group.start_soon(serve)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(events_before.put, list(events))

        async def serve():
            async with lifespan(pool, drain=4)(None):
                events.append("serve")

        async def end_the_first():
            with scope:
                async with lifespan(pool, drain=3)(None):
                    pass

        def in_thread():
            anyio.run(serve_another, backend=anyio_backend_name)

        draining, let, scope = anyio.Event(), anyio.Event(), anyio.CancelScope()
        events_before = queue.Queue()
        pool = make_pool("a", Draining)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(end_the_first)
                await draining.wait()
                group.start_soon(anyio.to_thread.run_sync, in_thread)
                before = await anyio.to_thread.run_sync(
                    partial(events_before.get, timeout=PATIENCE)
                )
                let.set() if ending == "drained" else scope.cancel()

        assert before == ["open a", "close a 3"]
        if ending == "cancelled":
            assert events.pop(2) == "close a 0"
        assert events[2:] == ["closed", "open a", "serve", "close a 4", "closed"]

    async def test_names_are_looked_up_at_startup(self, monkeypatch, make_pool, events):
        """An application can be declared before its pools; none given means the default pool."""
        bound = lifespan("later"), lifespan()
        found = {"later": make_pool("later"), "default": make_pool("default")}
        monkeypatch.setattr(Pool, "named", found.__getitem__)

        for each in bound:
            async with each(None):
                pass

        opened = [event for event in events if event.startswith("open")]
        assert opened == ["open later", "open default"]

    async def test_unknown_name_fails_the_startup(self, make_pool, events):
        """A typing error in a name ends the start, and what was opened is closed."""
        with pytest.raises(PoolNotFoundError):
            async with lifespan(make_pool("a"), f"unknown-{uuid.uuid4().hex}")(None):
                pytest.fail("must not serve")


def served(pool):
    """Return a client of an application of its own, on a loop and a thread of its own."""

    async def endpoint(request):
        return PlainTextResponse(str(await pool.run(os.getpid)))

    app = Starlette(routes=[Route("/", endpoint)], lifespan=lifespan(pool, drain=0))
    app.add_exception_handler(OffloadError, exception_handlers[OffloadError])
    return TestClient(app)


def test_two_applications_share_a_pool():
    """Each on a loop and a thread of its own: the one that goes on is served by the same worker."""
    pool = Pool(f"shared-{uuid.uuid4().hex}", max_workers=1, spare_workers=0)

    with served(pool) as first:
        pid = first.get("/").text
        with served(pool) as second:
            assert second.get("/").text == pid
        assert first.get("/").text == pid

    assert pool.statistics().state == "closed"


FORKS = """
import os
from tests.web.test_starlette import Pool, served
pool = Pool("forks", max_workers=1)
with served(pool) as first:
    first.get("/")
    if pid := os.fork():
        ended = os.waitpid(pid, 0)[1]
    else:
        with served(pool) as second:
            assert second.get("/").status_code == 200
        os._exit(0 if pool.statistics().state == "closed" else 3)
    print(ended, first.get("/").status_code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_fork_holds_nothing_of_its_parent():
    """A pool is closed with the last application of its own process."""
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=PATIENCE,
    )
    assert told.stdout.split() == ["0", "200"]


def test_lifespan_itself_is_refused_as_a_lifespan():
    """`Starlette(lifespan=lifespan)` says what was meant, when the server starts."""
    with pytest.raises(TypeError, match=r"lifespan=lifespan\(\)"):
        lifespan(Starlette())


@pytest.mark.parametrize("drain", [-1.0, float("nan"), float("inf")])
def test_senseless_drain_is_refused(drain):
    """Found when declared, not when the server ends."""
    with pytest.raises(ValueError, match="drain"):
        lifespan(drain=drain)


@pytest.mark.anyio
class TestErrors:
    @answers
    async def test_client_learns_what_to_do_and_no_more(self, error, status, may_have_run, level):
        """RFC 9457 JSON with a fixed text; of the server's arguments and code, nothing."""
        async with client(raising(error)) as http:
            response = await http.get("/work?q=1")

        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert SECRET not in response.text
        problem = response.json()
        assert problem.pop("detail").endswith(".")
        assert problem == {
            "type": "about:blank",
            "title": response.reason_phrase,
            "status": status,
            "error": type(error).__name__,
            "may_have_run": may_have_run,
        }
        assert ("retry-after" in response.headers) == (status == 503)

    @answers
    async def test_operator_is_told_once(self, error, status, may_have_run, level, caplog):
        """One record with request and details; a traceback where somebody must act."""
        caplog.set_level(logging.DEBUG)
        async with client(raising(error)) as http:
            await http.post("/work?token=private", headers={"x-private": "private"})

        # httpx and asyncio tell about themselves at these levels.
        [record] = [each for each in caplog.records if each.name.startswith(("offload", "starl"))]
        assert (record.name, record.levelname) == ("offload.starlette", level)
        assert "POST '/work'" in record.getMessage()
        assert SECRET in record.getMessage()
        assert bool(record.exc_info) == (level == "ERROR")
        assert "private" not in record.getMessage()

    async def test_every_error_has_a_row_here(self):
        """A new error cannot be forgotten."""
        public = {
            kind
            for kind in vars(offload.errors).values()
            if inspect.isclass(kind) and issubclass(kind, OffloadError)
        }

        # Whoever has left gets no answer: see below.
        assert {type(row[0]) for row in ANSWERS} | {ClientDisconnectedError} == public

    async def test_client_that_has_left_is_no_error(self, caplog):
        """One line at INFO, and for the access log the number that nginx gives it."""
        caplog.set_level(logging.DEBUG)
        error = ClientDisconnectedError(SECRET, function=SECRET, may_have_run=True)
        async with client(raising(error)) as http:
            response = await http.get("/work")

        assert (response.status_code, response.content) == (499, b"")
        [record] = [each for each in caplog.records if each.name.startswith(("offload", "starl"))]
        assert (record.name, record.levelname) == ("offload.starlette", "INFO")
        assert "GET '/work': 499, ClientDisconnectedError" in record.getMessage()
        assert not record.exc_info

    @pytest.mark.parametrize(
        "retry_after,expected",
        [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (1e9, "3600"), (float("inf"), "3600")],
    )
    async def test_retry_after_is_in_whole_seconds(self, retry_after, expected):
        """Rounded up, at least one, and never absurd."""
        async with client(raising(QueueFullError("", retry_after=retry_after))) as http:
            response = await http.get("/work")

        assert response.headers["retry-after"] == expected

    async def test_subclass_of_an_application_is_answered_as_its_base(self):
        """Names of the application's own classes stay in the server."""

        class SecretError(QueueFullError):
            pass

        async with client(raising(SecretError("", retry_after=1))) as http:
            response = await http.get("/work")

        assert response.json()["error"] == "QueueFullError"

    async def test_group_of_our_errors_is_answered_once(self, caplog):
        """What calls of a task group raise together is one answer, and one record for all."""
        caplog.set_level(logging.DEBUG)
        full = QueueFullError(SECRET, retry_after=4.0)
        group = ExceptionGroup("", [full, ExceptionGroup("", [WorkerCrashedError(SECRET), full])])
        async with client(raising(group)) as http:
            response = await http.get("/work")

        assert (response.status_code, response.json()["error"]) == (500, "WorkerCrashedError")
        [record] = [each for each in caplog.records if each.name.startswith(("offload", "starl"))]
        assert (record.name, record.levelname) == ("offload.starlette", "ERROR")
        assert f"500, WorkerCrashedError: {SECRET} (and 2 more)" in record.getMessage()
        assert record.offload_outcome == "crashed"
        assert record.exc_info[1] is group

    async def test_group_that_holds_another_error_goes_on_as_it_is(self, caplog):
        """It is the application's own: for its handlers, its middleware and its debug page."""
        caplog.set_level(logging.DEBUG)
        group = ExceptionGroup("own", [QueueFullError(SECRET, retry_after=1), ZeroDivisionError()])
        reached = []

        async def on_error(request, error):
            reached.append(error)
            return PlainTextResponse("own", status_code=500)

        app = raising(group)
        app.add_exception_handler(Exception, on_error)
        async with client(app) as http:
            response = await http.get("/work")

        assert (response.text, reached) == ("own", [group])
        assert not [each for each in caplog.records if each.name.startswith("offload")]

    async def test_handler_for_a_kind_of_group_goes_first(self):
        """An application's own class of groups is its own affair, whatever is in it."""

        class OwnGroup(ExceptionGroup):
            pass

        async def on_own(request, error):
            return PlainTextResponse("own", status_code=422)

        app = raising(OwnGroup("", [QueueFullError("", retry_after=1)]))
        app.add_exception_handler(OwnGroup, on_own)
        async with client(app) as http:
            response = await http.get("/work")

        assert response.status_code == 422

    async def test_head_gets_the_headers_of_get(self):
        """A HEAD request is refused like GET, without a body."""
        app = raising(QueueFullError("", retry_after=1))
        async with client(app) as http:
            got, head = await http.get("/work"), await http.head("/work")

        assert (head.status_code, dict(head.headers)) == (got.status_code, dict(got.headers))
        assert head.content == b""

    async def test_started_response_is_broken_not_finished(self):
        """A client never takes the part that it has received for the whole."""

        async def endpoint(request):
            async def parts():
                yield b"part"
                raise WorkerCrashedError("died")

            return StreamingResponse(parts())

        app = Starlette(routes=[Route("/", endpoint)], exception_handlers=exception_handlers)
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            await anyio.sleep_forever()

        with pytest.raises(RuntimeError, match="response already started") as caught:
            await app(http_scope(), receive, send)

        assert isinstance(caught.value.__cause__, WorkerCrashedError)
        assert [message["type"] for message in sent] == [
            "http.response.start",
            "http.response.body",
        ]
        assert sent[-1]["more_body"]

    async def test_error_of_the_function_itself_reaches_its_own_handler(self):
        """Only the library's errors are answered here; a remote exception keeps its type."""

        async def on_division(request, error):
            return PlainTextResponse("divided", status_code=422)

        app = raising(ZeroDivisionError())
        app.add_exception_handler(ZeroDivisionError, on_division)
        async with client(app) as http:
            response = await http.get("/work")

        assert (response.status_code, response.text) == (422, "divided")


@pytest.mark.anyio
class TestInstall:
    async def test_installed_handlers_answer(self):
        """An application that exists already gets the same answers."""
        app = raising(QueueFullError("", retry_after=1))
        app.exception_handlers.clear()
        add_exception_handlers(app)

        async with client(app) as http:
            response = await http.get("/work")

        assert response.status_code == 503

    @pytest.mark.parametrize(
        "kind,error",
        [
            (OffloadError, QueueFullError("", retry_after=1)),
            (ExceptionGroup, ExceptionGroup("", [QueueFullError("", retry_after=1)])),
        ],
    )
    async def test_handler_of_the_application_is_kept(self, kind, error):
        """What the application decided for itself, before or after, holds."""

        async def own(request, error):
            return PlainTextResponse("own", status_code=418)

        app = raising(error)
        app.exception_handlers.clear()
        app.add_exception_handler(kind, own)
        add_exception_handlers(app)

        async with client(app) as http:
            response = await http.get("/work")

        assert response.status_code == 418

    async def test_started_application_is_refused(self):
        """Starlette ignores handlers that come too late; this says so."""
        app = raising(ValueError())
        async with client(app) as http:
            await http.get("/")

        with pytest.raises(RuntimeError, match="before the application starts"):
            add_exception_handlers(app)


def http_scope(**changes):
    """Return what a server passes for a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 80),
        **changes,
    }


async def talk(endpoint, **changes):
    """Open a WebSocket at an endpoint and return what the application sends."""
    app = Starlette(routes=[WebSocketRoute("/", endpoint)], exception_handlers=exception_handlers)
    scope = http_scope(type="websocket", scheme="ws", subprotocols=[], **changes)
    del scope["method"]
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent


@pytest.mark.anyio
class TestWebSocket:
    @pytest.mark.parametrize(
        "error,code", [(QueueFullError("", retry_after=1), 1013), (WorkerCrashedError(""), 1011)]
    )
    async def test_open_websocket_is_closed_with_a_reason(self, error, code):
        """Over an open WebSocket the close code says "try again later" or "internal error"."""

        async def endpoint(websocket):
            await websocket.accept()
            raise error

        sent = await talk(endpoint)

        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
        assert sent[-1]["code"] == code
        assert 0 < len(sent[-1]["reason"].encode()) <= 123

    async def test_handshake_is_denied_with_the_problem(self):
        """Before the accept a client gets the same HTTP answer, where the server can send one."""

        async def endpoint(websocket):
            raise QueueFullError("", retry_after=1)

        start, body = await talk(endpoint, extensions={"websocket.http.response": {}})

        assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
        assert (b"retry-after", b"1") in start["headers"]
        assert json.loads(body["body"])["error"] == "QueueFullError"

    async def test_handshake_is_refused_where_no_answer_can_be_sent(self):
        """Without the extension the handshake is still ended, by a close."""

        async def endpoint(websocket):
            raise QueueFullError("", retry_after=1)

        [close] = await talk(endpoint)

        assert (close["type"], close["code"]) == ("websocket.close", 1013)

    async def test_group_closes_as_a_single_error_does(self):
        """Calls of a task group that were all refused: try again later."""
        full = QueueFullError("", retry_after=1)

        async def endpoint(websocket):
            await websocket.accept()
            raise ExceptionGroup("", [full, full])

        sent = await talk(endpoint)

        assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", 1013)

    async def test_closed_websocket_gets_nothing_more(self):
        """An error after the close is logged, and breaks no protocol."""

        async def endpoint(websocket):
            await websocket.accept()
            await websocket.close()
            raise WorkerCrashedError("")

        sent = await talk(endpoint)

        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]


class TestRequestCrosses:
    def test_copy_knows_the_question(self):
        """Method, URL, headers, cookies, path and client cross to the worker."""
        scope = http_scope(
            method="POST",
            path="/a/b",
            query_string=b"x=1",
            headers=[(b"host", b"example.org"), (b"cookie", b"k=v")],
            path_params={"id": uuid.UUID(int=1)},
        )
        copy = pickle.loads(dumps(Request(scope)))

        assert type(copy) is Request
        assert (copy.method, str(copy.url)) == ("POST", "http://example.org/a/b?x=1")
        assert (copy.cookies, copy.client) == ({"k": "v"}, ("127.0.0.1", 1234))
        assert copy.path_params == {"id": uuid.UUID(int=1)}

    def test_server_stays_behind(self):
        """The application, its state and what middleware added neither cross nor stop it."""
        unpicklable = lambda: None  # noqa: E731 - a named function of a test would do as well
        scope = http_scope(app=unpicklable, state={"x": unpicklable}, session=unpicklable)

        copy = pickle.loads(dumps(Request(scope, unpicklable, unpicklable)))

        assert not {"app", "state", "session"} & copy.scope.keys()

    def test_subclass_is_left_alone(self):
        """What a subclass holds is not known, so it is not cut down to a plain request."""

        class Own(Request):
            pass

        with pytest.raises((pickle.PicklingError, AttributeError)):
            dumps(Own(http_scope()))

    def test_other_pickles_of_the_process_are_left_alone(self):
        """How requests cross to workers is the business of nobody else who pickles."""
        assert Request not in copyreg.dispatch_table


def routed():
    """Return an application with real endpoints over real functions."""

    def calling(function, *arguments):
        async def endpoint(request):
            return PlainTextResponse(str(await function(*arguments)))

        return endpoint

    return [
        Route("/pid", calling(starlette_app.pid)),
        Route("/crash", calling(starlette_app.crash, SECRET)),
        Route("/spin", calling(starlette_app.spin_for_ever)),
        Route("/fail", calling(starlette_app.fail, SECRET)),
        Route("/unpicklable", calling(starlette_app.take, lambda: SECRET)),
        Route("/leave", calling(starlette_app.leave)),
        Route("/describe/{number:int}", starlette_app.describe),
    ]


@pytest.fixture
async def http():
    """Serve real functions on one worker."""
    app = Starlette(
        routes=routed(),
        lifespan=lifespan(starlette_app.pool, drain=0),
        exception_handlers=exception_handlers,
    )
    async with app.router.lifespan_context(app), client(app) as http:
        yield http


@pytest.mark.anyio
class TestWithRealWorkers:
    async def test_endpoint_awaits_a_function_on_a_worker(self, http):
        """The whole way: endpoint, pool, worker process and back."""
        response = await http.get("/pid")

        assert response.status_code == 200
        assert int(response.text) != os.getpid()

    @pytest.mark.parametrize(
        "path,status,error",
        [
            ("/crash", 500, "WorkerCrashedError"),
            ("/spin", 504, "TaskTimeoutError"),
            ("/unpicklable", 500, "ArgumentError"),
            ("/leave", 500, "RemoteError"),
        ],
    )
    async def test_failure_is_told_and_costs_one_request(self, http, path, status, error):
        """The client of that request gets its answer, and the next request is served."""
        failed = await http.get(path)
        after = await http.get("/pid")

        assert (failed.status_code, failed.json()["error"]) == (status, error)
        assert "secret" not in failed.text
        assert "Traceback" not in failed.text
        assert after.status_code == 200

    async def test_exception_of_the_function_is_no_problem_of_the_library(self, http):
        """It ends where it would have ended inline: as the server's plain 500."""
        response = await http.get("/fail")

        assert (response.status_code, response.text) == (500, "Internal Server Error")

    async def test_function_is_an_endpoint_itself(self, http):
        """`Route(path, function)`: called with the request's copy, answers with its response."""
        response = await http.get("/describe/7?a=b", headers={"x-test": "crossed", "cookie": "k=v"})

        told = response.json()
        assert told.pop("pid") != os.getpid()
        assert told == {
            "method": "GET",
            "url": "http://test/describe/7?a=b",
            "query": {"a": "b"},
            "path": {"number": 7},
            "header": "crossed",
            "cookies": {"k": "v"},
        }

    async def test_full_queue_in_a_task_group_is_a_refusal(self, held):
        """One call of two finds no place: 503 and when to come back, as without the group."""
        pool = Pool(f"group-{uuid.uuid4().hex}", max_workers=1, max_queued=0, spare_workers=0)

        async def endpoint(request):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(pool.run, request_functions.hold.__wrapped__, *held)

        app = Starlette(
            routes=[Route("/", endpoint)],
            lifespan=lifespan(pool, drain=0),
            exception_handlers=exception_handlers,
        )
        async with app.router.lifespan_context(app), client(app) as http:
            response = await http.get("/")

        assert (response.status_code, response.json()["error"]) == (503, "QueueFullError")
        assert int(response.headers["retry-after"]) >= 1

    async def test_lifespan_can_be_entered_again(self):
        """Test clients start and end the same application, with the same pool, many times."""
        pool = Pool(f"again-{uuid.uuid4().hex}", max_workers=1)
        bound = lifespan(pool, drain=0)
        pids = []
        for _ in range(2):
            async with bound(None):
                pids.append(await pool.run(os.getpid))

        assert pids[0] != pids[1]


def test_problem_response_takes_more_members():
    """Applications can answer their own problems alike."""
    response = ProblemResponse(422, "too long", headers={"x-y": "z"}, limit=3)

    assert json.loads(response.body)["limit"] == 3
    assert response.headers["x-y"] == "z"
