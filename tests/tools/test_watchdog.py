"""`offload.watchdog`: what holds the loop is named, and nothing else is."""

import contextlib
import dataclasses
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess

import anyio
import anyio.from_thread
import anyio.to_thread
import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import offload._pool.running_pool  # what calls need is imported by now
import offload.pool
from demo_server.settings import Settings
from offload import Pool, watchdog
from offload._heartbeat import Loop, local
from offload.watchdog import Block, Watchdog, WatchdogStatistics
from offload.watchdog._advice import advise
from offload.watchdog._judge import Facts, Verdict, judge
from offload.watchdog._ledger import Ledger
from offload.watchdog._middleware import _here
from offload.watchdog._requests import has_template, route_of
from offload.watchdog._stack import Call, stack_of
from offload.watchdog._watcher import Watcher
from tests import conftest
from tests.support import inside
from tests.support.apps.blocking_handlers import WAYS
from tests.support.functions.watchdog import burn
from tests.support.loops import needs_uvloop

PATIENCE = 10.0
BLOCK = 0.2
ATTEMPTS = 5


@pytest.fixture
def ledger(monkeypatch):
    """Give the test a book of its own."""
    ledger = Ledger()
    monkeypatch.setattr("offload.watchdog._middleware.ledger", ledger)
    return ledger


def some_block(**changes):
    """Return a block, with other values in some places."""
    block = Block(
        at=1.0,
        seconds=0.2,
        cause="cpu",
        what="computing",
        route="GET /",
        function="app:heavy",
        file="app.py",
        line=7,
        code="sum(rows)",
        advice="Run it elsewhere.",
        stack="",
    )
    return dataclasses.replace(block, **changes)


async def blocks_of(ledger, count=1):
    """Return the blocks that code has caused, when there are so many."""
    end = time.monotonic() + PATIENCE
    while True:
        found = [each for each in ledger.statistics().recent if each.cause != "starved"]
        if len(found) >= count or time.monotonic() > end:
            return found
        await anyio.sleep(0.02)


# --- the ways to block ---


@contextlib.contextmanager
def server(loop):
    """Run the application of `blocking_handlers` under uvicorn; yield its address."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "tests.support.apps.blocking_handlers:app"),
            *("--port", "0", "--loop", loop, "--no-access-log"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        lines = iter(process.stderr.readline, "")
        base = next(found[0] for line in lines if (found := re.search(r"http://[0-9.:]+", line)))
        # So that the warnings do not fill the pipe.
        said = []
        reader = threading.Thread(target=lambda: said.extend(lines))
        reader.start()
        try:
            yield base, said
        finally:
            process.send_signal(signal.SIGTERM)
            reader.join()


def ask(base, path):
    """Return the body of a path."""
    with urllib.request.urlopen(f"{base}{path}", timeout=PATIENCE * 4) as response:  # noqa: S310
        return response.read()


def is_named(base, name):
    """Ask for a handler that blocks; return whether its block is told with route and cause."""
    cause, what = WAYS[name]
    expected = {"cause": cause, "what": what, "route": f"GET /{name}/{{item}}"}
    seen = len(json.loads(ask(base, "/blocks")))
    ask(base, f"/{name}/7")
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        blocks = json.loads(ask(base, "/blocks"))[seen:]
        if any(expected.items() <= block.items() for block in blocks):
            return True
        time.sleep(0.05)
    return False


# Where it matters whose loop it is.
OF_LOOPS = ("cpu_loop", "native_sleep", "native_elsewhere", "python_elsewhere", "starvation")


@pytest.mark.skipif(sys.platform != "linux", reason="the causes are told by Linux' figures")
@pytest.mark.parametrize(
    "loop,ways",
    [
        pytest.param("asyncio", tuple(WAYS), id="asyncio"),
        pytest.param("uvloop", OF_LOOPS, id="uvloop", marks=needs_uvloop),
    ],
)
def test_handlers_that_block_are_named(loop, ways):
    """Of all the ways to hold a loop, each is told with its route, its cause and its kind."""
    assert len(WAYS) >= 20
    with server(loop) as (base, said):
        # More than once only where the machine did not let the server run.
        wrong = [name for name in ways if not any(is_named(base, name) for _ in range(ATTEMPTS))]
        blocks = json.loads(ask(base, "/blocks"))

    # Two of twenty may be wrong, or one of few: a machine that is too busy to let a thread of ours
    # compute is to blame for what that thread does meanwhile, and is blamed.
    assert len(wrong) <= max(1, len(ways) // 10), (wrong, blocks)
    assert "the event loop was held for" in "".join(said)
    assert "decorate the function with @offload" in "".join(said)


STOPPED = """
import asyncio, os, sys, time
from offload import watchdog

