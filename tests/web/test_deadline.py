"""Deadlines that surround calls: of a block, of a request, and both."""

import logging
import time

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from offload import DeadlineError, deadline_after
from offload.starlette import CancelOnDisconnect, DeadlineFromHeader, exception_handlers
from tests.support.connection import Connection, part
from tests.support.functions import requests as functions
from tests.support.processes import PATIENCE, gone, longer_and_longer

# Seconds: time enough for what is to be done at once, and soon over.
SOON = 0.2


@pytest.mark.anyio
@pytest.mark.usefixtures("request_pools")
class TestBlock:
    @pytest.mark.guarantee(4)
    async def test_call_that_runs_is_stopped(self, entered, held):
        """When the time is over, the worker ends and the call says that it ran in part."""
        for seconds in longer_and_longer(SOON):
            with deadline_after(seconds), pytest.raises(DeadlineError) as caught:
                await functions.hold(*held)
            if pids := entered.rest():
                break

        assert caught.value.may_have_run
        await gone(*pids)

    @pytest.mark.guarantee(6)
    @pytest.mark.parametrize("seconds", [0, -1.5])
    async def test_call_that_comes_too_late_is_not_started(self, seconds, entered, held):
        """Nothing left, or less: not begun, and nothing but the call is interrupted."""
        with deadline_after(seconds):
            with pytest.raises(DeadlineError) as caught:
                await functions.hold(*held)
            await anyio.lowlevel.checkpoint()

        assert not caught.value.may_have_run
        assert entered.rest() == []

    @pytest.mark.parametrize("outer,inner", [(0, 60), (60, 0)])
    async def test_earliest_of_nested_blocks_holds(self, outer, inner):
        """An inner block can only shorten what an outer one allows; after it the outer holds."""
        with deadline_after(outer):
            with deadline_after(inner), pytest.raises(DeadlineError):
                await functions.echo(1)
            if outer:
                assert await functions.echo(1) == 1

        assert await functions.echo(2) == 2

    @pytest.mark.parametrize("block,option", [(0, 60), (60, 0)])
    async def test_earlier_of_block_and_option_holds(self, block, option):
        """The option `deadline` and a block: neither can lengthen the other."""
        function = functions.echo.options(deadline=time.monotonic() + option)
        with deadline_after(block), pytest.raises(DeadlineError):
            await function(1)

    @pytest.mark.parametrize("how", ["run", "map", "stream"])
    async def test_every_kind_of_call_is_held_to_it(self, how, held):
        """Pools' `run`, maps and streams inherit it as calls do."""
        calls = {
            "run": lambda: functions.pool.run(functions.echo.__wrapped__, 1),
            "map": lambda: functions.echo.map([1, 2]),
            "stream": lambda: anext(functions.count_held.stream(*held)),
        }
        with deadline_after(0), pytest.raises(DeadlineError):
            await calls[how]()

    async def test_stream_that_runs_is_stopped(self, entered, held):
        """Between two items the time is over."""
        for seconds in longer_and_longer(SOON):
            with deadline_after(seconds), pytest.raises(DeadlineError):  # noqa: PT012 - at either
                items = functions.count_held.stream(*held)
                assert await anext(items) == 0
                await anext(items)
            if pids := entered.rest():
                break

        await gone(*pids)

    async def test_task_of_the_block_is_held_to_it_while_the_block_is_open(self):
        """A task that was started inside is free when the block has ended."""
        results = []

        async def call():
            await over.wait()
            results.append(await functions.echo("free"))

        over = anyio.Event()
        async with anyio.create_task_group() as group:
            with deadline_after(0):
                group.start_soon(call)
            over.set()

        assert results == ["free"]

    async def test_shared_run_outlives_the_deadline_of_one(self, entered, gate, held):
        """Of two callers of one coalesced run, one has no more time: the other gets the result."""
        errors, results = [], []

        async def hasty():
            with deadline_after(SOON), pytest.raises(DeadlineError) as caught:
                await functions.hold_together(*held, "shared")
            errors.append(caught.value)
            gate.let()

        async def patient():
            results.append(await functions.hold_together(*held, "shared"))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(hasty)
                await entered.heard()
                group.start_soon(patient)

        assert results == ["shared"]
        assert errors[0].may_have_run
        assert entered.rest() == []

    async def test_shared_run_that_comes_too_late_is_not_started(self, entered, held):
        """No time left at all: not even the wait begins."""
        with deadline_after(0), pytest.raises(DeadlineError) as caught:
            await functions.hold_together(*held)

        assert not caught.value.may_have_run
        assert entered.rest() == []

    async def test_block_can_be_entered_again(self):
        """The seconds count from each entry."""
        block = deadline_after(60)
        for _ in range(2):
            with block, block:
                assert await functions.echo(1) == 1


