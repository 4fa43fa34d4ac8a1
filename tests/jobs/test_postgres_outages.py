"""Postgres killed and restarted, and what an operator is told."""

from contextlib import asynccontextmanager

import anyio
import pytest

from offload.jobs._bullmq.pg_location import parse_postgres_url
from offload.jobs._bullmq.postgres_engine import PostgresEngine
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import Complete, EventKind, JobState, Query
from tests.jobs.servers import PostgresServer
from tests.jobs.values import claim, claimed_ids, look, new_job, wanted


@pytest.fixture
def server(tmp_path_factory):
    """One for the test, that it may kill."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


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


@pytest.mark.anyio
async def test_every_method_says_that_the_server_is_gone(server):
    """Within seconds; and all work again, on what there was."""
    async with opened(server) as engine:
        await engine.put([new_job("one"), new_job("two")])
        held = await claim(engine)
        server.stop()
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
        server.start()
        assert not (await engine.extend([held], 60.0)).lost
        assert (await engine.finish(held, Complete("1"))).is_stored
        assert (await look(engine, "one")).state is JobState.COMPLETED
        assert await claimed_ids(engine) == ["two"]


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