async def main():
    with watchdog.watching():
        await asyncio.sleep(0.1)
        print("ready", flush=True)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not watchdog.statistics().recent:
            await asyncio.sleep(0.05)
    for block in watchdog.statistics().recent:
        print(block.cause, "|", block.what)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be stopped there")
def test_stopped_process_is_no_fault_of_its_code():
    """A process that was stopped, as by a debugger or a paused machine, says so."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # this long it is stopped: there is nothing to wait for
        process.send_signal(signal.SIGCONT)
        output = process.stdout.read()

    assert output.startswith("starved | ")


# --- routes ---


def hold():
    """Block."""
    time.sleep(BLOCK)


async def handle(request):
    """Block in the handler."""
    hold()
    return PlainTextResponse("done")


async def handle_in_child_task(request):
    """Block in a task of its own."""

    async def child():
        await anyio.sleep(0.001)
        hold()

    async with anyio.create_task_group() as group:
        group.start_soon(child)
    return PlainTextResponse("done")


async def talk(websocket):
    """Block in a WebSocket's handler."""
    await websocket.accept()
    hold()
    await websocket.close()


async def passing(request, call_next):
    """Do nothing, in a task more."""
    return await call_next(request)


router = fastapi.APIRouter(prefix="/items")


@router.get("/{item}")
async def item_of_router(item: int):
    """Block below two prefixes."""
    hold()


api = fastapi.FastAPI()
api.include_router(router, prefix="/v1")
application = Starlette(
    routes=[
        Route("/plain/{name:path}", handle),
        Route("/child/{number:int}", handle_in_child_task, methods=["POST"]),
        Mount("/mounted", routes=[Route("/inner/{name}", handle)]),
        Mount("/api", api),
        WebSocketRoute("/talk/{name}", talk),
    ],
)
CALLS = {
    ("GET", "/plain/a/b"): "GET /plain/{name}",
    ("POST", "/child/17"): "POST /child/{number}",
    ("GET", "/mounted/inner/x"): "GET /mounted/inner/{name}",
    ("GET", "/api/v1/items/3"): "GET /api/v1/items/{item}",
}


@pytest.mark.anyio
@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "behind-base-http-middleware"])
async def test_routes_are_told_by_their_templates(wrap, ledger):
    """Parameters, mounts, routers, child tasks, middleware with a task of its own: all is named."""
    inner = BaseHTTPMiddleware(application, passing) if wrap else application
    app = Watchdog(inner, threshold=0.05)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", timeout=PATIENCE
    ) as client:
        with watchdog.watching(threshold=0.05):
            for number, (method, path) in enumerate(CALLS, start=1):
                assert (await client.request(method, path)).status_code == 200
                blocks = await blocks_of(ledger, number)

    assert [block.route for block in blocks] == list(CALLS.values())
    assert {(block.cause, block.what) for block in blocks} == {("blocking", "sleep")}
    # Nothing that is not needed to answer a request is left in its context.
    assert inside.current_scope() is None


