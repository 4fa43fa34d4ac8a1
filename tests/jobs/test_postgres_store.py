"""Postgres: what statements cost, as the server itself counts it, and which events they leave."""

import json
from collections import Counter

import psycopg
import pytest

from offload.jobs._bullmq.words import claim_id, ending_words
from offload.jobs._values import Complete, Unique
from tests.jobs.values import FUNCTION, look, new_job, wanted

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("place", ["postgres"], indirect=True)]

READ = (
    "SELECT sum(seq_tup_read + idx_tup_fetch)::integer FROM pg_stat_xact_user_tables "
    "WHERE schemaname = 'bullmq' AND relname IN ('job', 'offload_job')"
)
FIND = "SELECT queue FROM offload_find('nobody', '7')"
CLAIM = "SELECT offload_claim('worker', 60000, 10, 'token', ARRAY[%s], ARRAY['default'])"

CALLS = "SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'move_to_completed'"


def connect(place):
    """Return a connection beside the engine's."""
    return psycopg.AsyncConnection.connect(
        place.url, options="-c search_path=bullmq -c track_functions=pl", autocommit=True
    )


async def run_all(engine, limit):
    """Claim and complete whatever waits, so many at once, as a worker program does it."""
    claimed = await engine.claim(wanted(limit))
    while claimed:
        reports = [(each.claim, Complete('"done"')) for each in claimed]
        finished = await engine.finish_all(reports, then=wanted(limit))
        assert all(finished.stored)
        claimed = finished.claimed


@pytest.fixture
def anyio_backend():
    """Run on asyncio: the test has a connection of its own, which knows nothing else."""
    return "asyncio"


async def put_many(engine):
    """Put so many that nobody wants to read all of them."""
    for start in range(0, 2000, 100):
        await engine.put([new_job(f"job-{number}") for number in range(start, start + 100)])


async def rows_read(connection, statement, *arguments):
    """Return how many rows of jobs the server reads for a statement, and what it returns."""
    async with connection.transaction():
        ((before,),) = await (await connection.execute(READ)).fetchall()
        ((found, *_),) = await (await connection.execute(statement, arguments)).fetchall()
        ((after,),) = await (await connection.execute(READ)).fetchall()
    return after - before, found


async def test_new_job_costs_the_same_however_many_there_are(place, engine):
    """Whether an id is known is looked up by an index, also by a plan of when there was one job."""
    await engine.put([new_job()])
    async with await connect(place) as connection:
        for _ in range(10):
            await rows_read(connection, FIND)
        await put_many(engine)
        assert await rows_read(connection, FIND) == (0, None)
    async with await connect(place) as connection:
        # As autovacuum does it: the tables of queues stay too small for it.
        await connection.execute("ANALYZE job, offload_job")
        # The planner may read a few rows of small tables, never all of them.
        assert (await rows_read(connection, FIND))[0] < 100


async def test_claim_costs_the_same_however_many_there_are(place, engine):
    """It reads what it claims, also by a plan of when there was one job, and not all of a queue."""
    await engine.put([new_job()])
    async with await connect(place) as connection:
        _, (claimed, _) = await rows_read(connection, CLAIM, FUNCTION)
        assert len(claimed) == 1
        await put_many(engine)
        rows, (claimed, _) = await rows_read(connection, CLAIM, FUNCTION)
        assert len(claimed) == 10
        assert rows < 100


async def test_first_events_of_all_are_told_in_order(place, engine):
    """Also where several have come before the first look, and none was there before."""
    kinds = ("waiting", "active", "completed")
    async with engine.events(["one"]) as events, await connect(place) as connection:
        async with connection.transaction():
            for kind in kinds:
                words = ("default", kind, json.dumps({"jobId": "one"}))
                await connection.execute("SELECT publish_event(%s, %s, %s)", words)
        assert [(await anext(events)).kind for _ in kinds] == list(kinds)


async def test_many_are_completed_in_few_statements(place, engine):
    """Only what needs more, as a job with a key that others may have, is ended one by one."""
    await engine.put([new_job(unique=Unique("key"))])
    await engine.put([new_job() for _ in range(20)])
    claimed = await engine.claim(wanted(50))
    words = [claim_id(each.claim) + ending_words(Complete("1")) for each in claimed]
    assert len(words) == 21
    async with await connect(place) as connection, connection.transaction():
        cursor = await connection.execute(
            "SELECT offload_finish_all(%s, NULL, NULL, NULL, NULL, NULL, NULL)",
            (json.dumps(words),),
        )
        row = await cursor.fetchone()
        assert row is not None
        assert row[0][0] == {str(number): True for number in range(1, 22)}
        calls = await (await connection.execute(CALLS)).fetchone()
    assert calls == (1,)
    # Its key is free again.
    (other,) = await engine.put([new_job(unique=Unique("key"))])
    assert other not in {each.job.id for each in claimed}


async def test_each_job_leaves_its_events_however_many_end_at_once(place, engine):
    """BullMQ's listeners are told of every job, and once that there are no more."""
    await engine.put([new_job(f"job-{number:02}") for number in range(50)])
    await run_all(engine, 20)
    async with await connect(place) as connection:
        rows = await (
            await connection.execute("SELECT event, data->>'jobId', data FROM event ORDER BY id")
        ).fetchall()
    assert Counter(kind for kind, _, _ in rows) == {
        "added": 50,
        "waiting": 50,
        "active": 50,
        "completed": 50,
        "drained": 1,
    }
    assert rows[-1][0] == "drained"
    completed = [(job_id, data) for kind, job_id, data in rows if kind == "completed"]
    assert [job_id for job_id, _ in completed] == [f"job-{number:02}" for number in range(50)]
    assert {(data["returnvalue"], data["prev"]) for _, data in completed} == {('"done"', "active")}
    assert (await look(engine, "job-49")).result == '"done"'


async def test_old_events_are_forgotten_however_many_are_told_at_once(place, engine):
    """As BullMQ does it: what is left is what the queue shall keep, and some 256 more."""
    async with await connect(place) as connection:
        await connection.execute("INSERT INTO meta VALUES ('default', 'opts.maxLenEvents', '100')")
        for _ in range(4):
            await engine.put([new_job() for _ in range(100)])
        await run_all(engine, 50)
        row = await (await connection.execute("SELECT count(*) FROM event")).fetchone()
    assert row is not None
    assert row[0] <= 100 + 256 + 2 * 50
