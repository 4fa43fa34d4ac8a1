"""Clients that leave, message by message: what an application gets, and what happens to calls."""

import asyncio
import contextlib
import logging

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from offload import ClientDisconnectedError
from offload._pool.invocation import Invocation
from offload._pool.scope import current_scope
from offload._pool.target import target_of
from offload._values.options import ResolvedOptions
from offload.starlette import CancelOnDisconnect, exception_handlers
from tests.support import inside
from tests.support.connection import DISCONNECT, Connection, answer, part
from tests.support.functions import requests as functions
from tests.support.processes import PATIENCE, Fifo, gone, until

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def serving(connection, app):
    """Handle a request while the block runs, and to its end."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(connection.serve, CancelOnDisconnect(app))
            yield


@pytest.mark.usefixtures("request_pools")
class TestCalls:
    @pytest.mark.guarantee(4)
    async def test_running_call_is_stopped(self, entered, held):
        """The worker ends, and the handler learns that the function may have run."""
        errors = []
        before = functions.pool.statistics().cancelled

        async def app(scope, receive, send):
            with pytest.raises(ClientDisconnectedError) as caught:
                await functions.hold(*held)
            errors.append(caught.value)

        connection = Connection(part())
        async with serving(connection, app):
            pid = await entered.heard()
            connection.say(DISCONNECT)
            await gone(pid)

        [error] = errors
        assert error.may_have_run
        assert error.function == "tests.support.functions.requests:hold"
        assert "may have run" in str(error)
        assert functions.pool.statistics().cancelled == before + 1

    @pytest.mark.guarantee(4)
    async def test_queued_call_is_withdrawn(self, entered, gate, held):
        """It never starts, and the error knows that."""
        errors = []

        async def app(scope, receive, send):
            with pytest.raises(ClientDisconnectedError) as caught:
                await functions.hold_small(*held)
            errors.append(caught.value)

        connection = Connection(part())
        async with anyio.create_task_group() as group:
            group.start_soon(functions.hold_small, *held)
            await entered.heard()
            async with serving(connection, app):
                await until(lambda: functions.small.statistics().queued)
                connection.say(DISCONNECT)
            gate.let()

        assert not errors[0].may_have_run
        assert "did not run" in str(errors[0])
        assert entered.rest() == []

    async def test_call_that_gets_a_worker_after_the_leaving_is_not_begun(self, held):
        """The worker is free before the withdrawal has reached the thread that gives it out."""
        begun = []

        async def app(scope, receive, send):
            invocation = Invocation(
                target_of(functions.hold.__wrapped__), held, {}, ResolvedOptions()
            )
            with pytest.raises(ClientDisconnectedError, match="did not run"):
                await current_scope.get().run(Runner(), invocation)

        class Runner:
            async def run_invocation(self, invocation, may_start):
                connection.say(DISCONNECT)
                with anyio.CancelScope(shield=True):
                    await until(lambda: inside.has_left(may_start))
                    begun.append(may_start())
                await anyio.lowlevel.checkpoint()

        connection = Connection(part())
        async with serving(connection, app):
            pass

        assert begun == [False]

    async def test_call_after_the_leaving_is_not_made(self, tmp_path, entered, held):
        """What a handler would do next for a client that has left is not begun."""
        trace = tmp_path / "trace"

        async def app(scope, receive, send):
            with pytest.raises(ClientDisconnectedError):
                await functions.hold(*held)
            with pytest.raises(ClientDisconnectedError, match="did not run") as caught:
                await functions.trace(str(trace))
            assert not caught.value.may_have_run

        connection = Connection(part())
        async with serving(connection, app):
            await entered.heard()
            connection.say(DISCONNECT)

        assert not trace.exists()

    @pytest.mark.parametrize("how", ["decorator", "call"])
    async def test_option_leaves_a_call_alone(self, how, tmp_path, entered, gate, held):
        """`cancel_on_disconnect=False`: what must be done is done, client or not."""
        results = []

        async def app(scope, receive, send):
            function = functions.hold_on
            if how == "call":
                function = functions.hold.options(cancel_on_disconnect=False)
            async with anyio.create_task_group() as group:
                # Another call watches, so that the leaving is noticed.
                group.start_soon(watched)
                results.append(await function(*held, "kept"))

        async def watched():
            with Fifo(tmp_path / "shut") as shut, pytest.raises(ClientDisconnectedError):
                await functions.hold(entered.path, shut.path)
            left.set()

        left = anyio.Event()
        connection = Connection(part())
        async with serving(connection, app):
            await entered.heard()
            await entered.heard()
            connection.say(DISCONNECT)
            await left.wait()
            gate.let()

        assert results == ["kept"]

    async def test_pool_run_is_stopped(self, entered, held):
        """So are plain functions that are run without a decorator."""

        async def app(scope, receive, send):
            with pytest.raises(ClientDisconnectedError):
                await functions.pool.run(functions.hold.__wrapped__, *held)
            await answer(send)

        connection = Connection(part())
        async with serving(connection, app):
            pid = await entered.heard()
            connection.say(DISCONNECT)
            await gone(pid)

    async def test_map_is_stopped(self, entered, held):
        """All calls of a map end, with one error."""

        async def app(scope, receive, send):
            with pytest.raises(ClientDisconnectedError):
                await functions.hold_pair.map([held] * 3)

        connection = Connection(part())
        async with serving(connection, app):
            await entered.heard()
            connection.say(DISCONNECT)

        assert not functions.pool.statistics().queued

    async def test_several_calls_have_one_watcher(self, entered, held, caplog):
        """Calls of a task group all end; it is no error, and it is told once."""
        caplog.set_level(logging.INFO)

        async def app(scope, receive, send):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(functions.hold, *held)

        connection = Connection(part())
        async with serving(connection, app):
            pids = [await entered.heard(), await entered.heard()]
            await until(lambda: functions.pool.statistics().queued == 2)
            assert connection.most_waiting == 1
            connection.say(DISCONNECT)
            await gone(*pids)

        await until(lambda: not functions.pool.statistics().queued)
        assert connection.status == 499
        [record] = [each for each in caplog.records if each.name == "offload.starlette"]
        assert record.levelname == "INFO"

    async def test_shared_run_goes_on_for_the_others(self, entered, gate, held):
        """Of two clients of one coalesced run, one leaves: the other gets the result."""

        async def app(scope, receive, send):
            await answer(send, await functions.hold_together(*held, b"shared"))

        first, second = Connection(part()), Connection(part())
        async with serving(first, app), serving(second, app):
            await entered.heard()
            await until(lambda: first.waiting and second.waiting)
            first.say(DISCONNECT)
            await until(lambda: first.status)
            gate.let()

        assert (first.status, second.status, second.body) == (499, 200, b"shared")
        assert entered.rest() == []

    async def test_other_errors_and_cancellation_pass_as_they_are(self, entered, held):
        """Nothing is wrapped into groups, and a cancelled call is a cancelled call."""

        async def app(scope, receive, send):
            with anyio.CancelScope() as own:
                async with anyio.create_task_group() as group:
                    group.start_soon(functions.hold, *held)
                    await entered.heard()
                    own.cancel()
            assert own.cancelled_caught
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await Connection(part()).serve(CancelOnDisconnect(app))

    async def test_cancelled_request_is_no_leaving(self, entered, held):
        """A server that cancels the application sees it cancelled."""

        async def app(scope, receive, send):
            await functions.hold(*held)

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(Connection(part()).serve, CancelOnDisconnect(app))
                pid = await entered.heard()
                scope.cancel()

        assert scope.cancelled_caught
        await gone(pid)

    async def test_call_of_another_event_loop_is_not_watched(self):
        """A thread inherits the context, but its loop is not the one that watches."""

        async def app(scope, receive, send):
            def elsewhere():
                return asyncio.run(functions.echo(b"elsewhere"))

            await answer(send, await anyio.to_thread.run_sync(elsewhere))

        connection = Connection(part())
        async with serving(connection, app):
            pass

        assert connection.body == b"elsewhere"
        assert connection.asked == 0

    async def test_context_that_outlives_the_request_holds_nothing(self):
        """What inherits the context of a request that is over calls as if there had been none."""
        later = []

        async def app(scope, receive, send):
            group.start_soon(after)
            await functions.echo(1)
            await answer(send)

        async def after():
            await over.wait()
            later.append(await functions.echo("later"))

        over = anyio.Event()
        connection = Connection(part())
        async with anyio.create_task_group() as group:
            await connection.serve(CancelOnDisconnect(app))
            over.set()

        assert later == ["later"]


class TestReceive:
    """What the watcher reads, and what the application gets."""

    async def test_request_without_calls_is_not_watched(self):
        """No cost: the server is not asked for anything that the application does not ask for."""

        async def app(scope, receive, send):
            await answer(send)

        connection = Connection(part())
        await connection.serve(CancelOnDisconnect(app))

        assert connection.asked == 0

    @pytest.mark.usefixtures("request_pools")
    async def test_body_is_passed_on_whole(self, entered, gate, held):
        """A part that the watcher has read comes first, one that it has not comes after."""
        parts = []

        async def app(scope, receive, send):
            parts.append(await functions.hold(*held, 1))
            while True:
                message = await receive()
                parts.append(message["body"])
                if not message["more_body"]:
                    break
                parts.append(await functions.echo(2))
            await answer(send)

        connection = Connection(part(b"a", more=True), part(b"b", more=True), part(b"c"))
        async with serving(connection, app):
            await entered.heard()
            await until(lambda: connection.asked)
            gate.let()

        assert parts == [1, b"a", 2, b"b", 2, b"c"]
        assert connection.most_waiting == 1

    @pytest.mark.usefixtures("request_pools")
    async def test_one_part_at_most_is_read_ahead(self, entered, gate, held):
        """The server's backpressure reaches the client: what nobody reads is not fetched."""

        async def app(scope, receive, send):
            await functions.hold(*held)
            await answer(send)

        connection = Connection(part(b"a", more=True), part(b"b", more=True), part(b"c"))
        async with serving(connection, app):
            await entered.heard()
            await until(lambda: connection.asked)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert (connection.asked, connection.unread) == (1, 2)
            gate.let()

    @pytest.mark.usefixtures("request_pools")
    async def test_watching_goes_on_when_the_application_reads_on(self, entered, held):
        """While a call runs, another task reads the body; then the client leaves."""
        parts = []

        async def app(scope, receive, send):
            async with anyio.create_task_group() as group:
                group.start_soon(functions.hold, *held)
                await entered.heard()
                await until(lambda: connection.asked)
                while True:
                    message = await receive()
                    parts.append(message["body"])
                    if not message["more_body"]:
                        break

        connection = Connection(part(b"a", more=True), part(b"b", more=True))
        async with serving(connection, app):
            await until(lambda: parts == [b"a", b"b"])
            connection.say(part(b"c"))
            await until(lambda: parts == [b"a", b"b", b"c"] and connection.waiting)
            connection.say(DISCONNECT)

        assert connection.status == 499
        assert connection.most_waiting == 1

    @pytest.mark.usefixtures("request_pools")
    async def test_message_that_comes_after_the_call_is_not_lost(self, entered, gate, held):
        """The watcher had asked for it when the call ended; the application still gets it."""
        bodies = []

        async def app(scope, receive, send):
            await functions.hold(*held)
            called.set()
            bodies.append(await receive())
            await answer(send)

        called = anyio.Event()
        connection = Connection()
        async with serving(connection, app):
            await entered.heard()
            await until(lambda: connection.waiting)
            gate.let()
            await called.wait()
            connection.say(part(b"late"))

        assert bodies == [part(b"late")]
        assert connection.most_waiting == 1

    @pytest.mark.usefixtures("request_pools")
    async def test_body_that_waits_to_be_asked_for_is_not(self, entered, gate, held):
        """`Expect: 100-continue`: to accept the body is for the application to decide."""

        async def app(scope, receive, send):
            await functions.hold(*held)
            asked.append(connection.asked)
            body = await receive()
            with pytest.raises(ClientDisconnectedError):
                await functions.hold(*held)
            assert body == part(b"body")

        asked = []
        connection = Connection(
            part(b"body"), headers=[(b"expect", b"100-continue")], method="POST"
        )
        async with serving(connection, app):
            await entered.heard()
            gate.let()
            await entered.heard()
            await until(lambda: connection.waiting)
            connection.say(DISCONNECT)

        assert asked == [0]

    @pytest.mark.usefixtures("request_pools")
    async def test_application_that_listens_itself_hears_of_it_too(self, entered, held):
        """One that waits for the disconnect gets it, and its calls stop."""
        heard = []

        async def app(scope, receive, send):
            async def listen():
                heard.append(await receive())
                heard.append(await receive())
                heard.append(await receive())

            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                await until(lambda: heard and connection.waiting)
                with pytest.raises(ClientDisconnectedError):
                    await functions.hold(*held)

        connection = Connection(part())
        async with serving(connection, app):
            pid = await entered.heard()
            connection.say(DISCONNECT)
            await gone(pid)

        assert heard == [part(), DISCONNECT, DISCONNECT]
        assert connection.most_waiting == 1

    @pytest.mark.usefixtures("request_pools")
    async def test_watcher_takes_over_from_a_listener_that_gives_up(self, entered, held):
        """The application stops to listen while a call is pending."""

        async def app(scope, receive, send):
            async def listen():
                await receive()
                with anyio.CancelScope() as own:
                    scopes.append(own)
                    await receive()

            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                await until(lambda: scopes and connection.waiting)
                with pytest.raises(ClientDisconnectedError):
                    await functions.hold(*held)

        scopes = []
        connection = Connection(part())
        async with serving(connection, app):
            await entered.heard()
            asked = connection.asked
            scopes[0].cancel()
            await until(lambda: connection.asked > asked and connection.waiting)
            connection.say(DISCONNECT)

        assert connection.most_waiting == 1

    @pytest.mark.usefixtures("request_pools")
    async def test_receive_that_fails_is_the_applications_affair(self, entered, gate, held):
        """A call is not harmed by a channel that cannot be watched."""

        async def app(scope, receive, send):
            await answer(send, await functions.hold(*held, b"well"))

        async def receive():
            raise RuntimeError("Receive channel has not been made available")

        connection = Connection()
        connection.receive = receive
        async with serving(connection, app):
            await entered.heard()
            gate.let()

        assert connection.body == b"well"

    async def test_websocket_passes_through(self):
        """Scope and channels reach the application as they are."""
        seen = []

        async def app(*arguments):
            seen.append(arguments)

        given = ({"type": "websocket"}, object(), object())
        await CancelOnDisconnect(app)(*given)

        assert seen == [given]


