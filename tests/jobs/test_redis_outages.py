"""Redis killed, stopped, cut off, full, restarted; and what an operator is told."""

import re
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import pytest

from offload.jobs._bullmq.location import parse_redis_url
from offload.jobs._bullmq.redis_engine import RedisEngine
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import (
    Complete,
    EventKind,
    JobState,
    LogLine,
    Query,
    Release,
)
from tests.jobs.servers import RedisServer
from tests.jobs.values import DEFAULT, claim, claimed_ids, look, new_job, wanted

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path):
    """One for the test, that it may kill."""
    server = RedisServer(tmp_path)
    server.start("--appendfsync", "always")
    yield server
    server.stop()


@asynccontextmanager
async def opened(server):
    """Have an engine that soon gives up."""
    engine = RedisEngine(f"{server.url}?timeout=1")
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


def methods(engine, held):
    """Return a call of every method that asks the server."""
    line = LogLine(datetime.now(UTC), 20, "line")
    return {
        "health": engine.health,
        "put": lambda: engine.put([new_job()]),
        "get": lambda: engine.get(["one"]),
        "logs": lambda: engine.logs("one"),
        "find": lambda: engine.find(Query()),
        "counts": engine.counts,
        "cancel": lambda: engine.cancel("one"),
        "requeue": lambda: engine.requeue("one"),
        "remove": lambda: engine.remove(["one"]),
        "claim": lambda: engine.claim(wanted()),
        "claim that waits": lambda: engine.claim(wanted(functions=["shop:new"]), wait=60),
        "extend": lambda: engine.extend([held], 60.0),
        "finish": lambda: engine.finish(held, Complete("1"), then=wanted()),
        "progress": lambda: engine.progress(held, "1"),
        "log": lambda: engine.log(held, [line]),
        "sweep": engine.sweep,
        "prune": engine.prune,
        "pause": lambda: engine.pause("other"),
        "resume": lambda: engine.resume("other"),
        "paused": engine.paused,
    }