@pytest.mark.anyio
async def test_route_is_known_without_the_middleware(ledger):
    """Whoever only watches the loop is told the route as well, from the stack."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(application), base_url="http://test", timeout=PATIENCE
    ) as client:
        with watchdog.watching(threshold=0.05):
            await client.get("/plain/x")
            [block] = await blocks_of(ledger)

    assert block.route == "GET /plain/{name}"


@pytest.mark.anyio
async def test_any_object_may_be_called_request(ledger):
    """A proxy that cannot be asked here and now ends no watch."""

    class Proxy:
        def __getattr__(self, name):
            raise RuntimeError(name)

    def work(request):
        hold()
        return request

    with watchdog.watching(threshold=0.05):
        await anyio.sleep(0.01)
        work(Proxy())
        [block] = await blocks_of(ledger)

    assert (block.cause, block.route) == ("blocking", "")


def test_websockets_are_named(ledger):
    """A handler of a WebSocket has a route, too."""
    with TestClient(Watchdog(application, threshold=0.05)) as client:
        with (
            client.websocket_connect("/talk/me") as connection,
            pytest.raises(WebSocketDisconnect),
        ):
            connection.receive_text()
        blocks = anyio.run(blocks_of, ledger)

    assert [block.route for block in blocks] == ["WEBSOCKET /talk/{name}"]


# Not by anyio's plugin, which has trio run as a guest of a loop that is not watched.
@pytest.mark.parametrize("backend", conftest.BACKENDS)
def test_thread_that_keeps_the_gil_is_named_with_its_request(backend, ledger):
    """A sync function in a thread that holds up the loop is told by its own request."""
    shares = []

    def long_sum():
        begin, computed = time.perf_counter(), time.thread_time()
        # Several times: whoever gets the GIL in between finds this thread in here. After a single
        # one it may be gone before a busy machine lets anybody look.
        for _ in range(6):
            sum(range(5_000_000))
        shares.append((time.thread_time() - computed) / (time.perf_counter() - begin))

    async def handle_in_thread(_):
        await anyio.to_thread.run_sync(long_sum)
        return PlainTextResponse("done")

    def named():
        recent = ledger.statistics().recent
        return next((block for block in recent if block.function.endswith("long_sum")), None)

    async def main():
        app = Watchdog(Starlette(routes=[Route("/sum/{n}", handle_in_thread)]))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            with watchdog.watching(threshold=0.05):
                end = time.monotonic() + 3 * PATIENCE
                while named() is None and time.monotonic() < end:
                    await client.get("/sum/7", timeout=PATIENCE)
                    await anyio.sleep(0.2)

    name, options = backend
    anyio.run(main, backend=name, backend_options=options)

    block = named()
    if block is None and max(shares) < 0.5:
        # Nobody let the thread compute: that is what held the loop then, and what is to be told.
        assert {each.cause for each in ledger.statistics().recent} <= {"starved", "gil"}
        return
    assert block is not None
    assert (block.cause, block.route) == ("gil", "GET /sum/{n}")


@pytest.mark.parametrize(
    "scope,expected",
    [
        (None, ""),
        ({"type": "http", "method": "GET", "path": "/a"}, "GET /a"),
        ({"type": "websocket", "path": "/a"}, "WEBSOCKET /a"),
        ({"type": "http", "method": "GET", "path": ""}, "GET /"),
    ],
)
def test_route_without_a_framework_is_the_path(scope, expected):
    """Any ASGI application's requests have a name."""
    assert route_of(scope) == expected
    assert has_template(scope) is (scope is None)


class Mounted:
    """An application within another."""


