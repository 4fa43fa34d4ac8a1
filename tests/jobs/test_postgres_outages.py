"""Postgres killed and restarted, and what an operator is told."""

import signal
from contextlib import asynccontextmanager

import anyio
import pytest
from psycopg.pq import TransactionStatus

from offload.jobs._bullmq.pg_location import parse_postgres_url
from offload.jobs._bullmq.postgres_engine import PostgresEngine
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import Complete, EventKind, JobState, Query
from tests.jobs.chaos_stores import Proxy
from tests.jobs.servers import PostgresServer
from tests.jobs.values import claim, claimed_ids, look, new_job, wanted


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """Have one for these tests alone."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture
def server(own_server):
    """One that a test may kill: started, and empty."""
    own_server.stop()
    own_server.start()
    own_server.empty()
    return own_server


@asynccontextmanager
async def opened(server):
    """Have an engine."""
    engine = PostgresEngine(f"{server.url}?timeout=2")
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


async def refused(call):
    """Return the error that a call must raise, within seconds."""
    with pytest.raises(JobsUnavailableError) as caught:
        with anyio.fail_after(10):
            await call()
    assert "127.0.0.1" in caught.value.location
    return caught.value


@pytest.fixture
def proxy(server):
    """Stand between the server and its users."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@asynccontextmanager
async def opened_by(proxy, server, seconds=1):
    """Have an engine that reaches the server through the proxy, and soon gives up."""
    url = server.url.replace(f":{server.port}/", f":{proxy.port}/")
    engine = PostgresEngine(f"{url}?timeout={seconds}")
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_silent_connection_costs_one_time_limit(server, proxy):
    """Not the ten seconds more that psycopg waits for a statement that it has cancelled."""
    async with opened_by(proxy, server) as engine:
        await engine.put([new_job("one")])
        held = await claim(engine)
        proxy.silence()
        with anyio.fail_after(5), pytest.raises(JobsUnavailableError, match="within 1 s"):
            await engine.extend([held], 60.0)
        assert not (await engine.extend([held], 60.0)).lost


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_lost_connections_cost_one_failure(server, proxy):
    """However many there were that rested: a lease is not lost to one after the other."""
    async with opened_by(proxy, server) as engine:
        await engine.put([new_job("one")])
        held = await claim(engine)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(engine.get, ["one"])
        proxy.reset()
        with pytest.raises(JobsUnavailableError):
            await engine.extend([held], 60.0)
        assert not (await engine.extend([held], 60.0)).lost


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_waiting_again_and_again_takes_one_connection(server, proxy):
    """An idle worker program does not connect anew for each time that it waits."""
    async with opened_by(proxy, server) as engine:
        await engine.claim(wanted(), wait=0.01)
        before = proxy.accepted
        for _ in range(5):
            assert await engine.claim(wanted(), wait=0.01) == ()
        assert proxy.accepted == before


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("fault", ["reset", "silence"])
async def test_connection_that_dies_as_it_begins_to_listen(server, proxy, monkeypatch, fault):
    """Whoever waits for jobs is told in words of ours, within seconds, and can try again."""
    async with opened_by(proxy, server) as engine:
        connect = engine._client.new_connection

        async def connect_and_lose():
            connection = await connect()
            getattr(proxy, fault)()
            return connection

        await engine.counts()  # has a connection that rests
        monkeypatch.setattr(engine._client, "new_connection", connect_and_lose)
        with anyio.fail_after(5), pytest.raises(JobsUnavailableError):
            async with engine.events():
                pass
        monkeypatch.undo()
        async with engine.events() as events:
            with anyio.fail_after(30):
                while True:
                    try:
                        await engine.put([new_job("one")])
                        break
                    except JobsUnavailableError:
                        await anyio.sleep(0.01)
                assert (await anext(events)).kind is EventKind.WAITING


@pytest.mark.anyio
async def test_closed_while_it_asks_a_silent_server(server, proxy, until):
    """Nothing of the engine is left, and nobody waits for a server that does not answer."""
    async with opened_by(proxy, server, seconds=60) as engine, engine.events():
        reading, connection = engine._hub._reading, engine._hub._connection
        proxy.silence()

        async def asks():
            # It looks at the table of events now and then.
            return connection.info.transaction_status is TransactionStatus.ACTIVE

        await until(asks)
        with anyio.fail_after(4):  # psycopg gives a statement that was cancelled five seconds
            await engine.aclose()
        assert reading.done()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_closed_while_it_begins_to_listen(server, monkeypatch):
    """Whoever would listen is told, and nothing reads on."""
    async with opened(server) as engine:
        connect, hub = engine._client.new_connection, engine._hub

        async def connect_and_close():
            connection = await connect()
            await engine.aclose()
            return connection

        monkeypatch.setattr(engine._client, "new_connection", connect_and_close)
        with pytest.raises(JobsUnavailableError, match="not open"):
            async with engine.events():
                pass
        assert hub._reading is None
        assert hub._connection.closed


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_every_method_says_that_the_server_is_gone(server, fault):
    """Within seconds; and all work again, on what there was."""
    async with opened(server) as engine:
        await engine.put([new_job("one"), new_job("two")])
        held = await claim(engine)
        if fault == "killed":
            server.stop()
        else:
            server.signal(signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            for call in (
                engine.health,
                lambda: engine.put([new_job()]),
                lambda: engine.get(["one"]),
                lambda: engine.find(Query()),
                engine.counts,
                lambda: engine.cancel("two"),
                lambda: engine.claim(wanted(functions=["shop:new"]), wait=60),
                lambda: engine.extend([held], 60.0),
                lambda: engine.finish(held, Complete("1")),
                engine.sweep,
                engine.prune,
            ):
                group.start_soon(refused, call)
        if fault == "killed":
            server.start()
            assert not (await engine.extend([held], 60.0)).lost
            assert (await engine.finish(held, Complete("1"))).is_stored
            assert (await look(engine, "one")).state is JobState.COMPLETED
            assert await claimed_ids(engine) == ["two"]
        else:
            # Whatever was asked of a server that was frozen, it may do late.
            server.signal(signal.SIGCONT)
            assert (await look(engine, "one")).state in (JobState.ACTIVE, JobState.COMPLETED)
            await engine.put([new_job("three")])


@pytest.mark.anyio
async def test_listener_comes_back(server):
    """It goes on after a `MISSED`."""
    kinds = []
    async with opened(server) as engine, opened(server) as other, engine.events() as events:
        server.stop()
        server.start()
        with anyio.fail_after(30):
            assert (await anext(events)).kind is EventKind.MISSED
            await other.put([new_job("one")])
            kinds.append((await anext(events)).kind)
    assert kinds == [EventKind.WAITING]


def test_url_is_shown_without_secrets():
    """Host and database, and no password."""
    location = parse_postgres_url("postgresql://user:secret@example:5433/jobs?schema=a&timeout=3")
    assert location.url == "postgresql://example:5433/jobs"
    assert (location.schema, location.timeout) == ("a", 3.0)
    assert location.conninfo == "postgresql://user:secret@example:5433/jobs"
    with pytest.raises(ValueError, match="schema"):
        parse_postgres_url('postgresql://example/jobs?schema=a"b')