@pytest.mark.usefixtures("request_pools")
class TestResponses:
    async def test_background_task_is_not_the_clients_any_more(self, entered, gate, held):
        """What is called after the response has been sent goes on, whoever leaves."""
        results = []

        async def endpoint(request):
            async def later():
                results.append(await functions.hold(*held, "later"))

            return PlainTextResponse("now", background=BackgroundTask(later))

        connection = Connection(part())
        async with serving(connection, Starlette(routes=[Route("/", endpoint)])):
            await entered.heard()
            connection.say(DISCONNECT)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            gate.let()

        assert results == ["later"]
        assert connection.body == b"now"

    async def test_call_that_is_pending_when_the_response_ends_goes_on(self, entered, gate, held):
        """The server's disconnect after the response is no leaving."""
        results = []

        async def app(scope, receive, send):
            async def call():
                results.append(await functions.hold(*held, "kept"))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await entered.heard()
                await until(lambda: connection.waiting)
                await answer(send)
                await until(lambda: not connection.waiting)
                gate.let()

        connection = Connection(part())
        async with serving(connection, app):
            pass

        assert results == ["kept"]

    @pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
    @pytest.mark.parametrize("handlers", [exception_handlers, None])
    async def test_streamed_response_ends_with_its_client(
        self, spec_version, handlers, entered, held, caplog
    ):
        """A generator on a worker ends in the middle of a response; nobody logs an error."""

        async def endpoint(request):
            async def parts():
                async for item in functions.count_held.stream(*held):
                    yield str(item)

            return StreamingResponse(parts())

        app = Starlette(routes=[Route("/", endpoint)], exception_handlers=handlers)
        connection = Connection(part(), spec_version=spec_version)
        async with serving(connection, app):
            pid = await entered.heard()
            await until(lambda: connection.body == b"0" and connection.waiting)
            connection.say(DISCONNECT)
            await gone(pid)

        assert (connection.status, connection.body) == (200, b"0")
        assert not [each for each in caplog.records if each.levelno > logging.INFO]

    @pytest.mark.parametrize("handlers", [exception_handlers, None])
    async def test_background_that_is_refused_in_mid_response_is_told(self, handlers, caplog):
        """Work after a response that its client did not wait for is not done, and not silently."""
        caplog.set_level(logging.INFO)

        connection = Connection(part())
        app = self.streaming(functions.echo, "later", handlers=handlers)
        async with serving(connection, app):
            await until(lambda: connection.body == b"0" and connection.waiting)
            connection.say(DISCONNECT)

        [record] = [each for each in caplog.records if each.name.startswith(("offload", "starl"))]
        assert (record.name, record.levelname) == ("offload.starlette", "WARNING")
        assert "GET '/'" in record.getMessage()
        assert "functions.requests:echo was not called" in record.getMessage()
        assert "cancel_on_disconnect=False" in record.getMessage()
        assert record.offload_outcome == "cancelled"

    async def test_background_that_must_be_done_is_done(self, entered, gate, held, caplog):
        """With `cancel_on_disconnect=False` it is, in whatever part of the response one leaves."""
        connection = Connection(part())
        async with serving(connection, self.streaming(functions.hold_on, *held)):
            await until(lambda: connection.body == b"0" and connection.waiting)
            connection.say(DISCONNECT)
            await entered.heard()
            gate.let()

        assert not [each for each in caplog.records if each.levelno > logging.INFO]

    def streaming(self, function, *arguments, handlers=None):
        """Return an application that sends one item and waits, with a call in the background."""

        async def endpoint(request):
            async def parts():
                yield "0"
                await anyio.sleep_forever()

            return StreamingResponse(parts(), background=BackgroundTask(function, *arguments))

        return Starlette(routes=[Route("/", endpoint)], exception_handlers=handlers)

    async def test_stream_between_items_is_ended_too(self):
        """The client leaves while its handler is busy with an item: the next one is the end."""

        async def app(scope, receive, send):
            async with functions.endless.stream() as items:
                await anext(items)
                await until(lambda: connection.waiting)
                connection.say(DISCONNECT)
                await until(lambda: not connection.waiting)
                with pytest.raises(ClientDisconnectedError):
                    await anext(items)
                await until(lambda: not functions.pool.statistics().busy)

        connection = Connection(part())
        async with serving(connection, app):
            pass