@pytest.mark.parametrize(
    "found,expected",
    [
        # Litestar.
        ({"path_template": "/users/{id:int}"}, "GET /users/{id:int}"),
        # Starlette before 1.0.
        ({"endpoint": handle, "path_params": {"id": 7}}, "GET /users/{id}"),
        ({"endpoint": Mounted, "path_params": {}}, "GET /users/7"),
        ({"endpoint": handle, "path_params": {"a": "users", "b": 7}}, "GET /{a}/{b}"),
        ({"endpoint": handle, "path_params": {"rest": "users/7"}}, "GET /{rest}"),
        # Written as "07", or a part of a segment.
        ({"endpoint": handle, "path_params": {"id": 17}}, None),
        ({"endpoint": handle, "path_params": {"id": "user"}}, None),
        ({"endpoint": Mounted(), "path_params": {}}, None),
    ],
)
def test_template_is_found_where_frameworks_leave_it(found, expected):
    """What is left of a request says where it was going, unless it is only a path."""
    scope = {"type": "http", "method": "GET", "path": "/users/7", **found}
    assert has_template(scope) is (expected is not None)
    assert route_of(scope) == (expected or "GET /users/7")


# --- causes ---


@pytest.mark.anyio
@pytest.mark.holds_loop("what the watchdog says of that is the matter")
async def test_code_of_the_library_is_told_apart(ledger):
    """If it is `offload` that holds the loop, it says so."""
    code = compile("import time; time.sleep(0.3)", offload.pool.__file__, "exec")
    with watchdog.watching(threshold=0.05):
        await anyio.sleep(0.01)
        exec(code, {"__name__": "offload.pool"})  # noqa: S102 - in a file of the library
        [block] = await blocks_of(ledger)

    assert (block.cause, block.what) == ("offload", "code of offload")


def facts(**changes):
    """Return facts, with other values in some places."""
    return dataclasses.replace(Facts(late=0.3, threshold=0.1, cpu=0.0), **changes)


@pytest.mark.parametrize(
    "given,expected",
    [
        # A call that waits: the GIL was free.
        (facts(waited=0.0, switches=1), Verdict("blocking", 0.3)),
        (facts(cpu=0.2, waited=0.0), Verdict("cpu", 0.3)),
        (facts(cpu=0.1, collected=0.2), Verdict("gc", 0.3)),
        # Half of it the machine's doing: the code is charged with the rest.
        (facts(cpu=0.1, waited=0.15), Verdict("cpu", 0.15)),
        (facts(cpu=0.05, waited=0.25), Verdict("starved", 0.3, "others")),
        # A bit of both, and neither is enough.
        (facts(cpu=0.05, late=0.12, waited=0.05), None),
        (facts(throttled=0.28), Verdict("starved", 0.3, "quota")),
        # Nobody got the GIL. The loop's thread asked for it all the time, or had it itself.
        (facts(waited=0.0, gil_busy=0.3, switches=60), Verdict("gil", 0.3)),
        (facts(waited=0.0, gil_busy=0.3, switches=1), Verdict("blocking", 0.3, "gil")),
        # The thread that had it was not let run.
        (
            facts(waited=0.0, gil_busy=0.3, switches=60, others_waited=0.25),
            Verdict("starved", 0.3, "others"),
        ),
        (facts(waited=0.0, stopped=0.3, switches=1), Verdict("starved", 0.3, "stopped")),
        # The loop was seen waiting for events, and the GIL was free: nothing held it.
        (facts(waited=0.0, is_idle=True), None),
        # The watcher came too late to want the GIL as well.
        (facts(waited=0.0, is_idle=True, switches=60), Verdict("gil", 0.3)),
        # Where the kernel counts no waits.
        (facts(gil_busy=0.3, is_idle=True, process=0.3), Verdict("gil", 0.3)),
        (facts(gil_busy=0.3, is_idle=True, process=0.0), Verdict("starved", 0.3, "stopped")),
        (facts(gil_busy=0.3, process=0.0), Verdict("blocking", 0.3, "gil")),
    ],
)
def test_cause_follows_from_the_figures(given, expected):
    """Each cause has its mark; what the machine did is never blamed on code."""
    verdict = judge(given)

    if expected is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert (verdict.cause, verdict.detail) == (expected.cause, expected.detail)
        assert verdict.seconds == pytest.approx(expected.seconds)


# --- what is told ---