@pytest.mark.parametrize("seconds", ["1", None, True])
def test_seconds_are_a_number(seconds):
    """Found where the block is made."""
    with pytest.raises(TypeError, match="seconds"):
        deadline_after(seconds)


def test_endless_block_is_refused():
    """No limit is no block."""
    with pytest.raises(ValueError, match="finite"):
        deadline_after(float("inf"))


def application(endpoint, **options):
    """Return an application behind both middlewares."""
    return Starlette(
        routes=[Route("/", endpoint)],
        middleware=[
            Middleware(DeadlineFromHeader, **options),
            Middleware(CancelOnDisconnect),
        ],
        exception_handlers=exception_handlers,
    )


async def get(app, *values, header=b"x-request-timeout"):
    """Make a request with this header, as often as there are values."""
    connection = Connection(part(), headers=[(header, value.encode()) for value in values])
    with anyio.fail_after(PATIENCE):
        await connection.serve(app)
    return connection


async def echo(request):
    """Make a call that ends at once."""
    return PlainTextResponse(await functions.echo("echo"))


@pytest.mark.anyio
@pytest.mark.usefixtures("request_pools")
class TestHeader:
    @pytest.mark.guarantee(4)
    async def test_call_that_runs_is_stopped(self, entered, held):
        """The client learns that its time was over, and that it may have run."""

        async def endpoint(request):
            await functions.hold(*held)

        for seconds in longer_and_longer(SOON):
            response = await get(application(endpoint), str(seconds))
            assert (response.status, response.json["error"]) == (504, "DeadlineError")
            if pids := entered.rest():
                break

        assert response.json["may_have_run"] is True
        await gone(*pids)

    async def test_call_that_comes_too_late_is_not_started(self):
        """Also then it is a 504: the limit is the client's own."""
        response = await get(application(echo), "0")

        assert (response.status, response.json["error"]) == (504, "DeadlineError")
        assert response.json["may_have_run"] is False
        assert b"retry-after" not in dict(response.sent[0]["headers"])

    async def test_maximum_caps_what_clients_ask_for(self, entered, held):
        """A client cannot have more time than the server gives."""

        async def endpoint(request):
            await functions.hold(*held)

        for seconds in longer_and_longer(SOON):
            response = await get(application(endpoint, maximum=seconds), "3600")
            assert response.status == 504
            if pids := entered.rest():
                break

        await gone(*pids)

    async def test_maximum_is_none_of_those_who_ask_for_nothing(self):
        """Without the header there is no deadline."""
        response = await get(application(echo, maximum=1e-9))

        assert response.body == b"echo"

    @pytest.mark.parametrize(
        "value", ["", "soon", "-1", "+0", "inf", "nan", "0e0", "0x0", "0_0", ".0", "0.", "0 s"]
    )
    async def test_what_is_no_number_of_seconds_is_ignored(self, value, caplog):
        """Answered as without it, and told to whoever looks for it."""
        caplog.set_level(logging.DEBUG, "offload.starlette")
        response = await get(application(echo), value)

        assert response.body == b"echo"
        assert "no number of seconds" in caplog.text

    async def test_of_several_the_shortest_holds(self):
        """Proxies may add their own."""
        response = await get(application(echo), "60", "what", "0", "30")

        assert response.status == 504

    async def test_header_has_the_name_that_it_is_given(self):
        """Whatever the case."""
        app = application(echo, header="Request-Timeout")

        assert (await get(app, "0", header=b"request-timeout")).status == 504
        assert (await get(app, "0")).status == 200

    async def test_background_task_has_no_part_in_it(self):
        """What is called after the response has been sent has its own time."""
        results = []

        async def endpoint(request):
            async def later():
                results.append(await functions.echo("later"))

            return PlainTextResponse("now", background=BackgroundTask(later))

        response = await get(application(endpoint), "0")

        assert (response.body, results) == (b"now", ["later"])

    async def test_context_that_outlives_the_request_is_free(self):
        """As that of the next request on a connection that is kept alive."""

        async def inherits(request):
            group.start_soon(call)
            return PlainTextResponse("now")

        async def call():
            await over.wait()
            results.append(await functions.echo("free"))

        results = []
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            await get(application(inherits), "0")
            over.set()

        assert results == ["free"]

    async def test_other_scopes_pass_through(self):
        """A WebSocket has no deadline."""
        seen = []

        async def app(*arguments):
            seen.append(arguments)

        given = ({"type": "websocket"}, object(), object())
        await DeadlineFromHeader(app)(*given)

        assert seen == [given]


@pytest.mark.parametrize(
    "maximum,error", [(0, ValueError), (float("inf"), ValueError), ("1", TypeError)]
)
def test_senseless_maximum_is_refused(maximum, error):
    """Found when the middleware is made."""
    with pytest.raises(error, match="maximum"):
        DeadlineFromHeader(None, maximum=maximum)