class PassOn(BaseHTTPMiddleware):
    """The simplest middleware of Starlette's own kind."""

    async def dispatch(self, request, call_next):
        return await call_next(request)


class ReadBody(BaseHTTPMiddleware):
    """One that reads the body before the endpoint does."""

    async def dispatch(self, request, call_next):
        await request.body()
        return await call_next(request)


OURS = Middleware(CancelOnDisconnect)
STACKS = {
    "alone": [OURS],
    "in front": [OURS, Middleware(PassOn), Middleware(PassOn)],
    "behind": [Middleware(PassOn), Middleware(PassOn), OURS],
    "between": [Middleware(PassOn), OURS, Middleware(PassOn)],
    "twice": [OURS, OURS],
    "body read in front": [Middleware(ReadBody), OURS],
    "body read behind": [OURS, Middleware(ReadBody)],
    "compressed": [Middleware(GZipMiddleware), OURS, Middleware(GZipMiddleware)],
}


@pytest.mark.usefixtures("request_pools")
@pytest.mark.parametrize(
    "where,handlers",
    [
        pytest.param("application", None, id="application"),
        pytest.param("application", exception_handlers, id="application-handled"),
        pytest.param("route", None, id="route"),
        pytest.param("route", exception_handlers, id="route-handled"),
        pytest.param("mount", None, id="mount"),
    ],
)
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
class TestMiddleware:
    def application(self, endpoint, stack, where, handlers):
        """Put a stack of middleware around an endpoint."""
        route = Route(
            "/",
            endpoint,
            methods=["GET", "POST"],
            middleware=stack if where == "route" else None,
        )
        routes = [Mount("/", routes=[route], middleware=stack)] if where == "mount" else [route]
        return Starlette(
            routes=routes,
            middleware=stack if where == "application" else None,
            exception_handlers=handlers,
        )

    async def test_call_is_stopped(  # noqa: PLR0917 - fixtures
        self, stack, where, handlers, entered, held, caplog
    ):
        """Wherever the middleware is, with and without handlers, and nobody sees an error."""
        caplog.set_level(logging.INFO)

        async def endpoint(request):
            await functions.hold(*held)

        connection = Connection(part())
        app = self.application(endpoint, stack, where, handlers)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(connection.serve, app)
                pid = await entered.heard()
                await until(lambda: connection.waiting)
                connection.say(DISCONNECT)
                await gone(pid)

        assert connection.status == 499
        told = [each for each in caplog.records if each.levelno >= logging.INFO]
        assert [(each.name, each.levelname) for each in told if each.name != "httpx"] == [
            ("offload.starlette", "INFO")
        ]

    async def test_body_and_result_arrive(self, stack, where, handlers):
        """A request that is not left is answered as without any of it, body and all."""

        async def endpoint(request):
            first = await functions.echo("first")
            body = await request.body()
            second = await functions.echo(body.decode())
            return PlainTextResponse(f"{first} {second}")

        connection = Connection(part(b"a", more=True), part(b"b"), method="POST")
        app = self.application(endpoint, stack, where, handlers)
        with anyio.fail_after(PATIENCE):
            await connection.serve(app)

        assert (connection.status, connection.body) == (200, b"first ab")