def test_a_place_is_told_once_in_a_while():
    """The first block of a place warns, and later one that says how many there were."""
    now = 0.0
    ledger = Ledger(clock=lambda: now)

    first = ledger.add(some_block())
    repeated = [ledger.add(some_block(line=8)) for _ in range(5)]
    now = 301.0
    later = ledger.add(some_block())

    assert first is not None
    assert "held for 200 ms by GET /: app:heavy at app.py:7 (cpu: computing): sum(rows)" in first
    assert first.endswith("Run it elsewhere.")
    assert repeated == [None] * 5
    assert later is not None
    assert "It happened 6 times since the last such warning." in later


def test_warnings_of_a_server_in_trouble_are_few():
    """However many places block, the log can still be read."""
    now = 0.0
    ledger = Ledger(clock=lambda: now)

    told = [ledger.add(some_block(route=f"GET /{number}")) for number in range(100)]
    now = 61.0
    later = ledger.add(some_block(route="GET /99"))

    assert sum(text is not None for text in told) == 20
    # What was not told is made up for.
    assert later is not None
    assert "It has happened 2 times." in later


def test_book_is_bounded():
    """A path per place, where no template is known, does not fill the memory."""
    ledger = Ledger(clock=lambda: 0.0)

    for number in range(1000):
        ledger.add(some_block(route=f"GET /{number}"))

    statistics = ledger.statistics()
    assert len(statistics.places) == 256
    assert statistics.places_dropped == 1000 - 256
    assert len(statistics.recent) == 50
    assert statistics.blocks == 1000


def test_counters_of_routes_only_grow():
    """Where places are forgotten the counters of their route are not; there is an end to both."""
    ledger = Ledger(clock=lambda: 0.0)
    seen: dict[tuple[str, str], int] = {}
    for number in range(1000):
        ledger.add(some_block(route="GET /report", line=number, function=f"app:f{number % 300}"))
        ledger.add(some_block(route=f"GET /{number}", has_template=False))
        ledger.add(some_block(route=f"GET /template/{number}", cause="gc"))
        if number % 100 == 0:
            routes = {(each.route, each.cause): each.count for each in ledger.statistics().routes}
            assert all(count <= routes[key] for key, count in seen.items())
            seen = routes

    routes = {(each.route, each.cause): each for each in ledger.statistics().routes}
    assert routes["GET /report", "cpu"].count == 1000
    assert round(routes["GET /report", "cpu"].seconds, 6) == 200.0
    assert routes["other", "cpu"].count == 1000
    assert routes["GET /template/7", "gc"].count == 1
    assert 500 < len(routes) < 520
    assert sum(each.count for each in routes.values()) == 3000


def test_statistics_add_up():
    """Counts, sums and maxima by place and by cause."""
    ledger = Ledger(clock=lambda: 0.0)
    ledger.beats([0.001, 0.002])
    ledger.add(some_block(seconds=0.2))
    ledger.add(some_block(seconds=0.4, line=9))
    ledger.add(some_block(cause="blocking", what="sleep"))
    ledger.add(some_block(cause="blocking", what="sleep", line=8))

    told = ledger.statistics()

    assert told.lag.count == 2
    causes = {each.cause: (each.count, round(each.seconds, 6)) for each in told.causes}
    assert causes["cpu"] == (2, 0.6)
    assert causes["blocking"] == (2, 0.4)
    assert causes["gc"] == (0, 0.0)
    # A loop is one place whatever its line; of calls that wait, each line is one.
    assert [(place.cause, place.count) for place in told.places] == [
        ("cpu", 2),
        ("blocking", 1),
        ("blocking", 1),
    ]
    assert told.places[0].longest == 0.4
    assert told.places[0].line == 9