async def refused(call):
    """Return the error that a call must raise, within seconds."""
    with pytest.raises(JobsUnavailableError) as caught:
        with anyio.fail_after(10):
            await call()
    assert "127.0.0.1" in caught.value.location
    return caught.value


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_every_method_says_that_the_server_is_gone(server, fault):
    """Within seconds, on a server that is dead and on one that is silent; and all work again."""
    async with opened(server) as engine:
        await engine.put([new_job("one")])
        held = await claim(engine)
        calls = methods(engine, held)
        if fault == "killed":
            server.stop()
        else:
            server.process.send_signal(signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            for call in calls.values():
                group.start_soon(refused, call)
        if fault == "killed":
            server.start()
        else:
            server.process.send_signal(signal.SIGCONT)
        # Whatever was asked of a server that was stopped, it may do late.
        assert (await look(engine, "one")).state in (JobState.ACTIVE, JobState.COMPLETED)
        await engine.put([new_job("two")])


async def test_silent_server_leaves_the_change_unknown(server):
    """A change that was sent may have happened; one that never left has not."""
    async with opened(server) as engine:
        await engine.put([new_job("one")])
        server.process.send_signal(signal.SIGSTOP)
        assert (await refused(lambda: engine.put([new_job("two")]))).may_have_happened
        assert not (await refused(lambda: engine.put([new_job("three")]))).may_have_happened
        server.process.send_signal(signal.SIGCONT)
        one, three = await engine.get(["one", "three"])
        assert one is not None
        assert three is None


async def test_accepted_jobs_survive_a_kill_of_the_server(server):
    """With an append-only file that is synced, nothing that was accepted is lost."""
    async with opened(server) as engine:
        ids = list(await engine.put([new_job() for _ in range(50)]))
        held = await claim(engine)
        done = await claim(engine)
        await engine.finish(done, Complete("1"))
        server.stop()
        server.start("--appendfsync", "always")
        assert (await look(engine, done.id)).state is JobState.COMPLETED
        assert not (await engine.extend([held], 60.0)).lost
        assert (await engine.finish(held, Release())).is_stored
        assert await claimed_ids(engine) == [held.id, *ids[2:]]


async def test_idle_claimer_and_listener_come_back(server):
    """After a restart a waiting claim gets its job, and a listener goes on after a `MISSED`."""
    got, kinds = [], []
    async with opened(server) as engine, opened(server) as other:
        heard = anyio.Event()

        async def listen(*, task_status):
            async with engine.events() as events:
                task_status.started()
                async for event in events:
                    kinds.append((event.kind, event.id))
                    heard.set()
                    if event.id == "one":
                        return

        async def take():
            while not got:
                try:
                    got.extend(await engine.claim(wanted(), wait=30))
                except JobsUnavailableError:
                    await anyio.sleep(0.05)

        async with anyio.create_task_group() as group:
            await group.start(listen)
            await other.put([new_job("zero", function="shop:new")])
            await heard.wait()
            group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            server.stop()
            server.start("--appendfsync", "always")
            with anyio.fail_after(30):
                await other.put([new_job("one")])
    assert [each.job.id for each in got] == ["one"]
    assert kinds == [
        (EventKind.WAITING, "zero"),
        (EventKind.MISSED, ""),
        (EventKind.WAITING, "one"),
    ]


async def test_full_memory_is_told_and_loses_nothing(server):
    """A server without memory refuses new jobs; what it has can be read, and goes on."""
    async with opened(server) as engine:
        await engine.put([new_job("one")])
        server.call("CONFIG", "SET", "maxmemory", "1")
        error = await refused(lambda: engine.put([new_job("two")]))
        assert "out of memory" in str(error)
        assert not error.may_have_happened
        server.call("CONFIG", "SET", "maxmemory", "0")
        assert await claimed_ids(engine) == ["one"]


async def test_scripts_that_the_server_forgot_are_sent_again(server):
    """A restart or SCRIPT FLUSH is not noticed."""
    async with opened(server) as engine:
        await engine.put([new_job("one")])
        server.call("SCRIPT", "FLUSH")
        assert await claimed_ids(engine) == ["one"]


async def test_bad_settings_are_problems(server):
    """Eviction and a missing append-only file are told, each in a sentence."""
    async with opened(server) as engine:
        assert (await engine.health()).problems == ()
        server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        server.call("CONFIG", "SET", "appendonly", "no")
        health = await engine.health()
    assert health.engine == "redis"
    assert re.match(r"\d+\.", health.version)
    assert [word for word in ("allkeys-lru", "append-only") if word in str(health.problems)] == [
        "allkeys-lru",
        "append-only",
    ]


async def test_nobody_there_is_an_error_at_open(server):
    """It names the place, and no password."""
    server.stop()
    engine = RedisEngine(server.url.replace("127.0.0.1", "user:secret@127.0.0.1"))
    error = await refused(engine.open)
    assert "secret" not in f"{error} {error.location} {engine!r}"
    await refused(lambda: engine.get(["one"]))


async def test_limit_on_all_workers_of_bullmq_holds_for_ours(server):
    """A queue's global concurrency, which BullMQ's tools set, is kept to."""
    async with opened(server) as engine:
        await engine.put([new_job("one"), new_job("two")])
        server.call("HSET", f"bull:{DEFAULT}:meta", "concurrency", "1")
        held = await claim(engine)
        assert await engine.claim(wanted()) == ()
        finished = await engine.finish(held, Complete("1"), then=wanted())
        assert [each.job.id for each in finished.claimed] == ["two"]


@pytest.mark.parametrize(
    "url, place",
    [
        ("redis://example", "redis://example:6379/0"),
        ("redis://:secret@[::1]:7/3?prefix=jobs&timeout=2", "redis://[::1]:7/3"),
        ("rediss://user:secret@example", "rediss://example:6379/0"),
    ],
)
def test_url_is_read(url, place):
    """Host, port, database and options; shown without secrets."""
    assert parse_redis_url(url).url == place


@pytest.mark.parametrize(
    "url",
    ["http://example", "redis://example/x", "redis://e?timeout=0", "redis://e?colour=red"],
)
def test_wrong_url_is_refused(url):
    """With what is wrong."""
    with pytest.raises(ValueError, match=r"Redis|redis|timeout"):
        parse_redis_url(url)