def test_hang_is_told_while_it_lasts(ledger, monkeypatch, caplog):
    """A loop that may never be free again is told of before it is."""
    monkeypatch.setattr("offload.watchdog._watcher._HANG", 0.3)

    async def main():
        with watchdog.watching(threshold=0.05):
            await anyio.sleep(0.01)
            end = time.monotonic() + PATIENCE
            while "still is" not in caplog.text and time.monotonic() < end:
                time.sleep(0.01)  # noqa: ASYNC251 - this is what it is for

    anyio.run(main)

    assert "has been held for" in caplog.text
    assert "test_hang_is_told_while_it_lasts" in caplog.text


# --- its own life ---


class StandingLoop(Loop):
    """A loop that runs, and does nothing."""

    def is_running(self):
        return True


def test_late_beat_that_nobody_saw_is_counted():
    """On a busy machine the watcher may come when all is over: it goes on, and says what it can."""
    ledger = Ledger()
    watcher = Watcher(StandingLoop(), 0.05, ledger)
    inside.turn_after_late_beat(watcher, late=0.3, cpu=0.4)

    [block] = ledger.statistics().recent
    assert block.late == pytest.approx(0.3)
    assert block.cause in ("cpu", "offload")


def test_watchdog_that_fails_leaves_the_application_alone(ledger, monkeypatch, caplog):
    """It says so, and ends."""

    def fail(_):
        raise LookupError("by intent")

    monkeypatch.setattr("offload.watchdog._watcher.judge", fail)

    async def main():
        with watchdog.watching(threshold=0.05):
            watcher = _here.watcher
            await anyio.sleep(0.01)
            hold()
            with anyio.fail_after(PATIENCE):
                while ledger.statistics().is_watching:  # noqa: ASYNC110 - it has no event
                    await anyio.sleep(0.01)
            # It keeps nothing that nobody will read, and another may watch in its place.
            await anyio.sleep(0.2)
            assert not inside.unread_beats(watcher)
            assert not _here.is_watched()

    anyio.run(main)

    assert "the watchdog has failed and watches no more" in caplog.text
    assert "by intent" in caplog.text


@pytest.mark.anyio
async def test_watches_are_nested_and_end(ledger):
    """One thread per loop, however many want it, and none when nobody does."""
    before = len(gc.callbacks)
    with watchdog.watching(), watchdog.watching(threshold=1.0):
        assert [t.name for t in threading.enumerate()].count("offload-watchdog") == 1
        assert ledger.statistics().is_watching
        assert ledger.statistics().threshold == 0.1
    assert "offload-watchdog" not in [thread.name for thread in threading.enumerate()]
    assert not ledger.statistics().is_watching
    assert len(gc.callbacks) == before
    assert ledger.statistics().lag.count > 0


def test_life_of_the_application_is_watched(ledger):
    """From startup to shutdown, where the server speaks the lifespan protocol."""
    app = Starlette(middleware=[Middleware(Watchdog)])
    with TestClient(app):
        assert ledger.statistics().is_watching
    assert not ledger.statistics().is_watching


def test_without_lifespan_the_first_request_begins(ledger):
    """And the end of the loop ends the watch."""
    app = Starlette(routes=[Route("/", PlainTextResponse("hello"))])
    watchdog.watch(app)
    with anyio.from_thread.start_blocking_portal() as portal:

        async def ask_app():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return (await client.get("/")).text

        assert portal.call(ask_app) == "hello"
        assert portal.call(ask_app) == "hello"
        watchers = [t for t in threading.enumerate() if t.name == "offload-watchdog"]
        assert len(watchers) == 1
    watchers[0].join(PATIENCE)
    assert not watchers[0].is_alive()
    assert not ledger.statistics().is_watching


def test_statistics_before_anything():
    """Whoever asks early is told that there is nothing."""
    told = Ledger().statistics()

    assert isinstance(told, WatchdogStatistics)
    assert (told.is_watching, told.blocks, told.now, told.lag.count) == (False, 0, 0.0, 0)
    assert isinstance(watchdog.statistics(), WatchdogStatistics)


@pytest.mark.parametrize("threshold", [0, 0.001, -1, float("nan"), float("inf")])
def test_threshold_out_of_range_is_refused(threshold):
    """Looking a thousand times a second would be a load of its own."""
    with pytest.raises(ValueError, match="threshold"):
        Watchdog(application, threshold=threshold)


def test_threshold_of_another_type_is_refused():
    """None is no threshold."""
    with pytest.raises(TypeError, match="threshold"):
        Watchdog(application, threshold=None)


def test_install_tells_what_to_do_with_a_plain_application():
    """An application that takes no middleware is wrapped."""

    async def app(scope, receive, send):
        pass

    with pytest.raises(TypeError, match=r"Watchdog\(app\)"):
        watchdog.watch(app)


def test_watching_outside_of_a_loop_is_refused():
    """There must be something to watch."""
    with pytest.raises(RuntimeError, match="no event loop"), watchdog.watching():
        pass


def test_looking_at_locals_leaves_them_alone():
    """A frame that goes on finds its variables as they were, and keeps nothing longer alive."""

    def look():
        frame = inside.frame_here(1)
        return local(frame, "value"), local(frame, "seen"), local(frame, "absent")

    value = ["a"]
    seen = len(value)

    assert look() == (["a"], 1, None)
    assert (value, seen) == (["a"], 1)


def test_looking_at_locals_empties_no_dictionary_of_others():
    """Before Python 3.13 a function that has called `locals()` has the very one of its frame."""

    def look():
        return local(inside.frame_here(1), "value")

    value = ["a"]
    mine = locals()
    assert look() is value
    assert mine["value"] is value


def test_looking_at_locals_keeps_nothing_alive():
    """What a frame had then is gone when the frame lets go of it."""

    class Large:
        pass

    def look():
        return local(inside.frame_here(1), "value") is not None

    value = Large()
    seen = weakref.ref(value)
    assert look()
    del value
    assert seen() is None


def test_expression_is_told_exactly():
    """Of a line with several calls, the one that runs."""

    def frame():
        return inside.frame_here()

    def two_calls():
        return (len([1]), stack_of(frame()))[1]

    assert two_calls()[1].text == "stack_of(frame())"


@pytest.mark.parametrize(
    "start", [BaseProcess.start, ProcessPoolExecutor.submit], ids=["multiprocessing", "executor"]
)
def test_start_of_a_process_is_told_as_such(start):
    """What a library does to start a process is not taken for what its module mostly does."""
    code = start.__code__
    library = Call(code, code.co_firstlineno, 0, start.__module__)
    stack = (library, *stack_of(inside.frame_here()))

    kind, advice = advise(Verdict("blocking", 0.1), "blocking", stack, 1, "")

    assert kind == "process start"
    assert "in a thread" in advice


def test_demo_server_runs_under_the_watchdog():
    """Unless it is switched off."""
    assert Settings().watchdog
    assert not Settings.from_environment({"DEMO_WATCHDOG": "off"}).watchdog
    code = (
        "import demo_server.app as demo, offload.watchdog as w;"
        "places = enumerate(demo.app.user_middleware);"
        "print([place for place, each in places if each.cls is w.Watchdog])"
    )
    for switch, expected in (("on", "[0]"), ("off", "[]")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"DEMO_WATCHDOG": switch},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


# --- no false alarm ---


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", conftest.BACKENDS[:1], indirect=True)
async def test_busy_workers_raise_no_alarm(ledger):
    """All cores at work in workers, and the loop at small things: nothing is said of code."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    async with Pool("healthy", max_workers=workers) as pool:
        # Workers first: their start is no load that a server has.
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(pool.run, burn, 0.01)
        with watchdog.watching():
            async with anyio.create_task_group() as group:
                for _ in range(2 * workers):
                    group.start_soon(pool.run, burn, PATIENCE)
                for _ in range(200):
                    await anyio.sleep(0.005)
                group.cancel_scope.cancel()

    told = ledger.statistics()
    assert told.lag.count > 0
    assert [str(each) for each in told.recent if each.cause != "starved"] == []
